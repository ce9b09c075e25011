"""Plan → the files of a host, as text, and where they are. Pure.

networkd takes the first file that matches a NIC, whole. So ours is a drop-in beside that file; where the file is for
other NICs, too, ours is a file in front of it that repeats it for the one NIC; where there is none, a file. What is
below /run may not be there after a boot: then ours is also beside what is in charge without it, or the last of all.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from underlay.desired import routing
from underlay.desired.routing import (
    DROP_IN,
    LAST_FILE,
    LAST_NETDEV_FILE,
    LINK_FILE,
    NETDEV_FILE,
    NETWORKD,
    HostNetwork,
)
from underlay.desired.templates import render
from underlay.plan import MTU, Bond, Host, Plan

RULES = "/var/lib/underlay/rules.v4"
"""The rules of ours, as the last deploy made them: what is loaded at boot, and how a later one knows which are ours."""
BOOT = (
    ("nftables.service", "/etc/nftables.conf", ("nft", "--file")),
    ("netfilter-persistent.service", "/etc/iptables/rules.v4", ("iptables-restore",)),
)
"""What others load before ours at boot: the unit, its file, the program that loads it."""
SSHD = "/etc/ssh/sshd_config.d/05-underlay.conf"
FORWARDING = ("gateway", "jumphost")
"""The roles through which others are reached: through the jump host as planned, through the gateway if that fails."""
MARK = "[X-Underlay]"
"""The section that ours begins with: networkd skips it. What a file repeats of others stands before it."""


@dataclass(frozen=True)
class Base:
    """What the host's own files tell networkd of a NIC: the file in charge of it, with its drop-ins.

    path: of the file in charge, empty if nobody is
    specific: it is for this NIC only
    text: its settings, but for what it matches
    addresses: the addresses that it gives the NIC
    keeps: it says itself what networkd keeps over a restart
    last: ours is to hide no other file
    mtu: the one that it gives the NIC; 0 if none
    bond: the one that it makes the NIC a leg of
    made: a file of the host's own makes the NIC
    """

    path: str = ""
    specific: bool = False
    text: str = ""
    addresses: frozenset[str] = frozenset()
    keeps: bool = False
    last: bool = False
    mtu: int = 0
    bond: str = ""
    made: bool = False


Bases = Mapping[str, Sequence[Base]]
"""For each NIC what there is for ours to be beside."""


def link_path(nic: str, base: Base) -> str:
    """Where ours is for a NIC."""
    if base.specific:
        return str(NETWORKD / f"{PurePosixPath(base.path).name}.d" / DROP_IN)
    return str(NETWORKD / (LAST_FILE if base.last else LINK_FILE).format(nic=nic))


def link_files(wanted: HostNetwork, bases: Bases) -> dict[str, str]:
    """Path → content of ours for each NIC; nobody is in charge of one that is not in `bases`.

    What is made of others is made by a file, too, unless the host has one that does.
    """
    found = {}
    for nic, bond in wanted.legs.items():
        # Of what else is said of it nothing counts for a leg. Where theirs makes it one, but may not come back, ours is
        # not in front: theirs may say more.
        other = [base for base in bases.get(nic, [Base()]) if base.bond != bond]
        if other:
            found[link_path(nic, Base(last=other[0].last))] = render("network/leg.network.j2", nic=nic, bond=bond)
    for number, nic in enumerate((*wanted.nics, *wanted.lower)):
        for base in bases.get(nic, [Base()]):
            found[link_path(nic, base)] = render(
                "network/link.network.j2",
                nic=nic,
                base=base,
                mark=MARK,
                mtu=wanted.mtus.get(nic) or (least if (least := wanted.least.get(nic, 0)) > base.mtu else None),
                vlans=[vlan.name for vlan in wanted.vlans if vlan.parent == nic],
                # networkd takes one of two equal ones, and with theirs all that is said of it.
                addresses=[
                    each.cidr for each in wanted.addresses if each.nic == nic and each.cidr not in base.addresses
                ],
                routes=[route for route in wanted.routes if route.nic == nic],
                # Policy rules belong to no NIC; the first one's file carries them.
                rules=wanted.rules if number == 0 else (),
            )
    sizes = {**wanted.least, **wanted.mtus}
    for link in wanted.links:
        made = [base.made for base in bases.get(link.name, [Base()])]
        if not all(made):
            name = LAST_NETDEV_FILE if any(made) else NETDEV_FILE
            found[str(NETWORKD / name.format(nic=link.name))] = render(
                "network/link.netdev.j2", link=link, bond=isinstance(link, Bond), mtu=sizes.get(link.name, MTU)
            )
    return found


def nic_of(path: str, content: str) -> str | None:
    """The NIC that one of our networkd files is for, or None for another file."""
    where = PurePosixPath(path)
    for name in (LINK_FILE, LAST_FILE, NETDEV_FILE, LAST_NETDEV_FILE):
        prefix, suffix = name.split("{nic}")
        if where.parent == NETWORKD and where.name.startswith(prefix) and where.name.endswith(suffix):
            return where.name[len(prefix) : -len(suffix)]
    if where.name == DROP_IN and where.parent.parent == NETWORKD:
        named = re.search(rf"^{re.escape(MARK)}\nNIC=(.+)$", content, re.MULTILINE)
        return named[1] if named else ""
    return None


def ours_in(content: str) -> str:
    """The part of one of our files that is ours."""
    return content.rpartition(MARK)[2]


def network_files(wanted: HostNetwork, bases: Bases) -> dict[str, str]:
    """Path → content of every file that makes the network come back after a boot.

    bases: for each NIC what the host's own files make of it (`compare.systemd.networkd.bases`)
    """
    found = link_files(wanted, bases)
    found[routing.NETWORKD_CONF] = render("network/networkd.conf.j2")
    return found | sysctl_files(wanted)


def sysctl_files(wanted: HostNetwork) -> dict[str, str]:
    """Path → content of the file that sets the sysctls at boot, if there are any."""
    return {routing.SYSCTL_CONF: render("network/sysctl.conf.j2", sysctls=wanted.sysctls)} if wanted.sysctls else {}


def firewall_unit(program: object) -> str:
    """The gateway's unit `units.FIREWALL`; `program`: where the guard is on a host, which puts the rules in place."""
    others = [*(unit for unit, *_ in BOOT), "iptables.service", "ufw.service", "firewalld.service"]
    return render("gateway/firewall.service.j2", record=RULES, program=program, others=" ".join(others))


