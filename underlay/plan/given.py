"""Files that a person names: read whatever they are, without waiting for ever or filling the memory."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MOST = 64_000_000
"""Bytes of a plan, a key, a list of hosts: more than any has."""


def content(path: Path) -> bytes:
    """What is in a file, as a whole. Raises OSError, also as `opened` does, and for one without an end."""
    with opened(path) as file:
        found = file.read(MOST + 1)
    if len(found) > MOST:
        raise OSError(errno.EFBIG, f"it has more than {MOST // 10**6} MB", str(path))
    return found


def opened(path: Path) -> BinaryIO:
    """A file to read. Raises OSError, also for a pipe, which may never say anything, and says it to one reader only."""
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 (who asked for it closes it)
    mode = os.fstat(file.fileno()).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode)) or file.isatty():
        file.close()
        raise OSError(errno.EINVAL, "it is no file, but a pipe or a device", str(path))
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
