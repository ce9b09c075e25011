"""Programs that are sent to hosts, see `send`, and what they share. All runs on Python 3.10 or later, with no more."""

from __future__ import annotations

import json
import signal
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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


class Pace:
    """How many of a kind of work go on at the same time: more while each is quick, fewer after a slow one (AIMD).

    limit: how many begin with; `most`: how many at most
    quick: seconds in which one ends where nobody is busy. One that takes longer does not count any more (where many are
        slow, one that takes several times as long), so that others need not wait for who is silent.
    """

    def __init__(self, limit: float, most: float, quick: float) -> None:
        self.limit = limit
        self.most = most
        self.quick = quick
        self._free = threading.Condition()
        self._begun: list[float] = []
        self._slowed = float("-inf")
        self._slow: deque[bool] = deque(maxlen=16)

    @property
    def late(self) -> bool:
        """Whether many of the last ones were slow: somebody in between is busy, it is not for one of them alone."""
        return sum(self._slow) >= max(2, len(self._slow) / 3)

    def begin(self) -> float:
        """Wait for a turn; what `end` wants to know."""
        with self._free:
            while True:
                now, counts = time.monotonic(), self.quick * (4 if self.late else 1)
                young = [each for each in self._begun if each > now - counts]
                if len(young) < max(1, int(self.limit)):
                    self._begun.append(now)
                    return now
                self._free.wait(min(young) + counts - now + 0.001)

    def end(self, begun: float, told: bool) -> None:
        """A turn is over; `told`: how long it took says something, as it does not of what failed."""
        now = time.monotonic()
        with self._free:
            self._begun.remove(begun)
            if told:
                self._slow.append(now - begun > self.quick)
            if told and not self._slow[-1]:
                self.limit = min(self.most, self.limit + 1 / self.limit)
            elif told and now - self._slowed > self.quick:
                # Those that were slow together are one reason.
                self.limit, self._slowed = max(1.0, self.limit / 2), now
            self._free.notify_all()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Around one piece of work, which failed if it raises."""
        begun, told = self.begin(), False
        try:
            yield
            told = True
        finally:
            self.end(begun, told)


def at_once(
    function: Callable[..., Any],
    calls: Iterable[Sequence[Any]],
    late: Any = None,
    seconds: float | None = None,
    pace: tuple[Pace, Callable[[Any], bool]] | None = None,
) -> list[Any]:
    """The results of many calls that wait, in their order; `late` for those that take longer than so many seconds.

    pace: not all of them at once, and whether a result is a good one
    """
    calls = list(calls)
    results: list[Any] = [late] * len(calls)

    def work(index: int, begun: float) -> None:
        results[index] = function(*calls[index])
        if pace:
            pace[0].end(begun, pace[1](results[index]))

    end = None if seconds is None else time.monotonic() + seconds
    threads = []
    for index in range(len(calls)):
        begun = pace[0].begin() if pace else 0.0
        threads.append(threading.Thread(target=work, args=(index, begun), daemon=True))
        threads[-1].start()
    for thread in threads:
        thread.join(None if end is None else max(0.0, end - time.monotonic()))
    return results


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    words = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    return int(~words & 0xFFFF)
