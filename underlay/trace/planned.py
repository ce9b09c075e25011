"""Plan → the way of one packet and of its answer, step by step, as it has to be. Pure.

Unlike `traffic`, which writes down what must work, this follows addresses, policy rules, routes and the gateway's rules
as the kernel does: a person who traces a packet wants to know which of them it meets.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from netaddr import IPAddress, IPNetwork

from underlay.desired import nat, nginx, routing
from underlay.desired.routing import MAIN, PolicyRule, Route
from underlay.desired.ruleset import Rule
from underlay.desired.traffic import Forwarded, matches
from underlay.errors import OperatorError
from underlay.plan import OUTSIDE, ROLES, Host, Interface, MistakeError, Network, Plan, ipv4
from underlay.plan.values import is_unicast

Protocol = Literal["tcp", "udp", "icmp"]
PROTOCOLS: tuple[Protocol, ...] = ("tcp", "udp", "icmp")
Way = Literal["request", "answer"]

POLICY_RULE, ROUTE, LEAVES, ARRIVES = "policy rule", "route", "leaves", "arrives"
DELIVERED, ANSWERS, TRANSLATED_BACK = "delivered", "answers", "conntrack"
TO_ITSELF = "to the host itself"
"""What DELIVERED says: the packet passed the host's routing and its source check, and is the host's own."""
NOTHING = "nothing"
_KERNELS_OWN = PolicyRule(32766, "", "", MAIN)


class TraceError(OperatorError):
    """A trace that can't be made; `str()` is one line for a person."""


@dataclass(frozen=True)
class Packet:
    """The addresses of a packet at one point of its way."""

    source: IPAddress
    destination: IPAddress

    def __str__(self) -> str:
        return f"{self.source} -> {self.destination}"

    @property
    def reversed(self) -> "Packet":
        """The answer to it."""
        return Packet(self.destination, self.source)


@dataclass(frozen=True)
class Step:
    """One thing that has to happen to the packet or its answer.

    stage: one of the constants above, or TABLE CHAIN of iptables
    expected: in words that are compared with what is seen
    plan: the line of the plan that it comes from, where there is one
    packet: the packet as it comes into the step
    nic: the NIC that it is about; empty where the plan does not know it
    rule: the rule that is met, where the stage is a chain
    """

    way: Way
    host: str
    stage: str
    expected: str
    packet: Packet
    plan: str = ""
    nic: str = ""
    rule: Rule | None = None


@dataclass(frozen=True)
class Path:
    """The whole way.

    source, packet: the host that sends, and what it sends
    steps: in the order of time
    receiver: the host that answers; None for one that is not in the plan, or where the plan has no way
    arrival: the packet as the receiver gets it; None where the plan has no way
    end: why the plan has no way there; empty if it has one
    """

    protocol: Protocol
    source: str
    packet: Packet
    steps: tuple[Step, ...]
    receiver: str | None
    arrival: Packet | None
    end: str

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts on the way, each once, in their order."""
        return tuple(dict.fromkeys(step.host for step in self.steps))

    @property
    def translated_answer(self) -> Packet | None:
        """The answer as its receiver gets it, if the plan's own rules make it one that nobody waits for."""
        last = self.steps[-1]
        return last.packet if last.way == "answer" and last.packet != self.packet.reversed else None


@dataclass(frozen=True)
class RouteLookup:
    """Where a host sends a packet.

    rule: the policy rule that chose the route's table
    via: the next router, None on the link itself
    nic: the NIC it leaves by, None for a packet to the host itself
    """

    rule: PolicyRule
    via: IPAddress | None
    nic: Interface | None

    def __str__(self) -> str:
        return route_text(str(self.via or ""), self.nic.nic if self.nic else "lo", self.rule.table)


