"""What brings the NICs of a host up: systemd-networkd, ifupdown or NetworkManager, found out for each NIC. Pure.

netplan and cloud-init write files for one of these. Where networkd is in charge, ours is a drop-in beside the file in
charge (`networkd`); elsewhere a hook that ifupdown or NetworkManager runs when a NIC has come up (`hooks`). A NIC that
nobody is in charge of goes to what is in charge of the others.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from underlay.compare.difference import UnitState
from underlay.compare.managers import ifupdown
from underlay.compare.systemd import networkd
from underlay.compare.systemd.networkd import Device, NetworkFile, System
from underlay.desired import hooks, units
from underlay.desired.files import nic_of
from underlay.desired.hooks import IFUPDOWN, NETWORK_MANAGER, NETWORKD
from underlay.desired.routing import Address

UNITS = {NETWORKD: units.NETWORKD, IFUPDOWN: units.IFUPDOWN, NETWORK_MANAGER: units.NETWORK_MANAGER}
AT_WORK = ("configuring", "configured", "degraded", "carrier")
"""States in which networkd has a NIC to itself."""


@dataclass(frozen=True)
class Evidence:
    """What a host says of who brings its NICs up.

    units: those of `UNITS` by their name
    links: NIC → what networkd does with it: `configured`, `unmanaged`, …
    raised: the NICs that ifupdown has brought up
    connections: NIC → the connection of NetworkManager that is active on it, by the path of its file
    addresses: those that others' connections of NetworkManager give NICs
    """

    units: Mapping[str, UnitState] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    raised: Sequence[str] = ()
    connections: Mapping[str, str] = field(default_factory=dict)
    addresses: Sequence[Address] = ()

    def runs(self, manager: str) -> bool:
        """Whether a manager is at work now, or will be after a boot."""
        found = self.units.get(UNITS[manager].name)
        return found is not None and (found.active in ("active", "activating", "reloading") or self.boots(manager))

    def boots(self, manager: str) -> bool:
        """Whether a manager is started at the next boot."""
        found = self.units.get(UNITS[manager].name)
        return found is not None and found.enabled in ("enabled", "enabled-runtime", "static", "alias", "generated")


@dataclass(frozen=True)
class Managers:
    """Who is in charge of the NICs of a host: `found` of its own, by NIC → manager → where that is said."""

    evidence: Evidence
    found: Mapping[str, Mapping[str, str]]
    ours: Mapping[str, str]

    def of(self, nic: str) -> str:
        """The manager of a NIC: what says so of its own, else what ours was made for, else that of the other NICs."""
        for each in (self.found.get(nic), {self.ours[nic]: ""} if nic in self.ours else None):
            if each:
                return next(iter(each))
        claimed = [manager for each in self.found.values() for manager in each]
        running = [manager for manager in UNITS if self.evidence.runs(manager)]
        return next(iter([*claimed, *running]), NETWORKD)

    def by_manager(self, nics: Iterable[str]) -> dict[str, list[str]]:
        """Manager → its NICs, both in the order of the NICs."""
        found: dict[str, list[str]] = {}
        for nic in nics:
            found.setdefault(self.of(nic), []).append(nic)
        return found

    def nobody(self, nic: str) -> bool:
        """Whether nothing of the host's own brings a NIC up."""
        return not self.found.get(nic)

    def several(self, nic: str) -> str:
        """Who is in charge of a NIC, for people, if that is more than one; else empty."""
        claims = self.found.get(nic, {})
        return " and ".join(f"{name} ({place})" for name, place in claims.items()) if len(claims) > 1 else ""

    @property
    def problem(self) -> str:
        """Why a deploy can't go on, for people: two in charge of a NIC, or nobody who is known; else empty."""
        for nic in self.found:
            if several := self.several(nic):
                return f"NIC {nic} is brought up by {several}: leave it to one of them"
        if self.evidence.units and not any(map(self.evidence.runs, UNITS)) and not self.ours:
            return f"nothing that is known here brings its NICs up ({', '.join(UNITS)})"
        return ""


def managers(
    nics: Iterable[str],
    evidence: Evidence,
    files: Mapping[str, str],
    network_files: Sequence[NetworkFile],
    devices: Sequence[Device],
    system: System,
) -> Managers:
    """Who is in charge of these NICs.

    files: those of all managers, ours too; network_files: the others' for networkd

    Of networkd what it says counts while it runs, and its files where it does not.
    """
    stanzas = ifupdown.stanzas(files) if evidence.runs(IFUPDOWN) else {}
    found: dict[str, dict[str, str]] = {}
    for nic in nics:
        claims: dict[str, str] = {}
        if evidence.runs(NETWORKD) or not evidence.units:
            file = networkd.charge(network_files, networkd.device_of(nic, devices), system).file
            state = evidence.links.get(nic, "")
            unmanaged = file and file.last("Link", "Unmanaged")
            if file and state != "unmanaged" and not (unmanaged and unmanaged.value.lower() in networkd.ON):
                claims[NETWORKD] = file.path
        if (path := evidence.connections.get(nic)) and path != hooks.profile_path(nic):
            claims[NETWORK_MANAGER] = path
        # With `manual` ifupdown only switches a NIC on: that is no claim where another one configures it.
        if nic in stanzas and not (claims and stanzas[nic].text.split()[-1] == "manual"):
            claims[IFUPDOWN] = str(stanzas[nic])
        found[nic] = claims
    return Managers(evidence, found, _ours(files))


def _ours(files: Mapping[str, str]) -> dict[str, str]:
    """NIC → for which manager there is a file of ours."""
    found = {nic: NETWORKD for path, text in files.items() if (nic := nic_of(path, text))}
    for manager, path in hooks.HOOKS.items():
        found |= dict.fromkeys(hooks.nics_in(path, files.get(path, "")), manager)
    return found


def is_ours(path: str) -> bool:
    """Whether it is one of our files of any manager."""
    return networkd.is_ours(path) or hooks.is_ours(path)
