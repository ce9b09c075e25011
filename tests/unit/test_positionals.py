"""The tasks as a person calls them."""

import json
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


def test_plan_as_json() -> None:
    """Networks, hosts and rules, each with its line of the plan."""
    found = json.loads(invoke("plan", "--json").stdout)
    assert [each["name"] for each in found["networks"]] == ["enterprise", "mgmt", "traffic", "storage"]
    [lb] = [each for each in found["hosts"] if each["name"] == "lb"]
    assert (lb["published"], lb["interfaces"]) == (
        "192.168.0.53",
        [{"network": "mgmt", "nic": "eth0", "address": "100.64.0.53/21"}],
    )
    assert len(found["rules"]) == 22
    assert found["rules"][-1]["plan"].startswith("group_data/all.py:")
