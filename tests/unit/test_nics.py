"""NICs that are made of others: what the plan makes of them, their files, what a deploy does, and how it is undone.

This machine's kernel may have neither bonds nor VLANs: `tests/lab/test_image.py` has them.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab import trunk
from underlay.compare import network
from underlay.compare.difference import Difference, Leg, Mtu, Nic, UnitState
from underlay.compare.managers import Evidence, boot
from underlay.compare.network import LiveNetwork, Shape, unfit
from underlay.compare.systemd.networkd import Device
from underlay.desired import hooks
from underlay.desired.files import network_files
from underlay.desired.routing import Address, HostNetwork
from underlay.facts.network import _shape
from underlay.image import seed
from underlay.observe import drift
from underlay.operations.network import RESTORE_ROUTES, network_change
from underlay.plan import REPO, Bond, Vlan, load
from underlay.plan.model import NicSpec
from underlay.plan.parts.nics import mistakes, nics
from underlay.remote.guard.programs import Refused, shell
from underlay.remote.guard.steps import plan_masters

BOND = Bond(name="bond0", legs=("eno1", "eno2"), mode="active-backup")
MGMT = Vlan(name="bond0.10", parent="bond0", number=10)
TRAFFIC = Vlan(name="bond0.20", parent="bond0", number=20)
WANTED = HostNetwork(
    addresses=(Address("bond0.10", "100.64.0.2/21"), Address("bond0.20", "100.64.32.2/21")),
    routes=(),
    rules=(),
    sysctls={},
    links=(BOND, MGMT, TRAFFIC),
    mtus={"bond0.20": 9000},
)
NETWORKING = "networking.service"
ETC = "/etc/systemd/network"
SHAPES = {
    "eno1": Shape(9000, master="bond0"),
    "eno2": Shape(9000, master="bond0"),
    "bond0": Shape(9000, "bond", mode="active-backup"),
    "bond0.10": Shape(1500, "vlan", parent="bond0", number=10),
    "bond0.20": Shape(9000, "vlan", parent="bond0", number=20),
}
MADE = LiveNetwork(dict.fromkeys(SHAPES, True), WANTED.addresses, (), (), shapes=SHAPES)
RACK = LiveNetwork({"eno1": True, "eno2": False}, (), (), (), shapes={"eno1": Shape(1500), "eno2": Shape(1500)})


def specs(**of: Any) -> dict[str, NicSpec]:
    return {
        name: NicSpec.model_validate(each if isinstance(each, dict) else {"nic": each}) for name, each in of.items()
    }


# --- the plan -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("of", "names", "links", "mtus"),
    [
        ({}, ["eth0", "eth1"], [], {}),
        ({"a": "eno1"}, ["eno1", "eth1"], [], {}),
        ({"a": {"nic": "eno1", "vlan": 10}}, ["eno1.10", "eth1"], ["eno1.10"], {}),
        (
            {"a": {"bond": ["x", "y"]}, "b": {"bond": ["y", "x"], "vlan": 7}},
            ["bond0", "bond0.7"],
            ["bond0", "bond0.7"],
            {},
        ),
        ({"a": {"bond": ["x", "y"]}, "b": {"bond": ["v", "w"]}}, ["bond0", "bond1"], ["bond0", "bond1"], {}),
        ({"a": {"bond": ["x", "y"]}, "b": "bond0"}, ["bond1", "bond0"], ["bond1"], {}),
        ({"a": {"nic": "uplink", "bond": ["x", "y"], "vlan": 7}}, ["uplink.7", "eth1"], ["uplink", "uplink.7"], {}),
        ({"a": {"nic": "enp129s0f0np0", "vlan": 100}}, ["vlan100", "eth1"], ["vlan100"], {}),
        ({"a": {"nic": "eno1", "mtu": 9000}}, ["eno1", "eth1"], [], {"eno1": 9000}),
        (
            {"a": {"nic": "x", "vlan": 1, "mtu": 2000}, "b": {"nic": "x", "vlan": 2, "mtu": 9000}},
            ["x.1", "x.2"],
            ["x.1", "x.2"],
            {"x.1": 2000, "x.2": 9000},
        ),
    ],
)
def test_names(of: dict[str, Any], names: list[str], links: list[str], mtus: dict[str, int]) -> None:
    """A bond is the same one wherever its legs are the same."""
    found = nics(["a", "b"], specs(**of))
    assert [*found.names.values()] == names
    assert [each.name for each in found.links] == links
    assert found.mtus == mtus
    assert [*mistakes(["a", "b"], specs(**of))] == []


def test_a_vlan_has_1500_where_the_plan_has_no_mtu() -> None:
    """It is made with that, and what carries it has to take it."""
    of = specs(a={"nic": "eno1", "mtu": 1400}, b={"nic": "eno1", "vlan": 20})
    what = "1500 is more than the 1400 of 'eno1', which carries it"
    assert [found[:2] for found in mistakes(["a", "b"], of)] == [(("b", "mtu"), what)]


# --- files ----------------------------------------------------------------------------------------------------------


def test_what_the_host_makes_itself_is_left_to_it() -> None:
    """Its bond, and the legs that it puts there; the VLAN that it has not is made, on its bond."""
    theirs = {
        f"{ETC}/10-bond.netdev": "[NetDev]\nName=bond0\nKind=bond\n",
        f"{ETC}/11-legs.network": "[Match]\nName=eno*\n[Network]\nBond=bond0\n",
        f"{ETC}/12-bond.network": "[Match]\nName=bond0\n[Network]\nVLAN=bond0.10\n",
        f"{ETC}/12-vlan.netdev": "[NetDev]\nName=bond0.10\nKind=vlan\n[VLAN]\nId=10\n",
    }
    found = boot.files(WANTED, replace(MADE, files=theirs))
    assert [path.removeprefix(f"{ETC}/") for path in found if path.startswith(f"{ETC}/")] == [
        "05-underlay-bond0.10.network",
        "05-underlay-bond0.20.network",
        "12-bond.network.d/50-underlay.conf",
        "05-underlay-bond0.20.netdev",
    ]
    assert "VLAN=bond0.20\n" in found[f"{ETC}/12-bond.network.d/50-underlay.conf"]
    assert boot.obstacles(WANTED, replace(MADE, files=theirs)) == []


def test_a_leg_that_others_give_an_address() -> None:
    """Ours is in front of a file for all NICs, and repeats nothing of it."""
    theirs = {f"{ETC}/20-all.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n"}
    live = replace(MADE, files=theirs)
    found = boot.files(WANTED, live)
    assert "DHCP" not in found[f"{ETC}/05-underlay-eno1.network"]
    assert boot.differences(WANTED, replace(live, files={**theirs, **found})) == []


def test_a_bond_of_netplan_s() -> None:
    """What it says is below /run: ours is behind it, for a boot without it."""
    run = "/run/systemd/network"
    theirs = {
        f"{run}/10-netplan-bond0.netdev": "[NetDev]\nName=bond0\nKind=bond\n",
        f"{run}/10-netplan-bond0.network": "[Match]\nName=bond0\n",
    }
    theirs |= {
        f"{run}/10-netplan-{nic}.network": f"[Match]\nName={nic}\n[Network]\nBond=bond0\nPrimarySlave=true\n"
        for nic in BOND.legs
    }
    found = boot.files(WANTED, replace(MADE, files=theirs))
    assert [path.removeprefix(f"{ETC}/") for path in found if "eno1" in path or "bond0." in path] == [
        "zz-underlay-eno1.network",
        "05-underlay-bond0.10.network",
        "05-underlay-bond0.20.network",
        "10-netplan-bond0.network.d/50-underlay.conf",
        "zz-underlay-bond0.network",
        "zz-underlay-bond0.netdev",
        "05-underlay-bond0.10.netdev",
        "05-underlay-bond0.20.netdev",
    ]
    there = {**theirs, **found}
    assert boot.differences(WANTED, replace(MADE, files=there)) == []


def test_a_boot_does_not_wait_for_a_leg_without_a_signal() -> None:
    assert "RequiredForOnline=no" in network_files(WANTED, {})[f"{ETC}/05-underlay-eno1.network"]


def test_a_leg_that_a_file_in_front_keeps() -> None:
    theirs = {f"{ETC}/00-all.network": "[Match]\nName=eno1\n[Network]\nDHCP=yes\n"}
    found = boot.obstacles(WANTED, replace(MADE, files=theirs))
    assert [each.what for each in found] == [f"the file is undone by {ETC}/00-all.network:2 (Name=eno1)"]


def test_nothing_to_do_where_all_is_made() -> None:
    files = boot.files(WANTED, MADE)
    done = replace(MADE, files=files)
    assert (network.differences(WANTED, done), boot.differences(WANTED, done)) == ([], [])
    assert network_change(WANTED, done) is None
    assert files == network_files(WANTED, {})


@pytest.mark.parametrize("match", ["MACAddress=02:00:00:00:00:01", "Type=ether", "Kind=!*"])
def test_a_file_for_what_carries_vlans_is_not_theirs(match: str) -> None:
    """Beside it is the same before they are there and after, though they have its MAC: nothing of it is repeated."""
    mac = "02:00:00:00:00:01"
    files = {f"{ETC}/20-a.network": f"[Match]\n{match}\n[Network]\nAddress=100.64.0.2/21\n"}
    vlan = Vlan(name="eno1.20", parent="eno1", number=20)
    addresses = (Address("eno1", "100.64.0.2/21"), Address("eno1.20", "100.64.32.2/21"))
    wanted = HostNetwork(addresses, (), (), {}, (vlan,))
    parent = Device(("eno1",), mac, mac, "ether")
    before = replace(RACK, files=files, devices=(parent,))
    after = replace(before, devices=(parent, Device(("eno1.20",), mac, "", "vlan", "vlan")))
    found = boot.files(wanted, before)
    assert boot.files(wanted, after) == found
    assert "Address=100.64.0.2/21" not in found[f"{ETC}/05-underlay-eno1.20.network"]


def test_what_carries_vlans_is_never_made_smaller() -> None:
    """1. raised to the largest that it carries; 2. more is the host's own affair, live and at a boot."""
    assert WANTED.least == {"bond0": 9000}
    assert replace(WANTED, mtus={"bond0.20": 1400}).least == {}
    assert replace(WANTED, mtus={"bond0": 9100, "bond0.20": 9000}).least == {}
    theirs = {f"{ETC}/10.network": "[Match]\nName=bond0\n[Link]\nMTUBytes=9200\n"}
    shapes = SHAPES | {"bond0": replace(SHAPES["bond0"], mtu=9200)}
    live = replace(MADE, files=theirs, shapes=shapes)
    assert network.differences(WANTED, live) == []
    assert "MTUBytes" not in boot.files(WANTED, live)[f"{ETC}/10.network.d/50-underlay.conf"]
    less = {f"{ETC}/10.network": "[Match]\nName=bond0\n[Link]\nMTUBytes=2000\n"}
    assert "MTUBytes=9000" in boot.files(WANTED, replace(live, files=less))[f"{ETC}/10.network.d/50-underlay.conf"]


