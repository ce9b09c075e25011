"""Answers the requests that the package's docstring lists."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

from underlay.remote import arp, serve
from underlay.remote.trace import policy
from underlay.remote.trace.ends import Sender, listen
from underlay.remote.trace.watch import Watch

DEADLINE = 30
COMMAND_SECONDS = 8
HEARD = 0.6
"""Seconds to listen for answers from neighbours."""


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

    def watch(self, protocol: str, ports: list[int], nics: list[str]) -> bool:
        self.watching = Watch(protocol, ports, nics)
        return True

    def send(self, destination: str, port: int) -> str | None:
        assert self.sender
        return self.sender.send(destination, port)

    def seen(self) -> dict[str, Any]:
        assert self.watching
        return self.watching.seen()

    def taken(self, *packets: dict[str, Any]) -> list[dict[str, Any]]:
        return policy.taken(packets)

    def heard(self, *ends: list[str]) -> dict[str, dict[str, list[str]]]:
        return arp.probe([(nic, address) for nic, address in ends], HEARD)

    def run(self, *calls: tuple[list[str], str]) -> list[tuple[int, str, str]]:
        return run(list(calls))


def main() -> None:
    """Answer requests."""
    requests = Requests()

    def method(name: str) -> Callable[[Any], Any]:
        return lambda arguments: getattr(requests, name)(*(arguments or []))

    names = ("listen", "reserve", "watch", "send", "seen", "taken", "heard", "run")
    serve({name: method(name) for name in names}, {"root": os.geteuid() == 0}, DEADLINE)
