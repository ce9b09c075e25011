"""What is sent to a host, as root, to ask or tell a network about IPv4 addresses. Runs on any Python 3.10 or later.

probe NIC ADDRESS…      prints as JSON the address → MAC of each that another machine has (RFC 5227: no cache changes)
announce NIC ADDRESS…   tells all neighbours that these addresses are here now (gratuitous ARP)
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator

ARP = 0x0806
REQUEST, REPLY = 1, 2
PACKET = struct.Struct("!6s6sH HHBBH 6s4s6s4s")
BROADCAST, NOBODY = b"\xff" * 6, b"\x00" * 6
TIMES = 2
# Linux does not overwrite what it learned less than a second ago (`locktime`).
APART = 1.1


def packet(operation: int, mac: bytes, sender: str, target: str) -> bytes:
    """An Ethernet frame to all with an ARP packet about IPv4 addresses."""
    addresses = (mac, socket.inet_aton(sender), NOBODY, socket.inet_aton(target))
    return PACKET.pack(BROADCAST, mac, ARP, 1, 0x0800, 6, 4, operation, *addresses)


def sender(frame: bytes) -> tuple[str, str] | None:
    """The address and the MAC that an ARP packet comes from; None for another frame."""
    if len(frame) < PACKET.size:
        return None
    fields = PACKET.unpack_from(frame)
    if fields[2] != ARP or fields[4] != 0x0800:
        return None
    return socket.inet_ntoa(fields[9]), fields[8].hex(":")


def frames(nic: socket.socket, seconds: float) -> Iterator[bytes]:
    """What arrives in this time."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([nic], [], [], left)[0]:
            yield nic.recv(2048)


def probe(nic: socket.socket, mac: bytes, addresses: Iterable[str]) -> dict[str, str]:
    """Which machine has which of these addresses; this one is never among them."""
    found = {}
    for _ in range(TIMES):
        for address in addresses:
            nic.send(packet(REQUEST, mac, "0.0.0.0", address))
        for frame in frames(nic, APART / 2):
            who = sender(frame)
            if who and who[0] in addresses and who[1] != mac.hex(":"):
                found[who[0]] = who[1]
    return found


def announce(nic: socket.socket, mac: bytes, addresses: Iterable[str]) -> None:
    """Some listen to requests, some to replies: both are sent."""
    for turn in range(TIMES):
        time.sleep(APART if turn else 0)
        for address in addresses:
            for operation in (REQUEST, REPLY):
                nic.send(packet(operation, mac, address, address))


def main(what: str, name: str, *addresses: str) -> None:
    """Do what the module's docstring says."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ARP)) as nic:
        nic.bind((name, ARP))
        mac = nic.getsockname()[4]
        if what == "probe":
            print(json.dumps(probe(nic, mac, addresses)))
        else:
            announce(nic, mac, addresses)


if __name__ == "__main__":
    main(*sys.argv[1:])
