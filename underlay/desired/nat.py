"""Plan → the gateway's iptables rules. Pure.

Forwarding between the internal networks and out is accepted, internal sources leave as the gateway's enterprise
address, published hosts are mapped 1:1 in both directions, and traffic between internal networks is left untracked, so
that no translation touches it.

Where forwarding is "planned", further rules stand before these: from the enterprise network only published addresses,
answers and the plan's exceptions come in. And the gateway's answers from one internal network to another are left
untracked, too: those over UDP, which seem to begin a connection, would get its enterprise address.
"""

import re
from collections.abc import Iterable
from itertools import combinations
from typing import Any

from netaddr import IPAddress, IPNetwork

from underlay.desired.ruleset import Rule
from underlay.plan import Plan

DNAT = re.compile(r"-d (\S+?)(?:/32)? -j DNAT --to-destination (\S+)")
SNAT = re.compile(r"-s (\S+) -j SNAT --to-source (\S+)")


def gateway_rules(plan: Plan) -> list[Rule]:
    """Every rule of the gateway, table by table, in the order in which its chain has them.

    Later published hosts stand before earlier ones, and before the networks' SNAT, which would otherwise take them.
    """
    if plan.forwarding == "open":
        return [*_untracked(plan), *_forward(plan), *_dnat(plan), *_snat(plan)]
    rules = [*_untracked(plan), *_own_answers(plan), *_admitted(plan), *_forward(plan), *_dnat(plan), *_snat(plan)]
    # Two exceptions may say the same, and no rule may be there twice.
    return list({rule.place: rule for rule in rules}.values())


def _untracked(plan: Plan) -> list[Rule]:
    rules = []
    for one, other in combinations(plan.internal, 2):
        for source, destination in ((one, other), (other, one)):
            spec = f"-s {source.cidr} -d {destination.cidr} -j NOTRACK"
            rules.append(Rule("raw", "PREROUTING", spec, origin=plan.line("networks", source.name)))
    for network in plan.internal:
        spec = f"-s {plan.gateway_address(network.name)}/32 -d {network.cidr} -j NOTRACK"
        origin = plan.line("hosts", plan.gateway.name, "addresses", network.name)
        rules.append(Rule("raw", "OUTPUT", spec, origin=origin))
    return rules


def _forward(plan: Plan) -> list[Rule]:
    return [
        Rule("filter", "FORWARD", f"{flag} {network.cidr} -j ACCEPT", True, plan.line("networks", network.name))
        for flag in ("-d", "-s")
        for network in reversed(plan.internal)
    ]


def _admitted(plan: Plan) -> list[Rule]:
    """What comes in from the enterprise network, and the end of all else.

    A packet is known by its connection: so errors about it (ICMP) come in with it, and an open connection that is not
    planned ends when the rules come. Of one that began inside, it is an answer.
    """
    begin = f"-i {plan.gateway.primary.nic}"

    def rule(spec: str, *keys: str) -> Rule:
        return Rule("filter", "FORWARD", spec, True, plan.line(*keys))

    mode = ("forwarding",)
    rules = [rule(f"{begin} -m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j ACCEPT", *mode)]
    for host in reversed(plan.published):
        asked = f"--ctorigdst {host.published}"
        for ports in _matches(host.ports):
            spec = f"-d {host.primary.address}/32 {begin} -m conntrack{ports[0]} {asked}{ports[1]} -j ACCEPT"
            rules.append(rule(spec, "hosts", host.name, "published"))
    for each in plan.exceptions:
        asked = f"--ctorigsrc {each.source} --ctorigdst {each.destination}"
        for ports in _matches(each.ports):
            spec = f"{begin} -m conntrack{ports[0]} {asked}{ports[1]} -j ACCEPT"
            rules.append(rule(spec, "exceptions", each.name))
    inner = [nic for nic in plan.gateway.interfaces if nic != plan.gateway.primary]
    # By the NIC, not the address: it also leads to what is behind hosts of a network, pods say.
    return rules + [rule(f"{begin} -o {nic.nic} -j DROP", "networks", nic.network) for nic in inner]


def _matches(ports: tuple[str, ...] | None) -> list[tuple[str, str]]:
    """The options of `-m conntrack` for the protocol and for the port that was asked."""
    if ports is None:
        return [("", "")]
    found = []
    for each in ports:
        protocol, _, numbers = each.partition("/")
        found.append((f" --ctproto {protocol}", f" --ctorigdstport {numbers.replace('-', ':')}" if numbers else ""))
    return found


def _own_answers(plan: Plan) -> list[Rule]:
    return [
        Rule(
            "raw",
            "OUTPUT",
            f"-s {plan.gateway_address(one.name)}/32 -d {other.cidr} -j NOTRACK",
            origin=plan.line("hosts", plan.gateway.name, "addresses", one.name),
        )
        for one in plan.internal
        for other in plan.internal
        if one != other
    ]


def _dnat(plan: Plan) -> list[Rule]:
    return [
        Rule(
            "nat",
            "PREROUTING",
            f"-d {host.published}/32 -j DNAT --to-destination {host.primary.address}",
            True,
            plan.line("hosts", host.name, "published"),
        )
        for host in reversed(plan.published)
    ]


def _snat(plan: Plan) -> list[Rule]:
    published = [
        Rule(
            "nat",
            "POSTROUTING",
            f"-s {host.primary.address}/32 -j SNAT --to-source {host.published}",
            True,
            plan.line("hosts", host.name, "published"),
        )
        for host in reversed(plan.published)
    ]
    networks = [
        Rule(
            "nat",
            "POSTROUTING",
            f"-s {network.cidr} -j SNAT --to-source {plan.gateway.primary.address}",
            False,
            plan.line("networks", network.name),
        )
        for network in plan.internal
    ]
    return published + networks


# --- connections from before -----------------------------------------------------------------------------------------


def outdated(edited: Iterable[str], wanted: Iterable[str]) -> dict[str, Any] | None:
    """What `remote.conntrack.renew` takes to end the connections with an outdated translation, and no other.

    edited: the rules of the nat table that were added, or taken away, or both
    wanted: those that hold now, in their order
    None if no translation of ours changed.
    """
    edited, wanted = list(edited), list(wanted)
    dnat = {match[1]: match[2] for match in map(DNAT.fullmatch, wanted) if match}
    snat = [(IPNetwork(match[1]), match[2]) for match in map(SNAT.fullmatch, wanted) if match]
    outer = [match[1] for match in map(DNAT.fullmatch, edited) if match]
    changed = [(IPNetwork(match[1]), match[2]) for match in map(SNAT.fullmatch, edited) if match]
    if not (outer or changed):
        return None
    hosts = [network.ip for network, _ in changed if network.size == 1]
    now = {address for _, address in snat}
    return {
        "to": {address: dnat.get(address, address) for address in dict.fromkeys(outer)},
        "as": {str(host): _seen_as(host, snat) for host in dict.fromkeys(hosts)},
        "inner": sorted({*dnat.values(), *(match[2] for match in map(DNAT.fullmatch, edited) if match)}),
        "ours": sorted(now | {address for _, address in changed}),
        "gone": sorted({address for _, address in changed} - now),
    }


def _seen_as(host: IPAddress, snat: list[tuple[IPNetwork, str]]) -> str:
    """The address as which what a host sends leaves; its own if it is not translated."""
    return next((address for network, address in snat if host in network), str(host))
