"""The lab's wires: a namespace for each host, and one for the switch that holds a bridge for each network.

Every link is made inside those namespaces: the machine's own links, routes, rules, firewall and sysctls stay as they
are, and no packet of the lab has a way out (its addresses often exist for real around the machine).
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from lab.blueprint import SWITCH, Blueprint, Machine, Nic
from lab.process import CommandError, run
from lab.state import NETNS_DIR, SUFFIX

PREFIX = f"underlay{SUFFIX}-"
# A new namespace inherits these from the machine; a host starts with what the kernel would give it.
KERNEL_DEFAULTS = {
    "forwarding": 0,
    "rp_filter": 0,
    "accept_redirects": 1,
    "send_redirects": 1,
    "secure_redirects": 1,
    "accept_local": 0,
    "arp_announce": 0,
    "arp_filter": 0,
    "arp_ignore": 0,
    "log_martians": 0,
    "proxy_arp": 0,
    "route_localnet": 0,
    "src_valid_mark": 0,
}
SYSCTLS = [
    "net.ipv4.ip_forward=0",  # first: it resets others
    "net.unix.max_dgram_qlen=512",  # as systemd sets it; a trunk drops what does not fit into such a queue
    *(f"net.ipv4.conf.{where}.{key}={value}" for key, value in KERNEL_DEFAULTS.items() for where in ("all", "default")),
]


def netns(host: str) -> Path:
    """Where the namespace of a host is mounted; `ip -n underlay-HOST` finds it there."""
    return NETNS_DIR / f"{PREFIX}{host}"


def namespaces() -> list[Path]:
    """The lab's namespaces that exist."""
    return sorted(NETNS_DIR.glob(f"{PREFIX}*"))


def create(name: str) -> None:
    """Make a namespace that is as fresh as that of a machine just started."""
    path = netns(name)
    path.parent.mkdir(exist_ok=True)
    path.touch(exist_ok=False)
    # Not `ip netns add`, which would leave the folder itself mounted.
    run(["unshare", f"--net={path}", "sysctl", "--quiet", "--ignore", "--write", *SYSCTLS])


def remove(path: Path) -> None:
    """Take a namespace away; it dies with its last process.

    `ip netns add` by anybody makes /run/netns a mount of its own, a bind of itself with all that is mounted in it. Each
    namespace that was there is then mounted twice, and no path leads to the lower one, which keeps the file busy. So
    the file is deleted in a mount namespace that is thrown away, where all that is in the way can be unmounted without
    anybody else losing it. What is mounted on it elsewhere, the kernel then unmounts by itself.
    """
    script = 'until rm -f "$0" 2>/dev/null; do umount --lazy "$0" 2>/dev/null || umount --lazy "$1" || exit; done'
    run(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(path), str(NETNS_DIR)])


def create_switch(networks: Iterable[str]) -> None:
    """The switch: a bridge for each network, named br0, br1, … with the network's name as its alias."""
    create(SWITCH)
    lines = []
    for index, network in enumerate(networks):
        lines += [
            # No spanning tree, no forward delay, no snooping: a cable, from the first packet on.
            f"link add br{index} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set br{index} alias {network} addrgenmode none up",
        ]
    _ip(SWITCH, lines)


def plug(machine: Machine, blueprint: Blueprint) -> None:
    """Put a machine's NICs into its namespace, each joined to its network's bridge."""
    there = f"netns {PREFIX}{machine.name}"
    _join(
        machine,
        blueprint,
        lambda port, nic: f"link add {port} type veth peer name {nic.name} address {nic.mac} {there}",
    )


def plug_taps(machine: Machine, blueprint: Blueprint) -> None:
    """Make the ports that a machine of its own is the other end of, each joined to its network's bridge."""
    _join(machine, blueprint, lambda port, _: f"tuntap add dev {port} mode tap")
    lines = []
    for port, network in trunk_ports(machine, blueprint):
        lines += [f"tuntap add dev {port} mode tap", _joined(port, machine.name, network, blueprint)]
    _ip(SWITCH, lines)


def _join(machine: Machine, blueprint: Blueprint, make: Callable[[str, Nic], str]) -> None:
    lines = []
    for port, nic in zip(ports(machine, blueprint), machine.nics, strict=True):
        if nic.network:
            lines += [make(port, nic), _joined(port, f"{machine.name}:{nic.name}", nic.network, blueprint)]
    _ip(SWITCH, lines)


def _joined(port: str, alias: str, network: str, blueprint: Blueprint) -> str:
    return f"link set {port} alias {alias} addrgenmode none master br{blueprint.networks.index(network)} up"


def unplug(machine: Machine, blueprint: Blueprint) -> None:
    """Take a machine's NICs away, on both ends; those that are gone already are no error."""
    for port in (*ports(machine, blueprint), *(name for name, _ in trunk_ports(machine, blueprint))):
        with suppress(CommandError):
            _ip(SWITCH, [f"link del {port}"])


def ports(machine: Machine, blueprint: Blueprint) -> list[str]:
    """The ports of the switch that a machine's NICs are plugged into, in their order."""
    return [f"p{blueprint.number(machine)}-{index}" for index in range(len(machine.nics))]


def trunk_ports(machine: Machine, blueprint: Blueprint) -> list[tuple[str, str]]:
    """The ports of the switch that a machine's trunks lead to, with their networks, in the order of the trunks."""
    networks = [network for trunk in machine.trunks for network in trunk.vlans.values()]
    return [(f"t{blueprint.number(machine)}-{index}", network) for index, network in enumerate(networks)]


def _ip(name: str, lines: list[str]) -> None:
    run(["ip", "-n", f"{PREFIX}{name}", "-batch", "-"], stdin="\n".join(lines) + "\n")
