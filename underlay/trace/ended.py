"""Where a packet, or its answer, ended, and by what: a step of a host, and the object there that took it. Pure.

The first step that differs says where to look; there what is around it (`seen.Around`) is compared with what the plan
and the other end say.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from netaddr import IPNetwork

from underlay.compare.tables import BUILTIN_CHAINS, words
from underlay.desired import routing
from underlay.desired.routing import MAIN, PRIORITIES
from underlay.plan import OUTSIDE, ROLES, Host, Interface, Plan
from underlay.text import command
from underlay.trace.planned import (
    ANSWERS,
    ARRIVES,
    DELIVERED,
    LEAVES,
    NOTHING,
    POLICY_RULE,
    ROUTE,
    TRANSLATED_BACK,
    Packet,
    Path,
    Step,
)
from underlay.trace.seen import (
    ARP_SYSCTLS,
    DEAD_ENDS,
    DEFAULT_TTL,
    IP_FORWARD,
    Around,
    Came,
    Chain,
    Observation,
    Row,
    Taken,
)

USUAL_QDISCS = ("noqueue", "mq", "mqprio", "pfifo_fast", "pfifo", "bfifo", "fq", "fq_codel", "cake", "sfq", "codel")
TAKES = re.compile(r"\b(action|police|gact|mirred|drop|direct-action|classid|flowid)\b")
"""What a filter of traffic control that takes packets has in its text."""
SETS_TTL = re.compile(r"-j TTL\b|\bip ttl set\b")
FEW_HOPS = 16
MARKS = ("MARK", "CONNMARK")
ALTERS = ("CT", "NOTRACK", "TPROXY", "SNAT", "DNAT", "MASQUERADE", "REDIRECT", "NETMAP")
PASSES = ("accept", "return")
HANDED = ("queue", "stolen")
COUNTERS = {
    "IpInHdrErrors": "broken headers, or a TTL that ended",
    "IpInAddrErrors": "an address that the host does not take or forward",
    "IpExtInNoRoutes": "no route for what came in",
    "IpOutNoRoutes": "no route for what goes out",
    "IpInDiscards": "no room for what came in",
    "IpOutDiscards": "no room for what goes out",
    "TcpExtIPReversePathFilter": "the source address leads to another NIC (rp_filter)",
    "TcpExtListenOverflows": "the queue of connections that nobody has accepted yet is full",
    "TcpExtListenDrops": "a listener did not take a connection",
    "TcpExtTCPReqQFullDrop": "too many connections that are half open",
    "TcpExtArpFilter": "ARP that arp_filter did not answer",
    "XfrmInPolBlock": "an IPsec policy blocks what comes in",
    "XfrmInNoPols": "no IPsec policy for what comes in",
    "XfrmInTmplMismatch": "an IPsec policy wants what comes in encrypted",
    "XfrmOutPolBlock": "an IPsec policy blocks what goes out",
    "XfrmOutNoStates": "an IPsec policy without a key for what goes out",
    "conntrack drop": "the connection table is full",
    "conntrack insert_failed": "a connection could not be entered in the table",
    "neighbours table_fulls": "the table of neighbours is full",
}
"""What the kernel counts when it drops a packet, and what it means."""


@dataclass(frozen=True)
class Ended:
    """Where a packet ended.

    id: the kind of what took it, as the doctor names causes
    host: where that is
    what: what it is, in words behind the host's name
    named: whether it is an object that is there by itself; else only the place is known
    undo: the command, as root on the host, that takes it away; empty if there is none
    hook: of a rule of iptables that drops, the built-in chain from which it was met
    evidence, advice: for people
    """

    id: str
    host: str
    what: str
    named: bool = False
    undo: str = ""
    evidence: tuple[str, ...] = ()
    advice: str = ""
    hook: str = ""


def ended(
    plan: Plan,
    path: Path,
    rows: Sequence[Row],
    observations: Mapping[str, Observation],
    ours: frozenset[str],
    unasked: Mapping[str, str],
    error: str | None,
    port: int,
) -> Ended | None:
    """Where the packet of a path ended; None if it did not, or nothing is known.

    ours: the plan's rules, as the gateway's iptables writes them
    """
    return _Search(plan, path, rows, observations, ours, unasked, port).find(error)


def shaped(plan: Plan, path: Path, observations: Mapping[str, Observation]) -> tuple[Ended, ...]:
    """What may hold packets back, or drop some, at the NICs of a path."""
    search = _Search(plan, path, (), observations, frozenset(), {}, 0)
    found = []
    for name, seen in observations.items():
        for nic, *_ in seen.around["links"] if seen.around else ():
            taken = search.traffic_control(name, nic, ("egress", "root"), any_use=True)
            found += [each for each in (taken, search.traffic_control(name, nic, ("ingress",), any_use=True)) if each]
    return tuple(found)


class _Search:
    def __init__(
        self,
        plan: Plan,
        path: Path,
        rows: Sequence[Row],
        observations: Mapping[str, Observation],
        ours: frozenset[str],
        unasked: Mapping[str, str],
        port: int,
    ) -> None:
        self.plan, self.path, self.rows = plan, path, rows
        self.observations, self.ours, self.unasked, self.port = observations, ours, unasked, port

    def find(self, error: str | None) -> Ended | None:
        """The first that explains what was seen."""
        row = next((row for row in self.rows if row.verdict == "differs"), None)
        if row is None:
            return self._behind() if error else None
        found = self.observations.get(row.step.host)
        if found is None:
            return Ended("packet-lost", row.step.host, f"it can't send: {row.seen}")
        if self._unknown_before(row) and not found.packet("in", row.step.way, ""):
            return self._behind()
        return next(self._candidates(row, found), None)

    def _candidates(self, row: Row, found: Observation) -> Iterator[Ended]:
        step, name = row.step, row.step.host
        for chain in found.chains:
            if chain.way == step.way and chain.table and chain.decision[0] == "drop":
                yield self._rule(name, chain, "drops packets")
        mine = [chain for chain in found.chains if chain.way == step.way]
        if mine and mine[-1].table and mine[-1].decision[0] in HANDED:
            yield self._rule(name, mine[-1], "hands packets to a program that gives none back")
        came: Came = "came" if self._came(step, found) else "own"
        if step.stage == ARRIVES and row.seen == NOTHING:
            yield self._between(step)
        if step.stage in (ROUTE, POLICY_RULE) and (taken := self._taken(name, found.taken.get((step.way, came)))):
            yield taken
        if step.stage == ANSWERS and found.came(step.way, "input"):
            yield self._service(row, found)
        if step.stage == ARRIVES or found.packet("out", step.way, "") or found.came(step.way, "input"):
            yield self._elsewhere(row, found)
        hooks = ("input", "forward") if came == "came" else ("output",)
        ended_here = not any(found.came(step.way, hook) for hook in hooks)
        if came == "came" and ended_here:
            yield from self._port(name, self._nic_of(step, found))
        if came == "came" and not found.came(step.way, "prerouting"):
            yield self._at_the_nic(step, found)
        if ended_here:
            yield next(self._routing(row, found, came))
        yield self._leaving(step, found)

    # --- where -------------------------------------------------------------------------------------------------------

    def _unknown_before(self, row: Row) -> bool:
        """Whether a host that can't be asked stands before a step."""
        before = self.rows[: self.rows.index(row)]
        return any(each.verdict == "unknown" and each.step.host in self.unasked for each in before)

    def _behind(self) -> Ended | None:
        """What is known where the next host can't be asked."""
        index = next((index for index, row in enumerate(self.rows) if row.step.host in self.unasked), None)
        if not index or self.rows[index].step.stage != ARRIVES:
            return None
        step = self.rows[index].step
        if self.rows[index - 1].step.host not in self.observations:
            return None
        return self._between(step)

    def _came(self, step: Step, found: Observation) -> bool:
        return found.packet("in", step.way, "") is not None and any(
            (each.host, each.way, each.stage) == (step.host, step.way, ARRIVES) for each in self.path.steps
        )

    def _nic(self, name: str, wanted: str) -> str:
        """The NIC of a step, which the plan does not know of hosts that are not ours."""
        around = self._around(name)
        if wanted or around is None:
            return wanted
        return around["links"][0][0] if len(around["links"]) == 1 else ""

    def _around(self, name: str) -> Around | None:
        found = self.observations.get(name)
        return found.around if found else None

    def _packet(self, step: Step) -> str:
        what = "the answer" if step.way == "answer" else "the packet"
        return f"{what} {step.packet}"

    # --- on the wire -------------------------------------------------------------------------------------------------

    def _between(self, arrives: Step) -> Ended:
        """It left a host, or was to, and did not arrive at the next one."""
        left = self.path.steps[self.path.steps.index(arrives) - 1]
        one, other = left.host, arrives.host
        found = self.observations[one]
        hop, nic = self._hop(left, found)
        nic = self._nic(one, left.nic) or nic
        at = self._nic(other, arrives.nic)
        if one == other:  # between the two is a machine that is in no plan
            what = f"the packet {left.packet} left {one} {nic}, and no answer came back"
            advice = f"look at {left.packet.destination}, and at what is between {one} {nic} and it"
            return Ended("packet-lost", OUTSIDE, what, advice=advice)
        if hop and (wrong := self._neighbour(one, nic, hop, other, at)):
            return wrong
        around = self._around(other)
        for link in around["links"] if around else []:
            if link[0] == at and link[3]:
                return self._program(other, link[0], link[3])
        if other in self.unasked and found.heard.get(nic, {}).get(hop):
            what = f"it answers ARP, and {self._packet(arrives)} that left {one} {nic} for it gets no answer"
            back = command("ip", "route", "get", arrives.packet.source)
            advice = "its packet filter, a full connection table, its way back, its neighbours: at its console "
            advice += f"iptables-save; nft list ruleset; conntrack -C; {back}; ip neigh"
            return Ended("packet-lost", other, what, evidence=(self.unasked[other],), advice=advice)
        if other in self.unasked:
            what = f"{self._packet(arrives)} left {one} {nic} for {other}, which can't be asked"
            return Ended("packet-lost", one, what, evidence=(self.unasked[other],))
        heard = self.observations[other].packet("other", arrives.way, at)
        what = f"{self._packet(arrives)} left {one} {nic} and did not arrive at {other} {at}"
        evidence = (f"{other} saw it on {heard[0]}, for the MAC of another machine",) if heard else ()
        advice = (
            f"look at what is between {one} {nic} and {other} {at}: cables, the ports of the switch and their VLANs"
        )
        return Ended("packet-lost", one, what.strip(), evidence=evidence, advice=advice)

    def _hop(self, left: Step, found: Observation) -> tuple[str, str]:
        """The address of the next hop and the NIC to it, by the host's own routing."""
        came = any((each.host, each.way, each.stage) == (left.host, left.way, ARRIVES) for each in self.path.steps)
        route = found.routes.get((left.way, came), {})
        return str(route.get("gateway") or route.get("dst", "")), str(route.get("dev", ""))

    def _neighbour(self, one: str, nic: str, hop: str, other: str, at: str) -> Ended | None:
        """What is wrong with how a host finds the MAC of the next one."""
        found, around = self.observations[one], self._around(one)
        if around is None:
            return None
        entry = next((each for each in around["neighbours"] if each[:2] == (hop, nic)), None)
        next_to = self._around(other)
        own = {link[1] for link in next_to["links"] if link[0] == at} if next_to else set()
        heard = set(found.heard.get(nic, {}).get(hop, []))
        true = own or heard
        if entry and entry[2] and not {"FAILED", "INCOMPLETE"} & {*entry[3]}:
            if not true or entry[2] in true:
                return self._duplicate(one, hop, other, heard, own)
            evidence = f"ip neigh on {one}: {hop} dev {nic} lladdr {entry[2]} {' '.join(entry[3])}"
            truth = f"{hop} is {other}, whose MAC is {', '.join(sorted(true))}"
            if {"PERMANENT", "NOARP"} & {*entry[3]}:
                return Ended(
                    "neighbour-wrong",
                    one,
                    f"a neighbour entry made by hand sends what is for {hop} ({other}) to the wrong MAC {entry[2]}",
                    named=True,
                    undo=command("ip", "neigh", "del", hop, "dev", nic),
                    evidence=(evidence, truth),
                )
            return self._duplicate(one, hop, other, {entry[2], *heard}, own or heard)
        return None

    def _duplicate(self, one: str, hop: str, other: str, heard: set[str], own: set[str]) -> Ended | None:
        strangers = heard - own
        if not (own and strangers):
            return None
        return Ended(
            "address-duplicate",
            other,
            f"another machine ({', '.join(sorted(strangers))}) answers for its address {hop}",
            named=True,
            evidence=(f"{one} asks who has {hop}: {', '.join(sorted(heard))} answers",),
            advice=f"find {', '.join(sorted(strangers))} in the MAC tables of the switches: it has no right to it",
        )

    def _unanswered(self, one: str, nic: str, hop: str, other: str, at: str) -> Iterator[Ended]:
        """Why nobody answers ARP, as both ends heard it."""
        here, there = self._around(one), self._around(other)
        for name, around, port in ((one, here, nic), (other, there, at)):
            for link, _, flags, _ in around["links"] if around else []:
                if link == port and "NOARP" in flags:
                    undo = command("ip", "link", "set", link, "arp", "on")
                    evidence = (f"ip link show {link}: {','.join(flags)}",)
                    yield Ended("nic-no-arp", name, f"its NIC {link} does no ARP", True, undo, evidence)
        asked = [each for each in here["arp"] if each[2] == "request" and each[4] == hop] if here else []
        mine = {each[3] for each in asked if each[0] == "out"}
        if not mine:
            yield from self._arp_filter(one, "output")
            yield Ended("packet-lost", one, f"it does not even ask who has {hop} on {nic}")
        if there is None or here is None:
            return
        came = [each for each in there["arp"] if each[0] != "out" and each[2] == "request" and each[4] == hop]
        came = [each for each in came if each[3] in mine]
        advice = (
            f"look at what is between {one} {nic} and {other} {at}: cables, the ports of the switch and their VLANs"
        )
        if not came:
            what = f"its ARP for {hop} left {nic} and did not arrive at {other} {at}".strip()
            yield Ended("packet-lost", one, what, advice=advice)
        if not any(each[0] == "out" and each[2] == "reply" and each[3] == hop for each in there["arp"]):
            yield from self._deaf(other, came[0][1] if came else at, hop)
        if not any(each[0] == "in" and each[2] == "reply" and each[3] == hop for each in here["arp"]):
            what = f"its ARP answer for {hop} left {at} and did not arrive at {one} {nic}"
            yield Ended("packet-lost", other, what, advice=advice)
        yield from self._arp_filter(one, "input")

    def _deaf(self, name: str, nic: str, hop: str) -> Iterator[Ended]:
        """A host that hears ARP for its address and does not answer."""
        yield from self._port(name, nic)
        yield from self._arp_filter(name, "input")
        yield from self._arp_filter(name, "output")
        found = self.observations[name]
        for (_, kind), answer in found.taken.items():
            yield from filter(None, [self._taken(name, answer) if kind == "back" else None])
        sysctls = found.live.sysctls if found.live else {}
        for sysctl in ARP_SYSCTLS:
            on = [key for each in ("all", nic) if sysctls.get(key := _conf(each, sysctl), "0") != "0"]
            if on:
                undo = " && ".join(command("sysctl", "-w", f"{key}=0") for key in on)
                what = f"it does not answer ARP for {hop} on {nic}: {on[0]} is {sysctls[on[0]]}"
                yield Ended("sysctl-wrong", name, what, True, undo)
        yield Ended("packet-lost", name, f"it hears ARP for {hop} on {nic} and does not answer")

    def _arp_filter(self, name: str, hook: str) -> Iterator[Ended]:
        around = self._around(name)
        for program, table, chain, rule in around["legacy"] if around else ():
            if program.startswith("arptables") and rule and chain.lower() == hook:
                what = f"a rule takes ARP packets: {program} -t {table} -A {chain} {rule}"
                yield Ended("filter-unmanaged", name, what, True, advice=f"{program} -n -v -L shows it")
        for family, table, chain, at, rules in around["chains"] if around else ():
            drops = [(handle, rule) for handle, rule in rules if "drop" in rule.split()]
            if family == "arp" and at == hook and drops:
                yield self._native_rule(name, (family, table, chain), drops, "ARP packets")

    def _native_rule(
        self, name: str, place: tuple[str, str, str], drops: Sequence[tuple[str, str]], packets: str
    ) -> Ended:
        """Rules of nftables that could not be traced: if it is one alone, it is that one."""
        around = self._around(name)
        handle, rule = drops[0]
        undo = command("nft", "delete", "rule", *place, "handle", handle)
        what = f"a rule of nftables takes {packets}: {' '.join(place)}, handle {handle}: {rule}"
        able = around is not None and around["nft"]
        advice = "" if able else f"{name} has no nft to change it with: it belongs to another program"
        return Ended("filter-unmanaged", name, what, True, undo if able and len(drops) == 1 else "", (), advice)

    # --- at a host ---------------------------------------------------------------------------------------------------

    def _nic_of(self, step: Step, found: Observation) -> str:
        """The NIC that it came in by."""
        came = found.packet("in", step.way, step.nic)
        return came[0] if came else self._nic(step.host, step.nic)

    def _port(self, name: str, nic: str) -> Iterator[Ended]:
        """A device of the host that has the NIC, and takes what comes in there."""
        around = self._around(name)
        for port, kind, device in around["ports"] if around else ():
            if port == nic:
                what = f"its NIC {nic} belongs to the {kind} {device}, which takes what comes in"
                undo = ["nomaster"] if not kind.startswith("macv") else []
                line = command("ip", "link", *(["set", nic, *undo] if undo else ["del", device]))
                yield Ended("nic-taken", name, what, True, line, (f"ip -d link show {nic if undo else device}",))

    def _at_the_nic(self, step: Step, found: Observation) -> Ended:
        """It arrived, and did not get to the hooks of the host."""
        nic = self._nic_of(step, found)
        if taken := self.traffic_control(step.host, nic, ("ingress",)) or self._native(step.host, nic, "ingress"):
            return taken
        what = f"{self._packet(step)} arrived on {nic}, and its kernel dropped it before any rule"
        return Ended("packet-lost", step.host, what, evidence=self._counted(step.host))

    def _native(self, name: str, nic: str, hook: str) -> Ended | None:
        """A chain of nftables at a NIC, where it could not be traced."""
        around = self._around(name)
        for family, table, chain, at, rules in around["chains"] if around else ():
            drops = [(handle, rule) for handle, rule in rules if "drop" in rule.split()]
            if family == "netdev" and at == hook and drops:
                return self._native_rule(name, (family, table, chain), drops, f"packets at {nic}")
        return None

    def traffic_control(self, name: str, nic: str, hooks: Sequence[str], *, any_use: bool = False) -> Ended | None:
        """What traffic control has at a NIC that takes packets; with `any_use` also what has taken none so far."""
        around = self._around(name)
        for at, hook, preference, text in around["filters"] if around else ():
            if at == nic and hook in hooks and TAKES.search(text):
                bpf = " bpf " in f" {text} "
                undo = "" if bpf else command("tc", "filter", "del", "dev", nic, hook, "pref", preference)
                what = f"a filter of traffic control at {nic} ({hook}) takes packets: {text}"
                advice = "a program that others put there (a CNI?): find out what it does" if bpf else ""
                return Ended("traffic-control", name, what, True, undo, (), advice)
        for at, kind, place, dropped, backlog in around["qdiscs"] if around else ():
            usual = kind in USUAL_QDISCS or (kind == "ingress") or not (any_use or dropped or backlog)
            if at == nic and place == "root" and "root" in hooks and not usual:
                what = f"the {kind} queue of {nic} holds packets back or drops them"
                evidence = (f"tc -s qdisc show dev {nic}: {dropped} dropped, {backlog} wait",)
                return Ended(
                    "traffic-control", name, what, True, command("tc", "qdisc", "del", "dev", nic, place), evidence
                )
        return None

    def _program(self, name: str, nic: str, program: str) -> Ended:
        mode = program.split(maxsplit=1)[0]
        advice = f"{command('ip', 'link', 'set', 'dev', nic, mode, 'off')} takes it off; a CNI may need it"
        what = f"a program at {nic} takes packets before the kernel sees them: {program}"
        return Ended("xdp-program", name, what, True, "", (), advice)

    def _routing(self, row: Row, found: Observation, kind: Came) -> Iterator[Ended]:
        """It did not get through the host's routing."""
        step, name = row.step, row.step.host
        yield from self._ttl(step, found) if kind == "came" else ()
        later = self.rows[self.rows.index(row) :]
        here = [each.seen or "" for each in later if (each.step.host, each.step.way) == (name, step.way)]
        seen = next((each for each in here if each and each != NOTHING), "")
        yield from filter(None, [self._taken(name, found.taken.get((step.way, kind)))])
        if "rp_filter" in seen or "source address" in seen:
            yield from filter(None, [self._taken(name, found.taken.get((step.way, "back")))])
            yield Ended("packet-lost", name, f"{self._packet(step)} is {seen}", evidence=self._counted(name))
        if match := re.match(r"no forwarding: (\S+) is 0", seen):
            undo = command("sysctl", "-w", f"{match[1]}=1")
            what = "it does not forward" if match[1] == IP_FORWARD else "it does not forward what comes in there"
            yield Ended("sysctl-wrong", name, f"{what}: {match[1]} is 0", True, undo)
        yield from filter(None, [self._ipsec(name, step), self._legacy(name)])
        # With another port it is not seen any more behind the rule that gave it that one.
        yield from self._altering(row)
        what = f"{self._packet(step)} ended in its routing" + (f": {seen}" if seen else "")
        yield Ended("packet-lost", name, what, evidence=self._counted(name))

    def _leaving(self, step: Step, found: Observation) -> Ended:
        """It got through the host's routing and rules, and did not leave."""
        name = step.host
        hop, nic = self._hop(step, found)
        nic = nic or self._nic(name, step.nic)
        after = self.path.steps[self.path.steps.index(step) :] if step in self.path.steps else ()
        arrives = next((each for each in after[1:] if each.stage == ARRIVES), None)
        # Where it comes back to the same host, the next one is in no plan.
        known = arrives is not None and arrives.host != name
        other, at = (arrives.host, self._nic(arrives.host, arrives.nic)) if arrives and known else ("the next host", "")
        what = f"{self._packet(step)} did not leave by {nic}"
        what += f": nobody answers ARP for {hop} ({other})" if hop in found.neighbours else ""
        reasons = [
            self._legacy(name),
            self.traffic_control(name, nic, ("egress", "root")),
            self._native(name, nic, "egress"),
            self._neighbour(name, nic, hop, other, at) if hop else None,
            self._ipsec(name, step),
            next(self._unanswered(name, nic, hop, other, at), None) if hop in found.neighbours else None,
        ]
        return next(filter(None, reasons), Ended("packet-lost", name, what, evidence=self._counted(name)))

    def _elsewhere(self, row: Row, found: Observation) -> Ended:
        """It went on, and not as planned."""
        step, name = row.step, row.step.host
        came: Came = "came" if self._came(step, found) else "own"
        if step.stage in (ROUTE, POLICY_RULE, LEAVES, DELIVERED) and (
            taken := self._taken(name, found.taken.get((step.way, came)))
        ):
            return taken
        what = f"{self._packet(step)}, {step.stage}: {row.seen}; planned: {step.expected}"
        aside = self.traffic_control(name, self._nic_of(step, found), ("ingress",)) if came == "came" else None
        # What a program of a CNI does with each packet is no reason to suspect it.
        suspects = [*self._altering(row), *([aside] if aside and aside.undo else [])]
        return next(iter(suspects), Ended("packet-lost", name, what, evidence=self._counted(name)))

    def _altering(self, row: Row) -> Iterator[Ended]:
        """Rules of others that were met and make the packet, or the connection, another one."""
        step, name = row.step, row.step.host
        routed = step.stage in (ROUTE, POLICY_RULE) or (
            step.stage == LEAVES and (row.seen or "").split()[:1] != step.expected.split()[:1]
        )
        around = self._around(name)
        native = {*around["translating"]} if around else set()
        for chain in self.observations[name].chains:
            if not chain.table or (chain.way != step.way and step.stage != TRANSLATED_BACK):
                continue
            for index, (_, text, verdict) in enumerate(chain.rules):
                target = next((after for word, after in pairwise(words(text)) if word in ("-j", "-g")), "")
                ends = verdict in PASSES and chain.table == "nat" and chain.family == "ip" and not routed
                ends = ends or (verdict == "accept" and (chain.family, chain.table, chain.name) in native)
                if text not in self.ours and (target in (MARKS if routed else ALTERS) or ends):
                    yield self._rule(name, chain, "is taken before ours" if ends else "changes packets", index)

    def _service(self, row: Row, found: Observation) -> Ended:
        step, name = row.step, row.step.host
        if blocked := self._ipsec(name, step) or next(self._altering(row), None):
            return blocked
        end = f"{step.packet.destination}:{self.port}"
        who = found.owner or "nothing that listens there"
        how = "does not answer" if row.seen == "no" else (row.seen or "")
        what = f"the packet to {end} is delivered, and {who} {how}"
        if (row.seen or "").startswith("refused"):
            what = f"the packet to {end} is delivered, and refused: nothing listens on that address and port"
        advice = f"{command('ss', '-ltnp', f'sport = :{self.port}')} shows who listens"
        return Ended("not-answered", name, what, evidence=self._counted(name), advice=advice)

    # --- what takes packets ------------------------------------------------------------------------------------------

    def _rule(self, name: str, chain: Chain, does: str, index: int | None = None) -> Ended:
        """A rule, or the policy, of a chain."""
        if index is None:
            at = [number for number, rule in enumerate(chain.rules) if rule[2] in ("drop", *HANDED)]
            index = at[-1] if at else None
        where, text, _ = chain.rules[index] if index is not None else (chain.name, "", "")
        if text in self.ours:
            return Ended("packet-lost", name, f"a rule of the plan {does}: -t {chain.table} -A {where} {text}")
        around = self._around(name)
        iptables = chain.family == "ip" and chain.name in BUILTIN_CHAINS.get(chain.table, ())
        if iptables and not text.isdecimal():
            what = f"-t {chain.table} " + (f"-A {where} {text}" if index is not None else f"-P {chain.name} DROP")
            undo = ["-D", where, *words(text)] if index is not None else ["-P", chain.name, "ACCEPT"]
            line = command("iptables", "-t", chain.table, *undo)
        else:
            shown = chain.texts.get(text, "")
            what = f"nftables chain {chain.family} {chain.table} {chain.name}, by "
            what += f"the rule with handle {text} in chain {where}" if index is not None else "its policy"
            what += f": {shown}" if shown else ""
            native = ["nft", "delete", "rule", chain.family, chain.table, where, "handle", text]
            policy = ["nft", "chain", chain.family, chain.table, chain.name, "{ policy accept; }"]
            line = command(*(native if index is not None else policy)) if around and around["nft"] else ""
        subject = "an unmanaged packet filter" if does == "drops packets" else "an unmanaged rule"
        advice = "" if line else f"{name} has no nft to change it with: it belongs to another program"
        if chain.decision[0] in HANDED:
            advice = "if a program is to look at them (one against intruders), start that instead"
        evidence = (f"the kernel's trace of {chain.packet} shows it",)
        kind = "rule-unmanaged" if iptables and name == self.plan.gateway.name else "filter-unmanaged"
        hook = chain.name if iptables and does == "drops packets" else ""
        return Ended(kind, name, f"{subject} {does}: {what}", True, line, evidence, advice, hook)

    def _taken(self, name: str, taken: Taken | None) -> Ended | None:
        """The policy rule or route that leads elsewhere, if it is not the plan's."""
        if taken is None:
            return None
        rule, line, arguments = taken["rule"], taken["line"], taken["arguments"]
        host = next((each for each in self.plan.hosts if each.name == name), None)
        if rule and not _is_usual_rule(rule):
            text = arguments or " ".join(f"{key} {value}" for key, value in rule.items())
            what = f"an unmanaged policy rule takes its packets another way: {text}"
            undo = command("ip", "rule", "del", *arguments.split()) if arguments else ""
            evidence = (f"the route there: {line}",) if line else ()
            return Ended("policy-rule-unmanaged", name, what, True, undo, evidence)
        if line is None or _is_planned(self.plan, host, line):
            return None
        dead = line.startswith(DEAD_ENDS)
        what = f"an unmanaged route {'ends' if dead else 'takes'} its packets{'' if dead else ' another way'}: {line}"
        evidence = (f"its kernel says so (ip route get fibmatch): {line}",)
        return Ended("route-unmanaged", name, what, True, command("ip", "route", "del", *line.split()), evidence)

    def _ttl(self, step: Step, found: Observation) -> Iterator[Ended]:
        """Who lets a packet that has no hop left live for so few, if that is how it ended."""
        ttl = found.ttl("in", step.way)
        before = self.path.steps[: self.path.steps.index(step)] if ttl is not None and ttl <= 1 else ()
        for name in dict.fromkeys([step.host, *(each.host for each in reversed(before))]):
            at = self.observations.get(name)
            for chain in at.chains if at else ():
                for index, (_, text, _) in enumerate(chain.rules):
                    if chain.way == step.way and SETS_TTL.search(text + chain.texts.get(text, "")):
                        yield self._rule(name, chain, "lets packets live for few hops only", index)
            sysctls = at.live.sysctls if at and at.live else {}
            if before and int(sysctls.get(DEFAULT_TTL, "64")) < FEW_HOPS:
                undo = command("sysctl", "-w", f"{DEFAULT_TTL}=64")
                what = f"its packets live for {sysctls[DEFAULT_TTL]} hops only: {DEFAULT_TTL}"
                yield Ended("sysctl-wrong", name, what, True, undo)
        if before:
            what = f"{self._packet(step)} arrived with no hop left (TTL {ttl}): it is not forwarded"
            yield Ended("packet-lost", step.host, what)

    def _ipsec(self, name: str, step: Step) -> Ended | None:
        around = self._around(name)
        counts = around["counters"] if around else {}
        if around is None or not (around["policies"] and any(key.startswith("Xfrm") for key in counts)):
            return None
        own = [each for each in around["policies"] if _selects(each, step.packet)]
        if not own:
            return None
        undo = command("ip", "xfrm", "policy", "delete", *own[0].split()) if len(own) == 1 else ""
        return Ended("ipsec-policy", name, f"an IPsec policy blocks packets: {own[0]}", True, undo, self._counted(name))

    def _legacy(self, name: str) -> Ended | None:
        """A rule that drops in an iptables that the kernel's trace does not see, and that was met just now."""
        around = self._around(name)
        for program, table, chain, rule in around["legacy"] if around else []:
            if program.startswith("iptables") and (not rule or re.search(r"-j (DROP|REJECT|TARPIT)\b", rule)):
                undo = ["-D", chain, *words(rule)] if rule else ["-P", chain, "ACCEPT"]
                what = f"{program} -t {table} " + (f"-A {chain} {rule}" if rule else f"-P {chain} DROP")
                line = command(program, "-t", table, *undo)
                return Ended("filter-unmanaged", name, f"an unmanaged packet filter drops packets: {what}", True, line)
        return None

    def _counted(self, name: str) -> tuple[str, ...]:
        around = self._around(name)
        counts = around["counters"] if around else {}
        return tuple(
            f"{name} counted meanwhile: {COUNTERS[key]} ({key} +{counts[key]})" for key in COUNTERS if key in counts
        )


