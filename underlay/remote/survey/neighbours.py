"""Who is near, and how large a packet to him may be."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import time
from contextlib import suppress
from typing import Any

from underlay.remote import arp, at_once, checksum

HEARD = 0.6
"""Seconds to listen for answers from the neighbours."""
SECONDS = 3
"""For all echoes."""
SIZES = (100, 576, 1280, 1400, 1420, 1450, 1480, 1492, 4000, 8000)
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
SIOCGIFMTU = 0x8921


def neighbours(questions: list[list[Any]]) -> dict[str, dict[str, list[str]]]:
    """See the module."""
    found = arp.probe(((nic, address) for nic, address, _ in questions), HEARD)
    nics = dict.fromkeys(nic for nic, _, _ in questions)
    silent = [
        (other, address)
        for nic, address, seek in questions
        for other in nics
        if seek and other != nic and not found.get(nic, {}).get(address)
    ]
    if silent:
        for nic, heard in arp.probe(silent, HEARD).items():
            for address, macs in heard.items():
                if macs:
                    found.setdefault(nic, {})[address] = macs
    return found


def mtu(nic: str) -> int:
    """The MTU of a NIC."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, SIOCGIFMTU, struct.pack("16si12x", nic.encode(), 0))
    return int(struct.unpack("16si12x", answer)[1])


def echo(paths: list[list[str]]) -> dict[str, list[int]]:
    """See the module."""
    answers = at_once(largest, paths, [0, 0], SECONDS)
    return dict(zip((nic for nic, _, _ in paths), answers, strict=True))


def largest(nic: str, source: str, destination: str) -> list[int]:
    """The MTU of a NIC, and the largest packet of at most that size that is answered."""
    try:
        limit = mtu(nic)
        best = 0
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as ping:
            ping.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
            ping.bind((source, 0))
            number = int.from_bytes(os.urandom(2), "big")
            for _ in range(2):
                for size in sorted({each for each in SIZES if each < limit} | {limit}):
                    with suppress(OSError):
                        ping.sendto(echo_request(number, size), (destination, 0))
                end = time.monotonic() + HEARD
                while best < limit and (left := end - time.monotonic()) > 0:
                    if select.select([ping], [], [], left)[0]:
                        answer = ping.recv(65536)
                        head = (answer[0] & 15) * 4
                        if answer[head] == 0 and answer[head + 4 : head + 6] == number.to_bytes(2, "big"):
                            best = max(best, len(answer))
                if best in (0, limit):
                    break  # nothing to lose a packet by chance for
        return [limit, best]
    except OSError:
        return [0, 0]


def echo_request(number: int, size: int) -> bytes:
    """An ICMP echo request that makes an IP packet of that size."""
    body = struct.pack("!BBHHH", 8, 0, 0, number, size) + bytes(size - 28)
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]
