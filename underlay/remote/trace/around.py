"""What may take a packet on this host, or send it elsewhere, and is no rule that a trace of nftables shows: neighbours,
link layer filters, traffic control, programs at NICs, IPsec policies, older iptables; and what the kernel counted
meanwhile. Reads only."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from underlay.remote.trace import filters
from underlay.remote.trace.nftables import FAMILIES, GETRULE, attributes, elements, number, string

SECONDS = 3
MOST = 50
"""Things of one kind that are told."""
COUNTERS = ("snmp", "netstat", "xfrm_stat")
"""Files of /proc/net."""
TABLES = {"stat/nf_conntrack": "conntrack", "stat/arp_cache": "neighbours"}
"""Those with a line a processor, in hexadecimal, and what they are of."""
ETH_P_ALL, ETH_P_ARP = 3, 0x0806
SO_ATTACH_FILTER = 26
REQUEST = 1


class Around:
    """Begins to count, and to listen to ARP, when it is made.

    nics: those that matter; where none of them is here, all that are
    """

    def __init__(self, nics: list[str]) -> None:
        self.arp = _arp_socket()
        self.links = {each["ifname"]: each for each in _json("ip", "-j", "-s", "-d", "link", "show")}
        here = [nic for nic in self.links if nic != "lo"]
        self.nics = [nic for nic in here if nic in nics] or here[:MOST]
        self.counted = _counters()
        self.lost = self._lost()
        self.met = dict(_legacy_counters())

    def seen(self) -> dict[str, Any]:
        """What there is, and what became more since:

        links: [[NIC, MAC, [FLAG, …], PROGRAM], …]; PROGRAM is XDP's, empty for none
        ports: [[NIC, KIND, DEVICE], …], devices of the host that take what comes in by a NIC
        neighbours: [[ADDRESS, NIC, MAC, [STATE, …]], …]
        qdiscs: [[NIC, KIND, PLACE, DROPPED, BACKLOG], …], those that are no default; DROPPED since the beginning
        filters: [[NIC, ingress | egress, PREFERENCE, TEXT], …] of traffic control
        policies: the selectors of IPsec policies that let nothing through, or nothing that is not encrypted
        counters: what the kernel counts → how many more
        arp: [[in | out | other, NIC, request | reply, SENDER, TARGET, MAC OF THE SENDER], …], each once
        chains: [[FAMILY, TABLE, CHAIN, HOOK, [[HANDLE, RULE], …]], …], those of nftables that see no IP packets
        translating: [[FAMILY, TABLE, CHAIN], …], of nftables, not of iptables, that translate
        nft: whether there is the program to change nftables with
        legacy: [[PROGRAM, TABLE, CHAIN, RULE], …], of an iptables that nftables knows nothing of, that were met
        """
        counted = {name: number - self.counted.get(name, 0) for name, number in _counters().items()}
        lost = {name: number - self.lost.get(name, 0) for name, number in self._lost().items()}
        return {
            "links": [
                [nic, link.get("address", ""), link.get("flags", []), _program(link)]
                for nic, link in self.links.items()
                if nic in self.nics
            ],
            "ports": list(self._ports())[:MOST],
            "neighbours": list(self._neighbours())[:MOST],
            "qdiscs": list(self._qdiscs(lost))[:MOST],
            "filters": list(self._filters())[:MOST],
            "policies": _policies()[:MOST],
            "counters": {name: number for name, number in counted.items() if number > 0},
            "arp": self._heard()[:MOST],
            "chains": list(_chains())[:MOST],
            "translating": _translating()[:MOST],
            "nft": bool(shutil.which("nft")),
            "legacy": [list(rule) for rule, number in _legacy_counters() if number > self.met.get(rule, 0)][:MOST],
        }

    def _ports(self) -> Iterator[list[str]]:
        kinds = {name: _kind(link) for name, link in self.links.items()}
        for name, link in self.links.items():
            if link.get("master") in kinds and kinds[link["master"]] != "vrf" and name in self.nics:
                yield [name, kinds[link["master"]], link["master"]]
            passes = link.get("linkinfo", {}).get("info_data", {}).get("mode") == "passthru"
            if link.get("link") in self.nics and kinds[name].startswith("macv") and passes:
                yield [link["link"], kinds[name], name]

    def _neighbours(self) -> Iterator[list[Any]]:
        for each in _json("ip", "-j", "-4", "neigh", "show", "nud", "all"):
            if each.get("dev") in self.nics:
                yield [each["dst"], each["dev"], each.get("lladdr", ""), each.get("state", [])]

    def _lost(self) -> dict[tuple[str, str, str], int]:
        found = {}
        self.shapers = {}
        for each in _json("tc", "-j", "-s", "qdisc", "show"):
            key = (each.get("dev", ""), each["kind"], each.get("handle", ""))
            found[key] = each.get("drops", 0)
            self.shapers[key] = each
        return found

    def _qdiscs(self, lost: dict[tuple[str, str, str], int]) -> Iterator[list[Any]]:
        for key, drops in lost.items():
            nic, kind, _ = key
            each = self.shapers[key]
            if nic in self.nics and kind not in ("noqueue", "clsact"):
                place = "root" if each.get("root") else "ingress" if kind == "ingress" else each.get("parent", "")
                yield [nic, kind, place, drops, each.get("qlen", 0)]

    def _filters(self) -> Iterator[list[Any]]:
        hooked = {nic for nic, kind, _ in self.shapers if kind in ("ingress", "clsact")}
        for nic in self.nics:
            for hook in ("ingress", "egress") if nic in hooked else ("root",):
                place = [hook] if hook != "root" else []
                texts: dict[int, str] = {}
                for line in _output("tc", "filter", "show", "dev", nic, *place).splitlines():
                    if match := re.search(r"\bpref (\d+)", line) if line.startswith("filter") else None:
                        preference = int(match[1])
                    elif not texts and not line.startswith("filter"):
                        continue
                    texts[preference] = f"{texts.get(preference, '')} {' '.join(line.split())}"
                for preference, text in texts.items():
                    yield [nic, hook, preference, text.strip()[:400]]

    def _heard(self) -> list[list[str]]:
        found: dict[tuple[str, ...], None] = {}
        self.arp.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                packet, (nic, _, kind, *_) = self.arp.recvfrom(64)
                if len(packet) < 28:
                    continue
                (operation,) = struct.unpack_from("!H", packet, 6)
                direction = {socket.PACKET_OUTGOING: "out", socket.PACKET_OTHERHOST: "other"}.get(kind, "in")
                ends = socket.inet_ntoa(packet[14:18]), socket.inet_ntoa(packet[24:28])
                what = "request" if operation == REQUEST else "reply"
                found[direction, nic, what, *ends, packet[8:14].hex(":")] = None
        return [list(each) for each in found]


def _arp_socket() -> socket.socket:
    """A socket for ARP packets, also those that this host sends: these only one for all protocols gets."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    protocol = (0x28, 0, 0, 0xFFFFF000)
    instructions = (protocol, (0x15, 0, 1, ETH_P_ARP), (0x06, 0, 0, 64), (0x06, 0, 0, 0))
    code = b"".join(struct.pack("HBBI", *each) for each in instructions)
    program = ctypes.create_string_buffer(code)
    attach = struct.pack("HP", len(instructions), ctypes.addressof(program))
    found.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, attach)
    return found


