"""What a host says of itself, read; each part by itself, so one that can't be read costs itself alone.

Nothing but a shell is needed there: a host without Python, or without sudo, says what it can.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NotRequired, TypeVar

from netaddr import IPAddress, IPNetwork
from typing_extensions import TypedDict

from underlay.access import answers
from underlay.access.answers import IPv4, UnreadableError, reading
from underlay.compare.difference import UnitState
from underlay.compare.filters import Filters
from underlay.compare.network import LiveNetwork
from underlay.compare.sshd import Sshd
from underlay.desired.hooks import IFUPDOWN, NETWORKD
from underlay.facts import filters, firewall, network, sshd
from underlay.facts.firewall import Firewall
from underlay.observe.state import HostState
from underlay.plan import SSH_PORT

UNITS = (
    *("systemd-networkd", "networking", "NetworkManager", "systemd-timesyncd", "chrony", "ntp", "ntpsec"),
    *("ufw", "firewalld", "nftables", "netfilter-persistent", "docker", "containerd", "crio", "podman", "libvirtd"),
    *("kubelet", "k3s", "k3s-agent", "rke2-server", "rke2-agent", "nginx", "haproxy", "keepalived"),
)
"""Services that tell what a host is, or that a deploy has to do with."""
FILES = (
    *("/etc/netplan/*.yaml", "/etc/cni/net.d/*.conf*", "/etc/kubernetes/manifests/*.yaml", "/usr/share/ifupdown2"),
    *("/opt/underlay", "/var/lib/underlay/guard", "/var/lib/underlay/rules.v4"),
)
SCOPES = ("docker-*", "cri-*", "crio-*", "libpod-*", "nerdctl-*")
"""Control groups of containers."""
NO_IPTABLES = """command -v iptables-save >/dev/null || { echo '{"missing": true}'; exit; }"""
"""Of hosts without iptables, which are most, it takes no program of ours to say so."""
SECTIONS = {
    "login": 'echo "$CAME"; id -u; [ "$(id -u)" = 0 ] || sudo -n true 2>&1; true',
    "system": (
        '. /etc/os-release; printf "%s\\n" "$PRETTY_NAME" "$ID $ID_LIKE" "$VERSION_ID"; uname -n; uname -r; uname -m; '
        "python3 -I -S -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null || echo"
    ),
    "links": "ip -j -d address show",
    "speeds": "grep -sH . /sys/class/net/*/speed; true",
    "network": network.command(()),
    "sysctls": "grep -sH . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/*/rp_filter; true",
    "units": f"systemctl show --property=Id,ActiveState,UnitFileState {' '.join(f'{each}.service' for each in UNITS)}",
    "listening": "ss -Hltnp",
    "sshd": sshd.command(SSH_PORT),
    "filters": filters.command(),
    "firewall": f"{NO_IPTABLES}\n{firewall.command(())}",
    "names": f"ls -d {' '.join(FILES)} 2>/dev/null; true",
    "kubelet": (
        "grep -ohs -e '--node-ip[= ][0-9.]*' /var/lib/kubelet/kubeadm-flags.env /etc/default/kubelet "
        "/etc/rancher/*/config.yaml; true"
    ),
    "containers": (
        f"find /sys/fs/cgroup -maxdepth 6 -name '*.scope' \\( {' -o '.join(f'-name {each!r}' for each in SCOPES)} \\)"
        " 2>/dev/null | wc -l"
    ),
    "swap": "tail -n +2 /proc/swaps",
    "time": "timedatectl show -p NTP -p NTPSynchronized",
    "disk": "df -Pk /var/lib | tail -n 1",
}
"""What a host is asked, as `observe.state` asks: each with a time and a size of its own."""
PYTHON = (3, 10)
"""What our programs on hosts need."""
MOST_NICS = 4096
CLOUD_INIT = "cloud-init"

T = TypeVar("T")


class _Info(TypedDict):
    family: str
    local: NotRequired[str]
    prefixlen: NotRequired[int]
    scope: NotRequired[str]
    dynamic: NotRequired[bool]


class _LinkInfo(TypedDict):
    info_kind: NotRequired[str]
    info_data: NotRequired[dict[str, Any]]


class _Link(TypedDict):
    """A NIC, of `ip -j -d address`, as far as it matters here."""

    ifname: str
    flags: list[str]
    mtu: int
    addr_info: list[_Info]
    address: NotRequired[str]
    master: NotRequired[str]
    link: NotRequired[str | None]
    linkinfo: NotRequired[_LinkInfo]


@dataclass(frozen=True)
class Manager:
    """Who manages a NIC: makes its addresses and routes, now and at a boot, and may take others away.

    kind: `networkd`, `ifupdown`, `ifupdown2` or `NetworkManager`
    source: who tells it what to do, where that is not a person: `netplan`, `cloud-init`
    file: where it is told
    """

    kind: str
    source: str = ""
    file: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.source})" if self.source else self.kind


@dataclass(frozen=True)
class Nic:
    """A NIC. addresses: IPv4, with their lengths, in the kernel's order; dynamic: those of DHCP

    kind: empty for one that is no kind of virtual one
    speed: Mbit/s; 0 where it is not known
    master: the bond or bridge that it is in
    link: the NIC that a VLAN is on, and its number
    ipv6: global addresses of IPv6
    """

    name: str
    mac: str = ""
    driver: str = ""
    kind: str = ""
    up: bool = True
    mtu: int = 1500
    speed: int = 0
    master: str = ""
    link: str = ""
    vlan: int = 0
    addresses: tuple[str, ...] = ()
    dynamic: frozenset[str] = frozenset()
    ipv6: tuple[str, ...] = ()
    managers: tuple[Manager, ...] = ()


@dataclass(frozen=True)
class Login:
    """How one came in: the account, the host's address and port that took the connection, and whether one is root.

    sudo: why there is no root without a password; empty if there is
    """

    account: str
    address: IPAddress | None
    port: int
    sudo: str

    @property
    def root(self) -> bool:
        """Whether all could be looked at."""
        return not self.sudo


@dataclass(frozen=True)
class System:
    """Name and family of the OS, its release, the host's own name, kernel, architecture; Python's version if there."""

    os: str
    family: tuple[str, ...]
    release: str
    name: str
    kernel: str
    architecture: str
    python: tuple[int, int] | None

    @property
    def supported(self) -> bool:
        """A Debian or an Ubuntu."""
        return bool({"debian", "ubuntu"} & set(self.family))


class Seen:
    """A host as it says that it is. Each property reads one part, or raises UnreadableError.

    asked: the address or name that it was asked at
    """

    def __init__(self, asked: str, state: HostState) -> None:
        self.asked = asked
        self.state = state

    def _read(self, section: str, parse: Callable[[list[str]], T]) -> T:
        lines = self.state.lines(section)
        with reading(f"{section} of {self.asked}"):
            return parse(lines)

    def part(self, read: Callable[["Seen"], T]) -> T | None:
        """A part, or None where it can't be read."""
        try:
            return read(self)
        except UnreadableError:
            return None

    @cached_property
    def unread(self) -> list[str]:
        """The parts that can't be read, and why."""
        found = dict[str, None]()
        for name in PARTS:
            try:
                getattr(self, name)
            except UnreadableError as error:
                found[answers.short(error)] = None
        return [*found]

    @cached_property
    def login(self) -> Login:
        return self._read("login", _login)

    @cached_property
    def system(self) -> System:
        return self._read("system", _system)

    @cached_property
    def nics(self) -> tuple[Nic, ...]:
        """Every NIC but the loopback, with who manages it; nobody where `network` can't be read."""
        found = self._read("links", _links)
        speeds = self.part(lambda each: each.speeds) or {}
        live = self.part(lambda each: each.network) or _NO_NETWORK
        drivers = {device.names[0]: device.driver for device in live.devices}
        by = live.managers([nic.name for nic in found]).found
        return tuple(
            replace(
                nic,
                speed=speeds.get(nic.name, 0),
                driver=drivers.get(nic.name, nic.kind),
                managers=tuple(self._manager(*each) for each in by[nic.name].items()),
            )
            for nic in found
        )

    def _manager(self, name: str, file: str) -> Manager:
        names = self.part(lambda each: each.names) or ()
        kind = "networkd" if name == NETWORKD else name
        kind = "ifupdown2" if kind == IFUPDOWN and "/usr/share/ifupdown2" in names else kind
        netplan = [path for path in names if path.startswith("/etc/netplan/")]
        source = CLOUD_INIT if CLOUD_INIT in file else ""
        if "netplan-" in file:
            source = f"netplan of {CLOUD_INIT}" if all(CLOUD_INIT in path for path in netplan or ("",)) else "netplan"
        return Manager(kind, source, file)

    @cached_property
    def speeds(self) -> dict[str, int]:
        """NIC → Mbit/s."""
        return self._read("speeds", _speeds)

    @cached_property
    def network(self) -> LiveNetwork:
        """Addresses, routes, policy rules, sysctls, files of networkd."""
        found = self._read("network", network.parse)
        return replace(found, sysctls=self.sysctls)

    @cached_property
    def sysctls(self) -> dict[str, str]:
        return self._read("sysctls", lambda lines: dict(_sysctl(line) for line in lines if line))

    @cached_property
    def units(self) -> dict[str, UnitState]:
        """Service → its state; with an empty UnitFileState for one that is not there."""
        return self._read("units", _units)

    def is_on(self, service: str) -> bool:
        """Whether a service runs, or will after a boot."""
        found = self.units.get(service, UnitState("", ""))
        return found.active in ("active", "activating", "reloading") or found.enabled in ("enabled", "enabled-runtime")

    @cached_property
    def listening(self) -> dict[int, str]:
        """TCP port that others can reach → the program that listens there, if that is known."""
        return self._read("listening", _listening)

    @cached_property
    def sshd(self) -> Sshd:
        return self._read("sshd", sshd.parse)

    @cached_property
    def filters(self) -> Filters:
        return self._read("filters", filters.parse)

    @cached_property
    def firewall(self) -> Firewall:
        return self._read("firewall", firewall.process)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Those of `FILES` that are there."""
        return self._read("names", lambda lines: tuple(line for line in lines if line.startswith("/")))

    @cached_property
    def node_ip(self) -> str:
        """What the kubelet was told is the node's address."""
        return self._read("kubelet", _node_ip)

    @cached_property
    def containers(self) -> int:
        """How many run."""
        return self._read("containers", lambda lines: int(lines[0]))

    @cached_property
    def swap(self) -> tuple[str, ...]:
        """Files and disks of swap that are in use."""
        return self._read("swap", lambda lines: tuple(line.split()[0] for line in lines if line))

    @cached_property
    def synchronized(self) -> bool:
        """Whether its clock follows another one."""
        return self._read("time", lambda lines: _key_values(lines).get("NTPSynchronized") == "yes")

    @cached_property
    def free(self) -> int:
        """MB that are free where a deploy keeps its history."""
        return self._read("disk", lambda lines: int(lines[0].split()[3]) // 1024)


PARTS = tuple(name for name, each in vars(Seen).items() if isinstance(each, cached_property) and name != "unread")
_NO_NETWORK = LiveNetwork({}, (), (), ())


def _login(lines: list[str]) -> Login:
    (account, _, _, address, port), uid, *sudo = lines[0].split(), *lines[1:]
    found = answers.parsed(IPv4, f'"{address}"') if ":" not in address else None
    why = "" if uid == "0" else answers.short(sudo[-1] if sudo else "it is another account's")
    return Login(account, found and IPAddress(found), int(port), why)


def _system(lines: list[str]) -> System:
    os, family, release, name, kernel, architecture, python = lines
    major, _, minor = python.partition(" ")
    version = (int(major), int(minor)) if python else None
    return System(os, tuple(family.split()), release, name.partition(".")[0], kernel, architecture, version)


def _parsed_links(lines: Iterable[str]) -> list[_Link]:
    found: list[_Link] = answers.parsed(list[_Link], "".join(lines))
    if len(found) > MOST_NICS:
        raise ValueError(f"{len(found)} NICs")
    return found


def _links(lines: list[str]) -> list[Nic]:
    found = []
    for link in _parsed_links(lines):
        if "LOOPBACK" in link["flags"]:
            continue
        info = link.get("linkinfo", _LinkInfo())
        four = [each for each in link["addr_info"] if each["family"] == "inet" and each.get("scope") != "link"]
        six = [each for each in link["addr_info"] if each["family"] == "inet6" and each.get("scope") == "global"]
        found.append(
            Nic(
                link["ifname"],
                link.get("address", ""),
                kind=info.get("info_kind", ""),
                up="UP" in link["flags"],
                mtu=link["mtu"],
                master=link.get("master", ""),
                link=link.get("link") or "",
                vlan=int(info.get("info_data", {}).get("id", 0)) if info.get("info_kind") == "vlan" else 0,
                addresses=tuple(_cidr(each) for each in four),
                dynamic=frozenset(_cidr(each) for each in four if each.get("dynamic")),
                ipv6=tuple(f"{each['local']}/{each['prefixlen']}" for each in six),
            )
        )
    return found


def _cidr(info: _Info) -> str:
    return str(IPNetwork(f"{info['local']}/{info['prefixlen']}"))


def _speeds(lines: list[str]) -> dict[str, int]:
    rows = (line.partition(":") for line in lines if line)
    return {PurePosixPath(path).parent.name: max(0, int(speed)) for path, _, speed in rows}


def _sysctl(line: str) -> tuple[str, str]:
    """A file of /proc/sys and its value; as in `desired.routing`, the dot of a NIC is a slash in the key."""
    path, _, value = line.partition(":")
    parts = (part.replace(".", "/") for part in PurePosixPath(path).relative_to("/proc/sys").parts)
    return ".".join(parts), value.strip()


def _key_values(lines: list[str]) -> dict[str, str]:
    rows = (line.partition("=") for line in lines if line)
    return {key.strip(): value.strip() for key, _, value in rows}


def _units(lines: list[str]) -> dict[str, UnitState]:
    found = {}
    for block in "\n".join(lines).split("\n\n"):
        values = _key_values(block.split("\n"))
        if "Id" in values:
            found[values["Id"].removesuffix(".service")] = UnitState(values["ActiveState"], values["UnitFileState"])
    if not found:
        raise ValueError("systemd says nothing")
    return found


def _listening(lines: list[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for line in filter(None, lines):
        _, _, _, end, _, *users = line.split(None, 5)
        address, _, port = end.rpartition(":")
        if not address.startswith(("127.", "[::1]")):
            program = re.search(r'\(\("([^"]+)"', users[0]) if users else None
            found[int(port)] = program[1] if program else found.get(int(port), "")
    return found


def _node_ip(lines: list[str]) -> str:
    found = [line.replace("=", " ").split()[-1] for line in lines if line and line[-1].isdigit()]
    return found[0] if found else ""
