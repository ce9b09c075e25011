"""Plan → what the traffic must look like: every connection that has to work, and how its receiver sees it; and those
that must not. Pure.

The expectations are written down from what the site is for, not computed from the rules that bring it about; only
`why` looks at those, to tell a person where to look.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

from netaddr import IPAddress, IPNetwork, IPSet

from underlay.desired import nat, nginx, routing
from underlay.desired.ruleset import Rule
from underlay.plan import OUTSIDE, ROLES, Host, Network, Plan

EPHEMERAL = 32768
"""The kernel chooses ports from here on."""


@dataclass(frozen=True)
class Flow:
    """One TCP connection that has to work, or must not.

    role: whose check it is: of the hosts on its way, the one that is deployed last
    row: what it is an example of, for people
    source: the host that connects, from its address `source_address`
    destination, port: what it connects to; port None is a listener of our own on a free port
    receivers: the hosts of which one must be the one that answers
    through: the proxies in between
    seen_as: the source address that the receiver sees
    tracked: whether the gateway must have an entry in its connection table; None if it does not matter
    must_not: it must not reach its receivers; how they would see it does not matter then
    router: by whom it is sent, whatever routes the source has; None for those that it has
    """

    role: str
    row: str
    source: str
    source_address: IPAddress
    destination: IPAddress
    port: int | None
    receivers: tuple[str, ...]
    seen_as: IPAddress
    tracked: bool | None
    through: tuple[str, ...] = ()
    must_not: bool = False
    router: IPAddress | None = None

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"{self.source} {self.source_address} -> {self.destination}{port}"

    @property
    def hosts(self) -> set[str]:
        """The hosts that it needs."""
        return {self.source, *self.receivers, *self.through}


def expected(plan: Plan, outside: IPAddress | None) -> list[Flow]:
    """Every flow of a plan; `outside` is an address beyond the upstream router that answers, if there is one."""
    return list(_Site(plan, outside).flows())


def forbidden(plan: Plan, outside: IPAddress | None) -> list[Flow]:
    """Every flow that must not get through: from outside, only published addresses lead inside.

    Where forwarding is open, what keeps the internal addresses unreachable is that no route outside leads to them: the
    gateway forwards to its networks whatever it is sent. Where it is planned, it does not: so hosts of its network send
    to it as those with such a route would.
    """
    return list(_Site(plan, outside).forbidden())


def sample(plan: Plan, most: int, *names: str) -> Plan:
    """The plan with at most so many hosts of each role, and those of these names.

    There are flows between all pairs of hosts: millions on a large site.
    """
    kept = {each.name for role in {each.role for each in plan.hosts} for each in plan.hosts_of(role)[:most]}
    return plan.model_copy(update={"hosts": tuple(each for each in plan.hosts if each.name in {*kept, *names})})


@dataclass(frozen=True)
class _End:
    """A host's address, and the network it is in (None: beyond the upstream router)."""

    host: str
    address: IPAddress
    network: Network | None


