"""What is sent to a host to follow one connection there.

It is spoken to as `remote.serve` says, and its hello is `{"root": BOOL}`: without root it can send and listen, but sees
nothing. PROTOCOL is tcp, udp or icmp; PORTS are [SOURCE PORT, DESTINATION PORT], for icmp [IDENTIFIER, 0].

- `{"listen": [PROTOCOL, ADDRESS]}` → the port of a listener on that address
- `{"reserve": [PROTOCOL, ADDRESS]}` → the port, or identifier, that will be sent from
- `{"watch": [PROTOCOL, PORTS]}` → `true`: from now on packets of this connection are noted
- `{"send": [DESTINATION, PORT]}` → null if an answer came, else why not
- `{"seen": null}` → `{"packets": […], "chains": […]}`, see `Watch.seen`
- `{"run": [[ARGV, STDIN], …]}` → `[[EXIT CODE, STDOUT, STDERR], …]`

Packets are noted by a packet socket with a filter in the kernel. Rules are noted by the kernel's own tracing of
nftables, which iptables is made of: a table of our own marks the packets. It is owned by the socket that made it, so
the kernel removes it when this process ends, however it ends. No chain of anybody else is touched, and `iptables-save`
does not show it. Nothing else stays behind either: this ends with its stdin, and after DEADLINE seconds whatever
happens.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from underlay.remote import serve

DEADLINE = 30
PATIENCE = 2.5
"""Seconds for an answer: TCP sends its first packet a second time within."""
COMMAND_SECONDS = 8
NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17}
PORTS = range(20000, 30000)
"""Source ports: clients get theirs from 32768 up, Kubernetes' NodePorts begin at 30000. So nobody else has them."""
PAYLOAD = b"underlay trace"
ICMP_ERRORS = (3, 11)


def listen(protocol: str, address: str) -> int:
    """A listener on a free port that answers whoever asks it."""
    if protocol == "tcp":
        server = socket.socket()
        server.bind((address, 0))
        server.listen()  # that the kernel shakes hands is answer enough
    else:
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((address, 0))

        def echo() -> None:
            while True:
                server.sendto(*server.recvfrom(2048))

        threading.Thread(target=echo, daemon=True).start()
    KEPT.append(server)
    return int(server.getsockname()[1])


KEPT: list[socket.socket] = []
"""Sockets that live as long as this process."""


class Sender:
    """The end that the connection is made from."""

    def __init__(self, protocol: str, address: str) -> None:
        self.protocol = protocol
        self.port = random.choice(PORTS)  # noqa: S311 (nobody has to guess it)
        kind = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM, "icmp": socket.SOCK_RAW}[protocol]
        self.socket = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP if protocol == "icmp" else 0)
        for _ in range(100):
            try:
                self.socket.bind((address, 0 if protocol == "icmp" else self.port))
                return
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                self.port = random.choice(PORTS)  # noqa: S311 (nobody has to guess it)
        raise OSError(f"no free port of {PORTS.start} to {PORTS.stop - 1}")

    def send(self, destination: str, port: int) -> str | None:
        """Ask once, over UDP and ICMP a second time; None if an answer came, else why not."""
        try:
            if self.protocol == "tcp":
                self.socket.settimeout(PATIENCE)
                self.socket.connect((destination, port))
                self.socket.close()
                return None
            self.socket.connect((destination, port))
            for _ in range(2):
                if self._asked():
                    return None
        except OSError as error:
            if not isinstance(error, TimeoutError):
                return error.strerror or str(error)
        return f"no answer within {PATIENCE} s"

    def _asked(self) -> bool:
        echo = struct.pack("!BBHHH", 8, 0, 0, self.port, 1)
        echo = struct.pack("!BBHHH", 8, 0, checksum(echo + PAYLOAD), self.port, 1)
        self.socket.send(echo + PAYLOAD if self.protocol == "icmp" else PAYLOAD)
        deadline = time.monotonic() + PATIENCE / 2
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                answer = self.socket.recv(2048)
            except TimeoutError:
                return False
            # A raw socket gets every echo reply of that host, with its IP header.
            if self.protocol == "udp" or answer[20:21] + answer[24:26] == struct.pack("!BH", 0, self.port):
                return True
        return False


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    words = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while words >> 16:
        words = (words & 0xFFFF) + (words >> 16)
    return int(~words & 0xFFFF)


