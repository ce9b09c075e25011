"""Does the doctor find each fault of the catalogue, and does the fix that it prints fix it?

    1. break the deployed site with a fault of lab/faults
    2. the doctor: its first finding is the cause that the fault's file names, and there is no second one
    3. run the fix that it printed, in a shell, as it was printed
    4. verify all roles: green

The score is printed at the end. CI has no time for it: `invoke test --long` has.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from lab import control, fault
from lab.fault import Fault
from lab.process import LabError
from tests.lab.commands import CLEAN, Runner, inside, invoke
from underlay.plan import REPO, ROLES, Plan

SECONDS = 30
"""What the doctor may take here, where the machine is busy with a whole site: on a quiet one it is 12 at most."""
FAULTS = [
    pytest.param(each, id=each.name, marks=pytest.mark.long if each.slow else ()) for each in fault.catalogue().values()
]
pytestmark = pytest.mark.usefixtures("deployed")


@pytest.fixture(scope="module")
def score(request: pytest.FixtureRequest) -> Iterator[list[tuple[Fault, str]]]:
    """For each fault what was found, or empty; printed at the end."""
    scores: list[tuple[Fault, str]] = []
    yield scores
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("\n")
        for each, line in scores:
            print(f"  {'found and fixed' if line else 'FAILED':<17} {each.name:<27} {line}")
        print(f"\n{sum(bool(line) for _, line in scores)} of {len(scores)} faults found and fixed")


def test_healthy() -> None:
    """Nothing is wrong with the deployed site; what is not installed yet is a note."""
    done = invoke("doctor", "--json")
    found = json.loads(done.stdout)
    assert found["findings"] == found["unread"] == []
    assert found["healthy"]
    assert any("port 6443 of master-1" in note for note in found["notes"])
    assert "gateway: ok" in done.stderr


@pytest.mark.parametrize("each", FAULTS)
def test_fault(runner: Runner, score: list[tuple[Fault, str]], plan: Plan, each: Fault) -> None:
    """Injected, found, fixed."""
    score.append((each, ""))
    begin = time.monotonic()
    fault.inject(each.name, plan)
    try:
        code, diagnosis = runner.doctor()
        found = diagnosis["findings"]
        assert [(one["id"], one["host"]) for one in found] == [(each.finding, each.on)], json.dumps(found, indent=2)
        assert code == 2
        assert diagnosis["seconds"] < SECONDS
        fix = found[0]["fix"]
        assert re.fullmatch(each.fix, fix), fix
        done = subprocess.run(
            fix,
            shell=True,
            cwd=REPO,
            env=CLEAN,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{fix}\n{done.stdout}\n{done.stderr}"
        code, output = runner("verify", *ROLES)
        assert code == 0, f"after {fix}:\n{output}"
    finally:
        fault.heal(plan)
    seconds = f"{diagnosis['seconds']:4.1f} s to find it, {time.monotonic() - begin:4.1f} s in all"
    score[-1] = (each, f"{each.finding:<20} {seconds}")


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
        subprocess.run(diagnosis["findings"][0]["fix"], shell=True, cwd=REPO, env=CLEAN, check=True, timeout=100)
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
    """A second fault is refused until the first is healed; the list marks the one that is there."""
    invoke("lab.fault", "boot-rules-not-loaded")
    try:
        done = invoke("lab.fault", "nginx-stopped", good=False)
        assert done.returncode == 1
        assert done.stderr.strip().endswith("the lab has the fault 'boot-rules-not-loaded': `./inv lab.heal` first")
        assert re.search(r"^\* boot-rules-not-loaded ", invoke("lab.fault").stdout, re.MULTILINE)
    finally:
        assert "healed boot-rules-not-loaded" in invoke("lab.heal").stdout
    assert "nothing to heal" in invoke("lab.heal").stdout


def test_a_fault_that_fails(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no fault behind, and its error is told."""
    broken = fault.find("nginx-stopped").model_copy(update={"inject": "echo so it is >&2; false", "heal": "true"})
    monkeypatch.setattr(fault, "find", lambda _: broken)
    with pytest.raises(Exception, match="so it is"):
        fault.inject("nginx-stopped", plan)
    assert fault.injected() is None
    assert control.run("lb", "systemctl is-active nginx").stdout.strip() == "active"
