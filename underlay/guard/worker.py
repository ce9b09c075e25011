"""The process that has the connections to the hosts, and makes guarded changes: of many hosts at the same time.

It is asked with pickled tuples on stdin, the target first, then `(NUMBER, WHAT, …)`; its answers on stdout are
`(NUMBER, KIND, VALUE)`. Whatever becomes of whoever asks, changes that were begun come to their end, and no further
ones begin.
"""

import os
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from underlay.access import answers
from underlay.access.answers import FloodError
from underlay.access.sessions import Links
from underlay.access.target import Target
from underlay.guard import apply
from underlay.guard.apply import Guarded
from underlay.guard.change import Change

Tell = Callable[[str, Any], None]
"""Gives an answer, of a kind."""


class Worker:
    """What is asked for, on a target."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.links = Links(target, ready=True)
        self.opening = threading.Lock()
        self.waiting: queue.Queue[Guarded | None] = queue.Queue()

    def open(self, _: Tell, hosts: list[str]) -> None:
        """Begin to connect to hosts; whoever needs one of them asks for it."""
        with self.opening:
            self.links.open(hosts)

    def connect(self, tell: Tell, host: str) -> None:
        """Why the host can't be reached, or None."""
        with self.opening:
            self.links.open([host])
        tell("done", self.links.error(host))

    def shell(self, tell: Tell, host: str, command: str, stdin: bytes, seconds: float) -> None:
        """Exit code, output and errors of a command, as root; None if it took longer."""
        root = self.links.root(host)
        argv = self.links.shell(host, f"{root.line()} {command}".lstrip())
        try:
            done = answers.run(argv, stdin=root.stdin + stdin, seconds=seconds)
        except subprocess.TimeoutExpired:
            tell("done", None)
        except FloodError as error:
            tell("failed", f"{host} was reached, but not read: {error}")
        else:
            tell("done", (done.returncode, done.stdout, done.stderr))

    def guard(self, tell: Tell, host: str, change: Change) -> None:
        """Each line for people, then whether the change was confirmed."""

        def say(text: str) -> None:
            for line in text.splitlines():
                tell("line", line)

        self.waiting.put(Guarded(self.target, host, change, say, lambda confirmed: tell("done", confirmed)))

    def make_changes(self) -> None:
        """Make those that wait, some hosts' at a time, until None waits; then wait for the last of them."""
        begun: list[Guarded] = []
        some: list[Guarded | None] = [None]
        while (some := self._next()) and some[0] is not None:
            now = [each for each in some if each is not None]
            begun += now
            with suppress(Exception):  # those whose it was have it
                apply.make_all(self.target, now)
            if None in some:
                break
        for each in begun:
            if each.thread is not None:
                each.thread.join()

    def _next(self) -> list[Guarded | None]:
        some = [self.waiting.get()]
        # Those of one operation come at once, but for the time that it takes to compare.
        with suppress(queue.Empty):
            while some[-1] is not None and len(some) < apply.AT_ONCE:
                some.append(self.waiting.get(timeout=0.1))
        return some

    def end(self) -> None:
        """No further change begins."""
        with suppress(queue.Empty):
            while True:
                self.waiting.get_nowait()
        self.waiting.put(None)


def main() -> None:
    """Serve whoever started this."""
    requests, answers, telling = sys.stdin.buffer, sys.stdout.buffer, threading.Lock()
    sys.stdout = sys.stderr
    worker = Worker(pickle.load(requests))  # noqa: S301 (our own parent process sent it)
    changes = threading.Thread(target=worker.make_changes)
    changes.start()

    def serve(number: int, what: str, *arguments: Any) -> None:
        def tell(kind: str, value: Any) -> None:
            with telling, suppress(OSError):
                answers.write(pickle.dumps((number, kind, value)))
                answers.flush()

        try:
            getattr(worker, what)(tell, *arguments)
        except Exception as error:
            tell("failed", f"{error!r}")
            raise

    with suppress(EOFError):
        while True:
            request = pickle.load(requests)  # noqa: S301 (our own parent process sent it)
            threading.Thread(target=serve, args=request, daemon=True).start()
    worker.end()
    changes.join()


if __name__ == "__main__":
    try:
        main()
    finally:
        # At once: threads that still ask somebody would be waited for.
        os._exit(0)
