"""What `invoke adopt` shows and proposes: the repo's site made by hand, and what no plan has words for."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.golden.test_golden import _compare
from tests.unit.hosts import says, told
from tests.unit.test_inventory import target
from underlay.adopt import run
from underlay.adopt.look import Look
from underlay.adopt.seen import Manager
from underlay.plan import REPO, load

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5/5Q3NYYkXkBGhmKPwN1sQZkdxlHiTJ2ps9oqE7AXv"


def test_a_site_made_by_hand(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("underlay.adopt.look.is_here", lambda address: address == "192.168.0.105")
    plan = load(REPO / "group_data/all.py")
    hosts = [told(plan, host) for host in plan.hosts]
    hosts.append(says("100.64.0.60", "nas", {"ens3": "100.64.0.60/21 100.64.0.61/21"}, "100.64.0.1"))
    odd = hosts[-1]
    odd.__dict__["nics"] = tuple(
        replace(nic, managers=(Manager("ifupdown"),), ipv6=("fd00::60/64",)) for nic in odd.nics
    )
    gateway = hosts[2]
    gateway.firewall.live["filter"].rules["FORWARD"].append("-p tcp -m tcp --dport 25 -j DROP")
    del gateway.firewall.live["nat"].rules["POSTROUTING"][0]
    looks = [Look(each.asked, each) for each in hosts]
    looks[3] = replace(looks[3], keys=(f"192.168.0.52 {KEY}",))
    looks.append(Look("192.168.0.99", error="192.168.0.99 can't be reached at 192.168.0.99: No route to host"))
    there = replace(target(plan), name="lab", known_hosts=tmp_path / "known_hosts")
    code = run.adopt(there, looks, "lab-site", None, None, json=False)
    said = capsys.readouterr()
    text = f"{said.err}\n--- stdout\n{said.out}--- exit code {code}\n".replace(str(tmp_path), "TMP")
    _compare("".join(f"{line.rstrip()}\n" for line in text.splitlines()), Path(__file__).parent / "adopted.expected")