# --- live -----------------------------------------------------------------------------------------------------------


def test_what_a_deploy_makes() -> None:
    """Each behind what it is made of, with its size before those that it carries."""
    found = [network.command(each) for each in network.differences(WANTED, RACK)]
    assert found == [
        "ip link set eno2 up",
        "ip link add bond0 type bond mode active-backup miimon 100",
        "ip link set eno1 down && ip link set eno1 master bond0 && ip link set eno1 up",
        "ip link set eno2 down && ip link set eno2 master bond0 && ip link set eno2 up",
        "ip link set bond0 mtu 9000",
        "ip link set bond0 up",
        "ip link add link bond0 name bond0.10 mtu 1500 type vlan id 10",
        "ip link set bond0.10 up",
        "ip link add link bond0 name bond0.20 mtu 1500 type vlan id 20",
        "ip link set bond0.20 mtu 9000",
        "ip link set bond0.20 up",
        "ip addr replace 100.64.0.2/21 brd + dev bond0.10",
        "ip addr replace 100.64.32.2/21 brd + dev bond0.20",
    ]
    change = network_change(WANTED, RACK)
    assert change
    assert change.links == ("eno1", "eno2", "bond0", "bond0.10", "bond0.20")


@pytest.mark.parametrize("own", [(), (Address("eno3", "100.64.64.2/21"),)])
def test_a_vlan_on_a_nic_that_was_down(own: tuple[Address, ...]) -> None:
    """With an address of its own, or without."""
    vlan = Vlan(name="eno3.30", parent="eno3", number=30)
    wanted = HostNetwork((Address("eno3.30", "100.64.32.2/21"), *own), (), (), {}, (vlan,))
    live = replace(RACK, links={**RACK.links, "eno3": False}, shapes={**RACK.shapes, "eno3": Shape(1500)})
    assert [network.command(each) for each in network.differences(wanted, live)][:3] == [
        "ip link set eno3 up",
        "ip link add link eno3 name eno3.30 mtu 1500 type vlan id 30",
        "ip link set eno3.30 up",
    ]


