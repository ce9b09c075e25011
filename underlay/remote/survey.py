"""What the doctor sends to a host to look around from there, as root.

It reads the request from stdin (JSON), and prints one JSON object. It changes nothing; every wait in it is a second or
two.

Keys of the request, and of the answer:

- `arp`: [[NIC, ADDRESS, SEEK], …] → NIC → ADDRESS → the MACs that answer who has it. With SEEK, if nobody does, it is
  asked for on all other NICs of the list, too. The question is a probe of RFC 5227: nobody learns anything from it
- `echo`: [[NIC, SOURCE, DESTINATION], …] → NIC → [its MTU, the largest unfragmented packet that is answered; 0: none]
- `connect`: [[ADDRESS, PORT, TLS], …] → `ADDRESS:PORT` → error, empty for none
- `sources`: true → the URIs of the host's package sources → error, empty for none
- `names`: true → the name servers that the host asks → error, empty for none
- `services`: true → the services that are enabled and do not run
- `owners`: [PORT, …] → PORT → the systemd unit that listens there, or the program's name
- `talkers`: SHARE → if the connection table is fuller: [[ADDRESS, SHARE], …], who opened most of its
  entries
- `policy`: [PACKET, …] → for each by which route and policy rule it goes, see `remote.trace.policy.taken`
- `full`: SHARE → of the file systems of / and /var that are fuller: mount point → [[SIZE, PATH], …], largest first
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import socket
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from underlay.remote import arp, at_once, checksum
from underlay.remote.connect import connect, tls, words

HEARD = 0.6
"""Seconds to listen for answers from the neighbours."""
PATIENCE = 1.5
"""Seconds that a connection has."""
SIZES = (100, 576, 1280, 1400, 1420, 1450, 1480, 1492, 4000, 8000)
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3
SIOCGIFMTU = 0x8921
LATE = "no answer in time"
SPEAKS_FIRST = 0.2
OUR_PROBE = "nothing listens but a probe of ours (Connection refused otherwise)"
"""What verify and the doctor put there for a moment (`remote.probe`) tells whoever connects who he is, in JSON; a TLS
server never speaks first."""
WHOLE = 5
"""Seconds for all of a request; a key that takes longer has null as its answer."""
ENTRIES = 30_000
"""Of the connection table, how many are looked at to tell who opened most."""
SEARCH = 1.5
"""Seconds to search for large files."""


# --- neighbours -----------------------------------------------------------------------------------------------------


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
    answers = at_once(largest, paths, [0, 0], 2 * PATIENCE)
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


# --- connections ----------------------------------------------------------------------------------------------------


def errors(ends: list[list[Any]]) -> dict[str, str]:
    """`connect`: see the module."""
    found = at_once(error_of, ends, LATE, 2 * PATIENCE)
    return {f"{address}:{port}": error for (address, port, _), error in zip(ends, found, strict=True)}


def error_of(name: str, port: int, speaks_tls: bool = False) -> str:
    """What goes wrong with one connection; empty if nothing does."""
    client, why = connect(name, port, PATIENCE)
    with client:
        if why or not speaks_tls:
            return why
        try:
            if select.select([client], [], [], SPEAKS_FIRST)[0] and client.recv(2, socket.MSG_PEEK) == b'["':
                return OUR_PROBE
            tls(client).close()
        except TimeoutError:
            return f"takes the connection, and does not answer within {PATIENCE} s"
        except OSError as error:
            return f"takes the connection, and speaks no TLS: {words(error, PATIENCE)}"
    return ""


def sources(_: bool) -> dict[str, str]:
    """See the module."""
    found = {}
    for path in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")):
        with suppress(OSError):
            lines = [
                line for line in path.read_text(errors="replace").splitlines() if not line.lstrip().startswith("#")
            ]
            for uri in re.findall(r"\bhttps?://[^\s/]+\S*", "\n".join(lines)):
                end = urlsplit(uri)
                with suppress(ValueError):
                    found[uri] = (end.hostname or "", end.port or (443 if end.scheme == "https" else 80))
    return dict(zip(found, at_once(error_of, found.values(), LATE, 2 * PATIENCE), strict=True))


def names(_: bool) -> dict[str, str]:
    """See the module."""
    found: list[str] = []
    # Where systemd-resolved runs, the second has only its own address, and the first the servers that it asks.
    for path in (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf")):
        with suppress(OSError):
            found = re.findall(r"^nameserver\s+(\d+(?:\.\d+){3})\s*$", path.read_text(), re.MULTILINE)
            break
    return dict(zip(found, at_once(silence, [[server] for server in found], LATE, 2 * PATIENCE), strict=True))


def silence(server: str) -> str:
    """Why a name server does not answer; empty if it does, whatever its answer."""
    number = os.urandom(2)
    # Who serves the root? One question, recursion wanted: name "", type NS, class IN.
    question = number + struct.pack("!HHHHH", 0x0100, 1, 0, 0, 0) + b"\0" + struct.pack("!HH", 2, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(PATIENCE / 2)
        for _ in range(2):
            try:
                asking.connect((server, 53))
                asking.send(question)
                if asking.recv(4096)[:2] == number:
                    return ""
            except TimeoutError:
                pass
            except OSError as error:
                return error.strerror or str(error)
    return f"no answer within {PATIENCE} s"


# --- services and disks ---------------------------------------------------------------------------------------------


def services(_: bool) -> list[str]:
    """See the module."""
    # What an administrator enabled. `systemctl list-unit-files` says the same, and reads all units for it.
    names = sorted({path.name for path in Path("/etc/systemd/system").glob("*.wants/*.service")})
    if not names:
        return []
    # Those that were never asked to run, or whose condition does not hold, have no ConditionResult.
    shown = output("systemctl", "show", "--property=Id,Type,ActiveState,ConditionResult", *names)
    found = []
    for block in shown.split("\n\n"):
        unit = dict(line.partition("=")[::2] for line in block.splitlines())
        if (
            unit.get("ActiveState") in ("inactive", "failed")
            and unit.get("Type") != "oneshot"
            and unit.get("ConditionResult") == "yes"
        ):
            found.append(unit["Id"])
    return found


def owners(ports: list[int]) -> dict[str, str]:
    """See the module."""
    found = {}
    for port in ports:
        users = re.search(r'users:\(\("([^"]*)",pid=(\d+)', output("ss", "-Hltnp", f"sport = :{port}"))
        if users:
            unit = ""
            with suppress(OSError):
                unit = Path(f"/proc/{users[2]}/cgroup").read_text().strip().rpartition("/")[2]
            found[str(port)] = unit if unit.endswith(".service") else users[1]
    return found


def output(*argv: str) -> str:
    """What a program prints; empty if it can't."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=5, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def full(share: float) -> dict[str, list[list[Any]]]:
    """See the module."""
    found: dict[str, list[list[Any]]] = {}
    devices = set()
    for path in ("/", "/var"):
        usage = os.statvfs(path)
        device = os.stat(path).st_dev
        if device not in devices and usage.f_blocks and 1 - usage.f_bavail / usage.f_blocks >= share:
            found[path] = large_files(path, device)
        devices.add(device)
    return found


