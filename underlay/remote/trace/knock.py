"""Whether listeners answer what is sent to them by a router of one's choice, whatever routes this host has.

The packets are made here and handed to a NIC: nothing of the host changes. It needs root.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from errno import EADDRNOTAVAIL

from underlay.remote import arp, checksum

IP = 0x0800
SYN, RST = 0x02, 0x04
TIMES, APART = 2, 0.5
"""Each is asked so often, with so many seconds for the answer."""

Ends = tuple[str, int, str, int]
"""Source and destination, each an address and a port."""


def packet(ends: Ends, flags: int, number: int = 0) -> bytes:
    """An IPv4 packet with a TCP header and nothing in it."""
    source, port, destination, to_port = ends
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    tcp = struct.pack("!HHIIBBHHH", port, to_port, number, 0, 5 << 4, flags, 1024, 0, 0)
    check = checksum(addresses + struct.pack("!HH", socket.IPPROTO_TCP, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack("!H", check) + tcp[18:]
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses
    return ip[:10] + struct.pack("!H", checksum(ip)) + ip[12:] + tcp


def read(frame: bytes) -> tuple[Ends, int, int] | None:
    """From where to where a TCP packet goes, its flags, and the number that it acknowledges; None for another."""
    length = (frame[0] & 0xF) * 4 if frame else 0
    if len(frame) < length + 20 or frame[9] != socket.IPPROTO_TCP:
        return None
    port, to_port, _, number, _, flags = struct.unpack_from("!HHIIBB", frame, length)
    return (socket.inet_ntoa(frame[12:16]), port, socket.inet_ntoa(frame[16:20]), to_port), flags, number


def nic_of(address: str) -> str:
    """The NIC that has an address. Raises OSError."""
    argv = ["ip", "-j", "-4", "address", "show", "to", address]
    found = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout or "[]")
    for link in found:
        if link:
            return str(link["ifname"])
    raise OSError(EADDRNOTAVAIL, f"no NIC has {address}")


def knock(calls: Iterable[Sequence[str | int]]) -> list[bool]:
    """For each `[SOURCE, DESTINATION, PORT, ROUTER]` whether somebody who listens there answered.

    Raises OSError; PermissionError without root.
    """
    wanted = [(str(source), str(to), int(port), str(router)) for source, to, port, router in calls]
    nics = {source: nic_of(source) for source, _, _, _ in wanted}
    routers = arp.probe({(nics[source], router) for source, _, _, router in wanted}, APART)
    with ExitStack() as stack:
        wires = {
            nic: stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(IP)))
            for nic in set(nics.values())
        }
        for nic, wire in wires.items():
            wire.bind((nic, IP))
        ends: list[Ends] = []
        for source, to, port, _ in wanted:
            # Its port is taken as long as it is in use here.
            mine = stack.enter_context(socket.socket())
            mine.bind((source, 0))
            ends.append((source, mine.getsockname()[1], to, port))

        def send(index: int, flags: int, number: int = 0) -> None:
            source, _, _, router = wanted[index]
            nic = nics[source]
            for mac in routers[nic].get(router, []):
                to = (nic, IP, 0, 0, bytes.fromhex(mac.replace(":", "")))
                wires[nic].sendto(packet(ends[index], flags, number), to)

        waiting = {(to, port, source, own): index for index, (source, own, to, port) in enumerate(ends)}
        answered: set[int] = set()
        for _ in range(TIMES):
            for index in set(waiting.values()) - answered:
                send(index, SYN)
            end = time.monotonic() + APART
            for _, frame in arp.frames(wires.values(), APART):
                found = read(frame)
                index = waiting.get(found[0], -1) if found else -1
                # A reset may be of a filter on the way.
                if found and index >= 0 and found[1] & SYN:
                    answered.add(index)
                    send(index, RST, found[2])  # it must not wait for the rest of a connection
                if len(answered) == len(wanted) or time.monotonic() > end:
                    break
    return [index in answered for index in range(len(wanted))]
