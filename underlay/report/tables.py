"""The plan as tables for people, and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from underlay.compare.tables import TABLES
from underlay.console import console
from underlay.desired import nat
from underlay.plan import Plan


def show(plan: Plan, page: Console | None = None) -> None:
    """Print networks, hosts, published addresses, and each gateway rule with the plan line it comes from."""
    page = page or console()
    page.print(f"site {plan.site}, plan {plan.source}, forwarding {plan.forwarding}", highlight=False, markup=False)
    sections: list[Section] = [_networks(plan), _hosts(plan), _published(plan), *_exceptions(plan), *_rules(plan)]
    for title, columns, rows in sections:
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*row)
        page.print()
        page.print(table, highlight=False, markup=False)


def document(plan: Plan) -> dict[str, Any]:
    """What `show` prints, for programs."""
    return {
        "site": plan.site,
        "plan": str(plan.source),
        "target": plan.target,
        "forwarding": plan.forwarding,
        "exceptions": [
            {
                "name": each.name,
                "from": str(each.source),
                "to": str(each.destination),
                "ports": each.ports,
                "plan": plan.line("exceptions", each.name),
            }
            for each in plan.exceptions
        ],
        "networks": [
            {
                "name": network.name,
                "cidr": str(network.cidr),
                "router": str(plan.gateway_address(network.name)),
                "plan": plan.line("networks", network.name),
            }
            for network in plan.networks
        ],
        "hosts": [
            {
                "name": host.name,
                "role": host.role,
                "published": str(host.published) if host.published else None,
                "published_ports": host.ports,
                "default_network": host.default_network,
                "interfaces": [
                    {"network": nic.network, "nic": nic.nic, "address": nic.with_prefix} for nic in host.interfaces
                ],
                "plan": plan.line("hosts", host.name),
            }
            for host in plan.hosts
        ],
        "rules": [
            {"table": rule.table, "chain": rule.chain, "spec": rule.spec, "plan": rule.origin}
            for rule in nat.gateway_rules(plan)
        ],
    }


Section = tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]


def _networks(plan: Plan) -> Section:
    rows = [
        (network.name, str(network.cidr), str(plan.gateway_address(network.name)), plan.line("networks", network.name))
        for network in plan.networks
    ]
    return "Networks", ("network", "cidr", "router", "plan"), rows


def _hosts(plan: Plan) -> Section:
    rows = [
        (
            host.name if index == 0 else "",
            host.role if index == 0 else "",
            nic.network,
            nic.nic,
            nic.with_prefix,
            "default route" if nic.network == host.default_network else "",
            plan.line("hosts", host.name, "addresses", nic.network),
        )
        for host in plan.hosts
        for index, nic in enumerate(host.interfaces)
    ]
    return "Hosts", ("host", "role", "network", "NIC", "address", "", "plan"), rows


def _published(plan: Plan) -> Section:
    rows = [
        (
            str(host.published),
            host.name,
            str(host.primary.address),
            _ports(host.ports),
            plan.line("hosts", host.name, "published"),
        )
        for host in plan.published
    ]
    return "Published addresses", ("enterprise address", "host", "internal address", "ports", "plan"), rows


def _ports(ports: tuple[str, ...] | None) -> str:
    return "all" if ports is None else ", ".join(ports)


def _exceptions(plan: Plan) -> list[Section]:
    rows = [
        (each.name, str(each.source), str(each.destination), _ports(each.ports), plan.line("exceptions", each.name))
        for each in plan.exceptions
    ]
    return [("Exceptions of forwarding", ("name", "from", "to", "ports", "plan"), rows)] if rows else []


def _rules(plan: Plan) -> list[Section]:
    rules = nat.gateway_rules(plan)
    return [
        (
            f"Gateway rules, table {table}",
            ("rule", "plan"),
            [(f"-A {rule.chain} {rule.spec}", rule.origin) for rule in rules if rule.table == table],
        )
        for table in TABLES
    ]