def large_files(top: str, device: int) -> list[list[Any]]:
    """The largest files of a file system, those of logs first looked at."""
    sizes: dict[str, int] = {}
    end = time.monotonic() + SEARCH
    for start in ("/var/log", top):
        for folder, folders, names in os.walk(start):
            with suppress(OSError):
                if os.lstat(folder).st_dev != device:
                    folders.clear()
                    continue
                for name in names:
                    path = os.path.join(folder, name)
                    sizes[path] = os.lstat(path).st_blocks * 512
            if time.monotonic() > end:
                break
    return [[size, path] for path, size in sorted(sizes.items(), key=lambda item: -item[1])[:3]]


def talkers(share: float) -> list[list[Any]]:
    """See the module."""
    count, limit = (int(Path(f"/proc/sys/net/netfilter/nf_conntrack_{name}").read_text()) for name in ("count", "max"))
    if count < share * limit:
        return []
    from underlay.remote import conntrack  # noqa: PLC0415  most hosts have no use for it

    # The table is huge: the first entries tell enough.
    with closing(conntrack.opened()) as entries:
        counts = Counter(source for _, source, *_ in islice(entries, ENTRIES))
    seen = sum(counts.values())
    return [[address.decode(), number / seen] for address, number in counts.most_common(3)]


def policy(packets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """See the module."""
    from underlay.remote.trace.policy import taken  # noqa: PLC0415  most hosts have no use for it

    return taken(packets)


def main() -> None:
    """Answer the request, all of its keys at the same time."""
    request = json.load(sys.stdin)
    known: dict[str, Callable[[Any], Any]] = {
        **{each.__name__: each for each in (echo, sources, names, services, owners, full, talkers, policy)},
        "arp": neighbours,
        "connect": errors,
    }
    answers = at_once(lambda key: known[key](request[key]), [[key] for key in request], None, WHOLE)
    print(json.dumps(dict(zip(request, answers, strict=True))), flush=True)
    os._exit(0)  # a name server that does not answer may still keep a thread