def _kind(link: dict[str, Any]) -> str:
    return str(link.get("linkinfo", {}).get("info_kind", ""))


def _program(link: dict[str, Any]) -> str:
    """The XDP program of a NIC, in words; empty without one."""
    found = link.get("xdp") or {}
    if not found:
        return ""
    attached = found.get("attached") or [{}]
    program = found.get("prog") or attached[0].get("prog") or {}
    modes = {1: "xdpdrv", 2: "xdpgeneric", 3: "xdpoffload"}
    return f"{modes.get(found.get('mode', 0), 'xdp')} {program.get('name', '')} {program.get('id', '')}".strip()


def _policies() -> list[str]:
    """As `ip xfrm policy delete` takes them; those that block first, then those that want packets encrypted."""
    selector, now, found = "", "", dict[str, bool]()
    for line in _output("ip", "xfrm", "policy", "show").splitlines():
        if line.startswith("src "):
            selector = " ".join(line.split())
        elif match := re.search(r"\bdir (in|out|fwd)\b", line):
            now = f"{selector} dir {match[1]}"
            if " action block" in f" {line.strip()}":
                found[now] = True
        elif line.split()[:1] == ["tmpl"]:
            found[now] = False
    return sorted(found, key=lambda each: not found[each])


def _chains() -> Iterator[list[Any]]:
    for family, table, chain, hook, _, _ in filters.base_chains():
        if family in ("arp", "netdev", "bridge") and not table.startswith(filters.TRACE):
            rules = []
            for line in _output("nft", "-a", "list", "chain", family, table, chain).splitlines():
                text, sign, handle = line.strip().rpartition(" # handle ")
                if sign and not text.endswith("{"):
                    rules.append([handle, text[:400]])
            yield [family, table, chain, hook, (rules or list(_drops(family, table, chain)))[:MOST]]


