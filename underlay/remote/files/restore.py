"""What is sent to a host to bring files of a backup back.

`main(JSON)` reads a packed tar from stdin; JSON is {write: BOOL, prefixes: [PREFIX, …],
state: FOLDER, own: [PATH, …]}. Writes a JSON list to stdout: `[PATH, WHAT]` for each file.

- Only paths that begin with one of the prefixes are taken.
- WHAT is `new`, `differs` or `same`; or `kept` for what belongs to the state of the host that was backed up (below
  `state`) where this host has a state of its own: anything in `own` that is not in the archive. Half of the one and
  half of the other would be neither.
- With `write`, what is new or differs is put in place, each file by one rename, with the mode and the owner (by name)
  that it had. Nothing else is touched, and nothing is removed.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import sys
import tarfile
from pathlib import Path
from typing import Any


def owner(member: tarfile.TarInfo) -> tuple[int, int]:
    """The ids on this host of the user and group that a file had; root's where there is no such name."""
    try:
        uid = pwd.getpwnam(member.uname).pw_uid
    except KeyError:
        uid = 0
    try:
        gid = grp.getgrnam(member.gname).gr_gid
    except KeyError:
        gid = 0
    return uid, gid


def verdict(path: Path, member: tarfile.TarInfo, content: bytes) -> str:
    """How a file of the archive is to what is here."""
    try:
        found = path.lstat()
        same = path.read_bytes() == content and not path.is_symlink()
    except FileNotFoundError:
        return "new"
    except OSError:
        return "differs"
    mode, ids = found.st_mode & 0o7777, (found.st_uid, found.st_gid)
    return "same" if same and mode == member.mode and ids == owner(member) else "differs"


def put(path: Path, member: tarfile.TarInfo, content: bytes) -> None:
    """Write a file beside its place, then move it there."""
    new = path.with_name(f".{path.name}.restore-new")
    new.unlink(missing_ok=True)
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fchown(handle, *owner(member))
        os.fchmod(handle, member.mode)
        os.fsync(handle)
    os.replace(new, path)


def folder(path: Path, member: tarfile.TarInfo) -> None:
    """A folder of the archive that is not here."""
    path.mkdir(parents=True)
    path.chmod(member.mode)
    os.chown(path, *owner(member))


def has_own(paths: list[str], files: dict[Path, tuple[tarfile.TarInfo, bytes]]) -> bool:
    """Whether any of these files, or of the files below these folders, is not in the archive as it is here."""
    for path in map(Path, paths):
        for each in path.rglob("*") if path.is_dir() else [path]:
            if each.is_file() and (each not in files or files[each][1] != each.read_bytes()):
                return True
    return False


def restore(wanted: dict[str, Any]) -> list[list[str]]:
    """Compare, or put in place; see above."""
    folders: dict[Path, tarfile.TarInfo] = {}
    files: dict[Path, tuple[tarfile.TarInfo, bytes]] = {}
    prefixes = tuple(map(os.path.expanduser, wanted["prefixes"]))
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|gz") as archive:
        for member in archive:
            path = Path("/", member.name)
            if ".." in path.parts or not f"{path}/".startswith(prefixes):
                raise ValueError(f"{path} does not belong into a backup")
            if member.isdir():
                folders[path] = member
                continue
            source = archive.extractfile(member) if member.isfile() else None
            if source is None:
                raise ValueError(f"{path} is no file")
            files[path] = member, source.read()
    state = Path(wanted["state"])
    keep = has_own(wanted["own"], files)
    if wanted["write"]:
        for path, member in folders.items():
            if not path.is_dir() and not (keep and path.is_relative_to(state)):
                folder(path, member)
    found = []
    for path, (member, content) in files.items():
        what = verdict(path, member, content)
        if what != "same" and keep and path.is_relative_to(state):
            what = "kept"
        if wanted["write"] and what in ("new", "differs"):
            path.parent.mkdir(parents=True, exist_ok=True)
            put(path, member, content)
        found.append([str(path), what])
    return found


def main(wanted: str) -> int:
    """Do what the module's docstring says; the exit code."""
    os.umask(0o022)
    try:
        print(json.dumps(restore(json.loads(wanted))))
    except (OSError, ValueError, tarfile.TarError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
