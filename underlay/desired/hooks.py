"""Plan → the files for NICs that systemd-networkd is not in charge of, as text, and where they are. Pure.

ifupdown and NetworkManager run a hook when a NIC has come up. Ours sets what the plan adds to the NIC; it may run at
any time, and sets what is there already once more.
"""

import re
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from underlay.desired.routing import Address, HostNetwork
from underlay.desired.templates import render

NETWORKD, IFUPDOWN, NETWORK_MANAGER = "systemd-networkd", "ifupdown", "NetworkManager"
HOOKS = {
    IFUPDOWN: "/etc/network/if-up.d/underlay",
    NETWORK_MANAGER: "/etc/NetworkManager/dispatcher.d/50-underlay",
}
"""Manager → its hook of ours."""
INTERFACES = "/etc/network/interfaces"
STANZA = "/etc/network/interfaces.d/underlay"
"""Of ifupdown: the NICs that nobody is in charge of."""
PROFILE = "/etc/NetworkManager/system-connections/underlay-{nic}.nmconnection"
"""Of NetworkManager: a NIC that nobody is in charge of."""
NICS = "# NICs:"
PATTERNS = (*HOOKS.values(), STANZA, PROFILE.format(nic="*"))


def of_nics(wanted: HostNetwork, nics: Collection[str]) -> HostNetwork:
    """What of the network of a host is of some of its NICs. Policy rules are of no NIC: they go with the first one."""
    return replace(
        wanted,
        addresses=tuple(each for each in wanted.addresses if each.nic in nics),
        routes=tuple(each for each in wanted.routes if each.nic in nics),
        rules=wanted.rules if wanted.nics[0] in nics else (),
        links=tuple(each for each in wanted.links if each.name in nics),
    )


def hook_files(wanted: HostNetwork, manager: str, orphans: Collection[str]) -> dict[str, str]:
    """Path → content of ours for the NICs of a manager; `orphans`: those of them that nobody else configures."""
    files = {HOOKS[manager]: _hook(wanted)}
    if manager == IFUPDOWN and orphans:
        files[STANZA] = render("network/interfaces.j2", nics=[nic for nic in wanted.nics if nic in orphans])
    elif manager == NETWORK_MANAGER:
        files |= {profile_path(nic): _profile(wanted, nic) for nic in wanted.nics if nic in orphans}
    return files


def _hook(wanted: HostNetwork) -> str:
    settings = {
        nic: [(key, value) for key, value in wanted.sysctls.items() if f".{nic.replace('.', '/')}." in key]
        for nic in wanted.nics
    }
    sizes = {nic: [*_sizes(wanted, nic)] for nic in wanted.nics}
    return render("network/hook.sh.j2", mark=NICS, wanted=wanted, settings=settings, sizes=sizes)


def _sizes(wanted: HostNetwork, nic: str) -> Iterator[tuple[str, int, bool]]:
    """MTUs to set with a NIC: of which, the MTU, whether more is as good: that of what carries it has to be first."""
    for vlan in wanted.vlans:
        if vlan.name == nic and (size := wanted.mtus.get(vlan.parent) or wanted.least.get(vlan.parent)):
            yield vlan.parent, size, True
    if size := wanted.mtus.get(nic):
        yield nic, size, False


def _profile(wanted: HostNetwork, nic: str) -> str:
    addresses = [each.cidr for each in wanted.addresses if each.nic == nic]
    # The same at each deploy, and another one on each NIC.
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"underlay:{nic}:{addresses[0]}")
    return render("network/profile.nmconnection.j2", nic=nic, uuid=identity, addresses=addresses)


def profile_path(nic: str) -> str:
    """Where NetworkManager's file of ours for a NIC is."""
    return PROFILE.format(nic=nic)


def mode(path: str) -> str:
    """The mode of one of our files: hooks are run; NetworkManager reads only files that nobody else can."""
    return "755" if path in HOOKS.values() else "600" if path.endswith(".nmconnection") else "644"


def is_ours(path: str) -> bool:
    """Whether it is one of our files for ifupdown or NetworkManager."""
    prefix, suffix = PROFILE.split("{nic}")
    return path in (*HOOKS.values(), STANZA) or (path.startswith(prefix) and path.endswith(suffix))


def nics_in(path: str, text: str) -> list[str]:
    """The NICs that one of our files is for."""
    if path in HOOKS.values():
        found = re.search(rf"^{re.escape(NICS)} (.+)$", text, re.MULTILINE)
        return found[1].split() if found else []
    return re.findall(r"^(?:auto |interface-name=)(\S+)$", text, re.MULTILINE)


def addresses_in(path: str, text: str) -> list[Address]:
    """The addresses that one of our files gives NICs."""
    if path not in HOOKS.values():
        return []  # the hook has them all
    found = re.findall(r"^ *ip -4 address replace (\S+) brd \+ dev (\S+)$", text, re.MULTILINE)
    return [Address(nic, cidr) for cidr, nic in found]


def activation(changed: Mapping[str, str | None]) -> str:
    """Shell commands with which a manager takes our files for NICs that nobody else configures; empty for none."""
    lines = []
    if (stanza := changed.get(STANZA)) is not None:
        lines += [f"ifup --force {nic}" for nic in re.findall(r"^auto (\S+)$", stanza, re.MULTILINE)]
    profiles = [path for path in changed if is_ours(path) and path.endswith(".nmconnection")]
    if profiles:
        lines.append("nmcli connection reload")
        lines += [
            f"nmcli --wait 20 connection up {path.rpartition('/')[2].removesuffix('.nmconnection')}"
            for path in profiles
            if changed[path] is not None
        ]
    return "".join(f"{line}\n" for line in lines)
