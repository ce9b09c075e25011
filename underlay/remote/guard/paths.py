"""Where the guard keeps on a host what it keeps."""

from pathlib import Path

GUARD = Path("/var/lib/underlay/guard")
COPY = GUARD / "guard.pyz"
MUTEX = GUARD / "mutex"
NEXT, PENDING, UNDONE = GUARD / "next", GUARD / "pending", GUARD / "undone"
HISTORY = GUARD / "history"
