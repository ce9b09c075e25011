"""How the network of a host was set up by whoever installed it: the packages, files and units of each way."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lab.blueprint import Machine
from lab.process import LabError

Files = Iterator[tuple[str, int, str]]
"""Path, mode and content of files on a fresh disk."""
DEFAULT, MIXED = "networkd", "mixed"
HOLD_KEYS = """\
#cloud-config
ssh_deletekeys: false
ssh_genkeytypes: []
preserve_hostname: true
manage_etc_hosts: false
disable_root: false
users: []
"""
"""What else cloud-init would change, the lab has given the host already."""


@dataclass(frozen=True)
class Flavour:
    """One way; `files` are made for a machine and the name server of the site, empty if it has none."""

    files: Callable[[Machine, str], Files]
    packages: tuple[str, ...] = ()
    enable: tuple[str, ...] = ()
    disable: tuple[str, ...] = field(default=("systemd-networkd.service", "systemd-networkd.socket"))


def named(name: str) -> Flavour:
    """A way by its name. LabError if there is none of it."""
    if name not in FLAVOURS:
        raise LabError(f"no hosts {name!r}: the lab knows {', '.join((*FLAVOURS, MIXED))}")
    return FLAVOURS[name]


def of_host(hosts: str, number: int) -> str:
    """The way of a host, by its place among those that are deployed, where the lab was asked for such hosts."""
    if hosts != MIXED:
        named(hosts)
        return hosts
    ways = [name for name in FLAVOURS if name != DEFAULT]
    return ways[number % len(ways)]


def text(*lines: str) -> str:
    """Lines as a file."""
    return "".join(f"{line}\n" for line in lines)


def _networkd(host: Machine, _: str) -> Files:
    router = [f"Gateway={host.router}"] if host.router else []
    network = ["[Network]", "LinkLocalAddressing=no", "IPv6AcceptRA=no", f"Address={host.address}", *router]
    content = text("[Match]", f"Name={host.nic}", "", *network)
    yield "etc/systemd/network/50-installer.network", 0o644, content


def _ifupdown(host: Machine, _: str) -> Files:
    nic = host.nic
    lines = ["source /etc/network/interfaces.d/*", "", "auto lo", "iface lo inet loopback", ""]
    lines += [f"auto {nic}", f"iface {nic} inet static", f"    address {host.address}"]
    lines += [f"    gateway {host.router}"] if host.router else []
    yield "etc/network/interfaces", 0o644, text(*lines)


def _netplan(host: Machine, dns: str, renderer: str = "networkd") -> Files:
    lines = ["network:", "  version: 2", f"  renderer: {renderer}", *(f"  {line}" for line in _yaml(host, dns))]
    yield "etc/netplan/50-installer.yaml", 0o600, text(*lines)


def _netplan_network_manager(host: Machine, dns: str) -> Files:
    yield from _netplan(host, dns, "NetworkManager")
    yield _only_what_is_configured()


def _cloud_init(host: Machine, dns: str) -> Files:
    seed = "var/lib/cloud/seed/nocloud"
    yield f"{seed}/meta-data", 0o644, text(f"instance-id: {host.name}", f"local-hostname: {host.name}")
    yield f"{seed}/user-data", 0o644, HOLD_KEYS
    yield f"{seed}/network-config", 0o644, text("version: 2", *_yaml(host, dns))
    yield (
        "etc/cloud/cloud.cfg.d/90-lab.cfg",
        0o644,
        text("datasource_list: [NoCloud]", "apt_preserve_sources_list: true"),
    )


def _yaml(host: Machine, dns: str) -> Iterator[str]:
    yield "ethernets:"
    yield f"  {host.nic}:"
    yield f"    addresses: [{host.address}]"
    if host.router:
        yield f"    routes: [{{to: 0.0.0.0/0, via: {host.router}}}]"
    if dns:
        yield f"    nameservers: {{addresses: [{dns}]}}"


def _network_manager(host: Machine, dns: str) -> Files:
    nic = host.nic
    router = f",{host.router}" if host.router else ""
    lines = ["[connection]", f"id={nic}", "type=ethernet", f"interface-name={nic}", ""]
    lines += ["[ipv4]", "method=manual", f"address1={host.address}{router}", *([f"dns={dns};"] if dns else [])]
    yield (
        f"etc/NetworkManager/system-connections/{nic}.nmconnection",
        0o600,
        text(*lines, "", "[ipv6]", "method=ignore"),
    )
    yield _only_what_is_configured()


def _only_what_is_configured() -> tuple[str, int, str]:
    """As without an installer of desktops: NetworkManager leaves NICs alone that nobody configured."""
    return "etc/NetworkManager/conf.d/lab.conf", 0o644, text("[main]", "no-auto-default=*", "rc-manager=unmanaged")


FLAVOURS = {
    DEFAULT: Flavour(_networkd, disable=()),
    "ifupdown": Flavour(_ifupdown, ("ifupdown",), ("networking.service",)),
    "netplan": Flavour(_netplan, ("netplan.io",), disable=()),
    "networkmanager": Flavour(_network_manager, ("network-manager",), ("NetworkManager.service",)),
    "cloud-init": Flavour(_cloud_init, ("cloud-init",), disable=()),
    "ifupdown2": Flavour(_ifupdown, ("ifupdown2",), ("networking.service",)),
    "netplan-networkmanager": Flavour(
        _netplan_network_manager, ("netplan.io", "network-manager"), ("NetworkManager.service",)
    ),
}