# -- packets ----------------------------------------------------------------------------------------------------------


class Matcher:
    """The connection that is followed: tells its packets from others, and a request from an answer."""

    def __init__(self, protocol: str, ports: list[int]) -> None:
        self.number = NUMBERS[protocol]
        self.icmp = protocol == "icmp"
        source, destination = ports
        if self.icmp:
            self.words = {"request": struct.pack("!BxxxH", 8, source), "answer": struct.pack("!BxxxH", 0, source)}
        else:
            self.words = {
                "request": struct.pack("!HH", source, destination),
                "answer": struct.pack("!HH", destination, source),
            }

    def way(self, transport: bytes) -> str | None:
        """`request` or `answer`, from the transport header; None for a packet of another connection."""
        key = transport[:1] + bytes(3) + transport[4:6] if self.icmp else transport[:4]
        return next((way for way, words in self.words.items() if words == key), None)

    def filter(self) -> bytes:
        """The packet socket's filter: this protocol's packets with these ports, and ICMP errors, which quote them."""
        matches = [
            struct.unpack("!H", words[4:6])[0] if self.icmp else struct.unpack("!I", words)[0]
            for words in self.words.values()
        ]
        load = (0x48, 4) if self.icmp else (0x40, 0)
        code = [
            (0x28, 0, 0, 0xFFFFF000),  # the protocol of the frame
            (0x15, 0, 14, 0x0800),
            (0x28, 0, 0, 6),
            (0x45, 12, 0, 0x1FFF),  # a later fragment has no ports
            (0xB1, 0, 0, 0),  # x = length of the IP header
            (0x30, 0, 0, 9),
            (0x15, 0, 3, self.number),
            (load[0], 0, 0, load[1]),
            (0x15, 6, 0, matches[0]),
            (0x15, 5, 0, matches[1]),
            (0x30, 0, 0, 9),
            (0x15, 0, 4, NUMBERS["icmp"]),
            (0x50, 0, 0, 0),
            (0x15, 1, 0, ICMP_ERRORS[0]),
            (0x15, 0, 1, ICMP_ERRORS[1]),
            (0x06, 0, 0, 256),
            (0x06, 0, 0, 0),
        ]
        return b"".join(struct.pack("HBBI", *instruction) for instruction in code)

    def kind(self, transport: bytes) -> str:
        """What a packet is beside request or answer: `reset` or nothing."""
        return "reset" if self.number == NUMBERS["tcp"] and len(transport) > 13 and transport[13] & 4 else ""

    def note(self, packet: bytes) -> tuple[str, str, str, str] | None:
        """Of an IP packet: way, source, destination, kind; None if it is not of this connection.

        An ICMP error about a packet of it has the way `error`, and its type and code as its kind.
        """
        if len(packet) < 28 or packet[0] >> 4 != 4:
            return None
        header = (packet[0] & 15) * 4
        transport = packet[header:]
        source, destination = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        if packet[9] == self.number and (way := self.way(transport)):
            return way, source, destination, self.kind(transport)
        if packet[9] == NUMBERS["icmp"] and transport[0] in ICMP_ERRORS:
            quoted = transport[8:]
            if len(quoted) >= 28 and quoted[9] == self.number and self.way(quoted[(quoted[0] & 15) * 4 :]):
                return "error", source, destination, f"{transport[0]}/{transport[1]}"
        return None


# -- nftables over netlink (linux/netfilter/nf_tables.h) --------------------------------------------------------------

SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
NETLINK_NETFILTER, SOL_NETLINK, ADD_MEMBERSHIP = 12, 270, 1
NFNLGRP_NFTRACE = 9
BATCH_BEGIN, BATCH_END = 16, 17
NEWTABLE, NEWCHAIN, NEWRULE, GETRULE, TRACE = (10 << 8 | message for message in (0, 3, 6, 7, 17))
REQUEST, ACK, DUMP, CREATE = 1, 4, 0x300, 0x400
NESTED = 0x8000
IPV4 = 2
HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3}
TABLE = "underlay-trace-"
"""How the names of our tables begin; the rest is the process that owns it."""
BEFORE_ALL = -450
"""Before connection tracking and every table of iptables."""
VERDICTS = {0: "drop", 1: "accept", 2: "stolen", 3: "queue", -3 & 0xFFFFFFFF: "jump", -4 & 0xFFFFFFFF: "goto"}


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
        self.socket.settimeout(COMMAND_SECONDS)
        self.socket.send(begin + b"".join(messages) + end)
        for _ in messages:
            for kind, _, body in self.receive():
                if kind == 2 and (code := -struct.unpack("i", body[:4])[0]):
                    raise OSError(code, f"nftables: {os.strerror(code)}")

    def receive(self) -> Iterator[tuple[int, int, bytes]]:
        """The messages of one datagram: kind, family, and what follows the headers (all of it, of an error)."""
        data = self.socket.recv(1 << 20)
        while len(data) >= 16:
            length, kind = struct.unpack("IH", data[:6])
            head = 16 if kind < 16 else 20
            yield kind, data[16] if len(data) > 16 else 0, data[head:length]
            data = data[max(16, length + 3 & ~3) :]

    def rules(self, family: int, table: str) -> dict[tuple[str, int], int]:
        """The rules of a table: chain and handle → place in the chain, from 0."""
        self.socket.settimeout(COMMAND_SECONDS)
        self.socket.send(message(GETRULE, REQUEST | DUMP, family, attribute(1, table)))
        found: dict[tuple[str, int], int] = {}
        places: dict[str, int] = {}
        while True:
            for kind, _, body in self.receive():
                if kind in (2, 3):  # an error, or the end
                    return found
                each = attributes(body)
                if kind == NEWRULE and string(each[1]) == table:
                    chain = string(each[2])
                    found[chain, number(each[3])] = places.get(chain, 0)
                    places[chain] = places.get(chain, 0) + 1


def expression(name: str, *parts: bytes) -> bytes:
    return nested(1, attribute(1, name), nested(2, *parts))


def compared(base: int, offset: int, value: bytes) -> list[bytes]:
    """Expressions: these bytes of the header (1: network, 2: transport) are this."""
    load = [attribute(kind, each) for kind, each in enumerate((1, base, offset, len(value)), 1)]
    return [
        expression("payload", *load),
        expression("cmp", attribute(1, 1), attribute(2, 0), nested(3, attribute(1, value))),
    ]


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
        for words in flow.words.values():
            ports = [*compared(2, 0, words[:1]), *compared(2, 4, words[4:])] if flow.icmp else compared(2, 0, words)
            trace = [
                expression("immediate", attribute(1, 1), nested(2, attribute(1, b"\1"))),
                expression("meta", attribute(2, 12), attribute(3, 1)),
            ]
            parts = nested(4, *compared(1, 9, bytes([flow.number])), *ports, *trace)
            found.append(message(NEWRULE, flags, IPV4, attribute(1, table) + attribute(2, chain) + parts))
    return found


