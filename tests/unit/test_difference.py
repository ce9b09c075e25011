"""What people and programs are told of each kind of difference, and the line of the plan that it comes from."""

from dataclasses import replace

import pytest

from tests.unit import site
from underlay.compare import firewall, network
from underlay.compare.difference import Difference, File, Nic, Sysctl, UnitState
from underlay.compare.files import boot_differences, file_difference, lines
from underlay.compare.systemd.units import differences as unit_differences
from underlay.desired import nat, units
from underlay.desired.files import SSHD
from underlay.desired.routing import SYSCTL_CONF, Address, PolicyRule, Route
from underlay.desired.ruleset import Rule
from underlay.desired.units import PACKAGES, UNITS
from underlay.observe import drift
from underlay.observe.drift import Line
from underlay.plan import REPO, ROLES, load

PLAN = load(REPO / "group_data/all.py")
GATEWAY, MASTER, JUMPHOST = PLAN.gateway, PLAN.host("master-1"), PLAN.jumphost
STORAGE = "master-1.addresses.storage"
ROUTE = Route(1004, "default", "100.64.64.1", "eth2", "100.64.64.2")
RULE = Rule(
    "nat", "PREROUTING", "-d 192.168.0.52/32 -j DNAT --to-destination 100.64.0.52", origin="all.py:1 hosts.x.published"
)


@pytest.mark.parametrize(
    ("difference", "told"),
    [
        (Difference("down", Nic("eth2")), ("missing", "live", "NIC eth2 is down", STORAGE)),
        (Difference("missing", Nic("eth2")), ("missing", "live", "NIC eth2 is missing", STORAGE)),
        (
            Difference("differs", Sysctl("net.ipv4.ip_forward", "1"), "0"),
            ("missing", "live", "net.ipv4.ip_forward is 0, not 1", "master-1"),
        ),
        (
            Difference("differs", Sysctl("net.ipv4.ip_forward", "1")),
            ("missing", "live", "net.ipv4.ip_forward is not set, not 1", "master-1"),
        ),
        (
            Difference("missing", Address("eth2", "100.64.64.2/21")),
            ("missing", "live", "address 100.64.64.2/21 on eth2 is missing", STORAGE),
        ),
        (
            Difference("order", Address("eth0", "192.168.0.52/24")),
            ("out of order", "live", "address 192.168.0.52/24 on eth0 is out of order", "jumphost.published"),
        ),
        (
            Difference("extra", Address("eth2", "100.64.64.9/21")),
            ("extra", "live", "address 100.64.64.9/21 on eth2 is not in the plan", STORAGE),
        ),
        (Difference("missing", ROUTE), ("missing", "live", f"route {ROUTE.arguments} is missing", STORAGE)),
        (
            Difference("missing", ROUTE, shaken=True),
            ("missing", "live", f"route {ROUTE.arguments} may go with an address", STORAGE),
        ),
        (Difference("extra", ROUTE), ("extra", "live", f"route {ROUTE.selector} is not in the plan", STORAGE)),
        (
            Difference("missing", PolicyRule(30300, "100.64.64.2", "", 1004)),
            ("missing", "live", "policy rule priority 30300 from 100.64.64.2 to all table 1004 is missing", STORAGE),
        ),
        (
            Difference("extra", PolicyRule(30300, "100.64.64.9", "", 1004)),
            (
                *("extra", "live", "policy rule priority 30300 from 100.64.64.9 to all table 1004 is not in the plan"),
                "master-1",
            ),
        ),
        (Difference("missing", RULE), ("missing", "live", f"rule -t nat -A PREROUTING {RULE.spec}", "x.published")),
        (Difference("order", RULE, at_boot=True), ("out of order", "at boot", f"rule {RULE}", "x.published")),
        (Difference("unmanaged", replace(RULE, origin="")), ("unmanaged", "live", f"rule {RULE}", "")),
        (Difference("differs", File("/a", "x"), "y"), ("differs", "/a", "the file is not as planned", "")),
        (Difference("missing", File("/a", "x")), ("missing", "/a", "the file is not as planned", "")),
        (
            Difference("differs", File(SYSCTL_CONF, "x", boot=True)),
            ("differs", SYSCTL_CONF, "the file is not as planned", "master-1"),
        ),
        (
            Difference("stopped", units.NGINX, UnitState("failed", "enabled")),
            ("stopped", "live", "nginx.service is failed and enabled", ""),
        ),
        (
            Difference("disabled", units.SSH, UnitState("active", "")),
            ("stopped", "live", "ssh.service is active and unknown", ""),
        ),
    ],
    ids=lambda value: value.what if isinstance(value, Difference) else "",
)
def test_what_is_told(difference: Difference, told: tuple[str, str, str, str]) -> None:
    kind, where, what, place = told
    found = drift.line(PLAN, MASTER, difference)
    assert (found.host, found.kind, found.where, found.what) == ("master-1", kind, where, what)
    assert found.plan.partition(" hosts.")[2] == place


