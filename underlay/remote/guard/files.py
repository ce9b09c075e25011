"""Durable files, and those of a change: read, written, and made what they were."""

import base64
import gzip
import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from underlay.remote.guard.programs import Refused


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, content: bytes, mode: int = 0o600, uid: int = 0, gid: int = 0) -> None:
    """Replace a file as one durable step."""
    new = beside(path)
    with suppress(FileNotFoundError):
        new.unlink()
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fchown(handle, uid, gid)
        os.fchmod(handle, mode)
        os.fsync(handle)
    os.replace(new, path)
    sync(path.parent)


def beside(path: Path) -> Path:
    """Where the new version of a file is made: a name that no daemon's pattern for its folder takes."""
    return path.with_name(f".{path.name}.guard-new")


def save(path: Path, value: Any) -> None:
    """Write JSON, packed if the name ends with .gz."""
    content = json.dumps(value).encode()
    write(path, gzip.compress(content) if path.suffix == ".gz" else content)


def load(path: Path) -> Any:
    """Read what `save` wrote; None if it is not there."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)


def move(source: Path, target: Path) -> None:
    """Rename a folder, durably; `target` must not be there."""
    os.rename(source, target)
    for folder in {source.parent, target.parent}:
        sync(folder)


def read_file(path: str) -> dict[str, Any] | None:
    """{content: BASE64, mode, uid, gid}, or {link: TARGET} for a symbolic link; None if nothing is there."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(found.st_mode):
        return {"link": os.readlink(path)}
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{path} is no file")
    content = base64.b64encode(Path(path).read_bytes()).decode()
    return {"content": content, "mode": f"{stat.S_IMODE(found.st_mode):o}", "uid": found.st_uid, "gid": found.st_gid}


def write_file(path: str, file: dict[str, Any] | None) -> None:
    """Make a file what `read_file` returned; nothing is done if it is so."""
    target = Path(path)
    with suppress(FileNotFoundError, NotADirectoryError):
        beside(target).unlink()
    if read_file(path) == file:
        return
    if file is None:
        target.unlink()
        sync(target.parent)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if "link" in file:
        beside(target).symlink_to(file["link"])
        os.replace(beside(target), target)
        sync(target.parent)
    else:
        write(target, base64.b64decode(file["content"]), int(file["mode"], 8), file["uid"], file["gid"])


def wanted_files(files: dict[str, dict[str, Any] | None], present: dict[str, Any]) -> dict[str, Any]:
    """The files of a request in the form of `read_file`: owner and mode are kept where the request names none."""
    wanted: dict[str, Any] = {}
    for path, file in files.items():
        if file is None:
            wanted[path] = None
            continue
        old = present[path] or {}
        owner = {"uid": old.get("uid", 0), "gid": old.get("gid", 0)}
        mode = f"{int(file.get('mode') or old.get('mode', '644'), 8):o}"
        wanted[path] = {"content": file["content"], "mode": mode, **owner}
    return wanted


def missing_folders(paths: Iterable[str]) -> list[str]:
    """The folders that these files need and that are not there, the deepest first."""
    found = {str(parent) for path in paths for parent in Path(path).parents if not parent.exists()}
    return sorted(found, key=len, reverse=True)


def put_files(wanted: dict[str, Any]) -> list[str]:
    """Make `files` and `folders` of a snapshot what they were. Returns what could not be done."""
    problems = []
    for path, file in wanted["files"].items():
        try:
            write_file(path, file)
        except (OSError, Refused) as error:
            problems.append(f"{path}: {error}")
    for folder in wanted["folders"]:
        with suppress(OSError):  # not there, or an unmanaged file is in it
            os.rmdir(folder)
    return problems
