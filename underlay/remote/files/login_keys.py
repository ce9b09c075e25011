"""Who may log in as this user: one key takes another's place in `~/.ssh/authorized_keys`, without a moment between.

`main(COMMAND, NEW, OLD, [MARK])`, NEW and OLD as a `.pub` file has them; it runs as the user. It ends with 0, or says
on stderr why nothing was changed. NEW may begin with options. With a MARK, every other key of this comment is old, too.

- `add`: beside each line of the old key one of the new key with the same options (`from=…`), or with its own; nothing
  where the new key is there already
- `take-away`: the new key goes
- `replace`: the old key goes, if the new one is there. It prints `replaced`, then waits for a line `keep` on stdin:
  only with that the file stays so. Whatever else ends it (its stdin ends, no line for WAIT seconds) puts the old file
  back, for which a full disk has room

The file is replaced as a whole: the new one is made beside it, complete, on disk, with the owner and the mode of the
old one, read again, and renamed. A link to it stays one. Every other line stays byte for byte, whatever it is.
"""

from __future__ import annotations

import os
import re
import select
import signal
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

WAIT = 300
"""Seconds to wait for the word to keep it, where a connection that broke is not noticed."""
TYPE = re.compile(rb"(?:sk-)?(?:ssh|ecdsa)-[\w@.-]+")
FILE = Path("~/.ssh/authorized_keys")


class RefusedError(Exception):
    """Why nothing was changed."""


def split(line: bytes) -> tuple[bytes, bytes]:
    """A line's options and its key in base64, as sshd reads them; the key is empty where there is none."""
    words = line.strip()
    if not words or words.startswith(b"#"):
        return b"", b""
    if TYPE.fullmatch(words.split(None, 1)[0]):
        options, rest = b"", words
    else:
        # Options end at the first space outside of quotes.
        match = re.match(rb'((?:"(?:[^"\\]|\\.)*"|[^\s"])+)\s+(.*)', words, re.DOTALL)
        if match is None:
            return b"", b""
        options, rest = match[1], match[2]
    parts = rest.split()
    return (options, parts[1]) if len(parts) > 1 and TYPE.fullmatch(parts[0]) else (b"", b"")


def lines_of(content: bytes) -> list[bytes]:
    """Its lines with their ends; only a newline is one for sshd."""
    return re.findall(rb"[^\n]*\n|[^\n]+", content)


def added(content: bytes, new: bytes, old: bytes) -> bytes:
    """The file with the new key."""
    lines = lines_of(content)
    if any(split(line)[1] == split(new)[1] for line in lines):
        return content
    like = () if split(new)[0] else (split(line)[0] for line in lines if split(line)[1] == split(old)[1])
    options = dict.fromkeys(like)
    end = b"" if not content or content.endswith(b"\n") else b"\n"
    return content + end + b"".join(each + (b" " if each else b"") + new + b"\n" for each in options or [b""])


def without(content: bytes, key: bytes) -> bytes:
    """The file without a key."""
    return b"".join(line for line in lines_of(content) if split(line)[1] != split(key)[1])


def replaced(content: bytes, new: bytes, old: bytes, mark: bytes = b"") -> bytes:
    """The file without the old key, and without others that have the mark; refused if the new one is not there."""
    lines = lines_of(content)
    if not any(split(line)[1] == split(new)[1] for line in lines):
        raise RefusedError("the new key is not there")
    keys = {split(old)[1]}
    if mark:
        keys |= {split(line)[1] for line in lines if line.rstrip().endswith(b" " + mark)} - {b"", split(new)[1]}
    return b"".join(line for line in lines if split(line)[1] not in keys)


def change(path: Path, make: Callable[[bytes], bytes]) -> bytes | None:
    """Change a file in one step; what it was, or None if nothing changes. Raises OSError, RefusedError."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise RefusedError(f"{path} is no file")
    before = path.read_bytes()
    content = make(before)
    if content == before:
        return None
    put(path, content, found, before)
    return before


def put(path: Path, content: bytes, like: os.stat_result, before: bytes) -> None:
    """Replace a file that is still `before`, with the owner and the mode of `like`."""
    new = path.with_name(f".{path.name}.underlay-new")
    with suppress(FileNotFoundError):
        new.unlink()  # of a run that was killed
    try:
        handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fchown(handle, like.st_uid, like.st_gid)
            os.fchmod(handle, stat.S_IMODE(like.st_mode))
            os.fsync(handle)
        if new.read_bytes() != content:
            raise RefusedError(f"{new} is not what was written to it")
        if path.read_bytes() != before:
            raise RefusedError(f"somebody else changed {path} meanwhile")
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def kept() -> bool:
    """Whether the word to keep it comes in time."""
    line, end = b"", time.monotonic() + WAIT
    while b"\n" not in line and (left := end - time.monotonic()) > 0:
        if select.select([0], [], [], left)[0]:
            piece = os.read(0, 100)
            if not piece:
                return False
            line += piece
    return line == b"keep\n"


def replace(path: Path, new: bytes, old: bytes, mark: bytes) -> int:
    """Take the old key out until it is known whether it may stay out; the exit code."""
    # What ends the connection ends the wait, and not what comes after it.
    for each in (signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: None)
    spare = path.with_name(f".{path.name}.underlay-before")
    spare.unlink(missing_ok=True)  # of a run that was killed
    spare.hardlink_to(path)
    try:
        before = change(path, lambda content: replaced(content, new, old, mark))
        with suppress(OSError):  # whoever asked is gone: then nobody says to keep it
            print("replaced", flush=True)
        if kept():
            return 0
        if before:
            now = path.read_bytes()
            if now == replaced(before, new, old, mark):
                os.replace(spare, path)
            else:  # somebody else changed it meanwhile
                taken = [line for line in lines_of(before) if line not in lines_of(replaced(before, new, old, mark))]
                end = b"" if not now or now.endswith(b"\n") else b"\n"
                put(path, now + end + b"".join(taken), path.stat(), now)
        return 1
    finally:
        spare.unlink(missing_ok=True)


def main(command: str, new: str, old: str, mark: str = "") -> int:
    """Run a command; the exit code."""
    new_key, old_key = new.encode(), old.encode()
    changes: dict[str, Callable[[bytes], bytes]] = {
        "add": lambda content: added(content, new_key, old_key),
        "take-away": lambda content: without(content, new_key),
    }
    try:
        path = FILE.expanduser().resolve(strict=True)
        if command == "replace":
            return replace(path, new_key, old_key, mark.encode())
        change(path, changes[command])
    except (OSError, RefusedError) as error:
        print(f"{FILE}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 1
    return 0
