"""What is sent to a host to gather what a colleague needs to see.

`main(JSON)`; JSON is {commands: {NAME: SHELL}, files: [PATTERN, …], seconds: NUMBER,
most: NUMBER}. Writes a packed (gzip) JSON object to stdout: NAME or PATH → text. Each of them has so many seconds, all
at the same time, and so many bytes: of what is longer, the end is kept.
"""

from __future__ import annotations

import glob
import gzip
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any

from underlay.remote import at_once

PIECE = 1 << 20
FLOOD = 32_000
"""Bytes of a text without end that are kept."""
SPARE = 16 << 20
"""Bytes that are kept beyond those that are wanted, so that they are not moved with each piece."""


def run(command: str, seconds: float, most: int) -> str:
    """The output of a shell command, errors included, and its exit code if that is not 0."""
    last, count, until = b"", 0, time.monotonic() + seconds
    process = subprocess.Popen(
        ["sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    late = True
    while (left := until - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left)[0]:
            break
        piece = os.read(process.stdout.fileno(), PIECE)
        if not piece:
            late = False
            break
        count += len(piece)
        last += piece
        if len(last) > most + SPARE:
            last = last[-most:]
    if late:
        # All that it started goes with it.
        os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()
    code = None
    with suppress(subprocess.TimeoutExpired):  # what waits for a disk can't be killed
        code = process.wait(1)
    text = end(last, count, most)
    if late or code is None:
        if count > most:
            text = end(last, count, min(most, FLOOD))  # it would never have ended: nobody reads more of it
        return f"{text}\n[cut off after {seconds} s]\n"
    return text if code == 0 else f"{text}\n[exit code {code}]\n"


def end(content: bytes, count: int, most: int) -> str:
    """The last `most` of so many bytes as text, and a note if there was more."""
    text = content[-most:].decode(errors="replace")
    return text if count <= most else f"[{count - most} bytes before this were left out]\n{text}"


def read(path: str, most: int) -> str:
    """The end of a file."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - most))
            text = file.read(most).decode(errors="replace")
    except OSError as error:
        return f"[can't be read: {error.strerror}]\n"
    return text if size <= most else f"[{size - most} bytes before this were left out]\n{text}"


def collect(wanted: dict[str, Any]) -> dict[str, str]:
    """All that is asked for."""
    seconds, most = wanted["seconds"], wanted["most"]
    asked: list[tuple[str, Any, tuple[Any, ...]]] = [
        (name, run, (command, seconds, most)) for name, command in wanted["commands"].items()
    ]
    for pattern in wanted["files"]:
        asked += [
            (path, read, (path, most))
            for path in sorted(glob.glob(os.path.expanduser(pattern)))
            if os.path.isfile(path)
        ]
    late = f"\n[cut off after {seconds} s]\n"
    texts = at_once(lambda _, function, arguments: function(*arguments), asked, late, seconds + 1.5)
    return {name: text for (name, *_), text in zip(asked, texts, strict=True)}


def main(wanted: str) -> None:
    """Do what the module's docstring says."""
    os.environ["LC_ALL"] = "C.UTF-8"
    sys.stdout.buffer.write(gzip.compress(json.dumps(collect(json.loads(wanted))).encode()))
    sys.stdout.flush()
    os._exit(0)  # what waits for a disk may still keep a thread
