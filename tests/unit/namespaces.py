"""Network namespaces that are thrown away: a kernel to try things on, apart from the machine's own network."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

Inside = Callable[..., str]
"""`inside("ip", "rule", text="")` runs a command in a namespace, with a text as its input, and gives its output."""


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

        def inside(*argv: str, text: str = "") -> str:
            enter = ["nsenter", f"--net=/proc/{process.pid}/ns/net"]
            done = subprocess.run([*enter, *argv], input=text, capture_output=True, text=True, check=False, timeout=60)
            assert done.returncode == 0, f"{argv} of:\n{text}\n{done.stderr}"
            return done.stdout

        try:
            yield inside
        finally:
            process.kill()