def _translating() -> list[list[str]]:
    there = [each for each in filters.chains() if "translates" in each["does"]]
    return [[each["family"], each["table"], each["chain"]] for each in there]


def _drops(family: str, table: str, chain: str) -> Iterator[list[str]]:
    """The rules of a chain that drop, where there is no nft to print them."""
    for number_of, rule in filters.dumped(GETRULE):
        if (FAMILIES.get(number_of), string(rule[1]), string(rule[2])) == (family, table, chain):
            parts = [
                filters.meaning(string(each[1]), attributes(each.get(2, b""))) for each in elements(rule.get(4, b""))
            ]
            if any(word == "drops" for word, _ in parts):
                yield [str(number(rule[3])), "it has a drop"]


def _legacy_counters() -> Iterator[tuple[tuple[str, str, str, str], int]]:
    """The rules of older programs, and how many packets have met each."""
    for table in filters.names("arp"):
        chain = ""
        for line in _output("arptables-legacy", "-t", table, "-n", "-v", "-L").splitlines():
            if match := re.match(r"Chain (\S+)", line):
                chain = match[1]
            elif match := re.search(r"(.*?),? *pcnt=(\d+)", line):
                yield ("arptables-legacy", table, chain, " ".join(match[1].split())), int(match[2])
    if filters.names("ip"):
        yield from _iptables_counters(_output("iptables-legacy-save", "-c"))


def _iptables_counters(text: str) -> Iterator[tuple[tuple[str, str, str, str], int]]:
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif match := re.match(r":(\S+) DROP \[(\d+):", line):
            yield ("iptables-legacy", table, match[1], ""), int(match[2])
        elif match := re.match(r"\[(\d+):\d+\] -A (\S+) ?(.*)", line):
            yield ("iptables-legacy", table, match[2], match[3]), int(match[1])


def _counters() -> dict[str, int]:
    found: dict[str, int] = {}
    for name in (*COUNTERS, *TABLES):
        with suppress(OSError, ValueError):
            lines = [line.split() for line in Path(f"/proc/net/{name}").read_text().splitlines()]
            if name in TABLES:
                for row in lines[1:]:
                    for key, value in zip(lines[0], row, strict=False):
                        label = f"{TABLES[name]} {key}"
                        found[label] = found.get(label, 0) + int(value, 16)
            elif name == "xfrm_stat":
                found |= {key: int(value) for key, value in lines}
            else:
                for keys, values in zip(lines[::2], lines[1::2], strict=False):
                    group = keys[0].rstrip(":")
                    found |= {f"{group}{key}": int(value) for key, value in zip(keys[1:], values[1:], strict=False)}
    return found


def _json(*argv: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(_output(*argv) or "[]")
    except ValueError:
        return []
    return [each for each in found if each]


def _output(*argv: str) -> str:
    """What a program prints; empty if it fails or is not there."""
    try:
        done = subprocess.run(argv, capture_output=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace") if done.returncode == 0 else ""
