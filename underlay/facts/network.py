"""The live network of a host."""

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NotRequired

from netaddr import INET_PTON, valid_ipv4
from pydantic import AfterValidator
from pyinfra.api import FactBase
from typing_extensions import TypedDict

from underlay.access import answers
from underlay.access.answers import IPv4
from underlay.compare.difference import UnitState
from underlay.compare.managers import Evidence, ifupdown
from underlay.compare.network import LiveNetwork, Shape
from underlay.compare.systemd import networkd, sysctl
from underlay.compare.systemd.networkd import Device, System
from underlay.desired import hooks, units
from underlay.desired.routing import ALL_RP_FILTER, Address, PolicyRule, Route
from underlay.facts import fact, files, good, script

LOCAL_TABLE = 255
# One program for all NICs: a node has hundreds. Of those without udev (a container's), the driver is in /sys.
NICS = """\
grep -sHE '^(NETWORK_FILE|ADMIN_STATE)=' /run/systemd/netif/links/* || true
grep -sH '^E:' /run/udev/data/n* || true
grep -sH '^DEVTYPE=' /sys/class/net/*/uevent || true
find /sys/class/net/*/device/driver -maxdepth 0 -printf '%p:DRIVER=%l\\n' 2>/dev/null || true"""
TYPES = {"[1]": "ether", "[772]": "loopback"}
"""As `ip -N` writes some of them."""
MANAGERS = """\
# Not asked of systemd: what it does not answer, while it hangs, would be missing here, too.
for unit in NAMES; do
  state=inactive
  cat /sys/fs/cgroup/system.slice/$unit/cgroup.procs /sys/fs/cgroup/*/system.slice/$unit/cgroup.procs 2>/dev/null |
    grep -q . && state=active
  [ $unit != networking.service ] || [ ! -s /run/network/ifstate ] || state=active
  echo "Unit=$unit $state $(SYSTEMD_OFFLINE=1 systemctl is-enabled $unit 2>/dev/null)"
done
for each in /run/network/ifstate /run/network/ifstate.*; do [ ! -f "$each" ] || sed 's/^/Raised=/' "$each"; done
if command -v nmcli >/dev/null && [ -e /run/NetworkManager ]; then
  ask="timeout 2 nmcli -t -f"
  $ask DEVICE,STATE device 2>/dev/null | sed 's/^/Device=/'
  active=$($ask DEVICE,UUID,FILENAME connection show --active 2>/dev/null)
  echo "$active" | sed 's/^/Connection=/'
  ids=$(echo "$active" | cut -d: -f2)
  [ -z "$ids" ] || $ask connection.uuid,ipv4.addresses connection show $ids 2>/dev/null | sed 's/^/Profile=/'
fi
:""".replace("NAMES", " ".join(unit.name for unit in units.MANAGERS))
"""What `_evidence` reads."""
HOOKS = " ".join(hooks.HOOKS.values())
CLOSED = f"for hook in {HOOKS}; do [ ! -f $hook ] || [ -x $hook ] || echo $hook; done"
SYSTEM = """\
for each in "$(uname -n)" "$(cat /etc/machine-id)" "$(systemd-detect-virt)" "$(uname -m)" "$(cat /proc/cmdline)"
do echo "- $each"; done"""


def _prefix(text: str) -> str:
    address, slash, length = text.partition("/")
    if text not in ("default", "all") and not valid_ipv4(address, INET_PTON):
        raise ValueError("not an IPv4 address")
    if slash and not (length.isdecimal() and len(length) < 3 and int(length) <= 32):
        raise ValueError("not a prefix")
    return text


_Prefix = Annotated[str, AfterValidator(_prefix)]


class _Info(TypedDict):
    family: str
    local: NotRequired[str]
    prefixlen: NotRequired[int]


class _Link(TypedDict):
    """A NIC, of `ip -j -d address`, as far as it matters here; so are these."""

    ifindex: int
    ifname: str
    flags: list[str]
    addr_info: list[_Info]
    linkinfo: NotRequired[dict[str, Any]]
    link_type: NotRequired[str]
    address: NotRequired[str]
    permaddr: NotRequired[str]
    altnames: NotRequired[list[str]]
    mtu: NotRequired[int]
    master: NotRequired[str]
    link: NotRequired[str | None]