def _conf(nic: str, name: str) -> str:
    return f"net.ipv4.conf.{nic.replace('.', '/')}.{name}"


def _is_usual_rule(rule: Mapping[str, object]) -> bool:
    """Whether a policy rule is ours or the kernel's own."""
    return rule.get("priority") in PRIORITIES or rule.get("table") in ("255", "254", "253")


def _is_planned(plan: Plan, host: Host | None, line: str) -> bool:
    """Whether a route, as `ip route del` takes it, is one that the plan has, or that every host has."""
    found = line.split()
    after = dict(pairwise(found))
    table = after.get("table", str(MAIN))
    if found[0] in ("local", "broadcast", "multicast") and table in ("255", "local"):
        # The kernel makes those of a host's addresses itself; what somebody made takes the packets of others.
        return after.get("proto") == "kernel"
    if found[0] in DEAD_ENDS or host is None:
        return False
    destination, nic, via = found[0], after.get("dev", ""), after.get("via", "")
    if destination == "default" and table in ("254", "main"):
        return True  # whoever made it: where the plan has others, they are not taken
    if host.role not in ROLES:
        return not via if _near(host, destination) else destination == "default"
    wanted = routing.host_network(plan, host).routes
    if any(
        (str(each.table), each.destination, each.via, each.nic) == (table, destination, via, nic) for each in wanted
    ):
        return True
    near = _near(host, destination)
    return near is not None and not via and near.nic == nic and table in ("254", "main")


def _near(host: Host, destination: str) -> Interface | None:
    return next((nic for nic in host.interfaces if str(nic.cidr) == destination), None)


def _selects(policy: str, packet: Packet) -> bool:
    """Whether an IPsec policy is about a packet."""
    found = policy.split()
    after = dict(pairwise(found))
    return packet.source in IPNetwork(after["src"]) and packet.destination in IPNetwork(after["dst"])
