"""Plan → the network of a host, and what has to change on a live one: first as values, then by the kernel itself."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeVar

import pytest

from tests.unit.conftest import Planned
from tests.unit.namespaces import Inside, namespace
from underlay.compare import network
from underlay.compare.network import LiveNetwork, differences
from underlay.desired.files import link_files, nic_of
from underlay.desired.routing import (
    DEFAULT,
    MAIN,
    Address,
    HostNetwork,
    PolicyRule,
    Route,
    host_network,
)
from underlay.facts.network import command, parse
from underlay.plan import REPO, Plan, load

T = TypeVar("T")


@pytest.fixture(scope="module")
def site() -> Plan:
    return load(REPO / "group_data/all.py")


@pytest.fixture(scope="module")
def gateway(site: Plan) -> HostNetwork:
    return host_network(site, site.gateway)


@pytest.fixture(scope="module")
def master(site: Plan) -> HostNetwork:
    return host_network(site, site.host("master-1"))


ON_EVERY_HOST = (PolicyRule(30200, "", "", MAIN, True), PolicyRule(30400, "", "", DEFAULT))


def test_the_gateway_has_every_published_address(gateway: HostNetwork) -> None:
    """Behind its own, which stays the one that it sends from."""
    assert gateway.addresses == (
        Address("eth0", "192.168.0.51/24"),
        Address("eth0", "192.168.0.52/24"),
        Address("eth0", "192.168.0.53/24"),
        Address("eth1", "100.64.0.1/21"),
        Address("eth2", "100.64.32.1/21"),
        Address("eth3", "100.64.64.1/21"),
    )
    assert gateway.routes == (Route(DEFAULT, "default", "192.168.0.1", "eth0", "192.168.0.51"),)
    assert gateway.rules == ON_EVERY_HOST
    filters = {f"net.ipv4.conf.eth{number}.rp_filter": "1" for number in range(4)}
    assert gateway.sysctls == {"net.ipv4.ip_forward": "1", **filters}


@pytest.mark.parametrize("name", ["jumphost", "lb"])
def test_a_host_with_one_nic_needs_no_rules_for_its_address(site: Plan, name: str) -> None:
    host = site.host(name)
    assert host_network(site, host) == HostNetwork(
        addresses=(Address("eth0", host.primary.with_prefix),),
        routes=(Route(DEFAULT, "default", "100.64.0.1", "eth0", str(host.primary.address)),),
        rules=ON_EVERY_HOST,
        sysctls={},
    )


def test_a_master_answers_by_the_nic_that_was_asked(master: HostNetwork) -> None:
    assert master.routes[0] == Route(DEFAULT, "default", "100.64.32.1", "eth1", "100.64.32.2")
    assert [route for route in master.routes if route.nic == "eth2"] == [
        Route(1004, "100.64.64.0/21", "", "eth2", "100.64.64.2"),
        Route(1004, "default", "100.64.64.1", "eth2", "100.64.64.2"),
    ]
    assert [rule for rule in master.rules if "100.64.64.2" in rule.source] == [
        PolicyRule(30100, "100.64.64.2", "192.168.0.0/24", 1004),
        PolicyRule(30100, "100.64.64.2", "100.64.0.0/21", 1004),
        PolicyRule(30100, "100.64.64.2", "100.64.32.0/21", 1004),
        PolicyRule(30100, "100.64.64.2", "100.64.64.0/21", 1004),
        PolicyRule(30300, "100.64.64.2", "", 1004),
    ]
    assert tuple(rule for rule in master.rules if not rule.source) == ON_EVERY_HOST
    assert [rule.priority for rule in master.rules] == sorted(rule.priority for rule in master.rules)
    assert master.sysctls == {
        "net.ipv4.conf.all.rp_filter": "0",
        "net.ipv4.conf.eth0.rp_filter": "1",
        "net.ipv4.conf.eth1.rp_filter": "1",
        "net.ipv4.conf.eth2.rp_filter": "1",
    }


def test_a_nic_with_a_dot_in_its_name(planned: Planned) -> None:
    plan = planned(('"default_route": "traffic",', '"default_route": "traffic", "nics": {"mgmt": "bond0.100"},'))
    wanted = host_network(plan, plan.host("master-1"))
    assert "net.ipv4.conf.bond0/100.rp_filter" in wanted.sysctls
    path, text = next(iter(link_files(wanted, {}).items()))
    assert nic_of(path, text) == "bond0.100"


def test_what_belongs_to_no_nic_is_in_one_file(master: HostNetwork) -> None:
    files = link_files(master, {})
    assert [nic_of(*each) for each in files.items()] == ["eth0", "eth1", "eth2"]
    assert [text.count("[RoutingPolicyRule]") for text in files.values()] == [len(master.rules), 0, 0]
    assert nic_of("/etc/systemd/network/10-netplan-eth0.network", "") is None


def live(wanted: HostNetwork) -> LiveNetwork:
    """A host on which everything is as it is wanted, beside what others have there."""
    return LiveNetwork(
        links={"lo": True, "cni0": True} | dict.fromkeys(wanted.nics, True),
        addresses=(Address("lo", "127.0.0.1/8"), *wanted.addresses, Address("eth0", "100.64.0.200/32")),
        routes=(
            *wanted.routes,
            Route(MAIN, "100.64.0.0/21", "", "eth0", "100.64.0.2"),
            Route(MAIN, "10.244.0.0/24", "100.64.32.9", "eth1"),
            Route(MAIN, "default", "10.0.0.1", "cni0"),
            Route(MAIN, "default", "100.64.0.9", "eth0", metric=1024),
            Route(77, "default", "100.64.0.9", "eth0"),
        ),
        rules=(PolicyRule(0, "", "", 255), PolicyRule(99, "10.0.0.1", "", 77), *wanted.rules),
        sysctls=dict(wanted.sysctls),
    )


def commands(wanted: HostNetwork, found: LiveNetwork) -> list[str]:
    return [network.command(each) for each in differences(wanted, found)]


def without(items: tuple[T, ...], *gone: T) -> tuple[T, ...]:
    assert set(gone) <= set(items)
    return tuple(item for item in items if item not in gone)


def test_nothing_to_do_where_all_is_as_wanted(gateway: HostNetwork, master: HostNetwork) -> None:
    assert differences(gateway, live(gateway)) == []
    assert differences(master, live(master)) == []


def test_what_stays_is_told(master: HostNetwork) -> None:
    """Of the NICs of the plan, and policy rules; not what every host has, nor what is ours."""
    assert [*network.unmanaged(master, live(master), master.every)] == [
        "address 100.64.0.200/32 on eth0",
        "route 10.244.0.0/24 via 100.64.32.9 dev eth1",
        "route default via 100.64.0.9 dev eth0 metric 1024",
        "policy rule priority 99 from 10.0.0.1 to all table 77",
    ]


def test_a_nic_that_is_down(master: HostNetwork) -> None:
    there = live(master)
    assert commands(master, replace(there, links={**there.links, "eth2": False})) == ["ip link set eth2 up"]
    del there.links["eth2"]
    assert [each.what for each in differences(master, there)] == ["NIC eth2 is missing"]


def test_a_sysctl_that_was_set_back(master: HostNetwork) -> None:
    there = live(master)
    there.sysctls["net.ipv4.conf.eth1.rp_filter"] = "2"
    del there.sysctls["net.ipv4.conf.all.rp_filter"]
    assert [each.what for each in differences(master, there)] == [
        "net.ipv4.conf.all.rp_filter is not set, not 0",
        "net.ipv4.conf.eth1.rp_filter is 2, not 1",
    ]
    assert commands(master, there)[1] == "sysctl -qw net.ipv4.conf.eth1.rp_filter=1"


def test_an_address_that_is_missing(gateway: HostNetwork) -> None:
    there = live(gateway)
    missing = replace(there, addresses=without(there.addresses, Address("eth0", "192.168.0.53/24")))
    assert commands(gateway, missing) == ["ip addr replace 192.168.0.53/24 brd + dev eth0"]


def test_the_first_address_is_not_the_first(gateway: HostNetwork) -> None:
    """The kernel sends from the first, so all of the NIC are set anew; then the routes that went with them."""
    there = live(gateway)
    own = Address("eth0", "192.168.0.51/24")
    moved = replace(there, addresses=(*without(there.addresses, own), own))
    assert commands(gateway, moved) == [
        "ip addr del 192.168.0.51/24 dev eth0",
        "ip addr del 192.168.0.53/24 dev eth0",
        "ip addr del 192.168.0.52/24 dev eth0",
        "ip addr replace 192.168.0.51/24 brd + dev eth0",
        "ip addr replace 192.168.0.52/24 brd + dev eth0",
        "ip addr replace 192.168.0.53/24 brd + dev eth0",
        "ip route replace default via 192.168.0.1 dev eth0 src 192.168.0.51 table 1000 proto static",
    ]


def test_the_order_of_the_other_addresses_means_nothing(gateway: HostNetwork) -> None:
    there = live(gateway)
    second = Address("eth0", "192.168.0.52/24")
    assert differences(gateway, replace(there, addresses=(*without(there.addresses, second), second))) == []


def test_an_address_of_an_earlier_plan_goes(gateway: HostNetwork) -> None:
    """The file on the host tells that it was ours; one that it does not have is somebody else's."""
    there = live(gateway)
    old, unmanaged = Address("eth0", "192.168.0.99/24"), Address("eth0", "192.168.0.98/24")
    path = next(iter(link_files(gateway, {})))
    found = replace(
        there,
        addresses=(*there.addresses, old, unmanaged),
        files={path: "[Network]\nAddress=192.168.0.51/24\nAddress=192.168.0.99/24\n", "/x": "Address=192.168.0.98/24"},
    )
    assert commands(gateway, found)[0] == "ip addr del 192.168.0.99/24 dev eth0"
    assert not any("192.168.0.98" in each for each in commands(gateway, found))


