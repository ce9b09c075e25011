"""Another way to a host than the plan's: through a host that has a NIC in one of its networks."""

from netaddr import IPAddress

from underlay.access.target import Target
from underlay.plan import Host


def addresses(host: Host, via: Host) -> list[IPAddress]:
    """The addresses of a host in the networks that `via` is in, too, its primary one first; empty if there are none."""
    return [nic.address for nic in host.interfaces if via.interface(nic.network)]


def options(target: Target, host: Host, via: Host, address: str) -> dict[str, str]:
    """What ssh must be told to reach a host there; its key is the one that is known for the planned way."""
    return {
        "ProxyJump": via.name,
        "HostName": address,
        "HostKeyAlias": str(target.endpoint(host.name).address),
    }
