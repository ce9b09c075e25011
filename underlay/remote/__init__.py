"""Programs that are sent to hosts, see `send`, and what they share. All runs on Python 3.10 or later, with no more."""

from __future__ import annotations

import json
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def serve(requests: Mapping[str, Callable[[Any], Any]], hello: Mapping[str, Any], seconds: int) -> None:
    """Say hello, then answer requests until stdin ends: one a line, one answer a line, all of them JSON objects.

    A request is {NAME: ARGUMENT}. Its answer is {"answer": …}, or {"error": TEXT, "errno": NUMBER or null} for
    an OSError. The program ends, whatever happens, so many seconds after the last request at the latest.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    say(hello)
    for line in iter(sys.stdin.readline, ""):
        signal.alarm(seconds)
        [(name, argument)] = json.loads(line).items()
        try:
            say({"answer": requests[name](argument)})
        except OSError as error:
            say({"error": error.strerror or str(error), "errno": error.errno})


def say(answer: Mapping[str, Any]) -> None:
    """One line to whoever sent this."""
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def at_once(
    function: Callable[..., Any], calls: Iterable[Sequence[Any]], late: Any = None, seconds: float | None = None
) -> list[Any]:
    """The results of many calls that wait, in their order; `late` for those that take longer than so many seconds."""
    calls = list(calls)
    results: list[Any] = [late] * len(calls)

    def work(index: int) -> None:
        results[index] = function(*calls[index])

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    end = None if seconds is None else time.monotonic() + seconds
    for thread in threads:
        thread.join(None if end is None else max(0.0, end - time.monotonic()))
    return results


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    words = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    return int(~words & 0xFFFF)
