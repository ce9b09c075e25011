"""A stream of captured packets (pcap), decoded as far as a summary needs: who talks to whom, and how much. Pure."""

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from underlay.errors import OperatorError

HEADER = 24
RECORD = 16
_ORDERS = {b"\xd4\xc3\xb2\xa1": "<", b"\x4d\x3c\xb2\xa1": "<", b"\xa1\xb2\xc3\xd4": ">", b"\xa1\xb2\x3c\x4d": ">"}
_LINK = {1: (12, 14), 113: (14, 16), 276: (0, 20)}
"""Link type (Ethernet, Linux cooked v1 and v2) → where the type of what it carries stands, and where that begins."""
_RAW = 101
_IPV4, _ARP, _VLAN, _IPV6 = 0x0800, 0x0806, (0x8100, 0x88A8), 0x86DD
_PROTOCOLS = {1: "icmp", 2: "igmp", 4: "ipip", 6: "tcp", 17: "udp", 47: "gre", 50: "esp"}
_PROTOCOLS |= {58: "icmp6", 89: "ospf", 112: "vrrp"}
_WITH_PORTS = (6, 17, 132)
_FRAGMENT = 44
_EXTENSIONS = (0, 43, _FRAGMENT, 60)
"""Headers that stand between that of IPv6 and what it carries."""
LARGEST = 262_144
"""Bytes that are kept of a packet at most: tcpdump's own limit."""
MOST = 50_000
"""Conversations that are kept apart; what comes after so many is counted as one."""


class NotPcapError(OperatorError):
    """A stream that is no pcap."""


@dataclass(frozen=True)
class Frame:
    """protocol: for people; length: bytes on the wire; source, destination: with the port where there is one."""

    protocol: str
    source: str
    destination: str
    length: int


class Stream:
    """A pcap stream that comes in pieces of any size."""

    def __init__(self) -> None:
        self._rest = b""
        self._order = ""
        self._link = 0

    def feed(self, piece: bytes) -> Iterator[Frame]:
        """The packets that are complete with this piece. Raises NotPcapError."""
        data = self._rest + piece
        at = 0
        if not self._order:
            if len(data) < HEADER:
                self._rest = data
                return
            self._order = _ORDERS.get(data[:4], "")
            if not self._order:
                raise NotPcapError(f"not a capture: it begins with {data[:4].hex()}")
            self._link = struct.unpack(f"{self._order}I", data[20:24])[0] & 0x0FFFFFFF
            at = HEADER
        while len(data) >= at + RECORD:
            kept, length = struct.unpack_from(f"{self._order}II", data, at + 8)
            if kept > LARGEST:
                raise NotPcapError(f"not a capture: a packet of {kept} bytes")
            if len(data) < at + RECORD + kept:
                break
            yield decode(self._link, data[at + RECORD : at + RECORD + kept], length)
            at += RECORD + kept
        self._rest = data[at:]


def decode(link: int, frame: bytes, length: int) -> Frame:
    """One frame; what is cut short or unknown is a packet of an unknown kind."""
    try:
        if link == _RAW:
            return _ip(frame, length)
        at, payload = _LINK[link]
        kind = int.from_bytes(frame[at : at + 2], "big")
        while kind in _VLAN:
            kind = int.from_bytes(frame[payload + 2 : payload + 4], "big")
            payload += 4
        if kind in (_IPV4, _IPV6):
            return _ip(frame[payload:], length)
        if kind == _ARP:
            asking, asked = frame[payload + 14 : payload + 18], frame[payload + 24 : payload + 28]
            return Frame("arp", _quad(asking), _quad(asked), length)
        return Frame(f"type 0x{kind:04x}", "?", "?", length)
    except (IndexError, KeyError, ValueError):
        return Frame("unknown", "?", "?", length)


def _ip(packet: bytes, length: int) -> Frame:
    if packet[0] >> 4 == 6:
        number, at, first = packet[6], 40, True
        source, destination = (str(IPv6Address(packet[begin : begin + 16])) for begin in (8, 24))
        pattern = "[{}]:{}"
        while number in _EXTENSIONS and first:
            if number == _FRAGMENT:
                first = int.from_bytes(packet[at + 2 : at + 4], "big") < 8
            # The length of a fragment's header is not told: there it is reserved.
            size = 0 if number == _FRAGMENT else packet[at + 1]
            number, at = packet[at], at + 8 * (size + 1)
    else:
        number, at, first = packet[9], (packet[0] & 15) * 4, int.from_bytes(packet[6:8], "big") & 0x1FFF == 0
        source, destination = _quad(packet[12:16]), _quad(packet[16:20])
        pattern = "{}:{}"
    # Only the first fragment of a datagram has the ports.
    if number in _WITH_PORTS and first and len(packet) >= at + 4:
        source = pattern.format(source, int.from_bytes(packet[at : at + 2], "big"))
        destination = pattern.format(destination, int.from_bytes(packet[at + 2 : at + 4], "big"))
    return Frame(_PROTOCOLS.get(number, f"protocol {number}"), source, destination, length)


def _quad(address: bytes) -> str:
    if len(address) != 4:
        raise ValueError(address)
    return ".".join(map(str, address))


@dataclass
class Summary:
    """What came: packets, bytes on the wire, and the same for each conversation, both ways together.

    A conversation is (protocol, one end, other end), the one that was heard first before the other.
    """

    packets: int = 0
    bytes: int = 0
    conversations: dict[tuple[str, str, str], list[int]] = field(default_factory=dict)

    def add(self, packet: Frame) -> None:
        """Count a packet."""
        self.packets += 1
        self.bytes += packet.length
        key = (packet.protocol, packet.source, packet.destination)
        back = (packet.protocol, packet.destination, packet.source)
        key = back if back in self.conversations else key
        if key not in self.conversations and len(self.conversations) >= MOST:
            key = ("others", "", "")
        counts = self.conversations.setdefault(key, [0, 0])
        counts[0] += 1
        counts[1] += packet.length

    def top(self, number: int) -> list[tuple[tuple[str, str, str], int, int]]:
        """The conversations with the most bytes: which, packets, bytes."""
        sizes = Counter({key: size for key, (_, size) in self.conversations.items()})
        return [(key, self.conversations[key][0], size) for key, size in sizes.most_common(number)]
