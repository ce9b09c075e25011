"""Plan → addresses, routes, policy rules and sysctls of a host. Pure.

The planned default route is in a table of its own: those that a host has in `main` stay, and are not used. A host with
a NIC in several networks answers from the address that was asked: each NIC has a routing table of its own, with its
connected route (else hosts of the same network become unreachable) and its default route. Policy rules choose the
table, in this order; the second and the last group are on every host:

1. from one of our addresses to a network of the plan: the table of that address
2. `main`, its default routes left out: the pod and service prefixes of a CNI win over the next groups
3. from one of our addresses to anywhere else: the table of that address
4. the table of the default route
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from underlay.plan import MOST_NETWORKS, MTU, Bond, Host, Interface, Plan, Vlan

TO_NETWORK, MAIN_WITHOUT_DEFAULT, FROM_ADDRESS, TO_DEFAULT = 30100, 30200, 30300, 30400
PRIORITIES = range(TO_NETWORK, TO_DEFAULT + 1)
"""Every policy rule with one of these priorities is ours; all others are unmanaged."""
TABLES = range(1000, 1001 + MOST_NETWORKS)
"""Every route in one of these tables is ours: the first is for the default route, then each network has one."""
DEFAULT, *NETWORK_TABLES = TABLES
MAIN = 254
IP_FORWARD = "net.ipv4.ip_forward"
ALL_RP_FILTER = "net.ipv4.conf.all.rp_filter"

NETWORKD = PurePosixPath("/etc/systemd/network")
LINK_FILE = "05-underlay-{nic}.network"
"""Sorts before what installers (and netplan, with 10-) write: the first file that matches a link wins."""
LAST_FILE = "zz-underlay-{nic}.network"
"""Sorts after all others."""
NETDEV_FILE = "05-underlay-{nic}.netdev"
"""Of a NIC that is made of others. Of two files that make it the first one counts, too."""
LAST_NETDEV_FILE = "zz-underlay-{nic}.netdev"
DROP_IN = "50-underlay.conf"
NETWORKD_CONF = "/etc/systemd/networkd.conf.d/underlay.conf"
SYSCTL_CONF = "/etc/sysctl.d/zz-underlay.conf"
"""Sorts after what people write: the last file wins, in whichever folder it is."""
FORMER_SYSCTL_CONF = "/etc/sysctl.d/99-underlay.conf"


@dataclass(frozen=True, order=True)
class Address:
    """An address on a NIC, `cidr` as `100.64.0.2/21`."""

    nic: str
    cidr: str

    @property
    def ip(self) -> str:
        """It without its length."""
        return self.cidr.partition("/")[0]


@dataclass(frozen=True, order=True)
class Route:
    """A route to a CIDR or `default`; `via` is empty for a connected one, `source` is the preferred one.

    `nic` is empty for a blackhole, and for a route with several next hops.
    """

    table: int
    destination: str
    via: str
    nic: str
    source: str = ""
    metric: int = 0

    @property
    def selector(self) -> str:
        """As `ip route del` takes it, whoever made it."""
        parts = [self.destination]
        parts += ["via", self.via] if self.via else []
        parts += ["dev", self.nic] if self.nic else []
        parts += ["src", self.source] if self.source else []
        parts += ["metric", str(self.metric)] if self.metric else []
        parts += ["table", str(self.table)]
        return " ".join(parts)

    @property
    def arguments(self) -> str:
        """As `ip route replace` takes it."""
        return f"{self.selector} proto static" + ("" if self.via else " scope link")


@dataclass(frozen=True, order=True)
class PolicyRule:
    """A policy rule; empty `source` or `destination` means all; `main_without_default` is `suppress_prefixlength 0`."""

    priority: int
    source: str
    destination: str
    table: int
    main_without_default: bool = False

    @property
    def arguments(self) -> str:
        """As `ip rule` takes it."""
        parts = ["priority", str(self.priority), "from", self.source or "all", "to", self.destination or "all"]
        parts += ["table", str(self.table)]
        parts += ["suppress_prefixlength", "0"] if self.main_without_default else []
        return " ".join(parts)


@dataclass(frozen=True)
class HostNetwork:
    """What the network of a host must be: everything in the order in which it is to be made.

    links: see `plan.Host`; mtus: NIC → its MTU, where the plan has one
    """

    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    rules: tuple[PolicyRule, ...]
    sysctls: dict[str, str]
    links: tuple[Bond | Vlan, ...] = ()
    mtus: Mapping[str, int] = field(default_factory=dict)

    @property
    def nics(self) -> tuple[str, ...]:
        """The NICs of the plan on this host, in the plan's order."""
        return tuple(dict.fromkeys(address.nic for address in self.addresses))

    @property
    def bonds(self) -> tuple[Bond, ...]:
        """Those of `links`."""
        return tuple(each for each in self.links if isinstance(each, Bond))

    @property
    def vlans(self) -> tuple[Vlan, ...]:
        """Those of `links`."""
        return tuple(each for each in self.links if isinstance(each, Vlan))

    @property
    def legs(self) -> dict[str, str]:
        """NIC → the bond that it is a leg of."""
        return {leg: bond.name for bond in self.bonds for leg in bond.legs}

    @property
    def lower(self) -> tuple[str, ...]:
        """What `links` are made of, without the legs: NICs that others are on, and that have no address of the plan."""
        names = dict.fromkeys([*(bond.name for bond in self.bonds), *(vlan.parent for vlan in self.vlans)])
        return tuple(name for name in names if name not in self.nics)

    @property
    def least(self) -> dict[str, int]:
        """NIC → the MTU that it has at least, as it carries VLANs with that; more is the host's own affair."""
        found: dict[str, int] = {}
        for vlan in self.vlans:
            found[vlan.parent] = max(self.mtus.get(vlan.name, 0), found.get(vlan.parent, MTU))
        return {name: size for name, size in found.items() if size > MTU and name not in self.mtus}

    @property
    def every(self) -> tuple[str, ...]:
        """All NICs of the host that the plan has a part in: those with its addresses, and what these are made of."""
        return (*self.nics, *self.lower, *self.legs)

    @property
    def forwards(self) -> bool:
        """Whether it is a router."""
        return self.sysctls.get(IP_FORWARD) == "1"


