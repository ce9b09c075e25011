"""How hosts are reached from wherever a command runs, and what is said if they can't be."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from paramiko import SSHConfig

from lab import target as lab_target
from lab.state import LabHost, LabState
from tests.unit.conftest import Planned
from tests.unit.namespaces import namespace
from underlay.access import target
from underlay.access.endpoints import endpoints_from, vantage_of
from underlay.access.ssh_config import TargetError
from underlay.access.target import Target, enter
from underlay.plan import OUTSIDE, REPO, Plan

Stand = Callable[[str | None], None]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(target.ENTER, "lab", lab_target.enter)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.delenv("UNDERLAY_TARGET", raising=False)


@pytest.fixture
def stand_on(monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Let this process run on a host of the plan, or on none."""

    def stand(name: str | None) -> None:
        for module in (target, lab_target):
            monkeypatch.setattr(module, "vantage_of", lambda plan: plan.host(name) if name else None)

    return stand


@pytest.fixture
def real(planned: Planned, tmp_path: Path) -> Plan:
    """The site with target "ssh" and a key that is there."""
    (tmp_path / "key").write_text("")
    return planned(('target = "lab"', 'target = "ssh"'), ("~/.ssh/id_ed25519", f"{tmp_path}/key"))


def ways(found: Target) -> dict[str, str]:
    """Host → its address, and the host to jump through."""
    return {
        endpoint.name: f"{endpoint.address}{endpoint.jump and f' by {endpoint.jump}'}" for endpoint in found.endpoints
    }


OUTER = {"dev": "192.168.0.105", "images": "192.168.0.50"}
PUBLISHED = {"jumphost": "192.168.0.52", "lb": "192.168.0.53"}


@pytest.mark.parametrize("vantage", [None, "dev", "images"])
def test_from_the_enterprise_network(real: Plan, stand_on: Stand, vantage: str | None) -> None:
    stand_on(vantage)
    assert ways(enter(real)) == {
        **OUTER,
        "gateway": "192.168.0.51",
        **PUBLISHED,
        "master-1": "100.64.0.2 by jumphost",
    }


