"""How well packets get to other hosts: how many come back, how late, how fast."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import time
from contextlib import suppress

from underlay.remote import at_once
from underlay.remote.survey.neighbours import echo_request

BURSTS = 3
BURST = 20
SIZE = 1400
PATIENCE = 0.8
"""Seconds for the answers to one burst."""
SO_ATTACH_FILTER, SO_TIMESTAMPNS = 26, 35


def paths(ends: list[list[str]]) -> dict[str, list[float]]:
    """See the module."""
    found = at_once(measured, ends, None, BURSTS * PATIENCE + 1)
    return {f"{source} {to}": each for (source, to), each in zip(ends, found, strict=True) if each is not None}


def measured(source: str, destination: str) -> list[float] | None:
    """Pings in bursts of large packets; None if they can't even be sent from there."""
    sent = got = 0
    delays, spreads = [], []
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as ping:
        ping.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        number = int.from_bytes(os.urandom(2), "big")
        only(ping, number)
        try:
            ping.bind((source, 0))
        except OSError:
            return None
        for burst in range(BURSTS):
            size = SIZE - burst  # which is the number of the ping, too
            begin = time.time()
            with suppress(OSError):  # what can't be sent is lost
                for _ in range(BURST):
                    ping.sendto(echo_request(number, size), (destination, 0))
            came = answers(ping, size)
            sent, got = sent + BURST, got + len(came)
            if came:
                delays.append(came[0] - begin)
                spreads.append(came[-1] - came[0])
            elif burst:
                break  # nothing to be measured
    return [sent, got, max(0.0, min(delays, default=0.0)), max(0.0, min(spreads, default=0.0))]


def only(ping: socket.socket, number: int) -> None:
    """Let only answers to this socket's pings in: a raw socket gets all of the host's, and loses some on a busy one."""
    code = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0xB1, 0, 0, 0),  # x = length of the IP header
            (0x50, 0, 0, 0),
            (0x15, 0, 3, 0),  # an echo reply
            (0x48, 0, 0, 4),
            (0x15, 0, 1, number),
            (0x06, 0, 0, 0xFFFF),
            (0x06, 0, 0, 0),
        )
    )
    program = ctypes.create_string_buffer(code)
    ping.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(code) // 8, ctypes.addressof(program)))


def answers(ping: socket.socket, size: int) -> list[float]:
    """When the answers to a burst came, as the kernel noted: however late this process is told."""
    found: list[float] = []
    end = time.monotonic() + PATIENCE
    while len(found) < BURST and (left := end - time.monotonic()) > 0:
        if not select.select([ping], [], [], left)[0]:
            break
        packet, notes, _, _ = ping.recvmsg(2048, 64)
        if len(packet) == size:
            stamps = [struct.unpack("qq", data[:16]) for _, kind, data in notes if kind == SO_TIMESTAMPNS]
            found += [seconds + nanoseconds / 1e9 for seconds, nanoseconds in stamps[:1]] or [time.time()]
    return found
