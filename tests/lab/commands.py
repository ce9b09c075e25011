"""The repo's commands as a person runs them: as processes of their own, because they move into the lab's network."""

import json
import os
import subprocess
import sys
from typing import Any

from lab import control
from underlay.plan import REPO, ROLES, load

PLANNED = tuple(role for role in ROLES if load(REPO / "group_data" / "all.py").hosts_of(role))
"""The roles that the repo's own plan has hosts of."""
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


def paste(fix: str) -> None:
    """Run a fix of the doctor's as it was printed; it must succeed."""
    done = subprocess.run(
        fix,
        shell=True,
        cwd=REPO,
        env=CLEAN,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, f"{fix}\n{done.stdout}\n{done.stderr}"


def log_out(host: str) -> None:
    """End the connection to a host that commands share: the next one logs in anew."""
    code = "import subprocess, sys, targets; config = targets.current().ssh_config"
    code += "; subprocess.run(['ssh', '-F', config, '-O', 'exit', sys.argv[1]])"
    _run([sys.executable, "-c", code, host], True, {})


def inside(host: str, command: str) -> str:
    """What a command prints that runs as root inside a host of the lab; it must succeed."""
    done = control.run(host, command, timeout=60)
    assert done.returncode == 0, f"{host}: {command}: exits with {done.returncode}: {done.stderr}"
    return done.stdout


RUNNER = """
import sys
from underlay.doctor import run as doctor
from underlay.verify import run as verify
from targets import current
target = current()
for line in sys.stdin:
    command, *roles = line.split()
    code = doctor.run(target, json=True) if command == "doctor" else verify.run(target, roles)
    print("exit code", code, flush=True)
"""


class Runner:
    """`invoke doctor --json` and `invoke verify` in a process that stays: what they print, without its start."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", RUNNER],
            cwd=REPO,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str) -> tuple[int, str]:
        """The exit code and the output of a command."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(words) + "\n")
        self._process.stdin.flush()
        output = ""
        for line in self._process.stdout:
            if line.startswith("exit code "):
                return int(line.removeprefix("exit code ")), output
            output += line
        raise AssertionError(f"the runner ended:\n{output}")

    def doctor(self) -> tuple[int, dict[str, Any]]:
        """The exit code and the diagnosis."""
        code, output = self("doctor")
        return code, json.loads(output)

    def close(self) -> None:
        """End it."""
        self._process.communicate()