def route_text(via: str, nic: str, table: int) -> str:
    """A route as both sides of a trace write it; an empty `nic` for a host whose NICs the plan does not know."""
    if nic == "lo":
        return TO_ITSELF
    parts = [f"via {via}" if via else "on link"]
    parts += [f"dev {nic}"] if nic else []
    parts += [f"table {table}"] if table != MAIN else []
    return " ".join(parts)


def rule_text(rule: PolicyRule) -> str:
    """A policy rule as both sides of a trace write it."""
    suppressed = " without its default routes" if rule.main_without_default else ""
    return f"{rule.priority}: from {rule.source or 'all'} to {rule.destination or 'all'} table {rule.table}{suppressed}"


def applies(rule: PolicyRule, source: IPAddress | None, destination: IPAddress) -> bool:
    """Whether a policy rule is for such packets; `source` None is a packet that has no source address yet."""
    from_it = not rule.source or (source is not None and source in IPNetwork(rule.source))
    return from_it and (not rule.destination or destination in IPNetwork(rule.destination))


def lookup(plan: Plan, host: Host, source: IPAddress | None, destination: IPAddress) -> RouteLookup | None:
    """The hop of a packet that a host of the plan sends, as the plan's rules and routes have it; None without one."""
    wanted = routing.host_network(plan, host)
    if any(destination == IPNetwork(address.cidr).ip for address in wanted.addresses):
        return RouteLookup(_KERNELS_OWN, None, None)
    connected = [Route(MAIN, str(nic.cidr), "", nic.nic, str(nic.address)) for nic in host.interfaces]
    for rule in (*wanted.rules, _KERNELS_OWN):
        routes = [
            (_network(route).prefixlen, route)
            for route in (*connected, *wanted.routes)
            if route.table == rule.table
            and destination in _network(route)
            and not (rule.main_without_default and route.destination == "default")
        ]
        if applies(rule, source, destination) and routes:
            best = max(routes, key=lambda found: found[0])[1]
            nic = next(nic for nic in host.interfaces if nic.nic == best.nic)
            return RouteLookup(rule, IPAddress(best.via) if best.via else None, nic)
    return None


def _network(route: Route) -> IPNetwork:
    return IPNetwork("0.0.0.0/0" if route.destination == "default" else route.destination)


def path(
    plan: Plan,
    protocol: Protocol,
    source: str,
    packet: Packet,
    outside: IPAddress | None,
    port: int | None = None,
) -> Path:
    """The way that the plan has for a packet from a host, and for its answer.

    source: a host of the plan, or OUTSIDE
    outside: the address of OUTSIDE (`Target.outside`), None where there is no such host
    port: the one that is asked; None for a free one, and for icmp
    """
    walk = _Walk(plan, protocol, outside, port)
    walk.send(source, packet)
    arrival, receiver, network, end = walk.arrival, walk.receiver, walk.network, walk.end
    if arrival is not None:
        if receiver is not None:
            walk.step(receiver, ANSWERS, "yes", arrival)
        walk.way = "answer"
        if receiver is not None:
            walk.send(receiver, arrival.reversed)
        else:
            walk.answer_of_stranger(network, arrival.reversed)
    return Path(protocol, source, packet, tuple(walk.steps), receiver, arrival, end)


