"""Programs that the guard runs, and what it tells a person when one fails."""

import os
import subprocess
from collections.abc import Sequence
from typing import Any

Command = tuple[Sequence[str], str]
"""A program with its arguments, and its stdin."""


class Refused(Exception):  # noqa: N818
    """What a person is told; `facts` go into the answer beside it."""

    def __init__(self, what: str, **facts: Any) -> None:
        super().__init__(what)
        self.facts = facts


def run(argv: Sequence[str], stdin: str = "", timeout: float = 60) -> str:
    """The output of a program. Refused, with what it said, if it fails."""
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"can't run {' '.join(argv)}: {error}") from error
    if done.returncode:
        raise Refused(f"failed with {done.returncode}: {' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def shell(commands: str, what: str, **env: str) -> None:
    """Run shell commands; they end at the first that fails. Refused with their output."""
    # From memory: one argument of a program is 128 KiB at most, and a large site's rules are more.
    script = os.memfd_create("commands")
    with os.fdopen(script, "w", closefd=False) as file:
        file.write(f"set -e\n{commands}\n")
    done = subprocess.run(
        ["/bin/sh", f"/proc/self/fd/{script}"],
        pass_fds=[script],
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    os.close(script)
    if done.returncode:
        output = done.stdout.strip()[-4000:]
        raise Refused(f"{what} failed with {done.returncode}: {output or 'it said nothing'}", output=output)
