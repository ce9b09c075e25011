"""`invoke report` on the deployed site: what it says is what is there, also with a host down."""

import json
from pathlib import Path
from typing import Any

import pytest

from lab import control
from tests.browser import browser, watch
from tests.lab.commands import inside, invoke

pytestmark = pytest.mark.usefixtures("deployed")


def report(output: Path) -> dict[str, Any]:
    """The facts, and the page in a file, of one gathering."""
    done = invoke("report", "--json", "--output", str(output))
    assert str(output) in done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def by_name(facts: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {host["name"]: host for host in facts["hosts"]}


def verdicts(facts: dict[str, Any]) -> dict[str, int]:
    found = [flow["verdict"] for flow in facts["flows"]]
    return {verdict: found.count(verdict) for verdict in ("good", "bad", "unknown")}


def test_as_planned(tmp_path: Path) -> None:
    """Every host, connection and rule of the site is good; the rules have counted, the changes have who and when."""
    facts = report(tmp_path / "report.html")
    hosts = by_name(facts)
    assert {name: host["word"] for name, host in hosts.items() if host["state"] != "good"} == {}
    assert verdicts(facts) == {"good": 68, "bad": 0, "unknown": 0}
    assert all(rule["state"] == "good" for rule in facts["rules"])
    forwarded = [rule for rule in facts["rules"] if rule["chain"] == "FORWARD"]
    assert sum(rule["packets"] for rule in forwarded) > 0
    assert sum(rule["bytes"] for rule in forwarded) > 0
    for name in ("gateway", "jumphost", "lb", "master-1"):
        assert all("@" in change["who"] and change["time"] for change in hosts[name]["history"])
        assert hosts[name]["history"]
        assert {nic["state"] for nic in hosts[name]["nics"]} == {"good"}


RULE = "-s 100.64.64.0/21 -j SNAT --to-source 192.168.0.51"
"""The last one of its chain."""
HOSTILE = "FORWARD -s 192.0.2.0/24 -m comment --comment '<script>document.title=1</script>' -j DROP"


@pytest.mark.long
def test_with_a_host_down_and_a_rule_missing(tmp_path: Path) -> None:
    """The page is made all the same: who is down, what is missing, what was not tried; others' words stay words."""
    control.power_off("lb")
    inside("gateway", f"iptables -t nat -D POSTROUTING {RULE}; iptables -I {HOSTILE}; ip link set eth3 down")
    try:
        facts = report(tmp_path / "report.html")
    finally:
        inside("gateway", f"iptables -t nat -A POSTROUTING {RULE}; iptables -D {HOSTILE}; ip link set eth3 up")
        control.power_on("lb")
        invoke("drift", "gateway")
    hosts = by_name(facts)
    assert hosts["lb"]["state"] == "bad"
    missing = [rule["spec"] for rule in facts["rules"] if rule["state"] == "bad"]
    assert missing == [RULE]
    assert any(each["kind"] == "unmanaged" and "<script>" in each["what"] for each in hosts["gateway"]["differences"])
    assert [nic["word"] for nic in hosts["gateway"]["nics"]] == ["", "", "", "switched off"]
    assert {flow["verdict"] for flow in facts["flows"] if "lb" in (flow["source"], *flow["receivers"])} == {"unknown"}
    wrong = [flow for flow in facts["flows"] if flow["verdict"] == "bad"]
    assert {"100.64.64.1", "100.64.64.2"} == {flow["source_address"] for flow in wrong} - {"100.64.0.52"}
    assert any(RULE in line for flow in wrong for line in flow["why"])
    with browser() as chromium, chromium.new_page() as tab:
        _, complaints = watch(tab)
        tab.goto((tmp_path / "report.html").as_uri())
        assert tab.title().startswith("lab-site")
        assert "lb can't be reached" in tab.inner_text("body")
        assert complaints == []


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    """It is one line, before anything is asked."""
    done = invoke("report", "--output", str(tmp_path / "no" / "report.html"), good=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert f"there is no folder {tmp_path}/no" in done.stderr