class Watch:
    """Notes what happens to the packets of a flow on this host, from when it is made."""

    def __init__(self, protocol: str, ports: list[int]) -> None:
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

    def seen(self) -> dict[str, Any]:
        """What was noted: the first packet of each way at each NIC, and each chain that the first packet came through.

        packets: [in | out, NIC, WAY, SOURCE, DESTINATION, KIND], see `Matcher.note`
        chains: {way, table, chain, source, destination, out (a NIC, if known), rules: [[CHAIN, RULE, VERDICT], …],
        policy (if no rule decided)}; RULE is as iptables-save has it, without `-A CHAIN`, else the number of its
        handle. The table `` is our own: it tells that the packet came as far as that hook.
        """
        return {"packets": list(self._packets()), "chains": self._chains()}

    def _packets(self) -> Iterator[list[str]]:
        known = set()
        self.packets.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                packet, (nic, _, kind, *_) = self.packets.recvfrom(256)
                direction = "out" if kind == socket.PACKET_OUTGOING else "in"
                noted = self.flow.note(packet)
                if noted and (direction, nic, noted[0]) not in known:
                    known.add((direction, nic, noted[0]))
                    yield [direction, nic, *noted]

    def _chains(self) -> list[dict[str, Any]]:
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        now: dict[tuple[bytes, str], dict[str, Any] | None] = {}
        """Packet and table → the chain it is in, None if that was noted already: of another packet of the flow."""
        for family, event in self._events():
            table, chain, kind = string(event[1]), string(event[2]), number(event[4])
            packet = (event[6], table)
            if 8 in event:  # the first event in a chain has the headers
                note = self.flow.note(event[8] + event.get(9, b"") + bytes(20))
                now[packet] = None
                if note and note[0] != "error" and (note[0], table, chain) not in found:
                    each = {"way": note[0], "family": family, "table": table, "chain": chain, "rules": []}
                    each |= {"source": note[1], "destination": note[2], "out": _nic(event.get(12))}
                    now[packet] = found[note[0], table, chain] = each
            current = now.get(packet)
            if current is None:
                continue
            if kind == 3 and 3 in event:  # without a handle: the end of a chain
                said = VERDICTS.get(number(attributes(event[5])[1]), "continue")
                current["rules"].append([chain, number(event[3]), said])
            elif kind == 1:
                current["policy"] = VERDICTS.get(number(event[16]), "accept")
        chains = [each for each in found.values() if each["table"] == self.table or not each["table"].startswith(TABLE)]
        self._name_rules(chains)
        for each in chains:
            each["table"] = "" if each["table"] == self.table else each["table"]
            del each["family"]
        return chains

    def _events(self) -> Iterator[tuple[int, dict[int, bytes]]]:
        self.events.socket.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                for kind, family, body in self.events.receive():
                    if kind == TRACE:
                        yield family, attributes(body)

    def _name_rules(self, chains: list[dict[str, Any]]) -> None:
        texts: dict[str, dict[str, list[str]]] = {}
        for family, table in {(each["family"], each["table"]) for each in chains if each["table"] != self.table}:
            places = Netlink().rules(family, table)
            if table not in texts:
                texts[table] = saved(table) if family == IPV4 else {}
            for each in chains:
                if (each["family"], each["table"]) == (family, table):
                    for rule in each["rules"]:
                        place = places.get((rule[0], rule[1]))
                        specs = texts[table].get(rule[0], [])
                        rule[1] = specs[place] if place is not None and place < len(specs) else rule[1]


def saved(table: str) -> dict[str, list[str]]:
    """The rules of a table of iptables, by chain and in order; empty where there is no iptables."""
    found: dict[str, list[str]] = {}
    with suppress(OSError):
        argv = ["iptables-save", "-t", table]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
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


# -- requests ---------------------------------------------------------------------------------------------------------


def run(calls: list[tuple[list[str], str]]) -> list[tuple[int, str, str]]:
    """Commands, one after the other."""
    found = []
    for argv, text in calls:
        try:
            done = subprocess.run(
                argv, input=text, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
            )
            found.append((done.returncode, done.stdout, done.stderr))
        except (OSError, subprocess.TimeoutExpired) as error:
            found.append((127, "", str(error)))
    return found


class Requests:
    """What can be asked; a method a request."""

    def __init__(self) -> None:
        self.sender: Sender | None = None
        self.watching: Watch | None = None

    def listen(self, protocol: str, address: str) -> int:
        return listen(protocol, address)

    def reserve(self, protocol: str, address: str) -> int:
        self.sender = Sender(protocol, address)
        return self.sender.port

    def watch(self, protocol: str, ports: list[int]) -> bool:
        self.watching = Watch(protocol, ports)
        return True

    def send(self, destination: str, port: int) -> str | None:
        assert self.sender
        return self.sender.send(destination, port)

    def seen(self) -> dict[str, Any]:
        assert self.watching
        return self.watching.seen()

    def run(self, *calls: tuple[list[str], str]) -> list[tuple[int, str, str]]:
        return run(list(calls))


def main() -> None:
    """Answer requests."""
    requests = Requests()

    def method(name: str) -> Callable[[Any], Any]:
        return lambda arguments: getattr(requests, name)(*(arguments or []))

    names = ("listen", "reserve", "watch", "send", "seen", "run")
    serve({name: method(name) for name in names}, {"root": os.geteuid() == 0}, DEADLINE)
