"""The tasks as a person calls them."""

import json
import os
import subprocess
import sys

import pytest

import tasks
from underlay.plan import REPO


def run(*argv: str, **variables: str) -> subprocess.CompletedProcess[str]:
    words, environment = [sys.executable, "-m", *argv], {**os.environ, **variables}
    return subprocess.run(words, cwd=REPO, env=environment, capture_output=True, text=True, timeout=60, check=False)


def invoke(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run("invoke", *arguments, **variables)


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


@pytest.mark.parametrize(
    "words",
    [("-T", "abc"), ("-D", "x", "plan"), ("-l", "-F", "x"), ("--config", "/nosuch", "plan"), ("-f", "inv", "plan")],
)
def test_what_is_wrong_with_an_option_of_invoke(words: tuple[str, ...]) -> None:
    """It is one line, as `inv` calls it."""
    done = subprocess.run(
        [sys.executable, "tasks.py", *words], cwd=REPO, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert done.stderr.startswith("error: ")


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


@pytest.mark.parametrize(
    ("words", "before"),
    [
        (("deploy", ""), "'deploy'"),
        (("deploy", " \t"), "'deploy'"),
        (("history", "\u200b"), "'history'"),
        (("history", "gateway", ""), "'gateway'"),
        (("rotate-key", "--without", "lb", "--without", ""), "'--without'"),
        (("bundle", "--output="), "'--output'"),
        (("lab.up", "--suite", " "), "'--suite'"),
        (("plan", "drift", "--json", ""), "'--json'"),
    ],
)
def test_an_empty_argument(words: tuple[str, ...], before: str) -> None:
    """It is a variable that is not set, and never "all of them"; nothing is begun, not even what stands before it."""
    done = invoke(*words, UNDERLAY_LAB="nosuch")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: the argument after {before} is empty")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("image", "lb", "--dns", ","), "a part of ',' is empty"),
        (("image", "lb", "--include", "curl,,vim"), "a part of 'curl,,vim' is empty"),
        (("publish", "lb", "--ports", "tcp/80, "), "a part of 'tcp/80, ' is empty"),
        (("publish", "lb", "--ports", "80"), "'80' is no protocol with a port"),
        (("lab.up", "--vm", ","), "a part of ',' is empty"),
        (("ssh", "lb", "true", "--address", "100.64.0.53"), "--address goes with --via"),
        (("change", "lb", "true", "--address", "100.64.0.53"), "--address goes with --via"),
        (("image", "lb", "--seed-only", "--format", "qcow2"), "--format goes with a disk"),
        (("adopt", "192.0.2.1", "--check", "--output", "x"), "--output goes with a proposal"),
        (("adopt", "192.0.2.1", "--output", "/nosuch/x"), "no file can be made in /nosuch"),
        (("rollback", "lb", "-1"), "'-1' is out of range"),
        (("demo", "--suite", "sid"), "unknown suite 'sid'"),
    ],
)
def test_arguments_are_looked_at_before_anything_is_begun(words: tuple[str, ...], said: str) -> None:
    """One that is empty in part, has no effect, or can't be, is no matter of the target, which is not there."""
    done = invoke(*words, UNDERLAY_LAB="nosuch")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {said}")


@pytest.mark.parametrize("command", ["rollback", "publish", "unpublish"])
def test_variables_are_looked_at_before_anything_is_begun(command: str) -> None:
    done = invoke(command, "lb", UNDERLAY_LAB="nosuch", UNDERLAY_SOAK_SECONDS="-1")
    assert (done.returncode, done.stderr.split(":")[1]) == (1, " UNDERLAY_SOAK_SECONDS='-1' is no soak time")


def test_an_option_that_may_be_given_again_takes_words() -> None:
    """And does not take them for their letters."""
    for name, task in tasks.namespace.tasks.items():
        for argument in task.get_arguments():
            if argument.attr_name in task.iterable or argument.name in task.iterable:
                assert argument.kind is list, (name, argument)


@pytest.mark.parametrize("words", [("deploy", "--", "gateway"), ("deploy", "--", "")])
def test_what_no_command_would_take(words: tuple[str, ...]) -> None:
    done = invoke(*words, UNDERLAY_LAB="nosuch")
    assert (done.returncode, done.stderr) == (1, "error: no command takes anything after `--`: leave it out\n")


@pytest.mark.parametrize("limit", [("--limit", ""), ("--limit= ",)])
def test_an_empty_limit_of_pyinfra(limit: tuple[str, ...]) -> None:
    """pyinfra itself takes it for no host, and ends well."""
    done = run("pyinfra", "inventory.py", "deploys/gateway.py", *limit, UNDERLAY_LAB="nosuch")
    assert done.returncode == 1
    assert "is empty: leave it out" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["UNDERLAY_PLAN", "UNDERLAY_TARGET", "UNDERLAY_LAB", "UNDERLAY_ROLLBACK_SECONDS"])
def test_an_empty_variable(name: str) -> None:
    """It is set for a reason: the plan, the target or the lab that it means is not known."""
    done = invoke("plan", **{name: " "})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {name} is set, but empty: unset it, or say what is meant\n"
