"""Hosts whose NICs ifupdown, NetworkManager, netplan or cloud-init bring up: a deploy adds, and all is there at boot.

UNDERLAY_HOSTS chooses whose, see `lab.flavour`; what networkd brings up by files of hand is tested elsewhere.
"""

import json
import re

import pytest

from lab import control, flavour
from lab.process import wait_until
from lab.state import LabState
from tests.lab.commands import PLANNED, inside, invoke, pyinfra
from underlay.desired.hooks import HOOKS, IFUPDOWN, NETWORK_MANAGER
from underlay.plan import Plan

LOOK = r"""
ip -o -4 address show; ip -o -6 address show scope global; ip -o -4 route show; ip -o -6 route show
for nic in /sys/class/net/eth*; do echo "$nic mtu $(cat $nic/mtu)"; done
cat /etc/resolv.conf
"""
EXTRA = {
    "ifupdown": r"sed -i '/gateway/a \    up ip address add 10.99.0.NUMBER/24 dev $IFACE\n"
    r"    up ip route add 10.200.0.0/16 via 10.99.0.1' /etc/network/interfaces",
    "networkmanager": "nmcli connection modify eth0 +ipv4.addresses 10.99.0.NUMBER/24 "
    "+ipv4.routes '10.200.0.0/16 10.99.0.1'",
    "netplan": "sed -i 's/addresses: \\[100/addresses: [10.99.0.NUMBER\\/24, 100/; "
    "s/routes: \\[/routes: [{to: 10.200.0.0\\/16, via: 10.99.0.1}, /' /etc/netplan/50-installer.yaml",
}
EXTRA |= {"ifupdown2": EXTRA["ifupdown"], "netplan-networkmanager": EXTRA["netplan"]}
RELOAD = {
    "ifupdown": "systemctl restart networking",
    "ifupdown2": "ifreload -a && systemctl restart networking",
    "networkmanager": "nmcli connection up eth0 && nmcli device reapply eth0",
    "netplan": "netplan generate && networkctl reload && networkctl reconfigure eth0",
    "netplan-networkmanager": "netplan apply",
    "cloud-init": "networkctl reload && networkctl reconfigure eth0",
    "networkd": "systemctl restart systemd-networkd",
}
"""How a person makes a manager do its work once more."""


def look(host: str) -> set[str]:
    """What a host's network is, but for what only policy routing sees."""
    lines = inside(host, LOOK).splitlines()
    # Addresses that a link has by itself come and go with it.
    return {re.sub(r"^\d+: |\\.*|valid_lft.*", "", line).strip() for line in lines if "fe80::" not in line}


def words(host: str) -> set[str]:
    """The words of that."""
    return {word for line in look(host) for word in line.split()}


@pytest.fixture(scope="module")
def ways(lab: LabState, plan: Plan) -> dict[str, str]:
    """Host → what brings its NICs up, of those that are not as every other test has them."""
    if lab.flavour == flavour.DEFAULT:
        pytest.skip("for hosts of other managers: UNDERLAY_HOSTS")
    return control.flavours(plan, lab.flavour)


@pytest.fixture(scope="module")
def before(ways: dict[str, str]) -> dict[str, set[str]]:
    """Each host as people have it, with more than the plan knows of: before the deploy."""
    for number, (host, way) in enumerate(ways.items(), 2):
        if way in EXTRA:
            inside(host, EXTRA[way].replace("NUMBER", str(number)))
        control.reboot(host, patience=60)
    for number, (host, way) in enumerate(ways.items(), 2):
        there = {f"10.99.0.{number}/24", "10.200.0.0/16"} if way in EXTRA else set[str]()
        # NetworkManager looks first whether somebody else has an address.
        assert wait_until(lambda host=host, there=there: there <= words(host), seconds=30), host  # type: ignore[misc]
    return {host: look(host) for host in ways}


@pytest.fixture(scope="module")
def deployed_beside(before: dict[str, set[str]]) -> dict[str, set[str]]:
    for role in PLANNED:
        pyinfra(f"deploys/{role}.py", "-y")
    return before


