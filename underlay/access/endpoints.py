"""By which address, and through which host, each host of the plan is reached from here."""

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from netaddr import IPAddress

from underlay.plan import SSH_PORT, Host, Plan

NONLOCAL = Path("/proc/sys/net/ipv4/ip_nonlocal_bind")
TABLES = Path("/proc/net/fib_trie")


@dataclass(frozen=True)
class Endpoint:
    """How one host is reached: its address from here, and the host to jump through, if any; the port of its sshd.

    bastion: whether a person's own ssh configuration leads there, through a host that is not the plan's
    """

    name: str
    address: IPAddress
    jump: str = ""
    port: int = SSH_PORT
    bastion: bool = False


def vantage_of(plan: Plan) -> Host | None:
    """The host of the plan that this process runs on: the one that has an address of this machine."""
    own = _own_addresses()
    for host in plan.hosts:
        for nic in host.interfaces:
            if own is not None and str(nic.address) not in own:
                continue
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind((str(nic.address), 0))
                except OSError:
                    continue
                return host
    return None


def _own_addresses() -> set[str] | None:
    """The addresses of this machine, where its kernel takes others for them, too (keepalived wants that); else None."""
    try:
        if NONLOCAL.read_text().strip() == "0":
            return None
        return set(re.findall(r"\|-- (\S+)\n +/32 host LOCAL", TABLES.read_text()))
    except OSError:
        return None


def endpoints_from(plan: Plan, vantage: Host | None) -> Iterator[Endpoint]:
    """Directly where a network is shared, else by its published or enterprise address, else through the jump host.

    A published address leads to a host only if its ssh port is published.
    """
    shared = [nic.network for nic in vantage.interfaces] if vantage else [plan.enterprise.name]
    for host in plan.hosts:
        port = host.login.port
        near = next((nic for nic in host.interfaces if nic.network in shared), None)
        outer = host.interface(plan.enterprise.name)
        if near is not None:
            yield Endpoint(host.name, near.address, port=port)
        elif host.published is not None and host.admits("tcp", port):
            yield Endpoint(host.name, host.published, port=port)
        elif outer is not None:
            yield Endpoint(host.name, outer.address, port=port)
        else:
            yield Endpoint(host.name, host.primary.address, plan.jumphost.name, port)