class _Walk:
    """Follows a packet; `receiver`, `arrival`, `network` and `end` tell where it came to."""

    def __init__(self, plan: Plan, protocol: Protocol, outside: IPAddress | None, port: int | None) -> None:
        self.plan = plan
        self.protocol = protocol
        self.outside = outside
        self.port = port
        self.rules = nat.gateway_rules(plan)
        self.steps: list[Step] = []
        self.way: Way = "request"
        self.connection: tuple[Packet, Packet] | None = None
        """In the gateway's connection table: the request before and after its translation."""
        self.receiver: str | None = None
        self.arrival: Packet | None = None
        self.network: Network = plan.enterprise
        self.end = ""

    def step(
        self,
        host: str,
        stage: str,
        expected: str,
        packet: Packet,
        plan: str = "",
        nic: str = "",
        rule: Rule | None = None,
    ) -> None:
        self.steps.append(Step(self.way, host, stage, expected, packet, plan, nic, rule))

    def send(self, name: str, packet: Packet) -> None:
        """A host sends a packet of its own."""
        if name == OUTSIDE:
            self.step(name, LEAVES, str(packet), packet)
            self._next(self.plan.enterprise, packet.destination, packet)
            return
        host = self.plan.host(name)
        hop = lookup(self.plan, host, packet.source, packet.destination)
        if hop is None:
            self.end = f"{name} has no route to {packet.destination}"
            return
        self._hop(host, packet, hop)
        gateway = host == self.plan.gateway
        if gateway:
            untracked = self._rule("raw", "OUTPUT", packet)
            packet = self._source_translated(packet, untracked, packet)
        self._leave(host, packet, hop)

    def _hop(self, host: Host, packet: Packet, hop: RouteLookup) -> None:
        # Where there is one route for all, the rule that leads to it tells nothing.
        if any(rule.source for rule in routing.host_network(self.plan, host).rules) and hop.nic:
            self.step(host.name, POLICY_RULE, rule_text(hop.rule), packet, self._address_line(host, hop))
        text = str(hop) if _deployed(host) else route_text(str(hop.via or ""), "" if hop.nic else "lo", MAIN)
        nic = (hop.nic.nic if hop.nic else "lo") if _deployed(host) else ""
        self.step(host.name, ROUTE, text, packet, self._address_line(host, hop), nic=nic)

    def _address_line(self, host: Host, hop: RouteLookup) -> str:
        return self.plan.line("hosts", host.name, "addresses", hop.nic.network) if hop.nic else ""

    def _leave(self, host: Host, packet: Packet, hop: RouteLookup) -> None:
        nic = (hop.nic.nic if hop.nic else "lo") if _deployed(host) else ""
        self.step(host.name, LEAVES, f"{nic} {packet}".strip(), packet, nic=nic)
        if hop.nic is None:
            self._arrive(host, nic, packet)
        else:
            self._next(self.plan.network(hop.nic.network), hop.via or packet.destination, packet)

    def answer_of_stranger(self, network: Network, packet: Packet) -> None:
        """A host that is not in the plan answers: on its own network itself, else through the router."""
        on_link = packet.destination in network.cidr
        self._next(network, packet.destination if on_link else self.plan.gateway_address(network.name), packet)

    def _next(self, network: Network, address: IPAddress, packet: Packet) -> None:
        """On a network, a packet goes to whoever has an address there."""
        plan = self.plan
        for host in plan.hosts:
            nic = host.interface(network.name)
            if nic and nic.address == address:
                self._arrive(host, nic.nic if _deployed(host) else "", packet)
                return
        if network == plan.enterprise and any(address == host.published for host in plan.published):
            self._arrive(plan.gateway, plan.gateway.primary.nic, packet)
        elif inner := next((inner for inner in plan.internal if packet.destination in inner.cidr), None):
            if inner == network:
                self._stranger(network, packet)
            else:
                self.end = (
                    f"the plan has no way from {network.name} into {inner.name} but the published addresses: "
                    f"{', '.join(str(host.published) for host in plan.published) or 'none'}"
                )
                self.step(plan.gateway.name, ARRIVES, NOTHING, packet)
        elif self.outside is not None and packet.destination in (self.outside, plan.enterprise.upstream):
            self.step(OUTSIDE, ARRIVES, str(packet), packet)
            self._delivered(OUTSIDE, network, packet)
        else:
            self._stranger(network, packet)

    def _stranger(self, network: Network, packet: Packet) -> None:
        if self.way == "request":
            self.receiver, self.arrival, self.network = None, packet, network

    def _arrive(self, host: Host, nic: str, packet: Packet) -> None:
        self.step(host.name, ARRIVES, f"{nic} {packet}".strip(), packet, nic=nic)
        if host == self.plan.gateway and nic != "lo":
            self._gateway(packet, nic)
        else:
            self._delivered(host.name, self.network, packet)

    def _delivered(self, name: str, network: Network, packet: Packet) -> None:
        self.step(name, DELIVERED, TO_ITSELF, packet, self.plan.line_of(packet.destination))
        if self.way == "request":
            self.receiver, self.arrival, self.network = name, packet, network

    def _gateway(self, packet: Packet, nic: str) -> None:
        plan, gateway, came = self.plan, self.plan.gateway, packet
        untracked = self._rule("raw", "PREROUTING", packet)
        if self.way == "answer" and self.connection and not untracked:
            before, after = self.connection
            if before != after and packet == after.reversed:
                self.step(gateway.name, TRANSLATED_BACK, f"back to {before.reversed}", packet)
                # Its destination is put right before the routing, its source after it.
                packet = replace(packet, destination=before.source)
        elif self._is_new and not untracked and (rule := self._rule("nat", "PREROUTING", packet)):
            packet = replace(packet, destination=_translation(rule))
        hop = lookup(plan, gateway, packet.source, packet.destination)
        if hop is None:  # the gateway has a default route
            raise AssertionError(f"no route to {packet.destination}")
        if hop.nic is None:
            if self.way == "request" and not untracked:
                self.connection = (packet, packet)
            self._delivered(gateway.name, plan.enterprise, packet)
            return
        self._hop(gateway, packet, hop)
        if not self._forward(packet, came, nic, hop.nic.nic):
            return
        if self.way == "answer" and self.connection and not untracked:
            before, after = self.connection
            if packet == Packet(after.destination, before.source):
                packet = before.reversed
        else:
            packet = self._source_translated(packet, untracked, came)
        self._leave(gateway, packet, hop)

    def _forward(self, packet: Packet, came: Packet, nic_in: str, nic_out: str) -> bool:
        """Whether the gateway forwards a packet."""
        answer = self.way == "answer" and self.connection is not None
        began = self.connection[0] if answer and self.connection else came
        forwarded = Forwarded(
            packet.source,
            packet.destination,
            nic_in,
            nic_out,
            began.source,
            began.destination,
            answer,
            self.protocol,
            self.port,
        )
        rule = next((rule for rule in self.rules if rule.chain == "FORWARD" and forwarded.meets(rule)), None)
        if rule is None:
            return True
        self.step(self.plan.gateway.name, "filter FORWARD", rule.spec, packet, rule.origin, rule=rule)
        if rule.spec.endswith("-j DROP"):
            self.end = f"the plan does not let this in from {self.plan.enterprise.name} ({rule.origin})"
            return False
        return True

    @property
    def _is_new(self) -> bool:
        """Whether a packet begins a connection: of answers to what was left untracked, those over UDP seem to."""
        return self.way == "request" or (self.connection is None and self.protocol == "udp")

    def _source_translated(self, packet: Packet, untracked: Rule | None, came: Packet) -> Packet:
        """As it leaves the gateway; `came` is how it came there, or was made there."""
        if untracked or not self._is_new:
            return packet
        rule = self._rule("nat", "POSTROUTING", packet)
        found = replace(packet, source=_translation(rule)) if rule else packet
        if self.way == "request":
            self.connection = (came, found)
        return found

    def _rule(self, table: str, chain: str, packet: Packet) -> Rule | None:
        """The first rule of a chain that a packet meets, as a step of its own."""
        for rule in self.rules:
            if (rule.table, rule.chain) == (table, chain) and matches(rule, packet.source, packet.destination):
                gateway = self.plan.gateway.name
                self.step(gateway, f"{table} {chain}", rule.spec, packet, rule.origin, rule=rule)
                return rule
        return None


