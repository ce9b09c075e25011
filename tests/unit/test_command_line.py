"""The tasks as a person calls them."""

import subprocess
import sys

import pytest

from underlay.plan import REPO


def invoke(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "invoke", *arguments]
    return subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("words", [("--help", "drift"), ("drift", "--help"), ("ssh", "--help"), ("restore", "--help")])
def test_help(words: tuple[str, ...]) -> None:
    """It is asked for before or behind the task's name, whatever positional arguments that has."""
    done = invoke(*words)
    assert (done.returncode, done.stderr) == (0, "")
    [task] = set(words) - {"--help"}
    assert done.stdout.startswith("Usage: ")
    assert f"] {task} [--options]" in done.stdout


def test_a_positional_argument_that_is_missing() -> None:
    """It is told, where it is not one of those that may be left out."""
    done = invoke("ssh")
    assert done.returncode == 1
    assert "'ssh' did not receive required positional arguments: 'host'" in done.stderr
