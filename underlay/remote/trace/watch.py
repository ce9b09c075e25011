"""Notes what happens to the packets of a connection on this host: at its NICs, and in the kernel's chains of rules."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from underlay.compare.tables import BUILTIN_CHAINS
from underlay.remote.trace.around import Around
from underlay.remote.trace.matcher import Matcher
from underlay.remote.trace.nftables import (
    ACK,
    ADD_MEMBERSHIP,
    CREATE,
    FAMILIES,
    IPV4,
    NETDEV,
    NEWCHAIN,
    NEWRULE,
    NEWTABLE,
    NFNLGRP_NFTRACE,
    REQUEST,
    SECONDS,
    SOL_NETLINK,
    TRACE,
    Netlink,
    attribute,
    attributes,
    compared,
    expression,
    message,
    nested,
    number,
    string,
)

SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3}
TABLE = "underlay-trace-"
"""How the names of our tables begin; the rest is the process that owns it."""
BEFORE_ALL = -450
"""Before connection tracking and every table of iptables."""
VERDICTS = {
    0: "drop",
    1: "accept",
    2: "stolen",
    3: "queue",
    **{-number & 0xFFFFFFFF: word for number, word in ((3, "jump"), (4, "goto"), (5, "return"))},
}
INGRESS = "ingress"
TEXTS = 300
"""Characters of a rule that are told."""


def marking(table: str, flow: Matcher) -> list[bytes]:
    """The messages that make our table: packets of the flow are traced from where they come in, or are made.

    Its chains at the other hooks are empty: that a packet gets there is all that they tell.
    """
    flags = REQUEST | CREATE | ACK
    found = [message(NEWTABLE, flags, IPV4, attribute(1, table) + attribute(2, 2))]  # 2: owned by this socket
    for name, hook in HOOKS.items():
        place = nested(4, attribute(1, hook), attribute(2, BEFORE_ALL))
        body = attribute(1, table) + attribute(3, name) + place + attribute(5, 1) + attribute(7, "filter")
        found.append(message(NEWCHAIN, flags, IPV4, body))
    for chain in ("prerouting", "output"):
        found += _rules(IPV4, table, chain, flow)
    return found


def marking_at(table: str, flow: Matcher, nic: str) -> list[bytes]:
    """The messages that make our table at a NIC: packets are traced before they come to the hooks of the host."""
    flags = REQUEST | CREATE | ACK
    place = nested(4, attribute(1, 0), attribute(2, BEFORE_ALL), attribute(3, nic))
    body = attribute(1, table) + attribute(3, INGRESS) + place + attribute(5, 1) + attribute(7, "filter")
    return [
        message(NEWTABLE, flags, NETDEV, attribute(1, table) + attribute(2, 2)),
        message(NEWCHAIN, flags, NETDEV, body),
        *_rules(NETDEV, table, INGRESS, flow),
    ]


def _rules(family: int, table: str, chain: str, flow: Matcher) -> Iterator[bytes]:
    for words in flow.words.values():
        ports = [*compared(2, 0, words[:1]), *compared(2, 4, words[4:])] if flow.icmp else compared(2, 0, words)
        trace = [
            expression("immediate", attribute(1, 1), nested(2, attribute(1, b"\1"))),
            expression("meta", attribute(2, 12), attribute(3, 1)),
        ]
        parts = nested(4, *compared(1, 9, bytes([flow.number])), *ports, *trace)
        body = attribute(1, table) + attribute(2, chain) + parts
        yield message(NEWRULE, REQUEST | CREATE | ACK, family, body)


class Watch:
    """Notes what happens to the packets of a flow on this host, from when it is made.

    nics: those that it may come in by, as far as that is known
    """

    def __init__(self, protocol: str, ports: list[int], nics: list[str]) -> None:
        self.around = Around(nics)
        self.flow = Matcher(protocol, ports)
        self.table = f"{TABLE}{os.getpid()}"
        self.packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))  # 3: all, sent ones too
        code = self.flow.filter()
        program = ctypes.create_string_buffer(code)
        attach = struct.pack("HP", len(code) // 8, ctypes.addressof(program))
        self.packets.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, attach)
        self.events = Netlink()
        # Everybody who listens gets the events of all who trace; one that is lost is an error when it is read.
        self.events.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        self.events.socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, NFNLGRP_NFTRACE)
        self.owner = Netlink()
        self.owner.transact(marking(self.table, self.flow))
        self.at_nics = []
        for number_of, nic in enumerate(self.around.nics):
            with suppress(OSError):  # one that can't have it: then less is seen
                owner = Netlink()
                owner.transact(marking_at(f"{self.table}-{number_of}", self.flow, nic))
                self.at_nics.append(owner)

    def seen(self) -> dict[str, Any]:
        """What was noted: the first packet of each way at each NIC, and each chain that the first packet came through.

        packets: [in | out | other, NIC, WAY, SOURCE, DESTINATION, KIND, TTL], see `Matcher.note`; `other` came in, and
        has the MAC of another machine
        chains: {way, family, table, chain, source, destination, out (a NIC, if known), rules: [[CHAIN, RULE,
        VERDICT], …], policy (if no rule decided), texts}; RULE is as iptables-save has it, without `-A CHAIN`, else the
        number of its handle, of which `texts` has what nft prints. The table `` is our own: it tells that the packet
        came as far as that hook.
        around: see `Around.seen`
        """
        return {"packets": list(self._packets()), "chains": self._chains(), "around": self.around.seen()}

    def _packets(self) -> Iterator[list[Any]]:
        known = set()
        self.packets.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                packet, (nic, _, kind, *_) = self.packets.recvfrom(256)
                direction = {socket.PACKET_OUTGOING: "out", socket.PACKET_OTHERHOST: "other"}.get(kind, "in")
                noted = self.flow.note(packet)
                if noted and (direction, nic, noted[0]) not in known:
                    known.add((direction, nic, noted[0]))
                    yield [direction, nic, *noted]

    def _chains(self) -> list[dict[str, Any]]:
        found: dict[tuple[str, int, str, str], dict[str, Any]] = {}
        now: dict[tuple[bytes, int, str], dict[str, Any] | None] = {}
        """Packet and table → the chain it is in, None if that was noted already: of another packet of the flow."""
        for family, event in self._events():
            table, chain, kind = string(event[1]), string(event[2]), number(event[4])
            packet = (event[6], family, table)
            if 8 in event:  # the first event in a chain has the headers
                note = self.flow.note(event[8] + event.get(9, b"") + bytes(20))
                now[packet] = None
                if note and note[0] != "error" and (note[0], family, table, chain) not in found:
                    each: dict[str, Any] = {
                        "way": note[0],
                        "family": family,
                        "table": table,
                        "chain": chain,
                        "rules": [],
                    }
                    each |= {"source": note[1], "destination": note[2], "out": _nic(event.get(12))}
                    now[packet] = found[note[0], family, table, chain] = each
            current = now.get(packet)
            if current is None:
                continue
            if kind == 3 and 3 in event:  # without a handle: the end of a chain
                current["rules"].append([chain, number(event[3]), verdict(number(attributes(event[5])[1]))])
            elif kind == 1:
                current["policy"] = VERDICTS.get(number(event[16]), "accept")
        chains: list[dict[str, Any]] = [
            each for each in found.values() if self._is_own(each["table"]) or not each["table"].startswith(TABLE)
        ]
        self._name_rules(chains)
        for each in chains:
            each["table"] = "" if self._is_own(each["table"]) else each["table"]
            each["family"] = FAMILIES[each["family"]]
        return chains

    def _is_own(self, table: str) -> bool:
        return table == self.table or table.startswith(f"{self.table}-")

    def _events(self) -> Iterator[tuple[int, dict[int, bytes]]]:
        self.events.socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                for kind, family, body in self.events.receive():
                    if kind == TRACE:
                        yield family, attributes(body)

    def _name_rules(self, chains: list[dict[str, Any]]) -> None:
        for family, table in {(each["family"], each["table"]) for each in chains if not self._is_own(each["table"])}:
            places = Netlink().rules(family, table)
            specs = saved(table) if family == IPV4 and table in BUILTIN_CHAINS else {}
            native = {} if specs else listed(FAMILIES[family], table)
            for each in chains:
                if (each["family"], each["table"]) == (family, table):
                    each["texts"] = {str(rule[1]): native[rule[1]] for rule in each["rules"] if rule[1] in native}
                    for rule in each["rules"]:
                        place, those = places.get((rule[0], rule[1])), specs.get(rule[0], [])
                        rule[1] = those[place] if place is not None and place < len(those) else rule[1]


def verdict(code: int) -> str:
    """The word for one; of a queue the upper half is its number, and flags."""
    return VERDICTS.get(code, VERDICTS.get(code & 0xFF, "continue") if code < 1 << 31 else "continue")


def listed(family: str, table: str) -> dict[int, str]:
    """The rules of a table as nft prints them, by handle; empty where there is no nft."""
    found = {}
    with suppress(OSError, subprocess.TimeoutExpired):
        argv = ["nft", "-a", "list", "table", family, table]
        done = subprocess.run(argv, capture_output=True, timeout=SECONDS, check=False)
        for line in done.stdout.decode(errors="replace").splitlines():
            text, _, handle = line.strip().rpartition(" # handle ")
            if handle.isdecimal() and not text.endswith("{"):
                found[int(handle)] = text[:TEXTS]
    return found


def saved(table: str) -> dict[str, list[str]]:
    """The rules of a table of iptables, by chain and in order; empty where there is no iptables."""
    found: dict[str, list[str]] = {}
    with suppress(OSError):
        argv = ["iptables-save", "-t", table]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
        for line in done.stdout.split("\n"):
            sign, _, rest = line.partition(" ")
            if sign == "-A":
                chain, _, spec = rest.partition(" ")
                found.setdefault(chain, []).append(spec)
    return found


def _nic(index: bytes | None) -> str:
    with suppress(OSError):
        return socket.if_indextoname(number(index)) if index else ""
    return ""
