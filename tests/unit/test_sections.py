"""The sections of what a host is asked: each with its own exit code, also within another."""

import json
import subprocess

import pytest

from underlay.compare.tables import RulesetError
from underlay.facts import firewall, good, network, script, sections


def run(command: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        ["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False
    )
    return done.returncode, done.stdout.splitlines()


def test_a_section_that_failed() -> None:
    """It fails the whole, and no other section."""
    code, lines = run(script({"one": "echo 1; exit 3", "it's two": "echo 2\necho '@ 3'", "none": ":"}))
    assert code == 1
    assert sections(lines) == {"one": (3, ["1"]), "it's two": (0, ["2", "@ 3"]), "none": (0, [])}
    with pytest.raises(ValueError, match="one: 1"):
        good(lines)
    assert run(script({"two": "echo 2"}))[0] == 0


def test_sections_within_a_section() -> None:
    inner = script({"a": "echo 1", "b": "false"})
    code, lines = run(script({"before": "exit 2", "whole": inner, "good": script({"c": "echo 3"}), "after": "echo 4"}))
    found = sections(lines)
    assert code == 1
    assert {name: each[0] for name, each in found.items()} == {"before": 2, "whole": 1, "good": 0, "after": 0}
    assert sections(found["whole"][1]) == {"a": (0, ["1"]), "b": (1, [])}
    assert good(found["good"][1]) == {"c": ["3"]}
    assert found["after"] == (0, ["4"])


def test_output_that_is_cut_off() -> None:
    """The section that did not come to its end is none, not an empty one."""
    _, lines = run(script({"one": "echo 1", "two": "echo 2", "three": "echo 3"}))
    assert sections(lines[:5]) == {"one": (0, ["1"])}


def test_facts_fail_closed() -> None:
    """Where one command failed, what the others said is not taken for all."""
    said = {"address": "[]", "route": "[]", "rule": "[]", "sysctl": "", "files": "", "nics": ""}
    said |= {"managers": "", "closed": ""}
    said["system"] = "- box\n- 1\n- none\n- x86_64\n- quiet"
    lines = [line for name, text in said.items() for line in (f"@@ {name}", *text.split("\n"), "@@ = 0") if line]
    assert network.parse(lines).routes == ()
    lines[5] = "@@ = 1"
    with pytest.raises(ValueError, match="route"):
        network.parse(lines)
    rules: dict[str, object] = {"live": {}, "wanted": {}, "boot": {}, "others": {}, "failed": [], "own": None}
    assert firewall.process([json.dumps(rules)]).installed
    with pytest.raises(KeyError):
        firewall.process([json.dumps({name: found for name, found in rules.items() if name != "live"})])
    with pytest.raises(RulesetError, match="can't run iptables-save"):
        firewall.process([json.dumps({"error": "can't run iptables-save"})])
    with pytest.raises(RulesetError, match="iptables can't show table filter"):
        firewall.process([json.dumps({**rules, "live": {"filter": None}})])