def _deployed(host: Host) -> bool:
    """Whether the plan decides how this host is set up; of others it knows the addresses only."""
    return host.role in ROLES


def _translation(rule: Rule) -> IPAddress:
    return IPAddress(rule.spec.split()[-1])


@dataclass(frozen=True)
class _Named:
    """What a person named: the host (None: not of the plan), and the address if that was said."""

    host: str | None
    address: IPAddress | None


def ends(plan: Plan, source: str, destination: str, outside: IPAddress | None) -> tuple[str, Packet]:
    """The host that sends and the packet, from what a person wrote (see the help of `trace`). Raises TraceError."""
    sender = _named(plan, source, outside)
    for host in plan.published:
        if sender.address == host.published:
            sender = _Named(host.name, host.primary.address)
    if sender.host is None:
        raise TraceError(f"{source} is no address of the plan's hosts: a packet can be sent only from one of them")
    target = _named(plan, destination, outside)
    address = target.address or _asked_address(plan, sender, target)
    return sender.host, Packet(sender.address or _own_address(plan, sender.host, address, outside), address)


def _own_address(plan: Plan, name: str, destination: IPAddress, outside: IPAddress | None) -> IPAddress:
    """The address that a host sends from by itself."""
    if name == OUTSIDE:
        assert outside is not None  # else the name is not known
        return outside
    host = plan.host(name)
    hop = lookup(plan, host, None, destination)
    return hop.nic.address if hop and hop.nic else host.primary.address