def test_a_route_that_is_missing(master: HostNetwork) -> None:
    there = live(master)
    missing = replace(there, routes=without(there.routes, master.routes[1]))
    assert commands(master, missing) == [
        "ip route replace 100.64.0.0/21 dev eth0 src 100.64.0.2 table 1002 proto static scope link"
    ]


def test_a_default_route_by_another_router_is_replaced(master: HostNetwork) -> None:
    there = live(master)
    wrong = replace(there, routes=(replace(there.routes[0], via="100.64.32.9"), *there.routes[1:]))
    assert commands(master, wrong) == [
        "ip route replace default via 100.64.32.1 dev eth1 src 100.64.32.2 table 1000 proto static"
    ]


def test_routes_of_ours_that_are_not_in_the_plan_go(master: HostNetwork) -> None:
    """Any in our tables; those of others stay, default routes through our NICs too."""
    there = live(master)
    stale = (
        Route(1004, "10.0.0.0/8", "100.64.64.9", "eth2"),
        Route(DEFAULT, "default", "100.64.0.1", "eth0", "100.64.0.2", metric=1024),
        Route(1009, "default", "", ""),
    )
    assert commands(master, replace(there, routes=(*there.routes, *stale))) == [
        "ip route del 10.0.0.0/8 via 100.64.64.9 dev eth2 table 1004",
        "ip route del default via 100.64.0.1 dev eth0 src 100.64.0.2 metric 1024 table 1000",
        "ip route del default table 1009",
    ]


