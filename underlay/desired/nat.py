"""Plan → the gateway's iptables rules. Pure.

Forwarding between the internal networks and out is accepted, internal sources leave as the gateway's enterprise
address, published hosts are mapped 1:1 in both directions, and traffic between internal networks is left untracked, so
that no translation touches it.
"""

from itertools import combinations

from underlay.desired.ruleset import Rule
from underlay.plan import Plan


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
