"""nftables over netlink, as linux/netfilter/nf_tables.h has it."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

SECONDS = 8
"""For one request to the kernel."""
NETLINK_NETFILTER, SOL_NETLINK, ADD_MEMBERSHIP = 12, 270, 1
NFNLGRP_NFTRACE = 9
BATCH_BEGIN, BATCH_END = 16, 17
NEWTABLE, NEWCHAIN, GETCHAIN, NEWRULE, GETRULE, TRACE = (10 << 8 | message for message in (0, 3, 4, 6, 7, 17))
ERROR, END = 2, 3
REQUEST, ACK, DUMP, CREATE = 1, 4, 0x300, 0x400
NESTED = 0x8000
ALL_FAMILIES, IPV4, NETDEV = 0, 2, 5
FAMILIES = {1: "inet", IPV4: "ip", 3: "arp", NETDEV: "netdev", 7: "bridge"}
"""Those that may see IPv4 packets."""


def attribute(kind: int, value: bytes | int | str) -> bytes:
    """One netlink attribute; numbers are 32 bits in network order."""
    if isinstance(value, int):
        value = struct.pack("!I", value & 0xFFFFFFFF)
    if isinstance(value, str):
        value = value.encode() + b"\0"
    return struct.pack("HH", len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def nested(kind: int, *parts: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(parts))


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a netlink message, by kind."""
    found = {}
    while len(data) >= 4:
        length, kind = struct.unpack("HH", data[:4])
        found[kind & 0x3FFF] = data[4:length]
        data = data[max(4, length + 3 & ~3) :]
    return found


def elements(data: bytes) -> list[dict[int, bytes]]:
    """The attributes of each element of a list."""
    found = []
    while len(data) >= 4:
        length = struct.unpack("H", data[:2])[0]
        found.append(attributes(data[4:length]))
        data = data[max(4, length + 3 & ~3) :]
    return found


def message(kind: int, flags: int, family: int, body: bytes = b"", subsystem: int = 0) -> bytes:
    """A netlink message of nfnetlink."""
    return struct.pack("IHHIIBBH", len(body) + 20, kind, flags, 1, 0, family, 0, socket.htons(subsystem)) + body


def number(value: bytes) -> int:
    return int.from_bytes(value, "big")


def string(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


class Netlink:
    """A socket to nftables."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self.socket.bind((0, 0))

    def transact(self, messages: list[bytes]) -> None:
        """All of these changes, or none. Raises OSError."""
        begin, end = (message(kind, REQUEST, 0, subsystem=10) for kind in (BATCH_BEGIN, BATCH_END))
        self.socket.settimeout(SECONDS)
        self.socket.send(begin + b"".join(messages) + end)
        for _ in messages:
            for kind, _, body in self.receive():
                if kind == ERROR and (code := -struct.unpack("i", body[:4])[0]):
                    raise OSError(code, f"nftables: {os.strerror(code)}")

    def receive(self) -> Iterator[tuple[int, int, bytes]]:
        """The messages of one datagram: kind, family, and what follows the headers (all of it, of an error)."""
        data = self.socket.recv(1 << 20)
        while len(data) >= 16:
            length, kind = struct.unpack("IH", data[:6])
            head = 16 if kind < 16 else 20
            yield kind, data[16] if len(data) > 16 else 0, data[head:length]
            data = data[max(16, length + 3 & ~3) :]

    def dump(self, kind: int, family: int = ALL_FAMILIES, body: bytes = b"") -> Iterator[tuple[int, dict[int, bytes]]]:
        """All objects of a kind: family and attributes. Raises OSError."""
        self.socket.settimeout(SECONDS)
        self.socket.send(message(kind, REQUEST | DUMP, family, body))
        while True:
            for answer, its_family, content in self.receive():
                if answer == END:
                    return
                if answer == ERROR:
                    code = -struct.unpack("i", content[:4])[0]
                    raise OSError(code, f"nftables: {os.strerror(code)}")
                yield its_family, attributes(content)

    def rules(self, family: int, table: str) -> dict[tuple[str, int], int]:
        """The rules of a table: chain and handle → place in the chain, from 0."""
        found: dict[tuple[str, int], int] = {}
        places: dict[str, int] = {}
        for _, each in self.dump(GETRULE, family, attribute(1, table)):
            if string(each[1]) == table:
                chain = string(each[2])
                found[chain, number(each[3])] = places.get(chain, 0)
                places[chain] = places.get(chain, 0) + 1
        return found


def expression(name: str, *parts: bytes) -> bytes:
    return nested(1, attribute(1, name), nested(2, *parts))


def compared(base: int, offset: int, value: bytes) -> list[bytes]:
    """Expressions: these bytes of the header (1: network, 2: transport) are this."""
    load = [attribute(kind, each) for kind, each in enumerate((1, base, offset, len(value)), 1)]
    return [
        expression("payload", *load),
        expression("cmp", attribute(1, 1), attribute(2, 0), nested(3, attribute(1, value))),
    ]
