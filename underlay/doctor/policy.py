"""The packets of connections that fail, for a host's kernel to say by which policy rule they go. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from netaddr import IPAddress

from underlay.desired import routing
from underlay.desired.routing import PolicyRule
from underlay.desired.traffic import Flow
from underlay.plan import Host, Interface, Plan

ALL = "all"
KERNEL_TABLES = ("253", "254", "255")
"""default, main, local."""
LOCAL = "255"
LOCAL_ROUTE = ("local", "2")
MOST = 20
"""Packets that a host is asked about."""


@dataclass(frozen=True)
class Packet:
    """A packet of a connection at a host; `nic` is where it comes in, empty where it goes out.

    own: the NIC of the host's end
    """

    flow: Flow
    own: Interface
    peer: IPAddress
    nic: str
    sport: int | None
    dport: int | None

    def request(self) -> dict[str, object]:
        """As `remote.trace.policy` takes it."""
        ends = (self.peer, self.own.address) if self.nic else (self.own.address, self.peer)
        source, destination = map(str, ends)
        return {
            "source": source,
            "destination": destination,
            "nic": self.nic,
            "protocol": "tcp",
            "sport": self.sport,
            "dport": self.dport,
        }

    def goes_as_planned(self, plan: Plan, host: Host, route: dict[str, Any] | None) -> bool:
        """Whether the host takes it as its own, or sends it by the NIC and to the router of the plan."""
        if route is None:
            return False
        if self.nic:
            return route.get("type") in LOCAL_ROUTE
        nic, via = self.own, str(plan.gateway_address(self.own.network))
        if host == plan.gateway:
            nic = next((each for each in host.interfaces if self.peer in each.cidr), host.primary)
            via = str(plan.enterprise.upstream)
        return (route.get("dev"), route.get("gateway", "")) == (nic.nic, "" if self.peer in nic.cidr else via)


def packets(host: Host, flows: Iterable[Flow]) -> list[Packet]:
    """The packets of flows that a host sends and gets as an end of them, each once."""
    found: dict[str, Packet] = {}
    for flow in flows:
        for packet in _of(host, flow):
            found.setdefault(str(packet.request()), packet)
    return list(found.values())[:MOST]


def _of(host: Host, flow: Flow) -> Iterator[Packet]:
    if flow.source == host.name and (nic := _nic(host, flow.source_address)):
        yield Packet(flow, nic, flow.destination, "", None, flow.port)
        yield Packet(flow, nic, flow.destination, nic.nic, flow.port, None)
    at = host.primary.address if flow.destination == host.published else flow.destination
    peer = flow.source_address if host.name in flow.through else flow.seen_as
    if host.name in (*flow.receivers, *flow.through) and (nic := _nic(host, at)):
        yield Packet(flow, nic, peer, nic.nic, None, flow.port)
        yield Packet(flow, nic, peer, "", flow.port, None)


def _nic(host: Host, address: IPAddress) -> Interface | None:
    return next((nic for nic in host.interfaces if nic.address == address), None)


def may_be_blamed(rule: dict[str, Any], ours: Iterable[PolicyRule]) -> bool:
    """Whether a rule, as `ip -j rule` has it, is unmanaged, and none that a host can't be without.

    Whatever its priority, `local` is the host's own addresses, and `main` and `default` for everything its routes.
    """
    if rule["priority"] in routing.PRIORITIES or rule.get("table") == LOCAL:
        return False
    selector = [key for key in rule if key not in ("priority", "table", "protocol", "suppress_prefixlen")]
    if rule.get("table") in KERNEL_TABLES and selector == ["src"] and rule["src"] == ALL:
        return False
    return not any(_is(rule, each) for each in ours)


def _is(rule: dict[str, Any], planned: PolicyRule) -> bool:
    ends = [
        ALL if rule.get(end, ALL) == ALL else f"{rule[end]}/{rule.get(f'{end}len', 32)}".removesuffix("/32")
        for end in ("src", "dst")
    ]
    wanted = [planned.source or ALL, planned.destination or ALL]
    return (rule["priority"], rule.get("table"), ends) == (planned.priority, str(planned.table), wanted)