def host_network(plan: Plan, host: Host) -> HostNetwork:
    """The addresses, routes, policy rules and sysctls that the plan gives a host."""
    addresses = [Address(nic.nic, nic.with_prefix) for nic in host.interfaces]
    if host.role == "gateway":
        primary = host.primary
        published = [Address(primary.nic, f"{other.published}/{primary.cidr.prefixlen}") for other in plan.published]
        addresses[1:1] = published
    default = host.interface(host.default_network)
    assert default is not None  # checked when the plan was loaded
    routes = [Route(DEFAULT, "default", str(plan.gateway_address(default.network)), default.nic, str(default.address))]
    rules = [PolicyRule(MAIN_WITHOUT_DEFAULT, "", "", MAIN, main_without_default=True)]
    sysctls: dict[str, str] = {}
    if host.role == "gateway":
        # A source address that another NIC leads to is dropped. `all` is not ours: it counts for unmanaged NICs, too.
        sysctls |= {IP_FORWARD: "1", **_strict(host)}
    elif len(host.interfaces) > 1:
        for nic in host.interfaces:
            table = _table(plan, nic)
            routes.append(Route(table, str(nic.cidr), "", nic.nic, str(nic.address)))
            via = str(plan.gateway_address(nic.network))
            routes.append(Route(table, "default", via, nic.nic, str(nic.address)))
        rules += _policy_rules(plan, host)
        # The kernel takes the larger of `all` and the NIC's own, and CNIs need 0 on theirs.
        sysctls |= {ALL_RP_FILTER: "0", **_strict(host)}
    rules.append(PolicyRule(TO_DEFAULT, "", "", DEFAULT))
    # In the order in which the kernel looks: people read them so.
    rules.sort(key=lambda rule: rule.priority)
    return HostNetwork(tuple(addresses), tuple(routes), tuple(rules), sysctls, host.links, dict(host.mtus))


def _strict(host: Host) -> dict[str, str]:
    # The dot of `bond0.100` is a slash in a key with dots; `sysctl` prints it so, too.
    return {f"net.ipv4.conf.{nic.nic.replace('.', '/')}.rp_filter": "1" for nic in host.interfaces}


def _table(plan: Plan, nic: Interface) -> int:
    return NETWORK_TABLES[[network.name for network in plan.networks].index(nic.network)]


def _policy_rules(plan: Plan, host: Host) -> list[PolicyRule]:
    rules = [
        PolicyRule(TO_NETWORK, str(nic.address), str(network.cidr), _table(plan, nic))
        for nic in host.interfaces
        for network in plan.networks
    ]
    return rules + [PolicyRule(FROM_ADDRESS, str(nic.address), "", _table(plan, nic)) for nic in host.interfaces]
