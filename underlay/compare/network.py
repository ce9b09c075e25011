"""The live network of a host beside what it must be. Pure."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from underlay.compare import managers
from underlay.compare.difference import Difference, Nic, Sysctl
from underlay.compare.managers import Evidence, Managers, ifupdown
from underlay.compare.systemd import networkd
from underlay.compare.systemd.networkd import Device, NetworkFile, System
from underlay.desired import hooks
from underlay.desired.files import Bases, nic_of, ours_in
from underlay.desired.routing import (
    FORMER_SYSCTL_CONF,
    NETWORKD_CONF,
    PRIORITIES,
    SYSCTL_CONF,
    TABLES,
    Address,
    HostNetwork,
    PolicyRule,
    Route,
)
from underlay.desired.units import Unit


@dataclass(frozen=True)
class LiveNetwork:
    """What the network of a host is.

    addresses: every IPv4 address on every NIC, in the kernel's order
    routes: every route of every table but `local`
    sysctls: those that were asked for; absent keys are absent here
    files: those of networkd and sysctl, path → content; one that hides others is empty
    devices, system: what networkd's files can look at
    evidence: who brings its NICs up
    """

    links: dict[str, bool]
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    rules: tuple[PolicyRule, ...]
    sysctls: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    devices: tuple[Device, ...] = ()
    system: System = field(default_factory=System)
    evidence: Evidence = field(default_factory=Evidence)

    @cached_property
    def network_files(self) -> list[NetworkFile]:
        """The host's own .network files."""
        return networkd.network_files(self.files)

    def bases(self, nics: Iterable[str]) -> Bases:
        """What the host's own files tell networkd of NICs."""
        return networkd.bases(nics, self.network_files, self.devices, self.system)

    def managers(self, nics: Iterable[str]) -> Managers:
        """Who brings NICs up."""
        return managers.managers(nics, self.evidence, self.files, self.network_files, self.devices, self.system)

    def managing(self, nics: Iterable[str]) -> tuple[Unit, ...]:
        """The units that bring NICs up."""
        nics = list(nics)
        return tuple(managers.UNITS[name] for name in self.managers(nics).by_manager(nics))

    @cached_property
    def ours(self) -> dict[str, str]:
        """Our own files, those of earlier versions too."""
        others = (NETWORKD_CONF, SYSCTL_CONF, FORMER_SYSCTL_CONF)
        return {path: text for path, text in self.files.items() if path in others or managers.is_ours(path)}


def differences(wanted: HostNetwork, live: LiveNetwork) -> list[Difference]:
    """What differs in the live state, in a safe order to fix it: first what is missing, then what must go.

    Ours to remove: policy rules with our priorities, routes in our tables, and addresses that only our own files gave
    the host. Everything else is left alone, default routes in `main` too: the plan's wins over them.
    """
    found = [
        Difference("down" if nic in live.links else "missing", Nic(nic))
        for nic in wanted.nics
        if not live.links.get(nic, False)
    ]
    found += [
        Difference("differs", Sysctl(key, value), live.sysctls.get(key))
        for key, value in wanted.sysctls.items()
        if live.sysctls.get(key) != value
    ]
    for nic in wanted.nics:
        found += _address_differences(nic, wanted, live)
    # The kernel drops routes together with an address: those of such a NIC are set again afterwards.
    shaken = {each.thing.nic for each in found if isinstance(each.thing, Address) and each.kind in ("order", "extra")}
    return found + _route_differences(wanted, live, shaken)


def command(difference: Difference) -> str:
    """The command that fixes a difference of the live network, as root on its host; names from there are words."""
    line = shlex.join(_words(difference).split())
    # It may have gone with its address.
    tried = isinstance(difference.thing, Route) and difference.kind == "extra" and difference.shaken
    return f"{line} || true" if tried else line


def _words(difference: Difference) -> str:
    gone = difference.kind in ("order", "extra")
    match difference.thing:
        case Nic(name):
            return f"ip link set {name} up"
        case Sysctl(key, value):
            return f"sysctl -qw {key}={value}"
        case Address(nic, cidr):
            return f"ip addr del {cidr} dev {nic}" if gone else f"ip addr replace {cidr} brd + dev {nic}"
        case Route() as route:
            return f"ip route del {route.selector}" if gone else f"ip route replace {route.arguments}"
        case PolicyRule() as rule:
            return f"ip rule del {rule.arguments}" if gone else f"ip rule add {rule.arguments} proto static"
    raise AssertionError(difference)


def _stale_addresses(wanted: HostNetwork, live: LiveNetwork) -> list[Address]:
    recorded = {
        Address(nic, line.removeprefix("Address="))
        for path, content in live.ours.items()
        if (nic := nic_of(path, content))
        for line in ours_in(content).splitlines()
        if line.startswith("Address=")
    } | {address for path, content in live.ours.items() for address in hooks.addresses_in(path, content)}
    stale = [address for address in live.addresses if address in recorded and address not in wanted.addresses]
    # What the host's own files say comes back at the next boot: it was not ours alone.
    bases = live.bases({each.nic for each in stale})
    theirs = {
        *(Address(nic, cidr) for nic, found in bases.items() for base in found for cidr in base.addresses),
        *ifupdown.addresses(live.files),
        *live.evidence.addresses,
    }
    return [each for each in stale if each not in theirs]


def _address_differences(nic: str, wanted: HostNetwork, live: LiveNetwork) -> list[Difference]:
    found: list[Difference] = []
    mine = [address for address in wanted.addresses if address.nic == nic]
    there = [address for address in live.addresses if address in mine]
    # The kernel sends from the first address of a network: if that is another of ours, all are set anew. The order
    # of the others means nothing, and one that comes back comes back as the last.
    anew = bool(there) and there[0] != mine[0]
    if anew:
        found += [Difference("order", address) for address in reversed(there)]
    found += [
        Difference("missing", address, shaken=address in there) for address in mine if anew or address not in there
    ]
    found += [
        Difference("extra", address)
        for address in reversed(_stale_addresses(wanted, live))  # the first of a network last: with it the kernel
        if address.nic == nic  # touches all others
    ]
    return found


def _route_differences(wanted: HostNetwork, live: LiveNetwork, shaken: set[str]) -> list[Difference]:
    """Those of routes and policy rules; on NICs that are `shaken` routes may go with an address."""
    found = [
        Difference("missing", route, _instead(route, wanted, live), shaken=route in live.routes)
        for route in wanted.routes
        if route not in live.routes or route.nic in shaken
    ]
    found += [Difference("missing", rule) for rule in wanted.rules if rule not in live.rules]
    found += [
        Difference("extra", rule) for rule in sorted(set(live.rules) - set(wanted.rules)) if rule.priority in PRIORITIES
    ]
    # `ip route replace` takes the place of the route that has the same table, destination and metric.
    replaced = {(route.table, route.destination, route.metric) for route in wanted.routes if route not in live.routes}
    for route in live.routes:
        place = (route.table, route.destination, route.metric)
        if route.table in TABLES and route not in wanted.routes and place not in replaced:
            found.append(Difference("extra", route, shaken=route.nic in shaken))
    return found


def _instead(route: Route, wanted: HostNetwork, live: LiveNetwork) -> tuple[Route, ...]:
    """The routes to the same destination in the same table that are in no plan."""
    place = (route.table, route.destination)
    return tuple(each for each in live.routes if (each.table, each.destination) == place and each not in wanted.routes)