def test_a_leg_that_can_t_be_moved_fails_the_change(tmp_path: Path) -> None:
    """Whichever of its commands it is: a shell with `set -e` goes on behind an `&&`."""
    change = network_change(WANTED, RACK)
    assert change
    (tmp_path / "ip").write_text('#!/bin/sh\ncase "$*" in *master*) exit 2 ;; esac\n')
    (tmp_path / "ip").chmod(0o755)
    with pytest.raises(Refused, match="failed with 2"):
        shell(change.live, "the live change", PATH=f"{tmp_path}:/bin:/usr/bin")


def test_lacp() -> None:
    bond = BOND.model_copy(update={"mode": "802.3ad"})
    words = network.command(Difference("missing", bond))
    assert words == "ip link add bond0 type bond mode 802.3ad miimon 100 xmit_hash_policy layer3+4 lacp_rate fast"
    text = network_files(replace(WANTED, links=(bond,)), {})[f"{ETC}/05-underlay-bond0.netdev"]
    assert "LACPTransmitRate=fast" in text


@pytest.mark.parametrize(
    ("nic", "shape", "up", "things"),
    [
        ("eno2", Shape(9000), True, [Leg("eno2", "bond0")]),
        ("eno2", Shape(9000, master="bond0"), False, [Nic("eno2")]),
        ("bond0.20", replace(SHAPES["bond0.20"], mtu=1500), True, [Mtu("bond0.20", 9000)]),
        ("bond0", SHAPES["bond0"], False, [Nic("bond0")]),
    ],
)
def test_what_differs(nic: str, shape: Shape, up: bool, things: list[object]) -> None:
    live = replace(MADE, links={**MADE.links, nic: up}, shapes={**SHAPES, nic: shape})
    found = network.differences(WANTED, live)
    assert [each.thing for each in found] == things
    assert all(each.what for each in found)


