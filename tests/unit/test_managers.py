"""Who brings a NIC up, and where ours goes then: files as installers write them, and what managers say."""

import subprocess
from collections.abc import Mapping
from dataclasses import replace

import pytest

from underlay.compare.difference import UnitState
from underlay.compare.managers import Evidence, boot, ifupdown, managers
from underlay.compare.network import LiveNetwork, differences
from underlay.compare.systemd.networkd import Device, System, network_files
from underlay.desired import hooks
from underlay.desired.hooks import HOOKS, IFUPDOWN, NETWORK_MANAGER, NETWORKD, STANZA
from underlay.desired.routing import NETWORKD_CONF, SYSCTL_CONF, Address, host_network
from underlay.plan import REPO, load

PLAN = load(REPO / "group_data/all.py")
MASTER = host_network(PLAN, PLAN.host("master-1"))
GATEWAY = host_network(PLAN, PLAN.gateway)
UP, OFF = UnitState("active", "enabled"), UnitState("inactive", "disabled")
NETWORKING, MANAGER, BY_NETWORKD = "networking.service", "NetworkManager.service", "systemd-networkd.service"
INTERFACES = """\
# The loopback network interface
source /etc/network/interfaces.d/*
auto lo
iface lo inet loopback

allow-hotplug eth0
iface eth0 inet static
    address 100.64.0.2
    netmask 255.255.248.0
    gateway 100.64.0.1
"""
NETWORK = "[Match]\nName=eth0\n[Network]\nAddress=100.64.0.2/21\n"
FILE = "/etc/systemd/network/50-a.network"
DEVICES = tuple(Device((f"eth{number}",), f"02:00:00:00:00:0{number}", "", "ether") for number in range(4))


def said(*running: str, **more: object) -> Evidence:
    names = (BY_NETWORKD, NETWORKING, MANAGER)
    return replace(Evidence({name: UP if name in running else OFF for name in names}), **more)  # type: ignore[arg-type]


def live(files: Mapping[str, str], evidence: Evidence) -> LiveNetwork:
    links = dict.fromkeys((f"eth{number}" for number in range(4)), True)
    return LiveNetwork(links, (), (), (), files=dict(files), devices=DEVICES, evidence=evidence)


@pytest.mark.parametrize(
    ("files", "evidence", "wanted"),
    [
        ({FILE: NETWORK}, said(BY_NETWORKD, links={"eth0": "configured"}), {NETWORKD: FILE}),
        ({FILE: NETWORK}, Evidence({BY_NETWORKD: UnitState("inactive", "enabled")}), {NETWORKD: FILE}),
        ({FILE: NETWORK}, said(MANAGER), {}),
        ({FILE: NETWORK}, said(BY_NETWORKD, links={"eth0": "unmanaged"}), {}),
        ({FILE: f"{NETWORK}[Link]\nUnmanaged=yes\n"}, said(BY_NETWORKD), {}),
        (
            {hooks.INTERFACES: INTERFACES},
            said(NETWORKING),
            {IFUPDOWN: f"{hooks.INTERFACES}:7 (iface eth0 inet static)"},
        ),
        ({hooks.INTERFACES: INTERFACES}, said(BY_NETWORKD), {}),
        ({hooks.INTERFACES: INTERFACES.replace("allow-hotplug", "no-auto-down")}, said(NETWORKING), {}),
        ({}, said(MANAGER, connections={"eth0": "/etc/x"}), {NETWORK_MANAGER: "/etc/x"}),
        ({}, said(MANAGER, connections={"eth0": hooks.profile_path("eth0")}), {}),
        (
            {FILE: NETWORK},
            said(MANAGER, BY_NETWORKD, links={"eth0": "configured"}, connections={"eth0": "/etc/x"}),
            {NETWORKD: FILE, NETWORK_MANAGER: "/etc/x"},
        ),
        # ifupdown only switches it on.
        (
            {FILE: NETWORK, hooks.INTERFACES: "auto eth0\niface eth0 inet manual\n"},
            said(BY_NETWORKD, NETWORKING, links={"eth0": "configured"}),
            {NETWORKD: FILE},
        ),
        (
            {hooks.INTERFACES: "auto eth0\niface eth0 inet manual\n"},
            said(NETWORKING),
            {IFUPDOWN: f"{hooks.INTERFACES}:2 (iface eth0 inet manual)"},
        ),
    ],
)
def test_who_brings_a_nic_up(files: Mapping[str, str], evidence: Evidence, wanted: Mapping[str, str]) -> None:
    found = managers(["eth0"], evidence, files, network_files(files), DEVICES, System())
    assert found.found["eth0"] == wanted
    assert bool(found.several("eth0")) == (len(wanted) > 1)


