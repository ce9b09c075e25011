"""Which policy rule the kernel takes for a packet: asked of the kernel, and read off its rules. Changes nothing.

`ip route get fibmatch` tells by which route of which table a packet goes. The rule is then the first one whose whole
selector matches that packet, with all that came before it known not to: where a selector looks at what is not known of
the packet (whose process it is from, say), no rule is named. A packet has no mark, no tunnel and TOS 0 here.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from underlay.remote.guard.live import rule as as_arguments

PATIENCE = 3
PROTOCOLS = {"tcp": "6", "udp": "17", "icmp": "1"}
DEAD_ENDS = ("blackhole", "6", "unreachable", "7", "prohibit", "8")
THROW = ("throw", "9")
TYPES = ("blackhole", "unreachable", "prohibit", "throw", "local", "broadcast", "multicast", "anycast", "nat")
MOMENTARY = ("linkdown", "dead", "offload", "trap", "notify", "rt_offload", "rt_trap")
"""What is printed of a route and is not taken back."""
MAIN = "254"
NO_SELECTOR = {
    *("priority", "table", "action", "goto", "nop", "protocol", "not", "suppress_prefixlen", "flow_from", "flow_to"),
    *("iif_detached", "oif_detached"),
}
"""Keys of a rule, as `ip -j rule` has them, that say nothing of the packet."""

Rule = Mapping[str, Any]


def taken(packets: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the kernel does with packets of this host, and by which rule.

    packets: {source, destination, nic, protocol, sport, dport}; `nic` is where it comes in, empty for one of the
      host's own; `source` is empty where the host is to choose; ports are null where they are not known
    → for each {route, rule, arguments, line}: the route as `ip -j` has it, null if there is none; the rule likewise,
      null if it can't be told; what `ip rule del` takes to remove that rule and no other, null if nothing does; what
      `ip route del` takes to remove the route, or the one that lets it go nowhere, null if there is none
    """
    rules: list[Rule] = json.loads(_ip("-j", "-N", "-4", "rule") or "[]")
    lines = (_ip("-N", "-4", "rule") or "").splitlines()
    found = []
    for packet in packets:
        route = _route(packet)
        index = chosen(rules, packet, route) if len(rules) == len(lines) else None
        rule = None if index is None else rules[index]
        arguments = as_arguments(lines[index]) if index is not None and _alone(rules, index) else None
        table = route.get("table", MAIN) if route else rule.get("table") if rule else None
        line = _best(table, packet["destination"]) if table else None
        if route is None and line and not line.startswith(TYPES):
            line = None  # it is not the route that lets it go nowhere
        found.append({"route": route, "rule": rule, "arguments": arguments, "line": line})
    return found


def _best(table: str, destination: str) -> str | None:
    """The route of a table that is taken to an address, as `ip route del` takes it."""
    best: tuple[int, int, str] | None = None
    for line in (_ip("-o", "-4", "route", "show", "table", table, "match", destination) or "").splitlines():
        words = [word for word in line.split() if word not in MOMENTARY]
        start = 1 if words[0] in TYPES else 0
        prefix = words[start].partition("/")[2]
        length = 0 if words[start] == "default" else int(prefix or 32)
        metric = int(words[words.index("metric") + 1]) if "metric" in words[:-1] else 0
        if best is None or (-length, metric) < best[:2]:
            best = (-length, metric, " ".join([*words, "table", table]))
    return best[2] if best else None


def chosen(rules: Sequence[Rule], packet: Mapping[str, Any], route: Mapping[str, Any] | None) -> int | None:
    """The index of the rule by which a packet gets its route, or none (null); None if that can't be told."""
    jump = 0
    for index, rule in enumerate(rules):
        if rule["priority"] < jump:
            continue
        met = matches(rule, packet)
        if met is None:
            return None
        if not met or "nop" in rule:
            continue
        if "goto" in rule:
            jump = rule["goto"]
        elif "action" in rule:
            return index if route is None else None
        elif route is None:
            if _is_end(rule["table"], packet):
                return index
        elif rule["table"] == route.get("table", MAIN) and _length(route) > rule.get("suppress_prefixlen", -1):
            return index
    return None


def matches(rule: Rule, packet: Mapping[str, Any]) -> bool | None:
    """Whether the whole selector of a rule matches a packet; None if that is not known."""
    answers = [_meets(rule, key, packet) for key in rule if key not in NO_SELECTOR]
    met = False if False in answers else None if None in answers else True
    return met if met is None or "not" not in rule else not met


def _meets(rule: Rule, key: str, packet: Mapping[str, Any]) -> bool | None:
    value, known = rule[key], packet.get(key.partition("_")[0])
    met: bool | None = None
    match key:
        case "src" | "dst":
            end = packet["source" if key == "src" else "destination"]
            network = "0.0.0.0/0" if value == "all" else f"{value}/{rule.get(f'{key}len', 32)}"
            met = value == "all" if not end else ip_address(end) in ip_network(network)
        case "iif":
            met = value == (packet["nic"] or "lo")
        case "oif":
            met = False  # its socket is bound to no NIC
        case "fwmark":
            met = int(value, 0) & int(rule.get("fwmask", "0xffffffff"), 0) == 0
        case "tos" | "tun_id":
            met = int(str(value), 0) == 0
        case "ipproto":
            name = str(value).removeprefix("ipproto-")
            met = name in (packet["protocol"], PROTOCOLS[packet["protocol"]])
        case "sport" | "dport" if known is not None and rule.get(f"{key}_mask", "0xffff") == "0xffff":
            met = known == value
        case "sport_start" | "dport_start" if known is not None:
            met = value <= known <= rule[key.replace("start", "end")]
        case "srclen" | "dstlen" | "fwmask" | "sport_end" | "dport_end" | "sport_mask" | "dport_mask":
            met = True  # a part of another one
    return met


def _route(packet: Mapping[str, Any]) -> dict[str, Any] | None:
    words = [packet["destination"], *(["from", packet["source"]] if packet["source"] else [])]
    words += ["iif", packet["nic"]] if packet["nic"] else []
    words += ["ipproto", packet["protocol"]]
    for key in ("sport", "dport"):
        words += [key, str(packet[key])] if packet[key] is not None else []
    found = _ip("-j", "-N", "-4", "route", "get", "fibmatch", *words)
    route: dict[str, Any] | None = json.loads(found)[0] if found else None
    return route


def _is_end(table: str, packet: Mapping[str, Any]) -> bool:
    """Whether it is the best route of a table for a packet that lets it go nowhere.

    One that says so; for a packet that came in, also one that leads on, where the host does not forward.
    """
    found = json.loads(_ip("-j", "-N", "-4", "route", "show", "table", table, "match", packet["destination"]) or "[]")
    longest = max(map(_length, found), default=0)
    best = [each.get("type", "1") for each in found if _length(each) == longest]
    return any(each in DEAD_ENDS or (packet["nic"] and each not in THROW) for each in best)


def _length(route: Mapping[str, Any]) -> int:
    destination = route["dst"]
    return 0 if destination == "default" else int(destination.partition("/")[2] or 32)


def _alone(rules: Sequence[Rule], index: int) -> bool:
    """Whether the kernel, told to delete a rule, deletes that one: it takes the first that has all that is named."""
    wanted = rules[index].items()
    return not any(wanted <= each.items() for number, each in enumerate(rules) if number != index)


def _ip(*words: str) -> str:
    """What `ip` prints; empty if it fails."""
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