def test_a_leg_that_leaves_comes_back_with_a_rollback() -> None:
    there = replace(MADE, files=boot.files(WANTED, MADE))
    plain = HostNetwork((Address("eno9", "100.64.0.2/21"),), (), (), {})
    change = network_change(plain, there)
    assert change
    assert change.links == ("eno1", "eno2")


def test_a_leg_of_the_hosts_own_stays() -> None:
    """So does one that left the plan."""
    more = replace(MADE, shapes={**SHAPES, "eno9": Shape(1500, master="bond0"), "eno8": Shape(1500, master="br0")})
    assert network.differences(WANTED, more) == []
    assert [*network.unmanaged(WANTED, more, WANTED.every)] == ["NIC eno9 in bond0"]


def test_a_vlan_with_another_number() -> None:
    """Its address moves; the old one stays until the next boot, without it: the kernel would use the first of two."""
    there = replace(MADE, files=boot.files(WANTED, MADE))
    vlan = Vlan(name="bond0.11", parent="bond0", number=11)
    wanted = replace(
        WANTED, addresses=(Address("bond0.11", "100.64.0.2/21"), WANTED.addresses[1]), links=(BOND, vlan, TRAFFIC)
    )
    change = network_change(wanted, there)
    assert change
    assert change.live.splitlines()[-5:] == [
        "ip addr replace 100.64.0.2/21 brd + dev bond0.11",
        "ip addr del 100.64.0.2/21 dev bond0.10",
        *RESTORE_ROUTES.splitlines(),
    ]
    assert change.files[f"{ETC}/05-underlay-bond0.10.netdev"] is None


