"""Which rules of others on a host a packet meets before ours, as far as their text tells. Pure.

iptables has more matches than this reads: a rule with one of those may be met, or may not.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from netaddr import IPAddress, IPNetwork

from underlay.compare.tables import NATIVE, Ruleset, words
from underlay.plan import Host, Plan
from underlay.text import command

IPTABLES = "iptables"
EPHEMERAL = 1024
"""A port that the kernel chooses is never smaller."""
DROPS = frozenset({"DROP", "REJECT", "TARPIT", "NFQUEUE"})
TRANSLATES = frozenset({"DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP", "ACCEPT"})
STATES = frozenset({"INVALID", "NEW", "ESTABLISHED", "RELATED", "UNTRACKED"})
UNTRACKS = frozenset({"NOTRACK", "CT"})


End = Literal["ends", "may end", "goes on"]
ENDS: End = "ends"
MAY_END: End = "may end"
GOES_ON: End = "goes on"


@dataclass(frozen=True)
class Suspect:
    """A rule of others that is met, or the policy of a chain.

    spec: empty for the policy
    drops: it ends the packet; else it keeps a rule of ours from doing its work
    certain: its text leaves no doubt that it is met
    hook: the built-in chain from which it is met
    program: the iptables that has it
    """

    table: str
    chain: str
    spec: str
    drops: bool
    certain: bool
    hook: str
    program: str = IPTABLES

    def __str__(self) -> str:
        program = "" if self.program == IPTABLES else f"{self.program} "
        what = f"-A {self.chain} {self.spec}" if self.spec else f"-P {self.chain} DROP"
        return f"{program}-t {self.table} {what}"

    @property
    def undo(self) -> str:
        """The command that takes it away; empty for a native rule of nftables, which has no text."""
        if self.spec.endswith(NATIVE):
            return ""
        what = ["-D", self.chain, *words(self.spec)] if self.spec else ["-P", self.chain, "ACCEPT"]
        return command(self.program, "-t", self.table, *what)


@dataclass(frozen=True)
class Headers:
    """What rules look at.

    port: None for one that the kernel chose
    state: what connection tracking has of it; empty if that is not known
    nic_in, nic_out: empty where the gateway itself is that end
    """

    source: IPAddress
    destination: IPAddress
    port: int | None
    nic_in: str = ""
    nic_out: str = ""
    state: str = ""


class HostRules:
    """The live rules of a host, and which of them (table, chain, spec) are the plan's.

    program: the iptables that has them; where it is another one than the host's own, ours are not in it
    """

    def __init__(
        self,
        plan: Plan,
        host: Host,
        live: Ruleset,
        ours: Iterable[tuple[str, str, str]] = (),
        program: str = IPTABLES,
    ) -> None:
        self._plan = plan
        self._host = host
        self._live = live
        self._ours = frozenset(ours)
        self.program = program

    def met(self, source: IPAddress, destination: IPAddress, port: int | None) -> list[Suspect]:
        """The suspects on the way of a TCP connection there, and of its answers."""
        local = {nic.address for nic in self._host.interfaces}
        inner = next(
            (each.primary.address for each in self._plan.published if each.published == destination), destination
        )
        if self._host != self._plan.gateway:
            destination = inner  # the gateway has translated it
            if not {source, inner} & local:
                return []
        if destination == inner and not {source, inner} & local and self._nic(source) == self._nic(inner):
            return []  # they are neighbours: it does not go through the gateway
        first = Headers(source, destination, port, self._nic(source))
        begin = "OUTPUT" if source in local else "PREROUTING"
        untracked = any(
            (table, chain) == ("raw", begin) and _matches(spec, first) == (True, True)
            for table, chain, spec in self._ours
        )
        new, known = ("UNTRACKED", "UNTRACKED") if untracked else ("NEW", "ESTABLISHED")
        if untracked and source in local:
            known = "INVALID"  # only what the host itself sends is exempted: the answer is one to nothing
        there = replace(first, state=new)
        translated = Headers(source, inner, port, self._nic(source), self._nic(inner), new)
        back = Headers(inner, source, None, self._nic(inner), self._nic(source), known)
        found: list[Suspect] = []
        if source in local:
            ways = [(there, "OUTPUT", ("raw", "mangle", "nat", "filter")), (back, "PREROUTING", ("raw", "mangle"))]
            ways += [(back, "INPUT", ("mangle", "filter"))]
        else:
            ways = [(there, "PREROUTING", ("raw", "mangle", "nat"))]
            if inner in local:
                ways += [(there, "INPUT", ("mangle", "filter")), (back, "OUTPUT", ("raw", "mangle", "filter"))]
            else:
                ways += [(translated, "FORWARD", ("mangle", "filter")), (translated, "POSTROUTING", ("mangle", "nat"))]
                ways += [(back, "PREROUTING", ("raw", "mangle")), (back, "FORWARD", ("mangle", "filter"))]
        for packet, chain, tables in ways:
            for table in tables:
                if table in self._live and not (table == "nat" and untracked):
                    end = self._walk(table, chain, chain, packet, True, found)
                    if end != ENDS and self._live[table].policies.get(chain) == "DROP":
                        found.append(Suspect(table, chain, "", True, end == GOES_ON, chain, self.program))
        return list(dict.fromkeys(found))

    def _nic(self, address: IPAddress) -> str:
        return next((nic.nic for nic in self._host.interfaces if address in nic.cidr), self._host.primary.nic)

    def _walk(self, table: str, hook: str, chain: str, packet: Headers, certain: bool, found: list[Suspect]) -> End:
        """Whether a packet ends in a chain; adds the suspects that it meets."""
        rules = self._live[table].chain(chain)
        end: End = GOES_ON
        for index, spec in enumerate(rules):
            met, sure = _matches(spec, packet)
            if not met:
                continue
            sure = sure and certain
            target = _target(spec)
            if target in self._live[table].rules:
                inside = self._walk(table, hook, target, packet, sure, found)
                if inside == ENDS and sure:
                    return ENDS
                end = MAY_END if inside != GOES_ON else end
                continue
            ours = (table, chain, spec) in self._ours
            if not ours and (target in DROPS or self._takes(table, chain, spec, target, rules[index + 1 :], packet)):
                found.append(Suspect(table, chain, spec, target in DROPS, sure, hook, self.program))
            if sure and target == "RETURN":
                return end
            if target in DROPS or target in TRANSLATES:
                if sure:
                    return ENDS
                end = MAY_END
        return end

    def _takes(self, table: str, chain: str, spec: str, target: str, later: list[str], packet: Headers) -> bool:
        """Whether a rule of others keeps one of ours from doing its work."""
        if table == "raw" and target in UNTRACKS:
            return target == "NOTRACK" or "--notrack" in spec
        if not (table in ("raw", "nat") and target in TRANSLATES):
            return False
        if self.program != IPTABLES:
            return table == "nat" and target != "ACCEPT"
        return any((table, chain, each) in self._ours and _matches(each, packet)[0] for each in later)


def _target(spec: str) -> str:
    return next((after for word, after in pairwise(words(spec)) if word in ("-j", "-g")), "")


def _matches(spec: str, packet: Headers) -> tuple[bool, bool]:
    """Whether a TCP packet may meet a rule, and whether that is certain."""
    certain = not spec.endswith(NATIVE)
    for option, values, negated in _options(spec):
        if option in ("-j", "-g"):
            break
        if option in ("-m", "--comment"):
            continue
        known = _meets(option, values, packet)
        if known is None:
            certain = False
        elif known == negated:
            return False, True
    return True, certain


def _meets(option: str, values: list[str], packet: Headers) -> bool | None:
    """Whether a packet meets one option of a rule; None where that can't be told."""
    found: bool | None = None
    match option, values:
        case "-s", [end]:
            found = packet.source in IPNetwork(end)
        case "-d", [end]:
            found = packet.destination in IPNetwork(end)
        case "-i", [nic]:
            found = _same_nic(nic, packet.nic_in)
        case "-o", [nic]:
            found = _same_nic(nic, packet.nic_out)
        case "-p", [protocol]:
            found = protocol in ("tcp", "6", "all")
        case (("--dport" | "--dports"), [ports]):
            found = _has_port(ports, packet.port)
        case (("--ctstate" | "--state"), [states]) if packet.state and STATES.issuperset(states.split(",")):
            found = packet.state in states.split(",")
    return found


def _options(spec: str) -> Iterator[tuple[str, list[str], bool]]:
    """Each option of a rule with its values, and whether it is negated."""
    found = words(spec)
    index, negated = 0, False
    while index < len(found):
        if found[index] == "!":
            index, negated = index + 1, True
            continue
        end = index + 1
        while end < len(found) and not found[end].startswith("-") and found[end] != "!":
            end += 1
        yield found[index], found[index + 1 : end], negated
        index, negated = end, False


def _same_nic(pattern: str, nic: str) -> bool:
    return nic.startswith(pattern[:-1]) if pattern.endswith("+") else nic == pattern


def _has_port(ports: str, port: int | None) -> bool | None:
    for each in ports.split(","):
        first, _, last = each.partition(":")
        if not (first.isdecimal() and (last or first).isdecimal()):
            return None
        if port is None:
            if int(last or first) >= EPHEMERAL:
                return None
        elif int(first) <= port <= int(last or first):
            return True
    return False
