"""What the hosts noted of a packet, beside what the plan has for it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NotRequired

from netaddr import IPAddress
from typing_extensions import TypedDict

from underlay.access import answers
from underlay.access.answers import IPv4, ShapeError, UnreadableError, reading
from underlay.access.sessions import Agent
from underlay.compare.network import LiveNetwork
from underlay.desired.routing import MAIN
from underlay.desired.ruleset import Rule
from underlay.facts import network
from underlay.trace.planned import (
    ANSWERS,
    ARRIVES,
    DELIVERED,
    LEAVES,
    NOTHING,
    POLICY_RULE,
    ROUTE,
    TO_ITSELF,
    TRANSLATED_BACK,
    Packet,
    Path,
    Step,
    Way,
    applies,
    route_text,
    rule_text,
)

NO_RULE = "no rule"
UNREACHABLE = {
    "3/0": "no route to the network",
    "3/1": "the host does not answer",
    "3/3": "nothing listens",
    "3/4": "the packet is too large",
    "11/0": "its TTL ended there",
}
"""What ICMP errors say, by type and code."""
IP_FORWARD = "net.ipv4.ip_forward"
DEFAULT_TTL = "net.ipv4.ip_default_ttl"
DEAD_ENDS = ("blackhole", "unreachable", "prohibit", "throw")
"""What a route is that leads nowhere."""
ARP_SYSCTLS = ("arp_ignore", "arp_filter")
HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")

Verdict = Literal["as planned", "differs", "other rule", "unknown"]


@dataclass(frozen=True)
class Row:
    """A step and what was seen of it; `seen` None: it could not be looked at, or says nothing."""

    step: Step
    seen: str | None
    verdict: Verdict


@dataclass(frozen=True)
class Chain:
    """The packet in one base chain.

    family: of nftables: `ip`, `inet`, …
    out: the NIC it will leave by, where that is known already
    rules: those it met: chain, text (or a handle, where there is no iptables), verdict
    policy: what the chain's policy did; empty if a rule decided
    texts: what nft prints of rules that have a handle here
    """

    way: Way
    table: str
    name: str
    packet: Packet
    out: str
    rules: tuple[tuple[str, str, str], ...]
    policy: str
    family: str = "ip"
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return f"{self.table} {self.name}"

    @property
    def decision(self) -> tuple[str, str]:
        """What became of the packet (`drop`, `accept`, …), and by which rule; without one it is the policy's."""
        for chain, text, verdict in self.rules:
            if verdict in ("drop", "accept", "queue", "stolen"):
                return verdict, text if chain == self.name else f"{text} in chain {chain}"
        return self.policy or "accept", ""


class Around(TypedDict):
    """What is around the packet on a host, see `remote.trace.around`."""

    links: list[tuple[str, str, list[str], str]]
    ports: list[tuple[str, str, str]]
    neighbours: list[tuple[IPv4, str, str, list[str]]]
    qdiscs: list[tuple[str, str, str, int, int]]
    filters: list[tuple[str, str, int, str]]
    policies: list[str]
    counters: dict[str, int]
    arp: list[tuple[str, str, str, IPv4, IPv4, str]]
    chains: list[tuple[str, str, str, str, list[tuple[str, str]]]]
    translating: list[tuple[str, str, str]]
    nft: bool
    legacy: list[tuple[str, str, str, str]]


class Taken(TypedDict):
    """What a kernel does with a packet, see `remote.trace.policy.taken`."""

    route: dict[str, Any] | None
    rule: dict[str, Any] | None
    arguments: str | None
    line: str | None


Came = Literal["own", "came", "back"]
"""A packet that a host made, one that came in by a NIC, and one that would go back to where that came from."""


