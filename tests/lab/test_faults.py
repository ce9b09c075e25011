"""Does the doctor find each fault of the catalogue, and does the fix that it prints fix it?

    1. break the deployed site with a fault of lab/faults; its proof, which did not hold before, holds
    2. the doctor: its first finding is the cause that the fault's file names, and there is no second one
    3. run the fix that it printed, in a shell, as it was printed; where no command is one, heal
    4. the proof does not hold any more; verify all roles: green
    5. of a fault of the next boot: boot, and 4 again. In a test of its own: boot without the fix, and the proof holds

The score is printed at the end. CI has no time for it: `invoke test --long` has.
"""

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab import control, fault
from lab.fault import Fault
from lab.process import LabError
from tests.lab.commands import Runner, inside, invoke, paste
from tests.lab.faults import require_broken, require_good
from underlay.plan import REPO, Plan

SECONDS = 90
"""After so long it hangs. What it takes where each host has a processor of its own is a matter of benchmarks."""


def _marks(each: Fault) -> list[pytest.MarkDecorator]:
    by_networkd = re.search("systemd/network/|systemd-networkd", each.inject)
    return [*([pytest.mark.long] if each.slow else []), *([pytest.mark.networkd] if by_networkd else [])]


FAULTS = [pytest.param(each, id=each.name, marks=_marks(each)) for each in fault.catalogue().values()]
pytestmark = pytest.mark.usefixtures("deployed")


@dataclass
class Score:
    """What the doctor said of a fault first: right, located (only the host is the right one), or missed.

    false: findings besides the first
    """

    name: str
    said: str = "missed"
    false: int = 0
    fixed: bool = False
    line: str = ""

    def look(self, each: Fault, diagnosis: dict[str, Any]) -> None:
        """Judge a diagnosis."""
        found = [(one["id"], one["host"]) for one in diagnosis["findings"]]
        if found:
            located = "located" if found[0][1] == each.on else "missed"
            self.said = "right" if found[0] == (each.finding, each.on) else located
        self.false = len(found[1:])
        self.line = f"{' '.join(found[0]) if found else 'nothing':<32} {diagnosis['seconds']:4.1f} s to find it"


@pytest.fixture(scope="module")
def scores(request: pytest.FixtureRequest) -> Iterator[list[Score]]:
    """One for each fault; printed at the end."""
    found: list[Score] = []
    yield found
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n")
        for each in found:
            false = f", {each.false} false" if each.false else ""
            print(f"  {each.said + false + ('' if each.fixed else ', FAILED'):<24} {each.name:<32} {each.line}")
        counts = [f"{sum(each.said == said for each in found)} {said}" for said in ("right", "located", "missed")]
        ends = f"{sum(each.false for each in found)} false findings, {sum(each.fixed for each in found)} fixed"
        print(f"\n{len(found)} faults: {', '.join(counts)}; {ends}")


def test_healthy() -> None:
    """Nothing is wrong with the deployed site; what is not installed yet is a note."""
    done = invoke("doctor", "--json")
    found = json.loads(done.stdout)
    assert found["findings"] == found["unread"] == []
    assert found["healthy"]
    assert any("port 6443 of master-1" in note for note in found["notes"])
    assert "gateway: ok" in done.stderr


@pytest.mark.parametrize("each", FAULTS)
def test_fault(runner: Runner, scores: list[Score], plan: Plan, each: Fault) -> None:
    """Injected, found, fixed."""
    score = Score(each.name)
    scores.append(score)
    begin = time.monotonic()
    require_broken(each, plan, False)
    fault.inject(each.name, plan)
    try:
        require_broken(each, plan, not each.boots)
        code, diagnosis = runner.doctor()
        found = diagnosis["findings"]
        score.look(each, diagnosis)
        assert [(one["id"], one["host"]) for one in found] == [(each.finding, each.on)], json.dumps(found, indent=2)
        assert code == 2
        assert diagnosis["seconds"] < SECONDS
        assert re.search(each.advice, found[0]["advice"]), found[0]["advice"]
        fix = found[0]["fix"]
        assert re.fullmatch(each.fix, fix), fix
        if fix:
            paste(fix)
        else:
            fault.heal(plan)
        require_good(runner, plan, each)
        if each.boots:
            control.reboot(each.where)
            require_good(runner, plan, each)
    finally:
        fault.heal(plan)
    score.fixed = True
    score.line += f", {time.monotonic() - begin:5.1f} s in all"


