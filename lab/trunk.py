"""A port of the lab's switch that carries VLANs, in user space: the machine's kernel may know neither them nor bonds.

Run in the switch's namespace, `python3 trunk.py JSON`: a frame of a leg goes, without its tag, to the network that has
that VLAN; one of a network goes, tagged, to all legs. A kernel with a bond takes it from the leg that it uses. It ends
with the control group of its host.
"""

import fcntl
import json
import os
import selectors
import socket
import struct
import sys
from contextlib import suppress

TUNSETIFF, TAP_WITHOUT_HEADER = 0x400454CA, 0x0002 | 0x1000
TAG = b"\x81\x00"
ADDRESSES = 12
"""Bytes in front of the tag: the two MACs."""
LARGEST = 65536
NUMBER = 0x0FFF
"""Of the tag, without its priority."""


def split(frame: bytes) -> tuple[int, bytes]:
    """The VLAN of a frame, 0 for none, and the frame without its tag."""
    if frame[ADDRESSES : ADDRESSES + 2] != TAG:
        return 0, frame
    number = struct.unpack_from("!H", frame, ADDRESSES + 2)[0] & NUMBER
    return number, frame[:ADDRESSES] + frame[ADDRESSES + 4 :]


def tagged(number: int, frame: bytes) -> bytes:
    """A frame with a tag; as it is for VLAN 0."""
    return frame[:ADDRESSES] + TAG + struct.pack("!H", number) + frame[ADDRESSES:] if number else frame


def tap(name: str) -> int:
    """A port of the switch, to be read and written."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH", name.encode(), TAP_WITHOUT_HEADER))
    return descriptor


def main() -> None:
    """Carry frames. The argument: `legs` [[socket of the switch, socket of the host], …], `vlans` {number: port}."""
    wanted = json.loads(sys.argv[1])
    ready = selectors.DefaultSelector()
    ports = {int(number): tap(name) for number, name in wanted["vlans"].items()}
    legs: list[tuple[socket.socket, str]] = []
    for ours, theirs in wanted["legs"]:
        with suppress(FileNotFoundError):
            os.unlink(ours)
        leg = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        leg.bind(ours)
        leg.setblocking(False)
        legs.append((leg, theirs))
        ready.register(leg, selectors.EVENT_READ, leg)
    for number, port in ports.items():
        ready.register(port, selectors.EVENT_READ, number)
    while True:
        for key, _ in ready.select():
            # A switch drops what nobody takes.
            with suppress(OSError):
                if isinstance(key.data, int):
                    frame = tagged(key.data, os.read(key.fd, LARGEST))
                    for leg, theirs in legs:
                        with suppress(OSError):
                            leg.sendto(frame, theirs)
                else:
                    number, frame = split(key.data.recv(LARGEST))
                    if number in ports:
                        os.write(ports[number], frame)


if __name__ == "__main__":
    main()