def _asked_address(plan: Plan, sender: _Named, target: _Named) -> IPAddress:
    """The address by which one host asks another: in a network of both, else the published one from outside."""
    assert target.host is not None  # an address is named otherwise
    host = plan.host(target.host)
    near = [nic.network for nic in plan.host(sender.host).interfaces] if sender.host not in (None, OUTSIDE) else []
    if sender.address is not None:
        near = [network.name for network in plan.networks if sender.address in network.cidr]
    shared = next((nic for nic in host.interfaces if nic.network in near), None)
    if shared is not None:
        return shared.address
    if host.published is not None and not set(near) - {plan.enterprise.name}:
        return host.published
    return host.primary.address


def _named(plan: Plan, text: str, outside: IPAddress | None) -> _Named:
    name, _, network = text.partition(":")
    if outside is not None and name == OUTSIDE and not network:
        return _Named(OUTSIDE, outside)
    host = next((host for host in plan.hosts if host.name == name), None)
    if host is not None and not network:
        return _Named(name, None)
    if host is not None:
        nic = host.interface(network)
        if nic is None:
            has = ", ".join(nic.network for nic in host.interfaces)
            raise TraceError(f"{name} has no address in {network!r}: it has one in {has}")
        return _Named(name, nic.address)
    try:
        address = ipv4(text)
    except MistakeError:
        known = [host.name for host in plan.hosts] + ([OUTSIDE] if outside is not None else [])
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"the hosts are {', '.join(known)}"
        raise TraceError(f"{text!r} is neither HOST, HOST:NETWORK nor an IPv4 address: {hint}") from None
    if not is_unicast(address):
        raise TraceError(f"no host can have the address {address}: give that of one")
    return _Named(_owner(plan, address, outside), address)


def _owner(plan: Plan, address: IPAddress, outside: IPAddress | None) -> str | None:
    if outside is not None and address in (outside, plan.enterprise.upstream):
        return OUTSIDE
    return next((host.name for host in plan.hosts if any(nic.address == address for nic in host.interfaces)), None)


def proxied(plan: Plan, path: Path, port: int | None) -> Iterator[tuple[str, Packet]]:
    """The connections that the proxy makes for this one, one to each API server: the host that sends, the packet."""
    if path.receiver is None or path.receiver == OUTSIDE or (path.protocol, port) != ("tcp", nginx.API_PORT):
        return
    host = plan.host(path.receiver)
    if host.role == "lb_nginx":
        for asked in map(plan.api_address, plan.hosts_of("master")):
            yield host.name, Packet(_own_address(plan, host.name, asked, None), asked)