def sshd_settings(plan: Plan, host: Host) -> dict[str, str]:
    """What sshd must do for everybody: keyword → value."""
    found = {
        "PasswordAuthentication": "no",
        "KbdInteractiveAuthentication": "no",
        "PubkeyAuthentication": "yes",
        "PermitEmptyPasswords": "no",
        "AllowTcpForwarding": "local" if host.role in FORWARDING else "no",
        "AllowStreamLocalForwarding": "no",
        "AllowAgentForwarding": "no",
        "GatewayPorts": "no",
        "X11Forwarding": "no",
        "PermitTunnel": "no",
    }
    if host.role == "jumphost":
        found |= {
            # Elsewhere other tools may log in as root, by key.
            "PermitRootLogin": "prohibit-password" if plan.jumphost.login.user == "root" else "no",
            "MaxAuthTries": "4",
            "LoginGraceTime": "20",
            # A deploy of a large site jumps through here to many hosts at once.
            "MaxStartups": "200:30:400",
            "MaxSessions": "200",
            "ClientAliveInterval": "30",
            "ClientAliveCountMax": "4",
        }
    return found


def sshd_file(plan: Plan, host: Host) -> str:
    """The file SSHD."""
    return render("ssh/sshd.conf.j2", settings=sshd_settings(plan, host))


def authorized_keys(host: Host) -> str:
    """The operator's authorized_keys on a host, for a shell there: only that knows where a home is."""
    return f"~{host.login.user}/.ssh/authorized_keys"
