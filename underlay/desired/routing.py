"""Plan → addresses, routes, policy rules and sysctls of a host; and what has to change on a live one. Pure.

A host with a NIC in several networks answers from the address that was asked: each NIC has a routing table of its own,
with its connected route (else hosts of the same network become unreachable) and its default route. Three groups of
policy rules choose the table, in this order:

1. from one of our addresses to a network of the plan: the table of that address
2. `main`, its default routes left out: the pod and service prefixes of a CNI win over the next group
3. from one of our addresses to anywhere else: the table of that address
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from underlay.plan import Host, Interface, Plan

TO_NETWORK, MAIN_WITHOUT_DEFAULT, FROM_ADDRESS = 30100, 30200, 30300
PRIORITIES = range(30100, 30400)
"""Every policy rule with one of these priorities is ours; all others are somebody else's."""
TABLES = range(1001, 1100)
"""Every route in one of these tables is ours; a network's table is the first plus its place in the plan."""
MAIN = 254

NETWORKD = PurePosixPath("/etc/systemd/network")
LINK_FILE = "05-underlay-{nic}.network"
"""Sorts before what installers (and netplan, with 10-) write: the first file that matches a link wins."""
NETWORKD_CONF = "/etc/systemd/networkd.conf.d/underlay.conf"
SYSCTL_CONF = "/etc/sysctl.d/99-underlay.conf"
"""Sorts after `99-sysctl.conf`, Debian 12's link to /etc/sysctl.conf."""


@dataclass(frozen=True, order=True)
class Address:
    """An address on a NIC, `cidr` as `100.64.0.2/21`."""

    nic: str
    cidr: str


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
    """What the network of a host must be: everything in the order in which it is to be made."""

    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    rules: tuple[PolicyRule, ...]
    sysctls: dict[str, str]

    @property
    def nics(self) -> tuple[str, ...]:
        """The NICs of the plan on this host, in the plan's order."""
        return tuple(dict.fromkeys(address.nic for address in self.addresses))


@dataclass(frozen=True)
class LiveNetwork:
    """What the network of a host is.

    addresses: every IPv4 address on every NIC, in the kernel's order
    routes: every route of every table but `local`
    sysctls: those that were asked for; absent keys are absent here
    files: our own files, path → content
    """

    links: dict[str, bool]
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    rules: tuple[PolicyRule, ...]
    sysctls: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)


def host_network(plan: Plan, host: Host) -> HostNetwork:
    """The addresses, routes, policy rules and sysctls that the plan gives a host."""
    addresses = [Address(nic.nic, nic.with_prefix) for nic in host.interfaces]
    if host.role == "gateway":
        primary = host.primary
        published = [Address(primary.nic, f"{other.published}/{primary.cidr.prefixlen}") for other in plan.published]
        addresses[1:1] = published
    default = host.interface(host.default_network)
    assert default is not None  # checked when the plan was loaded
    routes = [Route(MAIN, "default", str(plan.gateway_address(default.network)), default.nic, str(default.address))]
    rules: list[PolicyRule] = []
    sysctls: dict[str, str] = {}
    if host.role == "gateway":
        sysctls["net.ipv4.ip_forward"] = "1"
    elif len(host.interfaces) > 1:
        for nic in host.interfaces:
            table = _table(plan, nic)
            routes.append(Route(table, str(nic.cidr), "", nic.nic, str(nic.address)))
            via = str(plan.gateway_address(nic.network))
            routes.append(Route(table, "default", via, nic.nic, str(nic.address)))
        rules = _policy_rules(plan, host)
        # The kernel takes the larger of `all` and the NIC's own, and CNIs need 0 on theirs.
        sysctls["net.ipv4.conf.all.rp_filter"] = "0"
        # The dot of `bond0.100` is a slash in a key with dots; `sysctl` prints it so, too.
        sysctls |= {f"net.ipv4.conf.{nic.nic.replace('.', '/')}.rp_filter": "1" for nic in host.interfaces}
    return HostNetwork(tuple(addresses), tuple(routes), tuple(rules), sysctls)


def _table(plan: Plan, nic: Interface) -> int:
    return TABLES[[network.name for network in plan.networks].index(nic.network)]


def _policy_rules(plan: Plan, host: Host) -> list[PolicyRule]:
    rules = [
        PolicyRule(TO_NETWORK, str(nic.address), str(network.cidr), _table(plan, nic))
        for nic in host.interfaces
        for network in plan.networks
    ]
    rules.append(PolicyRule(MAIN_WITHOUT_DEFAULT, "", "", MAIN, main_without_default=True))
    rules += [PolicyRule(FROM_ADDRESS, str(nic.address), "", _table(plan, nic)) for nic in host.interfaces]
    return rules


@dataclass(frozen=True)
class Change:
    """One difference between a live network and the plan: what a person reads, and the command that fixes it.

    nic: the NIC whose address changes, for a change of an address
    """

    what: str
    command: str
    nic: str = ""


