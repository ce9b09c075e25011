"""What kubeadm does not look at on a node before it runs, and what it does. As a program, as root:

it reads one JSON object, a request, from stdin, and prints one:

names: [NAME, …]                → NAME → its addresses, as the host's programs get them
api: [NAME, PORT]               → `open`, `refused`, or why there is no connection
pings: [[NIC, FROM, TO], …]     → [[FROM, TO, SIZE, how it went, how a small one went], …]: `answered`, or why not
ports: [PORT, …]                → PORT → the program that listens there
sync: FOLDER                    → times of fdatasync in seconds; the one thing here that writes, see `sync`
kubeadm: CONFIGURATION          → what its own preflight says, a line each; nothing where it is not there

The rest it says unasked: ids, processors, memory, room, whether the host is in a cluster.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from underlay.remote import at_once

CONNECT_SECONDS = 3
HEADERS = 28
"""Bytes of the headers of IPv4 and ICMP: the rest of a packet is a ping's content."""
SYNC_SECONDS, MOST_SYNCS, WRITTEN = 2.0, 500, 2300
"""How long the disk is measured at most, with how many writes, of so many bytes: an entry of etcd's log."""
KUBEADM_SECONDS = 20
JOINED = "/etc/kubernetes/kubelet.conf"
LISTENER = re.compile(r":(\d+)\s+\S+\s*(?:users:\(\(\"([^\"]*)\")?")


def names(wanted: Sequence[str]) -> dict[str, list[str]]:
    """What each name is on this host: /etc/hosts, DNS, whatever it is told to ask."""
    found = at_once(_addresses, [(name,) for name in wanted], [], 6)
    return dict(zip(wanted, found, strict=True))


def _addresses(name: str) -> list[str]:
    try:
        ends = socket.getaddrinfo(name.encode(), None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError:
        return []
    return [str(end[4][0]) for end in ends]


def api(name: str, port: int) -> str:
    """Whether something takes a connection there."""
    try:
        with socket.create_connection((name, port), CONNECT_SECONDS):
            return "open"
    except ConnectionRefusedError:
        return "refused"
    except OSError as error:
        return f"no answer within {CONNECT_SECONDS} s" if isinstance(error, TimeoutError) else str(error)


def pings(wanted: Sequence[Sequence[str]]) -> list[tuple[str, str, int, str, str]]:
    """Each as large as its NIC's MTU, in one piece; where that gets no answer, a small one, too."""
    return at_once(_ping, wanted)


def _ping(nic: str, source: str, end: str) -> tuple[str, str, int, str, str]:
    try:
        size = int(Path(f"/sys/class/net/{nic}/mtu").read_text())
    except OSError:
        return source, end, 0, f"there is no {nic}", ""
    full = _asked(source, end, size)
    return source, end, size, full, "" if full == "answered" else _asked(source, end, 100)


def _asked(source: str, end: str, size: int) -> str:
    argv = ["ping", "-n", "-c", "2", "-i", "0.3", "-W", "1", "-M", "do", "-s", str(size - HEADERS), "-I", source, end]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=8, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return "answered"
    told = [line for line in (done.stdout + done.stderr).splitlines() if "mtu" in line.lower() or "unreach" in line]
    return told[0] if told else "no answer"


def ports(wanted: Sequence[int]) -> dict[int, str]:
    """Who listens on these."""
    said = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, timeout=5, check=False).stdout
    found: dict[int, str] = {}
    for line in said.splitlines():
        words = line.split()
        listener = LISTENER.search(" ".join(words[3:]))
        if listener and int(listener[1]) in wanted:
            found[int(listener[1])] = listener[2] or "a program"
    return found


def sync(folder: str) -> list[float]:
    """How long fdatasync takes after each write of an entry, in the folder of etcd, or the nearest one that is there.

    It writes one file there, of a megabyte at most and for two seconds at most, which has no name, so that nothing is
    left of it whatever happens.
    """
    place = Path(folder)
    while not place.is_dir():
        place = place.parent
    found: list[float] = []
    with tempfile.TemporaryFile(dir=place) as file:
        end = time.monotonic() + SYNC_SECONDS
        while time.monotonic() < end and len(found) < MOST_SYNCS:
            os.write(file.fileno(), b"\0" * WRITTEN)
            begin = time.monotonic()
            os.fdatasync(file.fileno())
            found.append(time.monotonic() - begin)
    return found


def kubeadm(configuration: str) -> list[str]:
    """What the preflight of `kubeadm join` finds on this host; its configuration is in memory, in no file.

    That of `init` would load images. This one ends where it would ask the API, which there is none of.
    """
    if not shutil.which("kubeadm"):
        return []
    memory = os.memfd_create("kubeadm")
    os.write(memory, configuration.encode())
    argv = ["kubeadm", "join", "phase", "preflight", "--config", f"/proc/self/fd/{memory}"]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=KUBEADM_SECONDS, check=False, pass_fds=[memory]
        )
        said = done.stdout + done.stderr
    except subprocess.TimeoutExpired as error:
        said = "".join(each.decode(errors="replace") for each in (error.stdout, error.stderr) if each)
    finally:
        os.close(memory)
    return [line.strip() for line in said.splitlines() if re.match(r"\s*\[(ERROR|WARNING) ", line)]


def host() -> dict[str, Any]:
    """What it is, unasked. room: bytes that are free, and all, where kubelet and containerd keep what they have."""
    room = shutil.disk_usage("/var/lib")
    ids = {}
    for name, path in (("machine-id", "/etc/machine-id"), ("product_uuid", "/sys/class/dmi/id/product_uuid")):
        with suppress(OSError):
            ids[name] = Path(path).read_text().strip().lower()
    return {
        "ids": ids,
        "processors": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "room": [room.free, room.total],
        "joined": os.path.exists(JOINED),
    }


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to a request, see the module; the disk is measured once all else is done."""
    parts: dict[str, Any] = {"names": names, "pings": pings, "ports": ports, "kubeadm": kubeadm}
    asked = [(name, part, request[name]) for name, part in parts.items() if request.get(name)]
    results = at_once(lambda part, argument: part(argument), [(part, argument) for _, part, argument in asked])
    found = host() | {name: result for (name, _, _), result in zip(asked, results, strict=True)}
    if "api" in request:
        found["api"] = api(*request["api"])
    if "sync" in request:
        found["sync"] = sync(request["sync"])
    return found


def main() -> None:
    """Do what the module's docstring says."""
    print(json.dumps(answer(json.load(sys.stdin))))