@dataclass(frozen=True)
class Observation:
    """What one host noted.

    packets: in | out | other, NIC, way, source, destination, kind, TTL (`remote.trace.watch`)
    live: its network; None if it could not be read
    neighbours: those that do not answer ARP
    routes: what the host's routing says: (way, whether the packet came in by a NIC) → the answer of `ip route get`
    taken: by which route and policy rule
    around: what else is there; None if that is not known
    heard: NIC → address of the next hop → the MACs that answer for it
    owner: the program that listens on the port, as far as that is known
    """

    packets: tuple[tuple[Any, ...], ...]
    chains: tuple[Chain, ...]
    live: LiveNetwork | None
    neighbours: frozenset[str]
    routes: dict[tuple[Way, bool], dict[str, Any]]
    taken: Mapping[tuple[Way, Came], Taken] = field(default_factory=dict)
    around: Around | None = None
    heard: Mapping[str, Mapping[str, list[str]]] = field(default_factory=dict)
    owner: str = ""

    def packet(self, direction: str, way: str, nic: str) -> tuple[str, Packet, str] | None:
        """NIC, addresses and kind of the packet, at the planned NIC rather than at others (a bond has several)."""
        found = [each for each in self.packets if (each[0], each[2]) == (direction, way)]
        found.sort(key=lambda each: each[1] != nic)
        if not found:
            return None
        _, at, _, source, destination, kind, *_ = found[0]
        return at, Packet(IPAddress(source), IPAddress(destination)), kind

    def ttl(self, direction: str, way: str) -> int | None:
        """How many hops the packet has left."""
        return next((each[6] for each in self.packets if (each[0], each[2]) == (direction, way)), None)

    def came(self, way: Way, hook: str) -> Chain | None:
        """Whether, and how, the packet came to a hook: noted by the agent's own chains."""
        return next((each for each in self.chains if (each.way, each.table, each.name) == (way, "", hook)), None)

    def chain(self, way: Way, stage: str) -> Chain | None:
        """The packet in a chain, if it met a rule or a policy there."""
        return next((each for each in self.chains if (each.way, each.stage) == (way, stage)), None)

    def dropped(self, way: Way, hook: str) -> Chain | None:
        """The chain of a hook where it ended, if it did."""
        chains = (each for each in self.chains if (each.way, each.name.upper()) == (way, hook) and each.table)
        return next((each for each in chains if each.decision[0] == "drop"), None)


class _Noted(TypedDict):
    """A chain, see `remote.trace.watch`."""

    way: Way
    family: str
    table: str
    chain: str
    source: IPv4
    destination: IPv4
    out: str
    rules: list[tuple[str, str | int, str]]
    policy: NotRequired[str]
    texts: NotRequired[dict[str, str]]


class _Seen(TypedDict):
    packets: list[tuple[str, str, str, IPv4, IPv4, str, int]]
    chains: list[_Noted]
    around: Around


class _Neighbour(TypedDict):
    dst: str
    state: list[str]


RAN = list[tuple[int, str, str]]
"""Of commands: exit code, output, errors."""


def _chain(each: _Noted) -> Chain:
    return Chain(
        each["way"],
        each["table"],
        each["chain"],
        Packet(IPAddress(each["source"]), IPAddress(each["destination"])),
        each["out"],
        tuple((chain, str(text), verdict) for chain, text, verdict in each["rules"]),
        each.get("policy", ""),
        each["family"],
        each.get("texts", {}),
    )