class _Site:
    def __init__(self, plan: Plan, outside: IPAddress | None) -> None:
        self.plan = plan
        inner = [host for host in plan.hosts if host.role != "gateway"]
        self.published = [end for host in inner if host.published for end in self._internal(host)]
        self.nodes = [host for host in inner if not host.published and self._internal(host)]
        self.world = [end for host in inner for end in self._ends(host) if end.network == plan.enterprise]
        if outside is not None:
            self.world.append(_End(OUTSIDE, outside, None))

    def _ends(self, host: Host) -> list[_End]:
        return [_End(host.name, nic.address, self.plan.network(nic.network)) for nic in host.interfaces]

    def _internal(self, host: Host) -> list[_End]:
        return [end for end in self._ends(host) if end.network in self.plan.internal]

    def flows(self) -> Iterator[Flow]:
        """In the order of the table in the docs."""
        nodes = [end for node in self.nodes for end in self._internal(node)]
        inner = (*self.published, *nodes)
        for one, other in product(inner, self.world):
            if one.host != other.host:
                yield self._flow("internal hosts to the world", one, other, self._leaves_as(one), tracked=True)
        yield from self._from_workstations()
        yield from self._inside(nodes)
        yield from self._from_gateway(nodes)
        for one, host in product(inner, self.plan.published):
            yield self._to_published("published addresses from inside", one, host, self._leaves_as(one))

    def _inside(self, nodes: Sequence[_End]) -> Iterator[Flow]:
        for one in self.published:
            for other in (*self.published, *nodes):
                if one.host != other.host:
                    yield self._unchanged("published hosts to internal ones", one, other)
        for one, other in product(nodes, self.published):
            yield self._unchanged("nodes to published hosts", one, other)
        # A ring: each node is once the one that connects and once the one that answers, however many there are.
        for node, following in zip(self.nodes, [*self.nodes[1:], *self.nodes[:1]], strict=True):
            if node != following:
                for one, other in product(self._internal(node), self._internal(following)):
                    yield self._unchanged("nodes to nodes", one, other)

    def forbidden(self) -> Iterator[Flow]:
        # A host that has a NIC inside is in no need of a way in.
        outer = [end for end in self.world if end.network is None or not self._internal(self.plan.host(end.host))]
        inner = [*self.published, *(end for node in self.nodes for end in self._internal(node))]
        planned = self.plan.forwarding == "planned"
        for one in outer:
            router = self.plan.gateway.primary.address if planned and one.network else None
            for other in inner:
                if not self._excepted(one, other.address):
                    flow = self._flow("outside to inside, must not", one, other, one.address)
                    yield replace(flow, must_not=True, router=router)
            for host in self.plan.published:
                # Tried at a free port, which may be one of those.
                if host.ports and not (_may_be_free(host.ports) or self._excepted(one, _published(host))):
                    row = "ports that are not published, must not"
                    yield replace(self._to_published(row, one, host, one.address), must_not=True)

    def _excepted(self, one: _End, asked: IPAddress) -> bool:
        """Whether an exception of the plan may let this in, at a free port."""
        return any(
            one.address in each.source
            and asked in each.destination
            and (each.ports is None or _may_be_free(each.ports))
            for each in self.plan.exceptions
        )

    def _leaves_as(self, end: _End) -> IPAddress:
        """As what the enterprise network and the world see an internal address."""
        host = self.plan.host(end.host)
        if host.published is not None and end.address == host.primary.address:
            return host.published
        return self.plan.gateway.primary.address

    def _from_workstations(self) -> Iterator[Flow]:
        for host in self.plan.hosts_of("workstation"):
            for end in self._ends(host):
                if end.network != self.plan.enterprise:
                    continue
                gateway, at = self._ends(self.plan.gateway)[0], self.plan.gateway.login.port
                yield self._flow("workstation to the gateway", end, gateway, end.address, port=at)
                for other in self.plan.published:
                    for port in (*_served(other), None):
                        if other.admits("tcp", port):
                            row = "workstation to published hosts"
                            yield self._to_published(row, end, other, end.address, port)
                    api = other.role == "lb_nginx" and other.admits("tcp", nginx.API_PORT)
                    if api and self.plan.hosts_of("master"):
                        yield self._to_api(end, other)

    def _to_published(self, row: str, one: _End, host: Host, seen_as: IPAddress, port: int | None = None) -> Flow:
        target = _End(host.name, host.primary.address, self.plan.network(host.primary.network))
        return self._flow(row, one, target, seen_as, tracked=True, asked=_published(host), port=port)

    def _to_api(self, one: _End, lb: Host) -> Flow:
        masters = self.plan.hosts_of("master")
        api = self.plan.api_address(masters[0])
        near = next((nic for nic in lb.interfaces if api in nic.cidr), lb.primary)
        flow = self._to_published("", one, lb, near.address, nginx.API_PORT)
        receivers = tuple(master.name for master in masters)
        return replace(flow, row="the API behind the load balancer", receivers=receivers, through=(lb.name,))

    def _from_gateway(self, nodes: Sequence[_End]) -> Iterator[Flow]:
        for one in self._ends(self.plan.gateway):
            near = [end for end in (*self.world, *self.published, *nodes) if end.network == one.network]
            if one.network == self.plan.enterprise:
                near += [end for end in self.world if end.network is None]
            for other in near:
                untracked = False if one.network in self.plan.internal else None
                yield self._flow("the gateway to its networks", one, other, one.address, tracked=untracked)

    def _unchanged(self, row: str, one: _End, other: _End) -> Flow:
        tracked = None if one.network == other.network else False
        return self._flow(row, one, other, one.address, tracked=tracked)

    def _flow(
        self,
        row: str,
        one: _End,
        other: _End,
        seen_as: IPAddress,
        *,
        tracked: bool | None = None,
        asked: IPAddress | None = None,
        port: int | None = None,
    ) -> Flow:
        return Flow(
            role=self._role(one.host, other.host),
            row=row,
            source=one.host,
            source_address=one.address,
            destination=asked or other.address,
            port=port,
            receivers=(other.host,),
            seen_as=seen_as,
            tracked=tracked,
        )

    def _role(self, *hosts: str) -> str:
        roles = {host.role for host in self.plan.hosts if host.name in hosts}
        # Between hosts that have no deploy there is still the gateway.
        return max((role for role in ROLES if role in roles), key=ROLES.index, default="gateway")


