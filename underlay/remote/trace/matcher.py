"""Which packets are those of a connection."""

from __future__ import annotations

import socket
import struct

NUMBERS = {"icmp": 1, "tcp": 6, "udp": 17}
ICMP_ERRORS = (3, 11)


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

    def note(self, packet: bytes) -> tuple[str, str, str, str, int] | None:
        """Of an IP packet: way, source, destination, kind, TTL; None if it is not of this connection.

        An ICMP error about a packet of it has the way `error`, and its type and code as its kind.
        """
        if len(packet) < 28 or packet[0] >> 4 != 4:
            return None
        header = (packet[0] & 15) * 4
        transport = packet[header:]
        source, destination = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        if packet[9] == self.number and (way := self.way(transport)):
            return way, source, destination, self.kind(transport), packet[8]
        if packet[9] == NUMBERS["icmp"] and transport[0] in ICMP_ERRORS:
            quoted = transport[8:]
            if len(quoted) >= 28 and quoted[9] == self.number and self.way(quoted[(quoted[0] & 15) * 4 :]):
                return "error", source, destination, f"{transport[0]}/{transport[1]}", packet[8]
        return None