def observe(agent: Agent, steps: Sequence[Step], protocol: str, ports: tuple[int, int], *, lost: bool) -> Observation:
    """Ask a host what it noted, and what its routing says about these packets. Raises UnreachableError.

    ports: the one that sends, the one that is asked
    lost: whether no answer came: then more is asked
    """
    seen: _Seen = agent.ask("seen", None, _Seen)
    found = Observation(tuple(seen["packets"]), tuple(map(_chain, seen["chains"])), None, frozenset(), {})
    asked = {(way, nic != ""): (packet, nic) for way, packet, nic in _routed(found, steps)}
    queries = [
        ["ip", "-j", "-N", "-4", "route", "get", str(packet.destination), "from", str(packet.source)]
        + (["iif", nic] if nic else [])
        for packet, nic in asked.values()
    ]
    nics = dict.fromkeys([*(each[1] for each in found.packets), *(each.nic for each in steps if each.nic)])
    names = ("forwarding", "rp_filter", *ARP_SYSCTLS)
    keys = [_sysctl(nic, name) for nic in ("all", *nics) for name in names]
    reads = [
        ["sh", "-c", network.command([IP_FORWARD, DEFAULT_TTL, *keys])],
        ["ip", "-j", "-4", "neigh", "show"],
        ["ss", "-Hlnp", "-u" if protocol == "udp" else "-t", f"sport = :{ports[1]}"],
    ]
    told = agent.ask("run", [[argv, ""] for argv in (*reads, *queries)], RAN)
    routes = {key: _route(*each) for key, each in zip(asked, told[len(reads) :], strict=True)}
    live: LiveNetwork | None = None
    silent = set()
    with suppress(UnreadableError), reading("the network"):
        live = network.parse(told[0][1].splitlines())
        neighbours: list[_Neighbour] = answers.parsed(list[_Neighbour], told[1][1] or "[]")
        silent = {each["dst"] for each in neighbours if {"FAILED", "INCOMPLETE"} & {*each["state"]}}
    owner = re.search(r'users:\(\("([^"]*)"', told[2][1])
    found = replace(
        found,
        live=live,
        neighbours=frozenset(silent),
        routes=routes,
        around=seen["around"],
        owner=owner[1] if owner else "",
    )
    return _closer(agent, found, steps, asked, protocol, ports) if lost else found


def _closer(
    agent: Agent,
    found: Observation,
    steps: Sequence[Step],
    asked: Mapping[tuple[Way, bool], tuple[Packet, str]],
    protocol: str,
    ports: tuple[int, int],
) -> Observation:
    """With what tells why a packet does not arrive: the routes and policy rules it goes by, who answers ARP."""
    packets: dict[tuple[Way, Came], dict[str, Any]] = {}
    for (way, came), (packet, nic) in asked.items():
        sport, dport = (None, None) if protocol == "icmp" else ports if way == "request" else ports[::-1]
        words = {"protocol": protocol, "sport": sport, "dport": dport}
        ends = {"source": str(packet.source), "destination": str(packet.destination)}
        packets[way, "came" if came else "own"] = {**ends, "nic": nic, **words}
        if came:
            back = {"source": "", "destination": str(packet.source), "nic": ""}
            packets[way, "back"] = {**back, "protocol": protocol, "sport": dport, "dport": sport}
    for step in steps:
        if step.stage == DELIVERED and (step.way, True) not in asked:
            # It did not come: whoever can't be answered gets no answer to ARP either.
            back = {"source": str(step.packet.destination), "destination": str(step.packet.source), "nic": ""}
            packets[step.way, "back"] = {**back, "protocol": protocol, "sport": None, "dport": None}
    taken = dict(zip(packets, agent.ask("taken", [*packets.values()], list[Taken]), strict=False)) if packets else {}
    hops = {
        (str(route["dev"]), hop)
        for (way, came), route in found.routes.items()
        if route.get("dev", "lo") != "lo" and (hop := route.get("gateway") or route.get("dst", ""))
    }
    heard = agent.ask("heard", sorted(hops), dict[str, dict[IPv4, list[str]]]) if hops else {}
    return replace(found, taken=taken, heard=heard)


def _sysctl(nic: str, name: str) -> str:
    # The dot of `bond0.100` is a slash in a key with dots.
    return f"net.ipv4.conf.{nic.replace('.', '/')}.{name}"


def _routed(found: Observation, steps: Sequence[Step]) -> Iterator[tuple[Way, Packet, str]]:
    """The routing decisions that the steps of a host are about: way, packet, and the NIC that it came in by."""
    for step in steps:
        if step.stage not in (ROUTE, DELIVERED):
            continue
        arrival = _arrival(step, steps)
        if arrival is None:
            yield step.way, _own_packet(step, found), ""
        elif came := found.packet("in", step.way, arrival.nic):
            nic, packet, _ = came
            yield step.way, replace(packet, destination=_destination(found, step.way, packet)), nic


