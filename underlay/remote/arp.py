"""ARP: ask who has an IPv4 address, or tell that it is here. As a program, as root:

probe NIC ADDRESS…      prints as JSON the address → MAC of each that another machine has
announce NIC ADDRESS…   tells all neighbours that these addresses are here now (gratuitous ARP)

The questions are probes of RFC 5227: nobody learns anything from them.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress

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


def ask(
    nics: Mapping[socket.socket, tuple[bytes, Iterable[str]]], seconds: float
) -> dict[socket.socket, dict[str, list[str]]]:
    """On sockets of NICs, each with its MAC, who has these addresses: address → the MACs of other machines.

    So many seconds are waited for answers; each question is asked twice meanwhile.
    """
    found: dict[socket.socket, dict[str, list[str]]] = {
        nic: {address: [] for address in addresses} for nic, (_, addresses) in nics.items()
    }
    for _ in range(TIMES):
        for nic, addresses in found.items():
            with suppress(OSError):  # it is down: nobody answers there
                for address in addresses:
                    nic.send(packet(REQUEST, nics[nic][0], "0.0.0.0", address))  # noqa: S104 (no sender)
        for nic, frame in frames(nics, seconds / TIMES):
            address, mac = sender(frame) or ("", "")
            macs = found[nic].get(address)
            if macs is not None and mac not in (*macs, nics[nic][0].hex(":")):
                macs.append(mac)
    return found


def frames(nics: Iterable[socket.socket], seconds: float) -> Iterator[tuple[socket.socket, bytes]]:
    """What arrives in this time, and where."""
    nics, end = list(nics), time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        for nic in select.select(nics, [], [], left)[0]:
            with suppress(OSError):  # it went down
                yield nic, nic.recv(2048)


def on(nic: str) -> socket.socket:
    """A socket for the ARP packets of a NIC. Raises OSError; PermissionError without root."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ARP))
    try:
        opened.bind((nic, ARP))
    except OSError:
        opened.close()
        raise
    return opened


def probe(pairs: Iterable[tuple[str, str]], seconds: float) -> dict[str, dict[str, list[str]]]:
    """Who has addresses: NIC → address → see `ask`; a NIC that is not there is left out. Raises PermissionError."""
    wanted: dict[str, list[str]] = {}
    for name, address in pairs:
        wanted.setdefault(name, []).append(address)
    with ExitStack() as stack:
        nics = {}
        for name, addresses in wanted.items():
            try:
                nic = stack.enter_context(on(name))
            except PermissionError:
                raise
            except OSError:
                continue
            nics[nic] = name, (nic.getsockname()[4], addresses)
        found = ask({nic: each for nic, (_, each) in nics.items()}, seconds)
        return {name: found[nic] for nic, (name, _) in nics.items()}


def announce(nic: socket.socket, mac: bytes, addresses: Iterable[str]) -> None:
    """Some listen to requests, some to replies: both are sent."""
    for turn in range(TIMES):
        time.sleep(APART if turn else 0)
        for address in addresses:
            for operation in (REQUEST, REPLY):
                nic.send(packet(operation, mac, address, address))


def main(what: str, name: str, *addresses: str) -> None:
    """Do what the module's docstring says."""
    with on(name) as nic:
        mac = nic.getsockname()[4]
        if what == "probe":
            [found] = ask({nic: (mac, addresses)}, APART).values()
            print(json.dumps({address: macs[-1] for address, macs in found.items() if macs}))
        else:
            announce(nic, mac, addresses)
