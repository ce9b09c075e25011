"""The live network of a host beside what it must be. Pure."""

import shlex
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from underlay.compare import managers
from underlay.compare.difference import Difference, Leg, Link, Mtu, Nic, Sysctl
from underlay.compare.managers import Evidence, Managers, ifupdown
from underlay.compare.systemd import networkd
from underlay.compare.systemd.networkd import Device, NetworkFile, System
from underlay.desired import hooks
from underlay.desired.files import Bases, nic_of, ours_in
from underlay.desired.routing import (
    FORMER_SYSCTL_CONF,
    MAIN,
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
from underlay.plan import MTU, Bond, Vlan

OF_THE_KERNEL = (0, 32766, 32767)
"""Priorities of the policy rules that every host has."""


@dataclass(frozen=True)
class Shape:
    """How a NIC is made.

    kind: `bond`, `vlan`, …; empty for a real one
    master: the NIC that it is a leg or a port of
    parent, number: of a VLAN; mode: of a bond
    """

    mtu: int
    kind: str = ""
    master: str = ""
    parent: str = ""
    number: int = 0
    mode: str = ""


@dataclass(frozen=True)
class LiveNetwork:
    """What the network of a host is.

    links: NIC → whether it is switched on
    addresses: every IPv4 address on every NIC, in the kernel's order
    routes: every route of every table but `local`
    sysctls: those that were asked for; absent keys are absent here
    files: those of networkd and sysctl, path → content; one that hides others is empty
    devices, system: what networkd's files can look at
    evidence: who brings its NICs up
    shapes: of its NICs
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
    shapes: dict[str, Shape] = field(default_factory=dict)

    @cached_property
    def network_files(self) -> list[NetworkFile]:
        """The host's own .network files."""
        return networkd.network_files(self.files)

    def bases(self, nics: Iterable[str], links: Iterable[Bond | Vlan] = ()) -> Bases:
        """What the host's own files tell networkd of NICs; `links`: those that the plan makes of others.

        What ours makes is told the same before and after it is there: it has the MAC of what it is made of.
        """
        made = networkd.made(self.files)
        ours = {link.name: "bond" if isinstance(link, Bond) else "vlan" for link in links if link.name not in made}
        devices = [each for each in self.devices if each.names[0] not in ours]
        devices += [Device((name,), "", "", kind, kind) for name, kind in ours.items()]
        return networkd.bases(nics, self.network_files, devices, self.system, made)

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
    found = _link_differences(wanted, live)
    found += [
        Difference("differs", Sysctl(key, value), live.sysctls.get(key))
        for key, value in wanted.sysctls.items()
        if live.sysctls.get(key) != value
    ]
    # A NIC that left the plan has what ours gave it still: the same address may be another one's now.
    stale = _stale_addresses(wanted, live)
    for nic in dict.fromkeys([*wanted.nics, *(each.nic for each in stale)]):
        found += _address_differences(nic, wanted, live, stale)
    # The kernel drops routes together with an address: those of such a NIC are set again afterwards.
    shaken = {each.thing.nic for each in found if isinstance(each.thing, Address) and each.kind in ("order", "extra")}
    return found + _route_differences(wanted, live, shaken)


def _link_differences(wanted: HostNetwork, live: LiveNetwork) -> list[Difference]:
    links = {link.name: link for link in wanted.links}
    found: list[Difference] = []
    # In the order in which one is made of others: a VLAN takes no MTU above that of its NIC, and is up only on one
    # that is up.
    bonds, parents = (bond.name for bond in wanted.bonds), (vlan.parent for vlan in wanted.vlans)
    for nic in dict.fromkeys([*wanted.legs, *bonds, *parents, *links, *wanted.nics]):
        link = links.get(nic)
        if nic not in live.links:
            found.append(Difference("missing", link or Nic(nic)))
        if isinstance(link, Bond):
            found += [
                Difference("missing", Leg(leg, nic))
                for leg in link.legs
                if leg not in live.shapes or live.shapes[leg].master != nic
            ]
        there = live.shapes[nic].mtu if nic in live.shapes else 0
        size = wanted.mtus.get(nic) or max(wanted.least.get(nic, 0), there)
        if there != size:
            found.append(Difference("differs", Mtu(nic, size), str(there) if there else None))
        if not live.links.get(nic, False) and (link or nic in live.links):
            found.append(Difference("down", Nic(nic)))
    return found


def unfit(wanted: HostNetwork, live: LiveNetwork) -> str:
    """Why a deploy can't bring up the NICs of the plan without a loss, for people, with what to do; empty if it can."""
    managers = live.managers(wanted.every)
    found = (why for each in (_unfit_below, _unfit_links) for why in each(wanted, live, managers))
    return managers.problem or next(found, "")


def _unfit_below(wanted: HostNetwork, live: LiveNetwork, managers: Managers) -> Iterator[str]:
    """Of the NICs that others are to be made of."""
    bonds = [bond.name for bond in wanted.bonds]
    masters = {name: shape.master for name, shape in live.shapes.items() if shape.master}
    for nic in wanted.nics:
        if nic in masters and live.shapes.get(masters[nic], Shape(0)).kind != "vrf":
            yield f"NIC {nic} is part of {masters[nic]}, and can't be used by itself: take it out there first"
    for nic, link in {**{vlan.parent: vlan.name for vlan in wanted.vlans}, **wanted.legs}.items():
        if nic not in (*live.links, *bonds):
            yield f"NIC {nic} is not there, and {link} is to be made of it: see `ip link`"
    for nic, bond in wanted.legs.items():
        master = masters.get(nic, "")
        # What is on it goes down with it.
        on_it = [name for name, shape in live.shapes.items() if shape.parent == nic and not master]
        for own in (each for each in live.addresses if each.nic in (nic, *on_it)):
            yield f"NIC {own.nic} has the address {own.cidr}, and would lose it with {nic} in {bond}: move it first"
        if master not in ("", bond):
            yield f"NIC {nic} is part of {master}, and can't be a leg of {bond}: take it out there first"
        if not master and bond in live.links and (manager := managers.of(bond)) != hooks.NETWORKD:
            yield f"NIC {nic} is no leg of {bond}, and {manager} is in charge: make it one with that, and deploy again"


def _unfit_links(wanted: HostNetwork, live: LiveNetwork, managers: Managers) -> Iterator[str]:
    """Of the bonds and VLANs."""
    for found in otherwise(wanted, live):
        yield f"{found.what}: make it as planned, or plan it as it is"
    for link in wanted.links:
        if link.name not in live.shapes:
            made_of = link.legs if isinstance(link, Bond) else (link.parent,)
            others = [each for nic in (link.name, *made_of) if (each := managers.of(nic)) != hooks.NETWORKD]
            if others and managers.nobody(link.name):
                yield f"NIC {link.name} is not there, and {others[0]} is in charge: make it with that, and deploy again"
            if same := _same_vlan(link, live):
                yield f"NIC {link.name} is there as {same}: plan {same}, as a NIC that the host has"


def otherwise(wanted: HostNetwork, live: LiveNetwork) -> Iterator[Difference]:
    """Bonds and VLANs that are made otherwise than planned; no deploy changes that."""
    for link in wanted.links:
        there = live.shapes.get(link.name)
        if there and (is_ := _made_otherwise(link, there)):
            yield Difference("differs", link, f"is {is_}")


def _same_vlan(link: Bond | Vlan, live: LiveNetwork) -> str:
    """The NIC that is the same VLAN by another name: the kernel makes no second one."""
    shapes = live.shapes.items() if isinstance(link, Vlan) else ()
    return next((name for name, each in shapes if not _made_otherwise(link, each)), "")


def _made_otherwise(link: Bond | Vlan, there: Shape) -> str:
    if isinstance(link, Bond):
        is_ = there.mode if there.kind == "bond" else there.kind or "a real one"
        return "" if (there.kind, there.mode) == ("bond", link.mode) else f"{is_}, not a bond with {link.mode}"
    wanted = f"not VLAN {link.number} on {link.parent}"
    is_ = f"VLAN {there.number} on {there.parent}" if there.kind == "vlan" else there.kind or "a real one"
    return "" if (there.kind, there.parent, there.number) == ("vlan", link.parent, link.number) else f"{is_}, {wanted}"


def unmanaged(wanted: HostNetwork, live: LiveNetwork, nics: Collection[str]) -> Iterator[str]:
    """Addresses, routes and further legs of these NICs, and policy rules, that are in no plan and stay, for people."""
    stale = _stale_addresses(wanted, live)
    for nic, shape in live.shapes.items():
        if shape.master in {bond.name for bond in wanted.bonds} & {*nics} and nic not in wanted.legs:
            yield f"NIC {nic} in {shape.master}"
    for address in live.addresses:
        if address.nic in nics and address not in wanted.addresses and address not in stale:
            yield f"address {address.cidr} on {address.nic}"
    for route in live.routes:
        if route.table == MAIN and route.via and (route.nic in nics or not route.nic):
            yield f"route {route.selector.removesuffix(f' table {MAIN}')}"
    for rule in live.rules:
        if rule.priority not in OF_THE_KERNEL and rule.priority not in PRIORITIES:
            yield f"policy rule {rule.arguments}"


def command(difference: Difference) -> str:
    """The command that fixes a difference of the live network, as root on its host, in one line."""
    return " && ".join(commands(difference))


def commands(difference: Difference) -> list[str]:
    """The commands that do so, one a line: `sh -e` goes on behind an `&&`. Names from the host are words."""
    lines = [shlex.join(each.split()) for each in _words(difference).split("\n")]
    # It may have gone with its address.
    tried = isinstance(difference.thing, Route) and difference.kind == "extra" and difference.shaken
    return [f"{line} || true" for line in lines] if tried else lines


def _words(difference: Difference) -> str:
    gone = difference.kind in ("order", "extra")
    match difference.thing:
        case Nic() | Bond() | Vlan() | Leg() | Mtu() as link:
            return _link_words(link)
        case Sysctl(key, value):
            return f"sysctl -qw {key}={value}"
        case Address(nic, cidr):
            return f"ip addr del {cidr} dev {nic}" if gone else f"ip addr replace {cidr} brd + dev {nic}"
        case Route() as route:
            return f"ip route del {route.selector}" if gone else f"ip route replace {route.arguments}"
        case PolicyRule() as rule:
            return f"ip rule del {rule.arguments}" if gone else f"ip rule add {rule.arguments} proto static"
    raise AssertionError(difference)


def _link_words(link: Link) -> str:
    match link:
        case Nic(name):
            found = f"ip link set {name} up"
        case Bond():
            more = " xmit_hash_policy layer3+4 lacp_rate fast" if link.mode == "802.3ad" else ""
            found = f"ip link add {link.name} type bond mode {link.mode} miimon 100{more}"
        case Vlan():
            found = f"ip link add link {link.parent} name {link.name} mtu {MTU} type vlan id {link.number}"
        case Leg(nic, bond):
            found = f"ip link set {nic} down\nip link set {nic} master {bond}\nip link set {nic} up"
        case Mtu(nic, size):
            found = f"ip link set {nic} mtu {size}"
    return found


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


def _address_differences(nic: str, wanted: HostNetwork, live: LiveNetwork, stale: list[Address]) -> list[Difference]:
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
        for address in reversed(stale)  # the first of a network last: with it the kernel
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