@pytest.mark.parametrize(
    ("live", "why"),
    [
        (RACK, ""),
        (MADE, ""),
        (replace(RACK, addresses=(Address("eno1", "10.0.0.1/8"),)), "NIC eno1 has the address 10.0.0.1/8, and would"),
        (
            replace(
                RACK,
                addresses=(Address("eno1.7", "10.0.0.1/8"),),
                shapes={**RACK.shapes, "eno1.7": Shape(1500, "vlan", parent="eno1", number=7)},
            ),
            "NIC eno1.7 has the address 10.0.0.1/8, and would lose it with eno1 in bond0",
        ),
        (replace(RACK, links={"eno1": True}), "NIC eno2 is not there, and bond0 is to be made of it"),
        (
            replace(
                MADE,
                shapes={name: each for name, each in SHAPES.items() if name != "bond0.20"}
                | {"vlan20": SHAPES["bond0.20"]},
            ),
            "NIC bond0.20 is there as vlan20",
        ),
        (replace(RACK, shapes={**RACK.shapes, "eno1": Shape(1500, master="br0")}), "NIC eno1 is part of br0"),
        (
            replace(MADE, shapes={**SHAPES, "bond0": Shape(1500, "bond", mode="802.3ad")}),
            "bond bond0 of eno1, eno2 is 802.3ad, not a bond",
        ),
        (
            replace(MADE, shapes={**SHAPES, "bond0": Shape(1500, "bridge")}),
            "bond bond0 of eno1, eno2 is bridge, not a bond",
        ),
        (
            replace(MADE, shapes={**SHAPES, "bond0.10": replace(SHAPES["bond0.10"], number=11)}),
            "NIC bond0.10 (VLAN 10 on bond0) is VLAN 11 on bond0, not VLAN 10 on bond0",
        ),
        (
            replace(MADE, shapes={**SHAPES, "bond0.10": Shape(1500)}),
            "NIC bond0.10 (VLAN 10 on bond0) is a real one, not VLAN 10 on bond0",
        ),
    ],
)
def test_what_can_t_be_made_without_a_loss(live: LiveNetwork, why: str) -> None:
    found = unfit(WANTED, live)
    assert why in found if why else not found


def test_other_managers_make_their_own() -> None:
    """Where ifupdown is in charge it has to make what is not there."""
    by_ifupdown = Evidence({NETWORKING: UnitState("active", "enabled")})
    assert "make it with that" in unfit(WANTED, replace(RACK, evidence=by_ifupdown))
    assert unfit(WANTED, replace(MADE, evidence=by_ifupdown)) == ""
    less = replace(MADE, shapes={**SHAPES, "eno2": Shape(1500)}, evidence=by_ifupdown)
    assert "NIC eno2 is no leg of bond0, and ifupdown is in charge" in unfit(WANTED, less)


def test_other_managers_give_them_their_mtu() -> None:
    """At a boot, too: first what carries a VLAN has it."""
    by_ifupdown = Evidence({NETWORKING: UnitState("active", "enabled")})
    hook = boot.files(WANTED, replace(MADE, evidence=by_ifupdown))[hooks.HOOKS[hooks.IFUPDOWN]]
    assert [line.strip() for line in hook.splitlines() if " mtu " in line] == [
        '[ "$(cat /sys/class/net/bond0/mtu)" -ge 9000 ] || ip link set dev bond0 mtu 9000',
        '[ "$(cat /sys/class/net/bond0/mtu)" -ge 9000 ] || ip link set dev bond0 mtu 9000',
        "ip link set dev bond0.20 mtu 9000",
    ]


def test_a_vlan_on_a_nic_of_another_manager() -> None:
    """It would not be made at a boot, or both would configure that NIC: whoever else brings up the others."""
    both = Evidence({name: UnitState("active", "enabled") for name in ("systemd-networkd.service", NETWORKING)})
    files = {
        f"{ETC}/10.network": "[Match]\nName=eno2\n[Network]\nAddress=100.64.0.2/21\n",
        hooks.INTERFACES: "auto eno1\niface eno1 inet manual\n",
    }
    addresses = (Address("eno2", "100.64.0.2/21"), Address("eno1.20", "100.64.32.2/21"))
    wanted = HostNetwork(addresses, (), (), {}, (Vlan(name="eno1.20", parent="eno1", number=20),))
    assert "ifupdown is in charge" in unfit(wanted, replace(RACK, files=files, evidence=both))


