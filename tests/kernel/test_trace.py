"""Packets that end, in kernels of their own: what took each is named, and what is printed takes it away.

The plan's network as namespaces: its hosts with their addresses, routes, policy rules and the gateway's rules, and a
switch with a bridge a network. No ssh, no deploy: the agent of `trace` runs in each.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import pytest
from netaddr import IPAddress

from tests.unit.namespaces import namespace
from underlay.access.login.sudo import Root
from underlay.desired import nat, routing
from underlay.plan import REPO, Plan, load
from underlay.trace.planned import Protocol, ends, path
from underlay.trace.run import Trace, trace

PLAN = load(REPO / "group_data/all.py")
OUTSIDE = IPAddress("203.0.113.1")
WORKSTATION = "dev"
HOSTS = [host for host in PLAN.hosts if host.name in (WORKSTATION, "gateway", "lb", "master-1")]


class Site:
    """The namespaces; stands for the connections that `trace` is given."""

    def __init__(self, stack: ExitStack) -> None:
        tools = ("ip", "iptables", "bridge", "tc", "nft")
        self.switch = stack.enter_context(namespace(*tools))
        self.hosts = {host.name: stack.enter_context(namespace(*tools)) for host in HOSTS}
        self.target = _Target(PLAN)
        for network in PLAN.networks:
            self.switch("sh", "-ec", f"ip link add {network.name} type bridge; ip link set {network.name} up")
        for host in HOSTS:
            inside, lines = self.hosts[host.name], ["ip link set lo up"]
            for nic in host.interfaces:
                port = f"{host.name[:8]}-{nic.network[:5]}"
                self.switch("ip", "link", "add", port, "type", "veth", "peer", "name", "peer0")
                self.switch("ip", "link", "set", "peer0", "netns", str(inside.pid), "name", nic.nic)
                self.switch("ip", "link", "set", port, "master", nic.network, "up")
                lines.append(f"ip link set {nic.nic} up")
            if host.name == WORKSTATION:
                lines.append(f"ip addr add {host.primary.with_prefix} dev {host.primary.nic}")
            else:
                wanted = routing.host_network(PLAN, host)
                lines += [f"ip addr add {each.cidr} dev {each.nic}" for each in wanted.addresses]
                lines += [f"ip route replace {each.arguments}" for each in wanted.routes]
                lines += [f"ip rule add {each.arguments}" for each in wanted.rules]
                lines += [f"sysctl -qw {key}={value}" for key, value in wanted.sysctls.items()]
            inside("sh", "-e", text="\n".join(lines))
        for rule in nat.gateway_rules(PLAN):
            self.hosts["gateway"]("sh", "-ec", f"iptables -t {rule.table} -A {rule.chain} {rule.spec}")

    def command(self, name: str, argv: list[str]) -> list[str]:
        """As `Links.command`."""
        return [*self.hosts[name].enter, "env", *argv]

    def root_if_possible(self, _: str) -> Root:
        """As `Links.root_if_possible`: in there one is root."""
        return Root(())

    def follow(self, source: str, destination: str, protocol: Protocol = "tcp") -> Trace:
        """Trace a packet."""
        way = path(PLAN, protocol, *ends(PLAN, source, destination, OUTSIDE), OUTSIDE)
        return trace(self, way, None)  # type: ignore[arg-type]  # all that it uses of Links is here

    def __call__(self, name: str, line: str) -> None:
        """Run a shell line as root of a host, or of the switch."""
        inside = self.switch if name == "switch" else self.hosts[name]
        inside("sh", "-ec", line)


class _Target:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(stack)


WAYS = [("lb", "master-1"), ("lb", "master-1:storage"), ("dev", "lb"), ("master-1", "192.168.0.105")]


@pytest.mark.parametrize("ends", WAYS)
@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_as_planned(site: Site, ends: tuple[str, str], protocol: Protocol) -> None:
    """Where nothing is wrong nothing is named."""
    found = site.follow(*ends, protocol)
    assert [(row.step.host, row.step.stage, row.seen) for row in found.rows if row.verdict == "differs"] == []
    assert (found.error, found.ended) == (None, None)


class Case(NamedTuple):
    """A fault, the packet that ends because of it, and what must be said.

    heal: what takes it away where no command is said to
    """

    place: str
    inject: str
    ends: tuple[str, str]
    id: str
    host: str
    words: str
    heal: str = ""
    protocol: Protocol = "tcp"


LB, MASTER, STORAGE = "100.64.0.53", "100.64.0.2", "100.64.64.2"
WRONG = "lladdr 02:00:00:00:00:99 dev"
NEAR, FAR, IN, OUT = WAYS
INGRESS = "nft 'add table netdev n; add chain netdev n c { type filter hook ingress device eth0 priority 0; }; "
EGRESS = INGRESS.replace("ingress", "egress")
CASES = {
    "neighbour of a node": Case(
        *("lb", f"ip neigh replace {MASTER} {WRONG} eth0 nud permanent", NEAR),
        *("neighbour-wrong", "lb", "02:00:00:00:00:99"),
    ),
    "neighbour of the gateway": Case(
        *("gateway", f"ip neigh replace {STORAGE} {WRONG} eth3 nud permanent", FAR),
        *("neighbour-wrong", "gateway", STORAGE),
    ),
    "neighbour of the workstation": Case(
        *("dev", f"ip neigh replace 192.168.0.53 {WRONG} eth0 nud noarp", IN),
        *("neighbour-wrong", "dev", "NOARP"),
    ),
    "a NIC without ARP": Case(
        *("master-1", "ip link set eth0 arp off", NEAR),
        *("nic-no-arp", "master-1", "eth0"),
    ),
    "ARP is ignored": Case(
        *("master-1", "sysctl -qw net.ipv4.conf.eth0.arp_ignore=8", NEAR),
        *("sysctl-wrong", "master-1", "arp_ignore is 8"),
    ),
    "ARP is filtered": Case(
        "master-1",
        "nft 'add table arp a; add chain arp a c { type filter hook input priority 0; }; "
        f"add rule arp a c arp saddr ip {LB} drop'",
        *(NEAR, "filter-unmanaged", "master-1", "ARP packets: arp a c"),
    ),
    "isolated ports": Case(
        *("switch", "bridge link set dev lb-mgmt isolated on; bridge link set dev master-1-mgmt isolated on", NEAR),
        *("packet-lost", "lb", "did not arrive at master-1 eth0"),
        "bridge link set dev lb-mgmt isolated off; bridge link set dev master-1-mgmt isolated off",
    ),
    "blackhole": Case(
        *("gateway", f"ip route add blackhole {STORAGE}", FAR),
        *("route-unmanaged", "gateway", f"blackhole {STORAGE}"),
    ),
    "prohibited on the way back": Case(
        *("master-1", f"ip route add prohibit {LB} table 1002", NEAR),
        *("route-unmanaged", "master-1", f"prohibit {LB}"),
    ),
    "blackhole of the sender": Case(
        *("dev", "ip route add blackhole 192.168.0.53", IN),
        *("route-unmanaged", "dev", "blackhole 192.168.0.53"),
    ),
    "a narrower route": Case(
        *("lb", "ip route add 100.64.64.0/25 via 100.64.0.99 dev eth0", FAR),
        *("route-unmanaged", "lb", "100.64.64.0/25"),
    ),
    "a rule to another table": Case(
        "gateway",
        f"ip route add default via 192.168.0.99 dev eth0 table 99; ip rule add pref 50 from {LB} lookup 99",
        *(FAR, "policy-rule-unmanaged", "gateway", "lookup 99"),
    ),
    "a rule that says no": Case(
        *("gateway", f"ip rule add pref 50 to {STORAGE} prohibit", FAR),
        *("policy-rule-unmanaged", "gateway", "priority 50"),
    ),
    "no forwarding on a NIC": Case(
        *("gateway", "sysctl -qw net.ipv4.conf.eth1.forwarding=0", FAR),
        *("sysctl-wrong", "gateway", "eth1.forwarding is 0"),
    ),
    "a TTL that a rule sets": Case(
        *("gateway", f"iptables -t mangle -A PREROUTING -s {LB} -j TTL --ttl-set 1", FAR),
        *("rule-unmanaged", "gateway", "few hops"),
    ),
    "a TTL that ends": Case("lb", "sysctl -qw net.ipv4.ip_default_ttl=1", FAR, "sysctl-wrong", "lb", "1 hops only"),
    "not translated": Case(
        *("gateway", "iptables -t nat -I POSTROUTING -s 100.64.32.2 -j RETURN", OUT),
        *("rule-unmanaged", "gateway", "is taken before ours"),
    ),
    "another zone": Case(
        *("gateway", "iptables -t raw -I PREROUTING -i eth1 -j CT --zone 5", IN),
        *("rule-unmanaged", "gateway", "--zone 5"),
    ),
    "a mark": Case(
        "gateway",
        f"iptables -t mangle -A PREROUTING -s {LB} -j MARK --set-mark 7; "
        "ip rule add pref 60 fwmark 7 lookup 98; ip route replace default via 100.64.32.2 table 98",
        *(FAR, "rule-unmanaged", "gateway", "MARK"),
    ),
    "before all others": Case(
        "gateway",
        "nft 'add table inet front; add chain inet front p { type filter hook prerouting priority -500; }; "
        f"add rule inet front p ip saddr {LB} drop'",
        *(FAR, "filter-unmanaged", "gateway", "inet front p"),
    ),
    "at a NIC": Case(
        *("master-1", f"{INGRESS}add rule netdev n c ip saddr {LB} drop'", NEAR),
        *("filter-unmanaged", "master-1", "netdev n c"),
    ),
    "leaving a NIC": Case(
        *("lb", f"{EGRESS}add rule netdev n c ip daddr {MASTER} drop'", NEAR),
        *("filter-unmanaged", "lb", "netdev n c"),
    ),
    "an older iptables": Case(
        *("lb", f"iptables-legacy -A OUTPUT -d {MASTER} -j DROP", NEAR),
        *("filter-unmanaged", "lb", "iptables-legacy"),
    ),
    "IPsec": Case(
        *("gateway", f"ip xfrm policy add src 0.0.0.0/0 dst {STORAGE} dir out action block", FAR),
        *("ipsec-policy", "gateway", STORAGE),
    ),
    "pings alone": Case(
        *("gateway", f"iptables -I FORWARD -d {STORAGE} -p icmp -j DROP", FAR),
        *("rule-unmanaged", "gateway", "-p icmp"),
        protocol="icmp",
    ),
    "UDP alone": Case(
        *("gateway", f"iptables -I FORWARD -d {STORAGE} -p udp -j DROP", FAR),
        *("rule-unmanaged", "gateway", "-p udp"),
        protocol="udp",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_taken(site: Site, case: str) -> None:
    """What took the packet is named, at its host, and what is printed takes it away."""
    fault = CASES[case]
    site(fault.place, fault.inject)
    for host in site.hosts:
        site(host, "ip neigh flush all nud stale nud reachable nud delay nud failed nud probe")
    undo = fault.heal
    try:
        found = site.follow(*fault.ends, fault.protocol)
        assert found.ended is not None, [(row.step.host, row.step.stage, row.seen) for row in found.rows]
        assert (found.ended.id, found.ended.host) == (fault.id, fault.host), found.ended
        assert fault.words in " ".join((found.ended.what, *found.ended.evidence))
        assert bool(found.ended.undo) != bool(fault.heal)
        undo = undo or found.ended.undo
    finally:
        if undo:
            site(fault.place if fault.heal else fault.host, undo)
    again = site.follow(*fault.ends, fault.protocol)
    assert (again.error, again.ended) == (None, None)
