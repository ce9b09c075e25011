"""Which rules of others on the gateway a packet meets before ours, as far as their text tells. Pure.

iptables has more matches than this reads: a rule with one of those may be met, or may not.
"""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from netaddr import IPAddress, IPNetwork

from underlay.compare.tables import Ruleset
from underlay.plan import Plan

EPHEMERAL = 1024
"""A port that the kernel chooses is never smaller."""
DROPS = frozenset({"DROP", "REJECT", "TARPIT", "NFQUEUE"})
TRANSLATES = frozenset({"DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP", "ACCEPT"})
UNTRACKS = frozenset({"NOTRACK", "CT"})


@dataclass(frozen=True)
class Suspect:
    """A rule of others that is met.

    drops: it ends the packet; else it keeps a rule of ours from doing its work
    certain: its text leaves no doubt that it is met
    """

    table: str
    chain: str
    spec: str
    drops: bool
    certain: bool


@dataclass(frozen=True)
class Headers:
    """What rules look at.

    port: None for one that the kernel chose
    nic_in, nic_out: empty where the gateway itself is that end
    """

    source: IPAddress
    destination: IPAddress
    port: int | None
    nic_in: str = ""
    nic_out: str = ""


class GatewayRules:
    """The gateway's live rules, and which of them (table, chain, spec) are the plan's."""

    def __init__(self, plan: Plan, live: Ruleset, ours: Iterable[tuple[str, str, str]]) -> None:
        self._plan = plan
        self._live = live
        self._ours = frozenset(ours)

    def met(self, source: IPAddress, destination: IPAddress, port: int | None) -> list[Suspect]:
        """The suspects on the way of a TCP connection there, and of its answers."""
        gateway = self._plan.gateway
        local = {nic.address for nic in gateway.interfaces}
        inner = next(
            (each.primary.address for each in self._plan.published if each.published == destination), destination
        )
        if destination == inner and not {source, inner} & local and self._nic(source) == self._nic(inner):
            return []  # they are neighbours: it does not go through the gateway
        there = Headers(source, destination, port, self._nic(source), "")
        translated = Headers(source, inner, port, self._nic(source), self._nic(inner))
        back = Headers(inner, source, None, self._nic(inner), self._nic(source))
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
        untracked = any(
            table == "raw" and chain == "PREROUTING" and _matches(spec, there) == (True, True)
            for table, chain, spec in self._ours
        )
        for packet, chain, tables in ways:
            for table in tables:
                if not (table == "nat" and untracked):
                    self._walk(table, chain, packet, True, found)
        return list(dict.fromkeys(found))

    def _nic(self, address: IPAddress) -> str:
        gateway = self._plan.gateway
        return next((nic.nic for nic in gateway.interfaces if address in nic.cidr), gateway.primary.nic)

    def _walk(self, table: str, chain: str, packet: Headers, certain: bool, found: list[Suspect]) -> bool:
        """Whether a packet ends in a chain, for certain; adds the suspects that it meets."""
        rules = self._live[table].chain(chain) if table in self._live else []
        for index, spec in enumerate(rules):
            met, sure = _matches(spec, packet)
            if not met:
                continue
            sure = sure and certain
            target = _target(spec)
            if target in self._live[table].rules:
                if self._walk(table, target, packet, sure, found) and sure:
                    return True
                continue
            ours = (table, chain, spec) in self._ours
            if not ours and (target in DROPS or self._takes(table, chain, spec, target, rules[index + 1 :], packet)):
                found.append(Suspect(table, chain, spec, target in DROPS, sure))
            if sure and target == "RETURN":
                return False
            if sure and (target in DROPS or target in TRANSLATES):
                return True
        return False

    def _takes(self, table: str, chain: str, spec: str, target: str, later: list[str], packet: Headers) -> bool:
        """Whether a rule of others keeps a later one of ours from doing its work."""
        if table == "raw" and target in UNTRACKS:
            return target == "NOTRACK" or "--notrack" in spec
        if not (table in ("raw", "nat") and target in TRANSLATES):
            return False
        return any((table, chain, each) in self._ours and _matches(each, packet)[0] for each in later)


def _target(spec: str) -> str:
    words = _words(spec)
    return next((after for word, after in pairwise(words) if word in ("-j", "-g")), "")


def _words(spec: str) -> list[str]:
    try:
        return shlex.split(spec)
    except ValueError:
        return spec.split()


def _matches(spec: str, packet: Headers) -> tuple[bool, bool]:
    """Whether a TCP packet may meet a rule, and whether that is certain."""
    certain = True
    for option, values, negated in _options(spec):
        known: bool | None
        match option, values:
            case "-s", [end]:
                known = packet.source in IPNetwork(end)
            case "-d", [end]:
                known = packet.destination in IPNetwork(end)
            case "-i", [nic]:
                known = _same_nic(nic, packet.nic_in)
            case "-o", [nic]:
                known = _same_nic(nic, packet.nic_out)
            case "-p", [protocol]:
                known = protocol in ("tcp", "6", "all")
            case (("--dport" | "--dports"), [ports]):
                known = _has_port(ports, packet.port)
            case (("-m" | "--comment"), _):
                continue
            case (("-j" | "-g"), _):
                break
            case _:
                known = None
        if known is None:
            certain = False
        elif known == negated:
            return False, True
    return True, certain


def _options(spec: str) -> Iterator[tuple[str, list[str], bool]]:
    """Each option of a rule with its values, and whether it is negated."""
    words = _words(spec)
    index, negated = 0, False
    while index < len(words):
        if words[index] == "!":
            index, negated = index + 1, True
            continue
        end = index + 1
        while end < len(words) and not words[end].startswith("-") and words[end] != "!":
            end += 1
        yield words[index], words[index + 1 : end], negated
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