def _published(host: Host) -> IPAddress:
    assert host.published is not None  # callers go through plan.published
    return host.published


def _may_be_free(ports: Sequence[str]) -> bool:
    """Whether a listener of ours, on a port that the kernel chooses, may have one of these."""
    last = (re.fullmatch(r"tcp/(?:\d+-)?(\d+)", each) for each in ports)
    return any(int(found[1]) >= EPHEMERAL for found in last if found)


def why(plan: Plan, flow: Flow) -> list[str]:
    """Where to look if a flow is not as expected: the rules and routes that bring it about, with their plan lines."""
    if flow.must_not:
        return _why_not(plan, flow)
    receiver = flow.through[0] if flow.through else flow.receivers[0]
    answers_from = flow.destination
    for host in plan.published:
        if host.published == flow.destination:
            answers_from = host.primary.address
    found = [
        *_rules(plan, flow, answers_from),
        *_routes(plan, flow.source, flow.source_address),
        *_routes(plan, receiver, answers_from),
        *(f"{name}: the proxy in between, for {' or '.join(flow.receivers)}" for name in flow.through),
    ]
    return list(dict.fromkeys(found))  # the same host may be at both ends


def _why_not(plan: Plan, flow: Flow) -> list[str]:
    rules = nat.gateway_rules(plan)
    if plan.forwarding == "planned" and (flow.router or flow.destination not in _inside(plan)):
        stops = [rule for rule in rules if rule.table == "filter" and rule.spec.endswith("-j DROP")]
        found = ["an unmanaged rule before these that accepts it, or one of these that is missing:"]
        return found + [f"rule {rule.table} {rule.chain} {rule.spec} ({rule.origin})" for rule in stops]
    network = next(network for network in plan.internal if flow.destination in network.cidr)
    way_out = plan.line("networks", plan.enterprise.name, "upstream")
    found = [
        f"{flow.source}: no route to {network.cidr} but the default one; ip route get {flow.destination}",
        f"the upstream router {plan.enterprise.upstream}: no route to {network.cidr} ({way_out})",
    ]
    if plan.forwarding == "planned":
        return found
    passes = [rule for rule in rules if rule.table == "filter" and f"-d {network.cidr} " in rule.spec]
    return found + [
        f"no rule stops what is sent to the gateway: {rule.table} {rule.chain} {rule.spec} ({rule.origin})"
        for rule in passes
    ]


def _inside(plan: Plan) -> IPSet:
    return IPSet([network.cidr for network in plan.internal])


