"""A fresh machine: `./inv demo` and `./inv test` install there all that they call."""

import os
import subprocess
import sys

import pytest

from lab import state
from underlay.plan import REPO

SUITES = [state.SUITES[0], *(pytest.param(suite, marks=pytest.mark.long) for suite in state.SUITES[1:])]


@pytest.mark.skipif(os.geteuid() != 0, reason="a root folder needs root")
@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.timeout(2400)
def test_a_machine_where_nothing_is_installed(suite: str) -> None:
    """Everything succeeds, and no test is left out because a program is missing."""
    argv = [sys.executable, "-m", "tests.lab.minimal_root", suite]
    # A lab of its own, which no other test has. Its stdin is what it lives as long as.
    environment = os.environ | {"UNDERLAY_LAB": f"{state.NAME[:7]}m"}
    output = ""
    with subprocess.Popen(
        argv,
        cwd=REPO,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="")
            output += line
    assert process.returncode == 0
    assert "The site works, after" in output
    assert "all passed in" in output
    assert " skipped" not in output
