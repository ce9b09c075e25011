"""What the NICs of a host are made of, by the plan: those that it has, bonds of them, VLANs on these. Pure."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from underlay.plan.model import MTU, Bond, NicSpec, Vlan

LONGEST = 15
"""Characters of a NIC's name, by the kernel."""


@dataclass
class Nics:
    """names: network → its NIC; mtus: NIC → its own; links: see `Host`."""

    names: dict[str, str] = field(default_factory=dict)
    bonds: dict[str, Bond] = field(default_factory=dict)
    vlans: dict[str, Vlan] = field(default_factory=dict)
    mtus: dict[str, int] = field(default_factory=dict)

    @property
    def links(self) -> tuple[Bond | Vlan, ...]:
        """What is made of others, those first that others are made of."""
        return *self.bonds.values(), *self.vlans.values()


def nics(networks: Iterable[str], specs: Mapping[str, NicSpec]) -> Nics:
    """The NICs of a host that has an address in these networks; a NIC without a spec is called by its number."""
    found = Nics()
    every = {network: specs.get(network, NicSpec(nic=f"eth{index}")) for index, network in enumerate(networks)}
    bonds = _bond_names(every.values())
    for network, spec in every.items():
        name = bonds[frozenset(spec.bond)] if spec.bond else str(spec.nic)
        if spec.bond:
            found.bonds.setdefault(name, Bond(name=name, legs=spec.bond, mode=spec.mode))
        if spec.vlan:
            parent, name = name, _vlan_name(name, spec.vlan)
            found.vlans.setdefault(name, Vlan(name=name, parent=parent, number=spec.vlan))
        found.names[network] = name
        if spec.mtu:
            found.mtus[name] = spec.mtu
    return found


def _bond_names(specs: Iterable[NicSpec]) -> dict[frozenset[str], str]:
    """The legs of each bond → its name: that of the plan, or the first one that is free."""
    specs = list(specs)
    found = {frozenset(spec.bond): spec.nic for spec in reversed(specs) if spec.bond and spec.nic}
    taken = {spec.nic for spec in specs}
    free = (name for number in count() if (name := f"bond{number}") not in taken)
    return {legs: found.get(legs) or next(free) for legs in dict.fromkeys(frozenset(s.bond) for s in specs if s.bond)}


def _vlan_name(parent: str, number: int) -> str:
    name = f"{parent}.{number}"
    return name if len(name) <= LONGEST else f"vlan{number}"


def _same_names(networks: Iterable[str], specs: Mapping[str, NicSpec]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """As `mistakes`: what is made of NICs under the name of something else that is made."""
    own = {network: specs[network] for network in networks if network in specs}
    bonds = _bond_names(own.values())
    made: dict[str, frozenset[str]] = {}
    for network, spec in own.items():
        legs = frozenset(spec.bond or ())
        if legs and made.setdefault(bonds[legs], legs) != legs:
            what = f"{bonds[legs]!r} is the name of another bond, of {', '.join(sorted(made[bonds[legs]]))}"
            yield (network, "nic"), what, "give each bond a name of its own"
    for network, spec in own.items():
        parent = bonds[frozenset(spec.bond)] if spec.bond else str(spec.nic)
        if spec.vlan and (name := _vlan_name(parent, spec.vlan)) in made:
            yield (network, "vlan"), f"the VLAN is called {name!r}, and so is a bond", "give the bond another name"


def mistakes(networks: Iterable[str], specs: Mapping[str, NicSpec]) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """What of the NICs of a host can't be: the keys below `nics`, what, and the fix."""
    networks = list(networks)
    if same := [*_same_names(networks, specs)]:
        yield from same
        return  # of two of one name, one would be looked at below
    found = nics(networks, specs)
    names = list(found.names.values())
    for nic in sorted({nic for nic in names if names.count(nic) > 1}):
        yield (), f"NIC {nic!r} is used for two networks", "give each network a NIC, or a VLAN, of its own"
    legs: dict[str, str] = {}
    used = {*names, *(each.parent for each in found.vlans.values())}
    for bond in found.bonds.values():
        where = next(network for network, spec in specs.items() if spec.bond and {*spec.bond} == {*bond.legs})
        for leg in bond.legs:
            what = f"NIC {leg!r} is a leg of {bond.name!r}"
            if leg in used or leg in found.bonds:
                yield (where, "bond"), f"{what}, and is used by itself", "use it for one of the two"
            elif leg in legs:
                yield (where, "bond"), f"{what}, and of {legs[leg]!r}", "give each bond NICs of its own"
            legs[leg] = bond.name
    for network, spec in specs.items():
        if spec.bond and network in found.names:
            bond = next(each for each in found.bonds.values() if {*each.legs} == {*spec.bond})
            if spec.mode != bond.mode:
                yield (network, "mode"), f"is another one than that of {bond.name!r} before: {bond.mode}", "use one"
            if spec.nic and spec.nic != bond.name:
                yield (network, "nic"), f"is another name than that of the bond before: {bond.name!r}", "use one"
    yield from _mistakes_of_vlans(specs, found)


def _mistakes_of_vlans(specs: Mapping[str, NicSpec], found: Nics) -> Iterator[tuple[tuple[str, ...], str, str]]:
    own = {found.names[network]: spec.mtu for network, spec in specs.items() if network in found.names and spec.mtu}
    for network, spec in specs.items():
        vlan = found.vlans.get(found.names.get(network, ""))
        size = spec.mtu or MTU
        if vlan and vlan.parent in found.vlans:
            what = f"{vlan.parent!r} is a VLAN of the plan, and carries no other"
            yield (network, "nic"), what, "name the NIC, or the bond, that has both"
        elif vlan and own.get(vlan.parent, size) < size:
            what = f"{size} is more than the {own[vlan.parent]} of {vlan.parent!r}, which carries it"
            yield (network, "mtu"), what, "make the one larger, or the other smaller"
