"""Plan → the gateway's iptables rules. Pure.

Forwarding between the internal networks and out is accepted, internal sources leave as the gateway's enterprise
address, published hosts are mapped 1:1 in both directions, and traffic between internal networks is left untracked, so
that no translation touches it.
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
    """Every rule of the gateway, in the order in which its chain has them.

    Later published hosts stand before earlier ones, and before the networks' SNAT, which would otherwise take them.
    """
    return [*_untracked(plan), *_forward(plan), *_dnat(plan), *_snat(plan)]


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