def test_two_in_charge_of_a_nic_are_named() -> None:
    """And nothing else is done: each would take away what the other made."""
    evidence = said(NETWORKING, BY_NETWORKD, links={"eth0": "configured"})
    there = live({hooks.INTERFACES: INTERFACES, FILE: NETWORK}, evidence)
    problem = there.managers(MASTER.nics).problem
    assert problem == (
        f"NIC eth0 is brought up by systemd-networkd ({FILE}) and ifupdown ({hooks.INTERFACES}:7 (iface eth0 inet "
        "static)): leave it to one of them"
    )
    assert any("is brought up by" in each.what for each in boot.obstacles(MASTER, there))


def test_nobody_who_is_known() -> None:
    assert "nothing that is known here" in live({}, said()).managers(MASTER.nics).problem
    assert live({}, said(BY_NETWORKD)).managers(MASTER.nics).problem == ""


def test_beside_ifupdown() -> None:
    """A hook; NICs that nobody is in charge of get a stanza without an address, and nothing is for networkd."""
    there = live({hooks.INTERFACES: INTERFACES}, said(NETWORKING))
    found = boot.files(MASTER, there)
    assert found.keys() == {HOOKS[IFUPDOWN], STANZA, SYSCTL_CONF}
    assert "auto eth1\niface eth1 inet manual" in found[STANZA]
    assert "eth0" not in found[STANZA].split()
    assert boot.files_of("eth0", found) == [HOOKS[IFUPDOWN]]
    assert sorted(boot.files_of("eth1", found)) == sorted([HOOKS[IFUPDOWN], STANZA])
    assert boot.differences(MASTER, live({hooks.INTERFACES: INTERFACES, **found}, said(NETWORKING))) == []
    assert hooks.mode(HOOKS[IFUPDOWN]) == "755"
    assert hooks.activation(found) == "ifup --force eth1\nifup --force eth2\n"


def test_a_folder_that_ifupdown_does_not_read() -> None:
    files = {hooks.INTERFACES: INTERFACES.replace("source", "#source")}
    found = [each.what for each in boot.obstacles(MASTER, live(files, said(NETWORKING)))]
    assert [what for what in found if "stays down" in what and "eth1" in what]
    assert not [what for what in found if "eth0" in what]


def test_beside_networkmanager() -> None:
    """A hook, and a connection of ours for NICs that nobody is in charge of, which only root can read."""
    evidence = said(MANAGER, connections={"eth0": "/etc/x"})
    found = boot.files(MASTER, live({}, evidence))
    profiles = {hooks.profile_path("eth1"), hooks.profile_path("eth2")}
    assert found.keys() == {HOOKS[NETWORK_MANAGER], SYSCTL_CONF} | profiles
    assert "address1=100.64.32.2/21" in found[hooks.profile_path("eth1")]
    assert {hooks.mode(path) for path in profiles} == {"600"}
    # Once they are active, they are ours still.
    then = said(MANAGER, connections={"eth0": "/etc/x", **{f"eth{n}": hooks.profile_path(f"eth{n}") for n in (1, 2)}})
    assert boot.differences(MASTER, live(found, then)) == []


