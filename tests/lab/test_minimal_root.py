"""A fresh machine: `./inv demo` and `./inv test` install there all that they call.

CI has the first only: that the second works on a machine where nothing was installed by hand it shows itself.
"""

import os
import subprocess
import sys

import pytest

from lab import state
from underlay.plan import REPO

DEMO = ("demo", "lab.down")
MACHINES = [
    pytest.param(state.SUITES[0], DEMO, id="the demo"),
    *(pytest.param(suite, (*DEMO, "test --quick"), id=suite, marks=pytest.mark.long) for suite in state.SUITES),
]


@pytest.mark.skipif(os.geteuid() != 0, reason="a root folder needs root")
@pytest.mark.parametrize(("suite", "commands"), MACHINES)
@pytest.mark.timeout(2400)
def test_a_machine_where_nothing_is_installed(suite: str, commands: tuple[str, ...]) -> None:
    """Everything succeeds, and no test is left out because a program is missing."""
    argv = [sys.executable, "-m", "tests.lab.minimal_root", suite, *commands]
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
    assert ("all passed in" in output) == ("test --quick" in commands)
    assert " skipped" not in output
