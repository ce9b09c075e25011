"""Starts a guarded change: `apply` in a process of its own, so that nothing that happens there can hang its caller."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict

from underlay.guard.change import Change
from underlay.plan import REPO


def run(host: str, change: Change, say: Callable[[str], None]) -> bool:
    """Make a change on a host, guarded; whether it was confirmed. `say` gets each line for people."""
    argv = [sys.executable, "-m", "underlay.guard.apply", host]
    process = subprocess.Popen(
        argv, cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        process.stdin.write(json.dumps(asdict(change)))
        process.stdin.close()
        for line in process.stdout:
            say(line.rstrip())
    return process.returncode == 0