def _rules(plan: Plan, flow: Flow, answers_from: IPAddress) -> Iterator[str]:
    """The gateway's rules that a flow meets, if it goes through the gateway."""
    source, destination = flow.source_address, flow.destination
    local = flow.source == plan.gateway.name
    if not local and any(source in network.cidr and destination in network.cidr for network in plan.internal):
        return
    untracked = False
    near, far = _gateway_nic(plan, source), _gateway_nic(plan, answers_from)
    request = Forwarded(source, answers_from, near, far, source, destination, False, "tcp", flow.port)
    answer = replace(request, nic_in=far, nic_out=near, source=answers_from, destination=source, answer=True)
    for rule in nat.gateway_rules(plan):
        match rule.table, rule.chain:
            case ("raw", "OUTPUT"):
                met = local and matches(rule, source, destination)
            case ("raw", _):
                # Without the rule for the way back, the answer would be translated.
                met = not local and (matches(rule, source, destination) or matches(rule, destination, source))
            case ("filter", _):
                passes = request.meets(rule) or ("--ctdir" in rule.spec and answer.meets(rule))
                met = not local and passes and not rule.spec.endswith("-j DROP")
            case (_, "PREROUTING"):
                met = not (local or untracked) and matches(rule, source, destination)
            case _:
                met = not (local or untracked) and matches(rule, source, answers_from)
        if met:
            yield f"rule {rule.table} {rule.chain} {rule.spec} ({rule.origin})"
            untracked |= rule.table == "raw"
            if rule.chain == "POSTROUTING":  # the first one is taken
                return


def _served(host: Host) -> tuple[int, ...]:
    """The ports of a published host where a real service must be reached."""
    return {"jumphost": (host.login.port,), "lb_nginx": (nginx.HTTP_PORT,)}.get(host.role, ())


def _gateway_nic(plan: Plan, address: IPAddress) -> str:
    """By which the gateway reaches an address."""
    return next((nic.nic for nic in plan.gateway.interfaces if address in nic.cidr), plan.gateway.primary.nic)


def matches(rule: Rule, source: IPAddress, destination: IPAddress) -> bool:
    """Whether a rule of the plan is for packets from `source` to `destination`, as far as it asks for these."""
    ends = {"-s": source, "-d": destination}
    return all(ends[flag] in IPNetwork(value) for flag, value in pairwise(rule.spec.split()) if flag in ends)


@dataclass(frozen=True)
class Forwarded:
    """A packet as the gateway's rules see it when it is forwarded.

    nic_in, nic_out: the NICs that it comes and goes by
    asker, asked: the addresses with which its connection began
    answer: it goes to whom began
    port: the one that was asked; None for a free one, and for icmp
    """

    source: IPAddress
    destination: IPAddress
    nic_in: str
    nic_out: str
    asker: IPAddress
    asked: IPAddress
    answer: bool
    protocol: str
    port: int | None

    def meets(self, rule: Rule) -> bool:
        """Whether a rule of the plan's forwarding is for it."""
        return matches(rule, self.source, self.destination) and all(
            self._has(flag, value) for flag, value in pairwise(rule.spec.split())
        )

    def _has(self, flag: str, value: str) -> bool:
        match flag:
            case "-i" | "-o":
                return value == (self.nic_in if flag == "-i" else self.nic_out)
            case "--ctdir":  # of answers
                return self.answer
            case "--ctorigsrc" | "--ctorigdst":
                return (self.asker if flag == "--ctorigsrc" else self.asked) in IPNetwork(value)
            case "--ctproto":
                return value == self.protocol
            case "--ctorigdstport":
                first, _, last = value.partition(":")
                return self.port is not None and int(first) <= self.port <= int(last or first)
        return True


def _routes(plan: Plan, name: str, address: IPAddress) -> Iterator[str]:
    host = next((host for host in plan.hosts if host.name == name and host.role in ROLES), None)
    nic = next((nic for nic in host.interfaces if nic.address == address), None) if host else None
    if host and nic:
        line = plan.line("hosts", name, "addresses", nic.network)
        for route in routing.host_network(plan, host).routes:
            if route.source == str(address) and route.via:
                yield f"{name}: route {route.arguments} ({line})"