@pytest.mark.long
@pytest.mark.parametrize(
    "each", [pytest.param(each, id=each.name, marks=_marks(each)) for each in fault.catalogue().values() if each.boots]
)
def test_boot_without_the_fix(runner: Runner, plan: Plan, each: Fault) -> None:
    """What is said of the next boot comes true."""
    require_broken(each, plan, False)
    fault.inject(each.name, plan)
    try:
        with suppress(LabError):  # it may not become ready
            control.reboot(each.where)
        require_broken(each, plan, True)
    finally:
        fault.heal(plan)
        control.reboot(each.where)
    require_good(runner, plan, each)


def test_policy_rules_that_are_not_to_blame(runner: Runner) -> None:
    """
    1. a CNI's rules on a node, `local` moved among them, and an unmanaged drop on the gateway
    2. the drop is the cause, and the only one; its fix leaves the node as it is
    """
    inside("master-1", "ip rule add pref 9 fwmark 0x200/0xf00 lookup 2004")
    inside("master-1", "ip rule add pref 100 lookup local && ip rule del pref 0")
    inside("gateway", "iptables -I FORWARD -d 100.64.64.2 -j DROP")
    try:
        rules = inside("master-1", "ip rule")
        _, diagnosis = runner.doctor()
        assert [(one["id"], one["host"]) for one in diagnosis["findings"]] == [("rule-unmanaged", "gateway")]
        paste(diagnosis["findings"][0]["fix"])
        assert runner.doctor()[0] == 0
        assert inside("master-1", "ip rule") == rules
    finally:
        control.run("gateway", "iptables -D FORWARD -d 100.64.64.2 -j DROP 2>/dev/null")
        inside("master-1", "ip rule add pref 0 lookup local && ip rule del pref 100 && ip rule del pref 9")


@pytest.mark.parametrize(
    ("host", "command"),
    [
        ("jumphost", "ip address flush dev eth0"),
        ("master-1", "ip rule add pref 1 unreachable && echo done"),
        ("gateway", "iptables -D FORWARD 1; iptables -I INPUT -p tcp --dport 22 -j DROP"),
    ],
)
def test_a_fix_that_cuts_the_way_is_undone(host: str, command: str) -> None:
    """What is pasted is a confirmed change: the host takes it back by itself."""
    looks = ("ip -4 -o address", "ip rule", "ip route show table all", "iptables -S 2>/dev/null || true")
    before = [inside(host, look) for look in looks]
    done = invoke("change", host, command, good=False, UNDERLAY_ROLLBACK_SECONDS="6")
    assert done.returncode == 1
    assert "ROLLED BACK" in done.stdout
    assert [inside(host, look) for look in looks] == before
    assert invoke("change", host, "ip rule add pref 7 from 192.0.2.7 lookup main").stdout.startswith(
        "confirmed: change "
    )
    number = json.loads(invoke("history", host, "--json").stdout)[host][0]["number"]
    assert "by hand: ip rule add pref 7" in invoke("history", host).stdout
    invoke("rollback", host)
    assert inside(host, "ip rule") == before[1]
    assert json.loads(invoke("history", host, "--json").stdout)[host][0]["number"] == number + 1


API = (
    "cd /run && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=api "
    "-keyout api.key -out api.crt 2>/dev/null && "
    "systemd-run -q --unit=api openssl s_server -accept 6443 -cert /run/api.crt -key /run/api.key -quiet"
)