def changes(wanted: HostNetwork, live: LiveNetwork) -> list[Change]:
    """What has to change in the live state, in a safe order: first what is missing, then what must go.

    Ours to remove: policy rules with our priorities, routes in our tables, addresses that our own files gave the host,
    and default routes through the plan's NICs. Everything else is left alone.
    """
    found = [
        Change(f"NIC {nic} is down", f"ip link set {nic} up") for nic in wanted.nics if not live.links.get(nic, False)
    ]
    found += [
        Change(f"{key} is {live.sysctls.get(key, 'not set')}, not {value}", f"sysctl -qw {key}={value}")
        for key, value in wanted.sysctls.items()
        if live.sysctls.get(key) != value
    ]
    addresses = _address_changes(wanted, live)
    found += addresses
    # The kernel drops routes together with an address: those of such a NIC are set again afterwards.
    shaken = {change.nic for change in addresses if change.command.startswith("ip addr del")}
    found += [
        Change(f"route {route.arguments} is missing", f"ip route replace {route.arguments}")
        if route not in live.routes
        else Change(f"route {route.arguments} may go with an address", f"ip route replace {route.arguments}")
        for route in wanted.routes
        if route not in live.routes or route.nic in shaken
    ]
    found += [
        Change(f"policy rule {rule.arguments} is missing", f"ip rule add {rule.arguments} proto static")
        for rule in wanted.rules
        if rule not in live.rules
    ]
    found += [
        Change(f"policy rule {rule.arguments} is not in the plan", f"ip rule del {rule.arguments}")
        for rule in sorted(set(live.rules) - set(wanted.rules))
        if rule.priority in PRIORITIES
    ]
    # `ip route replace` takes the place of the route that has the same table, destination and metric.
    replaced = {(route.table, route.destination, route.metric) for route in wanted.routes if route not in live.routes}
    for route in live.routes:
        ours = route.table in TABLES or (
            route.table == MAIN and route.destination == "default" and route.nic in wanted.nics
        )
        if ours and route not in wanted.routes and (route.table, route.destination, route.metric) not in replaced:
            gone = " || true" if route.nic in shaken else ""
            found.append(Change(f"route {route.selector} is not in the plan", f"ip route del {route.selector}{gone}"))
    return found


def _stale_addresses(wanted: HostNetwork, live: LiveNetwork) -> list[Address]:
    recorded = {
        Address(nic, line.removeprefix("Address="))
        for path, content in live.files.items()
        if (nic := nic_of(path))
        for line in content.splitlines()
        if line.startswith("Address=")
    }
    return [address for address in live.addresses if address in recorded and address not in wanted.addresses]


def _address_changes(wanted: HostNetwork, live: LiveNetwork) -> list[Change]:
    found = []
    stale = _stale_addresses(wanted, live)
    for nic in wanted.nics:
        mine = [address for address in wanted.addresses if address.nic == nic]
        there = [address for address in live.addresses if address in mine]
        # The kernel sends from the first address of a network: if that is another of ours, all are set anew. The order
        # of the others means nothing, and one that comes back comes back as the last.
        if there and there[0] != mine[0]:
            found += [
                Change(f"address {address.cidr} on {nic} is out of order", f"ip addr del {address.cidr} dev {nic}", nic)
                for address in reversed(there)
            ]
            there = []
        found += [
            Change(
                f"address {address.cidr} on {nic} is missing",
                f"ip addr replace {address.cidr} brd + dev {nic}",
            )
            for address in mine
            if address not in there
        ]
        found += [
            Change(f"address {address.cidr} on {nic} is not in the plan", f"ip addr del {address.cidr} dev {nic}", nic)
            for address in reversed(stale)  # the first of a network last: with it the kernel touches all others
            if address.nic == nic
        ]
    return found


def nic_of(path: str) -> str | None:
    """The NIC that one of our networkd files is for, or None for another file."""
    prefix, suffix = LINK_FILE.split("{nic}")
    name = PurePosixPath(path).name
    if name.startswith(prefix) and name.endswith(suffix):
        return name[len(prefix) : -len(suffix)]
    return None


def link_files(wanted: HostNetwork) -> Mapping[str, dict[str, object]]:
    """For each NIC's networkd file, by path, the values that its template takes."""
    found: dict[str, dict[str, object]] = {}
    for number, nic in enumerate(wanted.nics):
        found[str(NETWORKD / LINK_FILE.format(nic=nic))] = {
            "nic": nic,
            "addresses": [address.cidr for address in wanted.addresses if address.nic == nic],
            "routes": [route for route in wanted.routes if route.nic == nic],
            # Policy rules belong to no NIC; the first one's file carries them.
            "rules": wanted.rules if number == 0 else (),
            "main": MAIN,
        }
    return found
