"""Another way to a host than the plan's: through a host that has a NIC in one of its networks."""

from dataclasses import replace
from pathlib import Path

from netaddr import IPAddress

from underlay.access import hostkeys
from underlay.access.target import Target, configured
from underlay.desired.files import FORWARDING
from underlay.errors import OperatorError
from underlay.plan import ROLES, Host


def addresses(host: Host, via: Host) -> list[IPAddress]:
    """The addresses of a host in the networks that `via` is in, too, its primary one first; empty if there are none."""
    return [nic.address for nic in host.interfaces if via.interface(nic.network)]


def chosen(host: Host, via: Host, address: str) -> str:
    """That address of a host, or the first that is near `via`. Raises OperatorError if it is not near."""
    if via.role in ROLES and via.role not in FORWARDING:
        raise OperatorError(f"sshd of {via.name} forwards nothing: go through {' or '.join(FORWARDING)}")
    near = [str(each) for each in addresses(host, via)]
    if not near or (address and address not in near):
        which = f"the address {address}" if address else "an address"
        raise OperatorError(
            f"{host.name} has not {which} in a network of {via.name}: it has {', '.join(near) or 'none'}"
        )
    return address or near[0]


def target(target: Target, folder: Path, host: Host, via: Host, address: str) -> Target:
    """The target with this way to a host; what ssh must be told is in a file of `folder`."""
    made = configured(target, folder, {host.name: options(target, host, via, address)})
    endpoints = (replace(each, jump=via.name) if each.name == host.name else each for each in target.endpoints)
    return replace(made, endpoints=tuple(endpoints))


def options(target: Target, host: Host, via: Host, address: str) -> dict[str, str]:
    """What ssh must be told to reach a host there; its key is the one that is known for the planned way."""
    planned = target.endpoint(host.name)
    return {
        "ProxyJump": via.name,
        "HostName": address,
        "HostKeyAlias": hostkeys.name(planned.address, planned.port),
    }