def test_each_nic_by_its_own() -> None:
    """One of them by networkd, the others by ifupdown: the policy rules come with the first one."""
    files = {hooks.INTERFACES: INTERFACES, FILE: NETWORK.replace("eth0", "eth1")}
    evidence = said(NETWORKING, BY_NETWORKD, links={"eth0": "unmanaged", "eth1": "configured", "eth2": "unmanaged"})
    there = live(files, evidence)
    assert there.managers(MASTER.nics).by_manager(MASTER.nics) == {IFUPDOWN: ["eth0", "eth2"], NETWORKD: ["eth1"]}
    found = boot.files(MASTER, there)
    dropin = "/etc/systemd/network/50-a.network.d/50-underlay.conf"
    assert found.keys() == {HOOKS[IFUPDOWN], STANZA, SYSCTL_CONF, NETWORKD_CONF, dropin}
    assert "ip -4 rule add" in found[HOOKS[IFUPDOWN]]
    assert "RoutingPolicyRule" not in found[dropin]
    assert [unit.name for unit in there.managing(MASTER.nics)] == [NETWORKING, BY_NETWORKD]


def test_a_hook_is_a_shell_script_that_does_what_a_deploy_does() -> None:
    for wanted in (MASTER, GATEWAY):
        for manager in HOOKS:
            text = hooks.hook_files(wanted, manager, [])[HOOKS[manager]]
            assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
            lines = [line.strip() for line in text.splitlines()]
            for address in wanted.addresses:
                assert f"ip -4 address replace {address.cidr} brd + dev {address.nic}" in lines
            for route in wanted.routes:
                assert f"ip -4 route replace {route.arguments}" in lines
            for rule in wanted.rules:
                assert f"ip -4 rule add {rule.arguments} proto static 2>/dev/null" in lines


def test_an_address_of_theirs_is_not_ours_to_remove() -> None:
    """An address that our hook gave goes with the plan's; one that the host's own files give as well stays."""
    old = Address("eth0", "100.64.0.2/21")
    new = Address("eth0", "100.64.0.3/21")
    wanted = replace(MASTER, addresses=tuple(new if each == old else each for each in MASTER.addresses))
    hook = boot.files(MASTER, live({hooks.INTERFACES: INTERFACES}, said(NETWORKING)))
    for interfaces, gone in ((INTERFACES, False), (INTERFACES.replace("100.64.0.2", "100.64.0.9"), True)):
        there = replace(live({hooks.INTERFACES: interfaces, **hook}, said(NETWORKING)), addresses=(old,))
        assert [each.thing for each in differences(wanted, there) if each.kind == "extra"] == [old] * gone
    evidence = said(MANAGER, connections={"eth0": "/etc/x"}, addresses=(old,))
    there = replace(live({HOOKS[NETWORK_MANAGER]: hook[HOOKS[IFUPDOWN]]}, evidence), addresses=(old,))
    assert not [each for each in differences(wanted, there) if each.kind == "extra"]


@pytest.mark.parametrize(
    ("files", "nics"),
    [
        ({hooks.INTERFACES: "auto eth0 eth1\niface eth0 inet dhcp\niface eth1 inet6 auto\n"}, {"eth0"}),
        ({hooks.INTERFACES: "auto /eth*\niface eth0 inet manual\n"}, {"eth0"}),
        (
            {hooks.INTERFACES: "source interfaces.d/*\n", "/etc/network/interfaces.d/a": "auto x\niface x inet dhcp\n"},
            {"x"},
        ),
        (
            {hooks.INTERFACES: "source-directory interfaces.d\n", "/etc/network/interfaces.d/a": "auto x\niface x\n"},
            {"x"},
        ),
        ({hooks.INTERFACES: "auto \\\n  eth0\niface eth0 \\\n inet dhcp\n"}, {"eth0"}),
        ({"/etc/network/interfaces.d/a": "auto x\niface x inet dhcp\n"}, set()),
        ({hooks.INTERFACES: "source interfaces\nauto eth0\niface eth0 inet dhcp\n"}, {"eth0"}),
    ],
)
def test_interfaces(files: Mapping[str, str], nics: set[str]) -> None:
    assert ifupdown.stanzas(files).keys() == nics