@pytest.mark.long
def test_one_of_several_api_servers(plan: Plan, tmp_path: Path) -> None:
    """A second node: 1. its API server is not there, 2. hangs, 3. answers."""
    shutil.copytree(REPO / "group_data", tmp_path, dirs_exist_ok=True)
    data = tmp_path / "all.py"
    line = '    "master-1": {'
    addresses = {"mgmt": "100.64.0.3", "traffic": "100.64.32.3", "storage": "100.64.64.3"}
    second = {"role": "master", "addresses": addresses, "default_route": "traffic"}
    assert data.read_text().count(line) == 1
    data.write_text(data.read_text().replace(line, f'    "master-2": {second},\n{line}'))

    def found() -> tuple[int, list[tuple[str, str, str]]]:
        done = invoke("doctor", "--json", good=False, UNDERLAY_PLAN=str(data))
        return done.returncode, [(one["id"], one["cause"], one["fix"]) for one in json.loads(done.stdout)["findings"]]

    try:
        invoke("lab.add", UNDERLAY_PLAN=str(data))
        invoke("deploy", UNDERLAY_PLAN=str(data))
        inside("master-1", API)
        code, [(cause, what, _)] = found()
        assert (code, cause) == (2, "api-down")
        assert what == "master-2: its API server (port 6443) does not listen"
        inside("master-2", f"{API} && sleep 1 && systemctl kill --signal=STOP api")
        restart = './inv ssh master-2 "sudo systemctl restart api.service"'
        assert found() == (2, [("api-down", "master-2: its API server (port 6443) does not answer", restart)])
        inside("master-2", "systemctl restart api")
        assert found() == (0, [])
    finally:
        control.run("master-1", "systemctl stop api; systemctl reset-failed api")
        with suppress(LabError):  # it was not added
            control.remove("master-2")
        invoke("deploy")


def test_another_way() -> None:
    """A shell by another way than the plan's, at an address of choice; a way that is none is told."""
    assert invoke("ssh", "jumphost", "hostname", "--via", "gateway").stdout.strip() == "jumphost"
    seen = invoke("ssh", "master-1", "echo $SSH_CONNECTION", "--via", "gateway", "--address", "100.64.64.2").stdout
    assert seen.split()[0::2] == ["100.64.64.1", "100.64.64.2"]
    done = invoke("ssh", "master-1", "true", "--via", "dev", good=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "master-1 has not an address in a network of dev" in done.stderr


def test_one_at_a_time(plan: Plan) -> None:
    """A second fault of a place is refused until the first is healed; the list marks those that are there."""
    invoke("lab.fault", "boot-rules-not-loaded")
    try:
        done = invoke("lab.fault", "gateway-forwarding-off", good=False)
        assert done.returncode == 1
        assert done.stderr.strip().endswith("gateway has the fault 'boot-rules-not-loaded': `./inv lab.heal` first")
        invoke("lab.fault", "nginx-stopped")
        marked = re.findall(r"^\* (\S+) ", invoke("lab.fault").stdout, re.MULTILINE)
        assert marked == ["boot-rules-not-loaded", "nginx-stopped"]
    finally:
        assert "healed nginx-stopped, boot-rules-not-loaded" in invoke("lab.heal").stdout
    assert "nothing to heal" in invoke("lab.heal").stdout


def test_a_fault_that_fails(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no fault behind, and its error is told."""
    broken = fault.find("nginx-stopped").model_copy(update={"inject": "echo so it is >&2; false", "heal": "true"})
    monkeypatch.setattr(fault, "find", lambda _: broken)
    with pytest.raises(Exception, match="so it is"):
        fault.inject("nginx-stopped", plan)
    assert fault.injected() == []
    assert control.run("lb", "systemctl is-active nginx").stdout.strip() == "active"