def test_from_the_jump_host(real: Plan, stand_on: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directly in its own network, and with the machine's own key."""
    stand_on("jumphost")
    monkeypatch.setattr(target, "MACHINE_KEY", Path(real.operator.key))
    found = enter(real)
    inner = {"gateway": "100.64.0.1", "jumphost": "100.64.0.52", "lb": "100.64.0.53", "master-1": "100.64.0.2"}
    assert ways(found) == {**OUTER, **inner}
    assert found.known_hosts == target.MACHINE_KNOWN_HOSTS


def test_from_the_gateway(real: Plan, stand_on: Stand) -> None:
    """It has a NIC in every network: each host by its first address."""
    stand_on("gateway")
    assert ways(enter(real)) == {host.name: str(host.primary.address) for host in real.hosts}


def test_a_host_without_an_address_near_the_jump_host(planned: Planned, real: Plan, stand_on: Stand) -> None:
    """Through the jump host even from itself: ssh to the own address is one hop more, and works."""
    plan = planned(('{"mgmt": "100.64.0.2", "traffic"', '{"traffic"'))
    stand_on("jumphost")
    found = endpoints_from(plan, plan.host("jumphost"))
    assert [f"{way.address} by {way.jump}" for way in found if way.jump] == ["100.64.32.2 by jumphost"]


def test_a_published_host_without_its_ssh_port(planned: Planned) -> None:
    """Its published address leads to it, but not its sshd."""
    planned_way = ('site = "lab-site"\n', 'site = "lab-site"\nforwarding = "planned"\n')
    for port, way in (("tcp/80", "100.64.0.53 by jumphost"), ("tcp/20-30", "192.168.0.53 by ")):
        ports = ('"published": "192.168.0.53"', f'"published": {{"address": "192.168.0.53", "ports": ["{port}"]}}')
        found = endpoints_from(planned(planned_way, ports), None)
        assert [f"{each.address} by {each.jump}" for each in found if each.name == "lb"] == [way]


@pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed")
def test_what_ssh_makes_of_its_configuration(real: Plan, stand_on: Stand) -> None:
    stand_on("dev")
    found = enter(real)
    told = subprocess.run(["ssh", "-G", "-F", found.ssh_config, "master-1"], capture_output=True, text=True, check=True)
    expected = {
        "hostname": "100.64.0.2",
        "proxyjump": "jumphost",
        "user": "ops",
        "identityfile": real.operator.key,
        "identitiesonly": "yes",
        "userknownhostsfile": f"{found.ssh_config.parent}/known_hosts {found.known_hosts}",
        "stricthostkeychecking": "true",
        "batchmode": "yes",
        "connecttimeout": "5",
        "serveraliveinterval": "5",
        "controlmaster": "auto",
    }
    options = dict(line.split(" ", 1) for line in told.stdout.splitlines())
    assert {key: options[key] for key in expected} == expected
    name = Path(options["controlpath"]).relative_to(found.ssh_config.parent)
    assert len(str(name)) == 40, "short, because the path of a socket has at most 108 characters"


def test_what_pyinfra_makes_of_the_ssh_configuration(real: Plan, stand_on: Stand) -> None:
    stand_on("dev")
    config = SSHConfig.from_path(str(enter(real).ssh_config))
    master = config.lookup("master-1")
    assert (master["hostname"], master["proxyjump"], master["user"]) == ("100.64.0.2", "jumphost", "ops")
    assert "proxyjump" not in config.lookup("lb")


def test_nobody_else_reads_the_folder(real: Plan, stand_on: Stand) -> None:
    stand_on("dev")
    folder = enter(real).ssh_config.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == {"ssh_config", "known_hosts"}
    assert enter(real).ssh_config.parent == folder


def test_a_folder_of_somebody_else(real: Plan, stand_on: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_on("dev")
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(TargetError, match=r"belongs to somebody else: delete it$"):
        enter(real)


def test_no_key(planned: Planned, stand_on: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plan = planned(("~/.ssh/id_ed25519", f"{tmp_path}/nothing"), ('target = "lab"', 'target = "ssh"'))
    stand_on("dev")
    with pytest.raises(TargetError, match=r"the key .*/nothing can't be read: set operator.key in the plan$"):
        enter(plan)
    stand_on("jumphost")
    monkeypatch.setattr(target, "MACHINE_KEY", tmp_path / "machine")
    with pytest.raises(TargetError, match=r"the key .*/machine can't be read: run it with sudo$"):
        enter(plan)


def test_an_unknown_target(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERLAY_TARGET", "prod")
    with pytest.raises(TargetError) as caught:
        enter(planned())
    assert str(caught.value) == "UNDERLAY_TARGET='prod' is no target: use 'lab' or 'ssh'"


def test_the_environment_overrides_the_plan(
    planned: Planned, real: Plan, stand_on: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_on("dev")
    assert str(enter(real)) == "site 'lab-site', target ssh, 6 hosts, from dev"
    monkeypatch.setattr("lab.state.load", lambda: None)
    monkeypatch.setenv("UNDERLAY_TARGET", "lab")
    with pytest.raises(TargetError):
        enter(real)


def lab_state(folder: Path, **other: object) -> LabState:
    here = LabHost(netns=folder / "dev", leader=None, root=folder)
    values = {"checkout": REPO, "suite": "trixie", "complete": True, "key": folder / "key", "hosts": {"dev": here}}
    values |= {"known_hosts": folder / "known_hosts", "plan": folder, "image": folder}
    return LabState.model_validate(values | other)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (None, "target lab, but no lab is running: start it with `./inv lab.up`"),
        ({"complete": False}, "target lab, but no lab is running: start it with `./inv lab.up`"),
        ({"checkout": "/other"}, "target lab, but the running lab belongs to the checkout /other"),
        ({"hosts": {}}, "target lab, but the lab has no host 'dev' to work from: add it to the plan"),
        ({}, "can't step into the lab (DEV: No such file or directory): fix it with `./inv lab.reset`"),
    ],
    ids=["none", "half built", "another checkout's", "no workstation", "gone"],
)
def test_no_lab_to_use(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, other: dict[str, object] | None, message: str
) -> None:
    monkeypatch.setattr("lab.state.load", lambda: None if other is None else lab_state(tmp_path, **other))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(TargetError) as caught:
        enter(planned())
    assert str(caught.value) == message.replace("DEV", f"{tmp_path}/dev")


def test_the_lab_needs_root(planned: Planned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("lab.state.load", lambda: lab_state(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(TargetError, match="needs root, to step into the lab's network: run it with sudo"):
        enter(planned())


def test_a_copy_without_a_lab(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deploy machine's copy."""
    monkeypatch.delitem(target.ENTER, "lab")
    with pytest.raises(TargetError, match=r"^target lab, but this copy of the repo has no lab: use target ssh"):
        enter(planned())


def test_the_lab_has_the_outside_world(
    planned: Planned, stand_on: Stand, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_on("dev")
    monkeypatch.setattr("lab.state.load", lambda: lab_state(tmp_path))
    monkeypatch.setattr(lab_target, "_step_into", lambda netns: None)
    monkeypatch.setattr(os, "geteuid", os.getuid)
    found = enter(planned())
    assert str(found.endpoint(OUTSIDE).address) == "192.168.0.1"
    assert str(found.outside) == "203.0.113.1"
    with pytest.raises(KeyError):
        found.endpoint("nobody")


def test_this_machine_is_no_host_of_a_plan_with_other_addresses(planned: Planned) -> None:
    """And it is one if it has one of its addresses: here 127.0.0.7, which every Linux has."""
    plan = planned(("192.168.0.105", "192.168.0.106"))
    host = plan.host("dev")
    local = host.primary.model_copy(update={"address": "127.0.0.7"})
    mine = host.model_copy(update={"interfaces": (local,)})
    elsewhere = host.model_copy(update={"interfaces": (local.model_copy(update={"address": "203.0.113.77"}),)})
    assert vantage_of(plan.model_copy(update={"hosts": (elsewhere,)})) is None
    assert vantage_of(plan.model_copy(update={"hosts": (elsewhere, mine)})) == mine


HERE = """
from pathlib import Path
from underlay.access.endpoints import vantage_of
from underlay.plan import load
print(vantage_of(load(Path("group_data/all.py"))))
"""


def test_a_kernel_that_takes_any_address_for_its_own() -> None:
    """1. with that setting of keepalived's this machine is no host of the plan; 2. with an address of one it is."""
    with namespace("ip", "sysctl") as inside:
        inside("sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=1")
        inside("ip", "link", "set", "lo", "up")
        assert inside(sys.executable, "-c", HERE) == "None\n"
        inside("ip", "address", "add", "192.168.0.53/32", "dev", "lo")
        assert inside(sys.executable, "-c", HERE) == "None\n", "a published address is the gateway's"
        inside("ip", "address", "add", "100.64.0.53/32", "dev", "lo")
        assert "name='lb'" in inside(sys.executable, "-c", HERE)
