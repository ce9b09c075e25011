"""What is sent to a host to gather what a colleague needs to see.

`main(JSON)`; JSON is {commands: {NAME: SHELL}, files: [PATTERN, …], seconds: NUMBER,
most: NUMBER}. Writes a packed (gzip) JSON object to stdout: NAME or PATH → text. A command has so many seconds, a text
so many bytes: of what is longer, the end is kept.
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
from concurrent.futures import ThreadPoolExecutor
from typing import Any

PIECE = 1 << 20
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
    code = process.wait()
    text = end(last, count, most)
    if late:
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
    """All that is asked for; the commands a few at a time."""
    seconds, most = wanted["seconds"], wanted["most"]
    with ThreadPoolExecutor(4) as pool:
        outputs = pool.map(lambda command: run(command, seconds, most), wanted["commands"].values())
        found = dict(zip(wanted["commands"], outputs))  # noqa: B905 (`strict` is of the same length here)
    for pattern in wanted["files"]:
        found |= {path: read(path, most) for path in sorted(glob.glob(pattern)) if os.path.isfile(path)}
    return found


def main(wanted: str) -> None:
    """Do what the module's docstring says."""
    os.environ["LC_ALL"] = "C.UTF-8"
    sys.stdout.buffer.write(gzip.compress(json.dumps(collect(json.loads(wanted))).encode()))
