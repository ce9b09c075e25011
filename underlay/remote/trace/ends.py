"""The two ends of a connection that is traced: who sends, who listens."""

from __future__ import annotations

import errno
import random
import socket
import struct
import threading
import time

from underlay.remote import checksum

PATIENCE = 2.5
"""Seconds for an answer: TCP sends its first packet a second time within."""
PORTS = range(20000, 30000)
"""Source ports: clients get theirs from 32768 up, Kubernetes' NodePorts begin at 30000. So nobody else has them."""
PAYLOAD = b"underlay trace"


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