def test_policy_rules(master: HostNetwork) -> None:
    """A missing one comes back before a stale one goes; one with a priority of others stays."""
    there = live(master)
    stale = PolicyRule(30300, "100.64.64.99", "", 1004)
    found = replace(there, rules=(*without(there.rules, master.rules[0]), stale, PolicyRule(30401, "10.0.0.1", "", 77)))
    assert commands(master, found) == [
        "ip rule add priority 30100 from 100.64.0.2 to 192.168.0.0/24 table 1002 proto static",
        "ip rule del priority 30300 from 100.64.64.99 to all table 1004",
    ]


def test_what_is_missing_comes_before_what_must_go(master: HostNetwork) -> None:
    """On a host of another plan no address, route or rule is taken away before all of the new ones are there."""
    there = LiveNetwork(
        links={},
        addresses=(),
        routes=(Route(DEFAULT, "default", "100.64.0.9", "eth0", metric=5), Route(1004, "10.0.0.0/8", "", "eth2")),
        rules=(PolicyRule(30100, "100.64.0.77", "", 1002),),
    )
    found = [each.split()[:3] for each in commands(master, there)]
    removals = [index for index, words in enumerate(found) if words[2] == "del"]
    assert len(removals) == 3
    assert removals == list(range(len(found) - 3, len(found)))
    kinds = [" ".join(words[:2]) for words in found[: removals[0]]]
    assert list(dict.fromkeys(kinds)) == ["ip link", "sysctl -qw", "ip addr", "ip route", "ip rule"]