def test_drift_tells_what_no_deploy_changes() -> None:
    plan = load(REPO / "tests/golden/good/cabling.py")
    host = next(each for each in plan.hosts if each.links)
    name = host.links[0].name
    state: Any = SimpleNamespace(network=LiveNetwork({name: True}, (), (), (), shapes={name: Shape(1500, "bridge")}))
    found = drift.line(plan, host, next(drift.of_host(plan, host, state)))
    assert found.where == "live"
    assert "is bridge, not" in found.what


@pytest.mark.parametrize(("kind", "good"), [("bond", False), ("bridge", False), ("vrf", True)])
def test_a_nic_that_is_part_of_another(kind: str, good: bool) -> None:
    """An address on a leg or a port is of no use; in a VRF it is."""
    live = replace(RACK, shapes={**RACK.shapes, "eno1": Shape(1500, master="x"), "x": Shape(1500, kind)})
    assert (unfit(HostNetwork((Address("eno1", "100.64.0.2/21"),), (), (), {}), live) == "") == good


def test_on_a_nic_that_is_not_there() -> None:
    wanted = replace(WANTED, links=(Vlan(name="eno9.10", parent="eno9", number=10),), mtus={})
    assert "NIC eno9 is not there, and eno9.10 is" in unfit(wanted, RACK)


def test_what_ip_says() -> None:
    vlan = {
        "mtu": 1500,
        "link": "bond0",
        "linkinfo": {"info_kind": "vlan", "info_data": {"protocol": "802.1Q", "id": 10}},
    }
    bond = {"mtu": 9000, "linkinfo": {"info_kind": "bond", "info_data": {"mode": "active-backup", "miimon": 100}}}
    leg = {"mtu": 9000, "master": "bond0", "linkinfo": {"info_slave_kind": "bond"}}
    said: list[Any] = [vlan, bond, leg, {"mtu": 1500, "link": None}]
    assert [*map(_shape, said)] == [SHAPES["bond0.10"], SHAPES["bond0"], SHAPES["eno1"], Shape(1500)]


# --- the first boot, and the lab's switch ---------------------------------------------------------------------------


def test_a_seed_makes_what_the_first_nic_needs() -> None:
    """The other VLANs come with the deploy."""
    first = seed.First(
        "m", "bond0.10", "100.64.0.2/21", "100.64.0.1", "ops", "KEY", "HOST", "PUBLIC", links=(BOND, MGMT)
    )
    assert json.loads(seed.files(first)["network-config"]) == {
        "version": 2,
        "ethernets": {"eno1": {}, "eno2": {}},
        "bonds": {
            "bond0": {
                "interfaces": ["eno1", "eno2"],
                "parameters": {"mode": "active-backup", "mii-monitor-interval": 100},
            }
        },
        "vlans": {
            "bond0.10": {
                "id": 10,
                "link": "bond0",
                "addresses": ["100.64.0.2/21"],
                "routes": [{"to": "0.0.0.0/0", "via": "100.64.0.1"}],
            }
        },
    }
    assert seed.of_nic("bond0.10", WANTED.links) == [BOND, MGMT]


@pytest.mark.parametrize(
    ("number", "frame"), [(0, b"d" * 6 + b"s" * 6 + b"\x08\x00x"), (4094, b"d" * 6 + b"s" * 6 + b"\x08\x06y")]
)
def test_tags(number: int, frame: bytes) -> None:
    assert trunk.split(trunk.tagged(number, frame)) == (number, frame)


# --- undone ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "then", "commands"),
    [
        ({"eno1": "bond0", "bond0": ""}, {"eno1": "bond0", "bond0": ""}, []),
        (
            {"eno1": "bond0", "bond0": "", "bond0.10": ""},
            {"eno1": "", "bond0": None, "bond0.10": None},
            ["ip link del bond0.10", "ip link del bond0", "ip link set eno1 nomaster"],
        ),
        (
            {"eno1": ""},
            {"eno1": "bond0"},
            ["ip link set eno1 down", "ip link set eno1 master bond0", "ip link set eno1 up"],
        ),
        ({"eno1": None, "bond0": None}, {"eno1": "", "bond0": None}, []),
    ],
)
def test_a_rollback(now: Mapping[str, str | None], then: Mapping[str, str | None], commands: list[str]) -> None:
    found = plan_masters(dict(now), dict(then), set())
    assert [" ".join(argv) for argv, _ in found] == commands