def _arrival(step: Step, steps: Sequence[Step]) -> Step | None:
    """The step in which the packet of a step came to its host; None if the host made it."""
    before = steps[: steps.index(step)]
    return next((each for each in before if (each.host, each.way, each.stage) == (step.host, step.way, ARRIVES)), None)


def _destination(found: Observation, way: Way, packet: Packet) -> IPAddress:
    """Where a packet goes after the translation of its destination."""
    for hook in ("forward", "input"):
        if came := found.came(way, hook):
            return came.packet.destination
    chain = found.chain(way, "nat PREROUTING")
    translated = re.search(r"--to-destination ([\d.]+)", chain.decision[1]) if chain else None
    return IPAddress(translated[1]) if translated else packet.destination


def _route(code: int, output: str, error: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with suppress(ShapeError, IndexError):
        found = answers.parsed(list[dict[str, Any]], output)[0] if code == 0 else {}
    if not found:
        return {"error": (error.strip().splitlines() or ["no answer"])[-1].rpartition("answers: ")[2]}
    return found


class Comparison:
    """Puts what was seen beside each step of a path."""

    def __init__(
        self,
        path: Path,
        observations: Mapping[str, Observation],
        forms: Mapping[Rule, str],
        port: int,
        error: str | None,
        *,
        own: bool,
    ) -> None:
        self.path = path
        self.observations = observations
        self.forms = forms
        """The rules of the plan, as the gateway's own iptables writes them."""
        self.port = port
        self.may_be_silent = path.protocol == "udp" and not own and error is not None
        """A service on UDP need not answer; a listener of our own does."""

    def rows(self) -> list[Row]:
        """A row for each step, and one for each rule that no step expects and that did something to the packet."""
        rows = []
        for step in self.path.steps:
            observation = self.observations.get(step.host)
            seen = self._seen(step, observation) if observation else None
            rows.append(Row(step, seen, self._verdict(step, seen, observation)))
        for name, observation in self.observations.items():
            for chain in observation.chains:
                self._insert_unexpected(rows, name, chain)
        return rows

    def _verdict(self, step: Step, seen: str | None, observation: Observation | None) -> Verdict:
        if seen is None:
            return "unknown"
        if seen == step.expected:
            return "as planned"
        chain = observation.chain(step.way, step.stage) if observation else None
        # An unmanaged rule may do the same before ours does.
        if step.stage == "filter FORWARD" and chain and chain.decision[0] == "accept":
            return "other rule" if chain.decision[1] and chain.decision[1] not in self.forms.values() else "differs"
        return "differs"

    def _seen(self, step: Step, found: Observation) -> str | None:
        looks = {
            POLICY_RULE: self._policy_rule,
            ROUTE: self._routed,
            LEAVES: self._left,
            ARRIVES: self._arrived,
            DELIVERED: self._delivered,
            ANSWERS: self._answered,
            TRANSLATED_BACK: self._translated_back,
        }
        return looks.get(step.stage, self._met)(step, found)

    def _arrived(self, step: Step, found: Observation) -> str | None:
        seen = _packet_text(step, found.packet("in", step.way, step.nic))
        return seen or (None if self._silent(step.way) and step.expected != NOTHING else NOTHING)

    def _left(self, step: Step, found: Observation) -> str | None:
        seen = _packet_text(step, found.packet("out", step.way, step.nic))
        if seen:
            return seen
        if self._silent(step.way):
            return None
        route = found.routes.get((step.way, self._arrival(step) is not None), {})
        hop = route.get("gateway") or route.get("dst", "")
        if hop in found.neighbours and self._on_its_way(step, found):
            return f"{NOTHING}: {hop} does not answer ARP on {route.get('dev')}"
        links = found.live.links if found.live else {}
        if step.nic and not links.get(step.nic, False):
            return f"{NOTHING}: {step.nic} is down"
        return NOTHING

    def _on_its_way(self, step: Step, found: Observation) -> bool:
        """Whether a packet that did not leave was to leave: it was forwarded, or is the host's own."""
        return self._arrival(step) is None or found.came(step.way, "forward") is not None

    def _arrival(self, step: Step) -> Step | None:
        return _arrival(step, self.path.steps)

    def _silent(self, way: Way) -> bool:
        return way == "answer" and self.may_be_silent and self.reached

    @cached_property
    def reached(self) -> bool:
        """Whether the request got to a service of the receiver that did not refuse it."""
        receiver = self.observations.get(self.path.receiver or "")
        return bool(
            receiver
            and receiver.came("request", "input")
            and not receiver.dropped("request", "INPUT")
            and not any(each[0] == "out" and each[2] in ("answer", "error") for each in receiver.packets)
        )

    def _policy_rule(self, step: Step, found: Observation) -> str | None:
        route = found.routes.get((step.way, False), {})
        if not route or found.live is None:
            return None
        if "error" in route:
            return self._refused(step, found, route["error"])
        packet, table = _own_packet(step, found), int(route.get("table", MAIN))
        for rule in found.live.rules:
            if rule.table == table and applies(rule, packet.source, packet.destination):
                return rule_text(rule)
        return f"a rule for table {table}"

    def _routed(self, step: Step, found: Observation) -> str | None:
        arrival = self._arrival(step)
        route = found.routes.get((step.way, arrival is not None))
        if arrival and (not found.packet("in", step.way, "") or found.dropped(step.way, "PREROUTING")):
            return None if self._silent(step.way) else NOTHING
        if route is None:
            return None
        if "error" in route:
            return self._refused(step, found, route["error"])
        if route.get("dev") == "lo":
            return TO_ITSELF
        if not step.nic:
            return route_text(route.get("gateway", ""), "", MAIN)
        return route_text(route.get("gateway", ""), str(route.get("dev")), int(route.get("table", MAIN)))

    def _refused(self, step: Step, found: Observation, error: str) -> str:
        """What it means that a host's routing has no route for a packet."""
        arrival = self._arrival(step)
        taken = found.taken.get((step.way, "came" if arrival else "own"))
        if taken and (taken["line"] or "").startswith(DEAD_ENDS):
            return f"taken by the route {taken['line']}"
        came = found.packet("in", step.way, arrival.nic) if arrival else None
        sysctls = found.live.sysctls if found.live else {}
        nic = came[0] if came else ""
        # Before Linux 6.17 or so EXDEV, now EINVAL, which also says that a source address can't be true.
        if came and error in ("Invalid cross-device link", "Invalid argument"):
            if {sysctls.get(_sysctl(each, "rp_filter"), "0") for each in ("all", nic)} == {"0"}:
                return f"dropped on {nic}: its source address can't be true there"
            back = found.routes.get(("request" if step.way == "answer" else "answer", False), {}).get("dev")
            return f"dropped by rp_filter on {nic}" + (f": the way back is {back}" if back else "")
        off = [key for key in (IP_FORWARD, _sysctl(nic, "forwarding")) if came and sysctls.get(key) == "0"]
        return f"no forwarding: {off[0]} is 0" if off else f"no route ({error})"

    def _delivered(self, step: Step, found: Observation) -> str | None:
        if found.came(step.way, "input"):
            return TO_ITSELF
        came = found.packet("in", step.way, step.nic)
        if not came:
            return None if self._silent(step.way) else NOTHING
        if found.dropped(step.way, "PREROUTING"):
            return NOTHING
        route = found.routes.get((step.way, True), {})
        if "error" in route:
            return self._refused(step, found, route["error"])
        return f"{NOTHING}: forwarded" if found.came(step.way, "forward") else NOTHING

    def _answered(self, step: Step, found: Observation) -> str | None:
        if answer := found.packet("out", "answer", step.nic):
            return f"refused: nothing listens on port {self.port}" if answer[2] == "reset" else "yes"
        if refusal := found.packet("out", "error", ""):
            said = UNREACHABLE.get(refusal[2], f"ICMP {refusal[2]}")
            return f"refused: {said} on port {self.port}"
        if self._silent("answer"):
            return None
        return "no" if found.came("request", "input") else NOTHING

    def _translated_back(self, step: Step, found: Observation) -> str | None:
        if left := found.packet("out", step.way, ""):
            return f"back to {left[1]}"
        if not found.packet("in", step.way, ""):
            return None if self._silent(step.way) else NOTHING
        if forwarded := found.came(step.way, "forward"):
            # Its source is put right on the way out only.
            return f"back to {replace(forwarded.packet, source=self.path.packet.destination)}"
        return "not translated" if found.came(step.way, "input") else NOTHING

    def _met(self, step: Step, found: Observation) -> str | None:
        chain = found.chain(step.way, step.stage)
        assert step.rule is not None  # a step in a chain has the rule that is to be met
        if chain is None:
            if self._passed_hook(step.way, step.rule.chain, found):
                return NO_RULE
            return None if self._silent(step.way) else NOTHING
        decision, text = chain.decision
        form = self.forms.get(step.rule, step.rule.spec)
        if decision == "drop":
            return step.expected if text == form else self._dropped(text)
        if form in (text for _, text, _ in chain.rules):
            return step.expected
        met = [spec for _, spec, verdict in chain.rules if verdict == "accept" or _is_notrack(spec)]
        return self._owned(met[0]) if met else NO_RULE

    def _passed_hook(self, way: Way, chain: str, found: Observation) -> bool:
        hooks = {"PREROUTING": "prerouting", "FORWARD": "forward", "OUTPUT": "output", "INPUT": "input"}
        if chain == "POSTROUTING":
            return any(found.came(way, hook) for hook in ("forward", "output"))
        return found.came(way, hooks[chain]) is not None

    def _dropped(self, text: str) -> str:
        return f"DROPPED by {self._owned(text)}" if text else "DROPPED by the chain's policy"

    def _owned(self, text: str) -> str:
        """A rule with its owner: a line of the plan, or none."""
        for rule, form in self.forms.items():
            if form == text:
                return f"{rule.spec} ({rule.origin})"
        return f"{text} (not in the plan)" if not text.isdecimal() else f"the rule with handle {text} (not in the plan)"

    def _insert_unexpected(self, rows: list[Row], host: str, chain: Chain) -> None:
        base = chain.name in HOOKS or chain.decision[0] == "drop"
        own = [row.step for row in rows if (row.step.host, row.step.way) == (host, chain.way)]
        if not chain.table or not base or not own or any(step.stage == chain.stage for step in own):
            return
        decision, text = chain.decision
        untracked = next((spec for _, spec, _ in chain.rules if _is_notrack(spec)), "")
        if decision == "drop":
            seen = self._dropped(text)
        elif (chain.table == "nat" and text) or untracked:
            seen = self._owned(untracked or text)
        else:
            return
        step = Step(chain.way, host, chain.stage, NO_RULE, chain.packet)
        rows.insert(_place(rows, own, chain), Row(step, seen, "differs"))


def _place(rows: list[Row], own: list[Step], chain: Chain) -> int:
    """Where, among the steps of its host, a rule belongs that no step expects."""
    steps = [row.step for row in rows]
    before = {
        "PREROUTING": (TRANSLATED_BACK, ROUTE, DELIVERED, "filter FORWARD", LEAVES),
        "INPUT": (ANSWERS, LEAVES),
        "FORWARD": ("nat POSTROUTING", LEAVES),
    }.get(chain.name.upper(), (LEAVES,))
    arrived = next((index for index, step in enumerate(own) if step.stage == ARRIVES), -1)
    first = arrived + 1 if chain.name.upper() not in ("OUTPUT", "POSTROUTING") else 0
    for step in own[first:]:
        if step.stage in before:
            return steps.index(step)
    return steps.index(own[-1]) + 1


def _packet_text(step: Step, found: tuple[str, Packet, str] | None) -> str:
    if found is None:
        return ""
    nic, packet, _ = found
    return f"{nic} {packet}" if step.nic else str(packet)


def _own_packet(step: Step, found: Observation) -> Packet:
    asked = found.packet("in", "request", "") if step.way == "answer" else None
    return asked[1].reversed if asked else step.packet


def _is_notrack(spec: str) -> bool:
    return spec.endswith(("-j NOTRACK", "-j CT --notrack"))