class _Route(TypedDict):
    dst: _Prefix
    table: NotRequired[str | int]
    gateway: NotRequired[IPv4]
    dev: NotRequired[str]
    prefsrc: NotRequired[IPv4]
    metric: NotRequired[int]


class _Rule(TypedDict):
    priority: int
    src: NotRequired[_Prefix]
    srclen: NotRequired[int]
    dst: NotRequired[_Prefix]
    dstlen: NotRequired[int]
    table: NotRequired[str | int]
    suppress_prefixlen: NotRequired[int]


def command(sysctls: Iterable[str]) -> str:
    """The shell command whose output `parse` reads; needs root, as netplan's files can't be read by others."""
    keys = " ".join(_with_all(sysctls))
    return script(
        {
            "address": "ip -j -N -d address show",
            "route": "ip -j -N -4 route show table all",
            "rule": "ip -j -N -4 rule show",
            "sysctl": f"sysctl -e {keys}" if keys else ":",
            "files": files.command((*networkd.PATTERNS, *sysctl.PATTERNS, *ifupdown.PATTERNS, *hooks.PATTERNS)),
            "managers": MANAGERS,
            "closed": CLOSED,
            "nics": NICS,
            "system": SYSTEM,
        }
    )


def _with_all(sysctls: Iterable[str]) -> Iterable[str]:
    """Of a NIC's filter, `all` has a say, too."""
    sysctls = list(sysctls)
    filters = any(key.endswith(".rp_filter") for key in sysctls)
    return dict.fromkeys([*sysctls, ALL_RP_FILTER] if filters else sysctls)


def parse(lines: Iterable[str]) -> LiveNetwork:
    """Read the output of `command`. Raises ValueError or KeyError for anything else, or what else comes of it."""
    found = good(lines)
    links: list[_Link] = answers.parsed(list[_Link], "".join(found["address"]))
    closed = found["closed"]
    routes: list[_Route] = answers.parsed(list[_Route], "".join(found["route"]) or "[]")
    rules: list[_Rule] = answers.parsed(list[_Rule], "".join(found["rule"]))
    return LiveNetwork(
        links={link["ifname"]: "UP" in link["flags"] for link in links},
        addresses=tuple(
            Address(link["ifname"], _prefix(f"{info['local']}/{info['prefixlen']}"))
            for link in links
            for info in link["addr_info"]
            if info["family"] == "inet"
        ),
        routes=tuple(
            Route(
                table=int(route.get("table", 254)),
                destination=_cidr(route["dst"]),
                via=route.get("gateway", ""),
                nic=route.get("dev", ""),
                source=route.get("prefsrc", ""),
                metric=route.get("metric", 0),
            )
            for route in routes
            if int(route.get("table", 254)) != LOCAL_TABLE
        ),
        rules=tuple(
            PolicyRule(
                priority=rule["priority"],
                source=_selector(rule, "src"),
                destination=_selector(rule, "dst"),
                table=int(rule.get("table", 0)),
                main_without_default=rule.get("suppress_prefixlen") == 0,
            )
            for rule in rules
        ),
        sysctls=dict(_key_value(line) for line in found["sysctl"]),
        # A hook that may not be run is none.
        files={path: text for path, text in files.parse(found["files"]).items() if path not in closed},
        devices=tuple(_devices(links, found["nics"])),
        system=_system(found["system"]),
        evidence=_evidence(links, found["nics"], found["managers"]),
        shapes={link["ifname"]: _shape(link) for link in links},
    )


def _shape(link: _Link) -> Shape:
    info = link.get("linkinfo", {})
    data = info.get("info_data")
    about: dict[str, Any] = data if isinstance(data, dict) else {}
    number = about.get("id", 0)
    return Shape(
        mtu=link.get("mtu", 0),
        kind=str(info.get("info_kind", "")),
        master=link.get("master", ""),
        parent=link.get("link") or "",
        number=number if isinstance(number, int) else 0,
        mode=str(about.get("mode", "")),
    )