# Others come after us: a container network, policy routing of their own, a virtual address in a network of the plan.
FOREIGN = """
ip address add 10.244.0.1/24 dev cni0
ip address add 192.168.0.60/24 dev eth0
ip address add 100.64.64.60/21 dev eth2
ip route add 10.9.0.0/16 via 10.244.0.9
ip route add default via 10.244.0.9 table 77
ip route add default via 10.244.0.8 metric 50
ip route add blackhole 10.1.0.0/16
ip rule add priority 99 from 10.244.0.0/24 table 77
ip rule add priority 30401 fwmark 0x1 table 77
"""
DRIFTS = {
    "gateway": {
        "address removed": "ip addr del 192.168.0.52/24 dev eth0",
        "first address removed": "ip addr del 192.168.0.51/24 dev eth0",
        "first address is another": "ip addr del 192.168.0.51/24 dev eth0; ip addr add 192.168.0.51/24 dev eth0",
        "stale route that goes with an address": "ip addr del 192.168.0.51/24 dev eth0; "
        "ip addr replace 192.168.0.51/24 dev eth0; "
        "ip route add default via 192.168.0.9 src 192.168.0.51 metric 9 table 1000",
        "default route removed": "ip route del default table 1000",
        "forwarding off": "sysctl -qw net.ipv4.ip_forward=0",
    },
    "master-1": {
        "address removed": "ip addr del 100.64.64.2/21 dev eth2",
        "NIC down": "ip link set eth1 down",
        "NIC down and up": "ip link set eth2 down; ip link set eth2 up",
        "default route removed": "ip route del default table 1000",
        "default route by another router": "ip route replace default via 100.64.32.99 dev eth1 table 1000",
        "second default route": "ip route add default via 100.64.0.1 dev eth0 metric 1024 table 1000",
        "another metric": "ip route del default table 1000; "
        "ip route add default via 100.64.32.1 dev eth1 metric 9 table 1000",
        "table emptied": "ip route flush table 1003",
        "stale route": "ip route add 10.0.0.0/8 via 100.64.0.9 table 1002",
        "blackhole in a table of ours": "ip route add blackhole 10.0.0.0/8 table 1050",
        "several next hops": "ip route replace default table 1004 nexthop via 100.64.64.1 nexthop via 100.64.64.9",
        "rules removed": "ip rule del priority 30200; ip rule del priority 30300 from 100.64.0.2",
        "stale rules": "ip rule add priority 30300 from 100.64.0.2 table 1003; ip rule add priority 30150 table 1002",
        "reverse path filter": "sysctl -qw net.ipv4.conf.eth2.rp_filter=2 net.ipv4.conf.all.rp_filter=1",
    },
}


@pytest.fixture
def machine() -> Iterator[Inside]:
    """A host as it comes, with NICs that are down."""
    with namespace("ip", "sysctl") as inside:
        # As systemd sets it: the next address follows when the first of a network is removed.
        script = "sysctl -qw net.ipv4.conf.all.promote_secondaries=1\nip link set lo up\n"
        for nic in ("eth0", "eth1", "eth2", "eth3", "cni0"):
            script += f"ip link add {nic} type veth peer name {nic}-peer\nip link set {nic}-peer up\n"
        inside("sh", "-e", text=script + "ip link set cni0 up\n")
        yield inside


def read(machine: Inside, wanted: HostNetwork) -> LiveNetwork:
    return parse(machine("sh", "-e", text=command(wanted.sysctls)).splitlines())


def unmanaged(found: LiveNetwork) -> list[set[object]]:
    """What FOREIGN made."""
    return [
        {address for address in found.addresses if address.nic == "cni0" or ".60/" in address.cidr},
        {route for route in found.routes if route.table == 77 or route.destination in ("10.9.0.0/16", "10.1.0.0/16")}
        | {route for route in found.routes if (route.table, route.destination) == (MAIN, "default")},
        {rule for rule in found.rules if rule.priority in (99, 30401)},
    ]


@pytest.mark.parametrize("name", DRIFTS)
def test_the_kernel_takes_every_change(machine: Inside, site: Plan, name: str) -> None:
    """From a host as it comes, and from each drift, one run of the changes leads to the plan; others' things stay."""
    wanted = host_network(site, site.host(name))

    def converge(what: str) -> LiveNetwork:
        found = differences(wanted, read(machine, wanted))
        assert found, f"{what}: not seen"
        machine("sh", "-e", text="".join(f"{network.command(each)}\n" for each in found))
        after = read(machine, wanted)
        assert [each.what for each in differences(wanted, after)] == [], what
        return after

    converge("as it comes")
    machine("sh", "-e", text=FOREIGN)
    there = read(machine, wanted)
    assert differences(wanted, there) == []
    assert [len(part) for part in unmanaged(there)] == [3, 4, 2]
    for what, drift in DRIFTS[name].items():
        machine("sh", "-e", text=drift)
        assert unmanaged(converge(what)) == unmanaged(there), what
