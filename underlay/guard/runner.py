"""The process beside this one that has the connections to the hosts, and makes all guarded changes: see `worker`.

One for all hosts, and none for each: so what they need of the jump host is known, and they share it. Nothing that
happens there can hang its caller for longer than its own deadlines.
"""

import itertools
import pickle
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from underlay.access.login import sudo
from underlay.access.sessions import UnreachableError
from underlay.access.target import Target
from underlay.guard.change import Change, seconds, soak
from underlay.plan import REPO

LOST = ("lost", "the process with the connections ended: a host undoes by itself what was not confirmed")


class Worker:
    """The process for a target."""

    def __init__(self, target: Target) -> None:
        seconds(), soak()  # before anything is begun that takes them
        # What tries a change needs hosts beside those that change, and nobody is asked in the middle of one.
        sudo.ask(target)
        self.target = target
        argv, shared = [sys.executable, "-m", "underlay.guard.worker"], sudo.shared_files()
        self._process = subprocess.Popen(argv, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=shared)
        self._numbers = itertools.count()
        self._asked: dict[int, queue.Queue[tuple[str, Any]]] = {}
        self._writing = threading.Lock()
        self._ended = False
        self._send(target)
        threading.Thread(target=self._read, daemon=True).start()

    def open(self, hosts: Iterable[str]) -> None:
        """Begin to connect to hosts."""
        self._send((next(self._numbers), "open", list(hosts)))

    def connect(self, host: str) -> str | None:
        """Why a host can't be reached, or None."""
        error: str | None = self._ask("connect", host)
        return error

    def shell(self, host: str, command: str, stdin: bytes, seconds: float) -> tuple[int, bytes, bytes]:
        """Run a command on a host that is connected, as root: exit code, output, errors. Raises TimeoutError.

        command: words for its shell
        """
        done: tuple[int, bytes, bytes] | None = self._ask("shell", host, command, stdin, seconds)
        if done is None:
            raise TimeoutError
        return done

    def guard(self, host: str, change: Change, say: Callable[[str], None]) -> bool:
        """Make a guarded change; whether it was confirmed. `say` gets each line for people."""
        confirmed: bool = self._ask("guard", host, change, say=say)
        return confirmed

    def _ask(self, *request: Any, say: Callable[[str], None] = print) -> Any:
        number, answers = next(self._numbers), queue.Queue[tuple[str, Any]]()
        self._asked[number] = answers
        if not self._ended:
            self._send((number, *request))
        if self._ended:
            answers.put(LOST)
        while True:
            kind, value = answers.get()
            if kind == "line":
                say(value)
            else:
                break
        del self._asked[number]
        if kind != "done":
            raise UnreachableError(value)
        return value

    def _send(self, value: Any) -> None:
        assert self._process.stdin is not None
        with self._writing:
            try:
                self._process.stdin.write(pickle.dumps(value))
                self._process.stdin.flush()
            except OSError:
                self._ended = True

    def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                number, kind, value = pickle.load(self._process.stdout)  # noqa: S301 (our own process sent it)
                self._asked[number].put((kind, value))
        except (EOFError, OSError, pickle.UnpicklingError):
            self._ended = True
            for answers in list(self._asked.values()):
                answers.put(LOST)


_workers: list[Worker] = []


def worker(target: Target) -> Worker:
    """The process for a target, started with the first call."""
    for each in _workers:
        if each.target is target:
            return each
    _workers.append(Worker(target))
    return _workers[-1]


def run(target: Target, host: str, change: Change, say: Callable[[str], None]) -> bool:
    """See `Worker.guard`. An error of a person, or of the way, is a line too."""
    try:
        return worker(target).guard(host, change, say)
    except UnreachableError as error:
        say(f"error: {error}")
        return False