def _devices(links: list[_Link], lines: list[str]) -> Iterator[Device]:
    said: dict[str, dict[str, str]] = {}
    for line in lines:
        path, _, rest = line.partition(":")
        key, _, value = rest.removeprefix("E:").partition("=")
        # By the NIC's number, or by its name.
        where = path.split("/")
        place = where[4] if path.startswith("/sys/") else where[-1].removeprefix("n")
        said.setdefault(place, {})[key] = value.strip('"')
    for link in links:
        number, name = str(link["ifindex"]), link["ifname"]
        known = said.get(name, {}) | said.get(number, {})
        kind = str(link.get("linkinfo", {}).get("info_kind", ""))
        type_ = known.get("DEVTYPE") or TYPES.get(link.get("link_type", ""), link.get("link_type", ""))
        yield Device(
            names=(name, *link.get("altnames", ())),
            mac=link.get("address", ""),
            # `ip` does not repeat that of a real NIC.
            permanent_mac=link.get("permaddr", "" if kind else link.get("address", "")),
            type=type_,
            kind=kind,
            driver=known.get("ID_NET_DRIVER") or PurePosixPath(known.get("DRIVER", "")).name or kind,
            properties=said.get(number, {}),
            in_use=known.get("NETWORK_FILE", ""),
        )


def _evidence(links: list[_Link], nics: list[str], lines: list[str]) -> Evidence:
    names = {str(link["ifindex"]): link["ifname"] for link in links}
    states = (re.fullmatch(r".*/netif/links/(\d+):ADMIN_STATE=(.*)", line) for line in nics)
    there = dict[str, UnitState]()
    raised, connected, uuid = list[str](), set[str](), ""
    connections, of_uuid, addresses = dict[str, str](), dict[str, str](), list[Address]()
    for line in lines:
        key, _, value = line.partition("=")
        match key:
            case "Unit":
                name, state, enabled = (*value.split(), "", "")[:3]
                there[name] = UnitState(state, enabled)
            case "Raised":
                raised.append(value.partition("=")[0])
            case "Device" if value.partition(":")[2] in ("connected", "connecting", "activated") or "(" in value:
                # What somebody else configured is "connected (externally)".
                nic, _, state = value.partition(":")
                connected |= set() if "externally" in state else {nic}
            case "Connection":
                nic, uuid, path = (*value.split(":", 2), "", "")[:3]
                connections |= {nic: path} if nic in connected else {}
                of_uuid[uuid] = nic
            case "Profile":
                name, _, said = value.partition(":")
                uuid = said if name == "connection.uuid" else uuid
                if name == "ipv4.addresses" and said and not hooks.is_ours(connections.get(of_uuid.get(uuid, ""), "")):
                    addresses += [Address(of_uuid[uuid], _prefix(each.strip())) for each in said.split(",")]
    return Evidence(
        units=there,
        links={names[found[1]]: found[2] for found in states if found and found[1] in names},
        raised=tuple(raised),
        connections=connections,
        addresses=tuple(addresses),
    )


def _system(lines: list[str]) -> System:
    name, machine, virtualization, architecture, command_line = (line.removeprefix("- ") for line in lines)
    return System((name, machine), virtualization, command_line, architecture)


def _cidr(destination: str) -> str:
    return destination if destination == "default" or "/" in destination else f"{destination}/32"


def _selector(rule: _Rule, end: Literal["src", "dst"]) -> str:
    address = str(rule.get(end, "all"))
    length = rule.get("srclen") if end == "src" else rule.get("dstlen")
    return "" if address == "all" else f"{address}/{length}" if length is not None else address


def _key_value(line: str) -> tuple[str, str]:
    key, _, value = line.partition("=")
    return key.strip(), value.strip()


class Network(FactBase[LiveNetwork]):
    """Addresses, routes, policy rules, the sysctls asked for, and our own files, as a `LiveNetwork`."""

    def command(self, sysctls: list[str]) -> str:
        """+ sysctls: keys to read"""
        return command(sysctls)

    @fact("the network")
    def process(self, output: list[str]) -> LiveNetwork:
        return parse(output)
