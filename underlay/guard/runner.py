"""Starts a guarded change: `apply` in a process of its own, so that nothing that happens there can hang its caller."""

import pickle
import subprocess
import sys
from collections.abc import Callable

from underlay.access.target import Target
from underlay.guard.change import Change
from underlay.plan import REPO


def run(target: Target, host: str, change: Change, say: Callable[[str], None]) -> bool:
    """Make a change on a host, guarded; whether it was confirmed. `say` gets each line for people."""
    argv = [sys.executable, "-m", "underlay.guard.apply"]
    process = subprocess.Popen(argv, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(pickle.dumps((target, host, change)))
        process.stdin.close()
        for line in process.stdout:
            say(line.decode(errors="replace").rstrip())
    return process.returncode == 0
