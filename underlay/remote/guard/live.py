"""Readers of the live state: each part of it in a form that its program takes again."""

import glob
import json
import re
from contextlib import suppress
from typing import Any

from underlay.remote.guard.programs import run
from underlay.remote.guard.systemd import units

FOREVER = 2**32 - 1
ROUTE_TYPES = ["unspec", "unicast", "local", "broadcast", "anycast", "multicast"]
ROUTE_TYPES += ["blackhole", "unreachable", "prohibit", "throw", "nat"]
"""By their numbers in the kernel."""
MOMENTARY = {"\\", "dead", "linkdown", "offload", "rt_offload", "offload_failed", "trap", "rt_trap", "[detached]"}
"""Words that `ip` shows and does not take."""

State = dict[str, Any]
"""A snapshot: for each of `snapshot.ASPECTS` what its reader returns, and `files`: path → file (see `files.read_file`),
`folders`: those that were not there."""


def read_links(_: State) -> dict[str, list[Any]]:
    """NIC → [it is up, its MTU]."""
    return {link["ifname"]: ["UP" in link["flags"], link["mtu"]] for link in json.loads(run(["ip", "-j", "link"]))}


def read_masters(wanted: State) -> dict[str, str | None]:
    """NIC → the one that it is a leg of, empty if of none; None if it is not there. Of those that are asked for."""
    there = {link["ifname"]: link.get("master", "") for link in json.loads(run(["ip", "-j", "link"]))}
    return {nic: there.get(nic) for nic in wanted["masters"]}


def read_addresses(_: State) -> dict[str, list[list[str]]]:
    """NIC → its IPv4 addresses in their order, each as `ip address add` takes it, and its life time."""
    return addresses(json.loads(run(["ip", "-j", "-N", "-4", "address"])))


def addresses(links: list[dict[str, Any]]) -> dict[str, list[list[str]]]:
    """Read the JSON of `ip address`."""
    return {link["ifname"]: [address(info) for info in link["addr_info"]] for link in links if link}


def address(info: dict[str, Any]) -> list[str]:
    """One address as [arguments, life time]; which one is secondary follows from the order."""
    peer = f" peer {info['address']}" if "address" in info else ""
    parts = [f"{info['local']}{peer}/{info['prefixlen']}"]
    words = {"brd": "broadcast", "scope": "scope", "label": "label", "metric": "metric", "proto": "protocol"}
    parts += [f"{word} {info[key]}" for word, key in words.items() if key in info]
    parts += ["noprefixroute"] if info.get("noprefixroute") else []
    life = info.get("valid_life_time", FOREVER)
    preferred = info.get("preferred_life_time", FOREVER)
    return [" ".join(parts), "" if life == FOREVER else f"valid_lft {life} preferred_lft {preferred}"]


def read_routes(_: State) -> list[str]:
    """The IPv4 routes of all tables in their order, each as `ip route` takes it."""
    return [route(line) for line in run(["ip", "-N", "-o", "-4", "route", "show", "table", "all"]).splitlines()]


def route(line: str) -> str:
    """A line of `ip -N route` as `ip route` takes it: with the name of the type."""
    words = [word for word in line.replace("\\", " ").split() if word not in MOMENTARY]
    if words[0].isdigit():
        words[0] = ROUTE_TYPES[int(words[0])]
    return " ".join(words)


def read_rules(_: State) -> list[str]:
    """The IPv4 policy rules in their order, each as `ip rule` takes it."""
    return [rule(line) for line in run(["ip", "-N", "-4", "rule"]).splitlines()]


REFUSALS = {"6": "blackhole", "7": "unreachable", "8": "prohibit"}
"""Actions of rules: `ip -N` prints their numbers, and takes their names only."""


def rule(line: str) -> str:
    """A line of `ip rule` as `ip rule` takes it."""
    line = line.replace("lookup [l3mdev-table]", "l3mdev").replace(" ipproto-", " ")
    priority, _, rest = line.partition(":")
    words = [word for word in rest.split() if word not in MOMENTARY and word != "[unresolved]"]
    if not {"lookup", "goto"} & {*words}:
        action = (words.index("proto") if "proto" in words else len(words)) - 1
        words[action] = REFUSALS.get(words[action], words[action])
    return " ".join(["priority", priority, *words])


def read_sysctls(wanted: State) -> dict[str, str]:
    """The sysctls of the snapshot, and all that forwarding changes with it: path below /proc/sys → value."""
    found = {}
    root = "/proc/sys/"
    paths = {f"{root}{key}" for key in wanted["sysctls"]} | {f"{root}net/ipv4/ip_forward"}
    # Hundreds of files: pathlib takes longer for them than all the rest of a snapshot.
    for path in sorted({*paths, *glob.glob(f"{root}net/ipv4/conf/*/*")}):
        with suppress(OSError), open(path) as file:  # its NIC has gone, or it can only be written
            found[path.removeprefix(root)] = file.read().strip()
    return found


def sysctl_path(key: str) -> str:
    """`net.ipv4.ip_forward` as a path; the dot of a NIC's name is a slash in a key with dots, as in sysctl(8)."""
    separator = re.search(r"[./]", key)
    return key.translate(str.maketrans("./", "/.")) if separator and separator[0] == "." else key


def read_services(wanted: State) -> list[str]:
    """Which of the services of the snapshot run."""
    asked = wanted["services"]
    return [name for name, state in zip(asked, units(*asked), strict=True) if state in ("active", "reloading")]
