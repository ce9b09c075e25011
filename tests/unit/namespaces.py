"""Network namespaces that are thrown away: a kernel to try things on, apart from the machine's own network."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Inside:
    """`inside("ip", "rule", text="")` runs a command in a namespace, with a text as its input, and gives its output.

    pid: of a process in it
    """

    pid: int

    @property
    def enter(self) -> list[str]:
        """What stands before a command that runs there."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net"]

    def __call__(self, *argv: str | bytes, text: str = "") -> str:
        """Run a command that must succeed."""
        command = [*self.enter, *argv]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, f"{argv} of:\n{text}\n{done.stderr}"
        return done.stdout


@contextmanager
def namespace(*tools: str) -> Iterator[Inside]:
    """A new network namespace. Skips the test where there is no root, one of the tools, or no right to make one."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    for tool in ("unshare", "nsenter", *tools):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    command = ["unshare", "--net", "sh", "-c", "echo ready; exec sleep 600"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        if process.stdout.readline() != "ready\n":
            pytest.skip(f"no network namespace can be made: {process.stderr.read().strip()}")

        try:
            yield Inside(process.pid)
        finally:
            process.kill()
