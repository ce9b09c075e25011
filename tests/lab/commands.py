"""The repo's commands as a person runs them: as processes of their own, because they move into the lab's network."""

import os
import subprocess
import sys

from lab import control
from underlay.plan import REPO

CLEAN = {
    name: value for name, value in os.environ.items() if not name.startswith("UNDERLAY_") or name == "UNDERLAY_LAB"
}


def invoke(*arguments: str, good: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """`invoke ARGUMENTS`, with further environment variables; it must succeed unless `good` is False."""
    return _run([sys.executable, "-m", "invoke", *arguments], good, environment)


def pyinfra(*arguments: str, good: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """`pyinfra inventory.py ARGUMENTS`; like `invoke`."""
    return _run([sys.executable, "-m", "pyinfra", "inventory.py", *arguments], good, environment)


def _run(argv: list[str], good: bool, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        argv,
        cwd=REPO,
        env=CLEAN | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if good:
        assert done.returncode == 0, f"{argv} exits with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done


def inside(host: str, command: str) -> str:
    """What a command prints that runs as root inside a host of the lab; it must succeed."""
    done = control.run(host, command, timeout=60)
    assert done.returncode == 0, f"{host}: {command}: exits with {done.returncode}: {done.stderr}"
    return done.stdout
