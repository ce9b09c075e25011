"""A folder of files, sent as one archive."""

import base64
import hashlib
import io
import shlex
import tarfile
from collections.abc import Generator

from pyinfra import host
from pyinfra.api import StringCommand, operation

from underlay.facts.tree import TreeDigests


@operation()
def present(
    folder: str, files: dict[str, bytes], executable: list[str], ignore: list[str]
) -> Generator[StringCommand, None, None]:
    """
    Exactly these files below a folder.

    + folder: absolute path, owned by root
    + files: relative path → content
    + executable: the relative paths that can be run
    + ignore: names of folders below it that are not ours

    pyinfra's own `files.sync` asks about each file by itself, two round trips a file, and an upload of its own waits in
    /tmp, where others are. This is a part of the command, and never a file.
    """
    there = host.get_fact(TreeDigests, folder=folder, ignore=ignore)
    changed = [path for path, content in files.items() if there.get(path) != hashlib.sha256(content).hexdigest()]
    stale = sorted(set(there) - set(files))
    if not (changed or stale):
        host.noop(f"{folder} is as planned")
        return
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for path in changed:
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(files[path]), 0o755 if path in executable else 0o644
            tar.addfile(entry, io.BytesIO(files[path]))
    content = base64.b64encode(archive.getvalue()).decode()
    remove = "".join(f"rm -f {shlex.quote(f'{folder}/{path}')}\n" for path in stale)
    yield StringCommand(f"set -e\nmkdir -p {folder}\necho {content} | base64 -d | tar -xzf - -C {folder}\n{remove}")
