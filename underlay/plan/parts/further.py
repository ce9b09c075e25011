"""The lines that a plan takes for further nodes, and their addresses. Pure."""

import json
from collections.abc import Iterator, Sequence

from netaddr import IPAddress, IPNetwork

from underlay.plan.edit import with_hosts
from underlay.plan.model import NODES, Host, Plan
from underlay.plan.values import MistakeError


def with_nodes(plan: Plan, role: str, names: Sequence[str]) -> str:
    """The text of a plan with further nodes behind its last host. Raises MistakeError.

    Each has one number in all its networks: the first that is free in all of them behind those of its role, or in the
    zones that are named for it.
    """
    like = next(iter([*reversed(plan.hosts_of(role)), *(host for each in NODES for host in plan.hosts_of(each))]), None)
    if like is None:
        raise MistakeError("the plan has no node to take the networks from", "write the first one yourself")
    numbers = _numbers(plan, role, like)
    lines: list[str] = []
    for name in names:
        if any(host.name == name for host in plan.hosts):
            raise MistakeError(f"{name} is in the plan already: {plan.line('hosts', name)}", "choose another name")
        number = next(numbers, None)
        if number is None:
            where = ", ".join(nic.network for nic in like.interfaces)
            raise MistakeError(f"no number is free in all of {where}", "make the zone for them larger, or the networks")
        lines += _line(name, role, like, number)
    return with_hosts(plan.source.read_text(), lines)


def _line(name: str, role: str, like: Host, number: int) -> Iterator[str]:
    addresses = {nic.network: str(_address(nic.cidr, number)) for nic in like.interfaces}
    yield f"    {json.dumps(name)}: {{"
    yield f'        "role": {json.dumps(role)},'
    yield f'        "addresses": {json.dumps(addresses)},'
    if like.default_network != like.primary.network:
        yield f'        "default_route": {json.dumps(like.default_network)},'
    yield "    },"


def _address(network: IPNetwork, number: int) -> IPAddress:
    return IPAddress(network.first + number)


def _numbers(plan: Plan, role: str, like: Host) -> Iterator[int]:
    """The numbers that are free in all networks of a host: those behind the others of the role first."""
    networks = {nic.network: nic.cidr for nic in like.interfaces}
    zones = {zone.network: zone.cidr for zone in plan.zones if zone.name in (role, f"{role}s")}
    # A range that lies in the network is kept for others.
    kept = {
        name: [
            zone.cidr
            for zone in plan.zones
            if zone.network == name and zone.cidr != zones.get(name) and cidr not in zone.cidr
        ]
        for name, cidr in networks.items()
    }
    used = {nic.address for host in plan.hosts for nic in host.interfaces}
    others = [int(nic.address) - nic.cidr.first for host in plan.hosts_of(role) for nic in host.interfaces]
    behind = max(others, default=0) + 1
    last = min(cidr.size for cidr in networks.values()) - 2

    def free(number: int) -> bool:
        addresses = {name: _address(cidr, number) for name, cidr in networks.items()}
        return all(
            address not in used
            and (name not in zones or address in zones[name])
            and not any(address in each for each in kept[name])
            for name, address in addresses.items()
        )

    yield from (number for number in (*range(behind, last + 1), *range(1, behind)) if free(number))