def test_firewall() -> None:
    """A rule that is there at the wrong place is told once; one that nobody planned is told as unmanaged."""
    wanted = nat.gateway_rules(PLAN)
    first, second, *_ = chain = [rule for rule in wanted if rule.chain == "POSTROUTING"]
    swapped = site.ruleset(wanted)
    specs = swapped["nat"].rules["POSTROUTING"]
    specs[0], specs[1] = specs[1], specs[0]
    ours = site.ruleset(wanted)
    found = list(firewall.differences(swapped, wanted, ours, at_boot=False))
    assert [(each.kind, each.thing in (first, second)) for each in found] == [("order", True)]

    old, other = Rule("nat", "POSTROUTING", "-s 10.0.0.1/32 -j SNAT"), Rule("nat", "POSTROUTING", "-j MASQUERADE")
    ours["nat"].rules["POSTROUTING"].append(old.spec)
    live = site.ruleset([*(rule for rule in wanted if rule != chain[-1]), old, other])
    found = list(firewall.differences(live, wanted, ours, at_boot=True))
    assert [(each.kind, each.thing, each.at_boot) for each in found] == [
        ("extra", old, True),
        ("missing", chain[-1], True),
    ]
    assert list(firewall.unmanaged(live, wanted, ours)) == [Difference("unmanaged", other)]


def test_files() -> None:
    """What must be there and is another, what is not there, what must go; each with its lines."""
    assert file_difference("/a", "x\n", {"/a": "x\n"}) is None
    differs = file_difference("/a", "x\n", {"/a": "y\n"})
    assert differs == Difference("differs", File("/a", "x\n"), "y\n")
    assert file_difference("/a", "x\n", {}) == Difference("missing", File("/a", "x\n"))
    assert lines(differs) == ["--- /a", "+++ /a", "@@ -1 +1 @@", "-y", "+x"]
    new, stale = boot_differences({"/a": "x\n", "/b": "b\n"}, {"/b": "b\n", "/c": "c\n"})
    assert lines(new)[:2] == ["--- /dev/null", "+++ /a"]
    assert lines(stale)[:2] == ["--- /c", "+++ /dev/null"]


def test_units() -> None:
    """One that does not run is stopped; one that runs and is not enabled is disabled."""
    found = dict.fromkeys((unit.name for unit in units.ALL), UnitState("active", "enabled"))
    assert list(unit_differences([units.FIREWALL, units.NETWORKD], found)) == []
    found[units.FIREWALL.name] = UnitState("active", "disabled")
    found[units.NETWORKD.name] = UnitState("inactive", "disabled")
    assert [(each.kind, each.thing) for each in unit_differences([units.FIREWALL, units.NETWORKD], found)] == [
        ("disabled", units.FIREWALL),
        ("stopped", units.NETWORKD),
    ]


def test_every_role_has_its_packages_and_units() -> None:
    assert tuple(sorted(PACKAGES)) == tuple(sorted(UNITS)) == ROLES


def test_of_host() -> None:
    """Network, files of the boot, the role's own file, units: in this order, and none where all is as planned."""
    for host in PLAN.deployed:
        assert list(drift.of_host(PLAN, host, site.state(PLAN, host))) == []
    planned = site.state(PLAN, JUMPHOST)
    network = replace(planned.network, links={}, files={})
    stopped = dict.fromkeys(planned.units, UnitState("inactive", "enabled"))
    there = site.state(PLAN, JUMPHOST, network=network, files={}, units=stopped)
    found = list(drift.of_host(PLAN, JUMPHOST, there))
    files = list(planned.network.files)
    assert [each.where for each in found] == ["live", *files, SSHD, "live", "live"]
    assert drift.line(PLAN, JUMPHOST, found[-1]) == Line(
        "jumphost", "stopped", "live", "systemd-networkd.service is inactive and enabled"
    )


def test_a_name_of_a_host_is_a_word() -> None:
    """A NIC may have nearly any name, and routes in our tables are ours to remove."""
    route = Route(1001, "10.9.0.0/16", "", "a;reboot")
    assert network.command(Difference("extra", route)) == "ip route del 10.9.0.0/16 dev 'a;reboot' table 1001"
    assert network.command(Difference("extra", route, shaken=True)).endswith(" table 1001 || true")
