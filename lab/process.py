"""The one border to other programs, and what every part of the lab says to a person."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from underlay.errors import OperatorError
from underlay.programs import search_path

LOCKS: set[int] = set()
"""Open files with a lock that programs inherit: a run that is killed keeps it until what it started has ended, too."""


class LabError(OperatorError):
    """What a person can fix; `str()` is one clear line (what, where, how to fix), more only for a log's end."""


class CommandError(LabError):
    """A program that failed: its command as it can be pasted, and what it said."""

    def __init__(self, argv: Sequence[str], returncode: int | None, output: str) -> None:
        what = "took too long" if returncode is None else f"failed with {returncode}"
        super().__init__("\n".join([f"{what}: {shlex.join(argv)}", *tail(output)]))
        self.returncode = returncode


def run(
    argv: Sequence[str],
    *,
    stdin: str = "",
    cwd: Path | None = None,
    env: dict[str, str] | None = None,
    timeout: float = 60,
    inherit: bool = True,
) -> str:
    """Run a program to its end and return its output. CommandError if it fails, LabError if it can't be run.

    `env`: variables beside those of this process. `inherit`: it gets the LOCKS.
    """
    env = os.environ | {"PATH": search_path()} | (env or {})
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            pass_fds=tuple(LOCKS) if inherit else (),
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(argv, None, "") from error
    except OSError as error:
        raise LabError(f"can't run {argv[0]}: {error.strerror}") from error
    if done.returncode:
        raise CommandError(argv, done.returncode, done.stderr or done.stdout)
    return done.stdout


def tail(text: str, lines: int = 12) -> list[str]:
    """The last lines of some output, indented, for the end of an error."""
    return [f"  {line}" for line in text.strip().splitlines()[-lines:]]


def wait_until(condition: Callable[[], bool], *, seconds: float, every: float = 0.02) -> bool:
    """Ask until it holds or the time is over; whether it held."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


class Progress:
    """Says what happens, with the seconds since the start, on stderr."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"lab {time.monotonic() - self._start:5.1f}s  {text}", file=sys.stderr, flush=True)