def differences() -> list[dict[str, str]]:
    done = invoke("drift", "--json", good=False)
    return [each for found in json.loads(done.stdout).values() for each in found["differences"]]


def gone(before: dict[str, set[str]]) -> dict[str, set[str]]:
    """What each host had and has no more, once its manager is done."""

    def lost() -> dict[str, set[str]]:
        return {host: lost for host in before if (lost := before[host] - look(host))}

    wait_until(lambda: not lost(), seconds=20, every=0.5)
    return lost()


def test_all_that_was_there_is_there_and_the_plan_is_too(deployed_beside: dict[str, set[str]]) -> None:
    assert gone(deployed_beside) == {}
    assert invoke("verify").returncode == 0
    assert differences() == []


def test_ours_is_beside_what_is_in_charge(deployed_beside: dict[str, set[str]], ways: dict[str, str]) -> None:
    hooks = {"ifupdown": IFUPDOWN, "ifupdown2": IFUPDOWN, "networkmanager": NETWORK_MANAGER}
    hooks["netplan-networkmanager"] = NETWORK_MANAGER
    for host, way in ways.items():
        there = {manager for manager, path in HOOKS.items() if not control.run(host, f"test -x {path}").returncode}
        assert there == ({hooks[way]} if way in hooks else set())
        networkd = inside(host, "systemctl is-enabled systemd-networkd || true").strip()
        assert (networkd == "enabled") == (way not in hooks), way


@pytest.mark.long
def test_a_second_deploy_changes_nothing(deployed_beside: dict[str, set[str]]) -> None:
    for role in PLANNED:
        planned = json.loads(pyinfra(f"deploys/{role}.py", "--dry", "--json").stdout)["plan"]
        assert [step["operation"] for step in planned if step["hosts_with_change"]] == []


def test_the_manager_does_its_work_once_more(deployed_beside: dict[str, set[str]], ways: dict[str, str]) -> None:
    for host, way in ways.items():
        inside(host, RELOAD[way])
    assert gone(deployed_beside) == {}
    assert differences() == []
    assert invoke("verify").returncode == 0


def test_all_is_there_after_a_boot(deployed_beside: dict[str, set[str]], ways: dict[str, str]) -> None:
    for host in ways:
        control.reboot(host, patience=60)
    assert gone(deployed_beside) == {}
    assert invoke("verify").returncode == 0
    assert differences() == []


@pytest.mark.long
def test_what_somebody_took_away_comes_back_by_a_deploy(deployed_beside: dict[str, set[str]]) -> None:
    """Live, and the file for the boot."""
    inside("master-1", "ip rule del priority 30200; ip route flush table 1002; ip address flush dev eth1")
    inside("gateway", "chmod -x /etc/network/if-up.d/underlay 2>/dev/null; ip address flush dev eth2")
    assert differences()
    for role in ("gateway", "master"):
        pyinfra(f"deploys/{role}.py", "-y")
    assert differences() == []
    assert gone(deployed_beside) == {}
    assert invoke("verify").returncode == 0


@pytest.mark.long
def test_two_in_charge_of_a_nic_are_refused(deployed_beside: dict[str, set[str]], ways: dict[str, str]) -> None:
    """Before anything changes, by the deploy; the checks name both."""
    if ways["gateway"] in ("netplan", "cloud-init"):
        pytest.skip("these write files for networkd")
    path = "/etc/systemd/network/10-other.network"
    inside("gateway", f"printf '[Match]\\nName=eth0\\n' > {path}; systemctl -q enable systemd-networkd")
    try:
        done = pyinfra("deploys/gateway.py", "-y", good=False)
        assert done.returncode == 1
        assert re.search(
            r"NIC eth0 is brought up by .*systemd-networkd.*nothing was changed", done.stdout + done.stderr
        )
        assert [each for each in differences() if "is brought up by" in each["what"]]
    finally:
        inside("gateway", f"rm {path}; systemctl -q disable systemd-networkd systemd-networkd.socket")
    assert differences() == []
