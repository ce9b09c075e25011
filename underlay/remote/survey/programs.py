"""The programs of the host: who listens, which of them can't go on, which limit one has met, whether they answer."""

from __future__ import annotations

import http.client
import os
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from underlay.remote import at_once
from underlay.remote.checks.connect import connect, words
from underlay.remote.survey.host import output

PATIENCE, PAGE = 1.5, 3
"""Seconds that a program has for its first word, and for a page: a host may be busy."""
MOST = 300
"""Of one kind that are told."""
TIGHT = 16
"""What must be left of a limit, or it counts as met: a program needs some files, a login some processes."""
LITTLE = 0.1
"""Of one processor: with less a program that others connect to is late."""
PROCESSOR = "percent of a processor"
AGAIN = 0.4
"""Seconds after which a process that waited for a disk is looked at again."""
GROUPS = Path("/sys/fs/cgroup")
LEVELS = ("*.slice", "*.slice/*.slice", "*.slice/*.service")
"""Where the control groups of services are, and not those of containers."""
LISTENING = "0A"


def unit_of(pid: int | str) -> str:
    """The service or scope that a process is in, or empty; of one in a container that of the container."""
    with suppress(OSError):
        parts = Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("::")[2].split("/")
        return next((part for part in parts if part.endswith((".service", ".scope"))), "")
    return ""


def listeners(_: bool) -> list[dict[str, Any]] | None:
    """See the package; None if that can't be told, for something always listens."""
    found = []
    for line in output("ss", "-Hltnp").splitlines()[:MOST]:
        queue, room, end, *rest = line.split()[1:]
        address, port = end.rsplit(":", 1)
        address = address.partition("%")[0].strip("[]")
        users = re.search(r'\(\("([^"]*)",pid=(\d+)', " ".join(rest))
        program, pid = (users[1], int(users[2])) if users else ("", 0)
        found.append(
            {
                "port": int(port),
                "address": "0.0.0.0" if address == "*" else address,  # noqa: S104  it is told, not used
                "queue": int(queue),
                "room": int(room),
                "program": program,
                "pid": pid,
                "unit": unit_of(pid) if pid else "",
            }
        )
    return found or None


def stuck(_: bool) -> list[dict[str, Any]]:
    """See the package."""
    first = dict(_waiting())
    time.sleep(AGAIN)
    found: list[dict[str, Any]] = []
    for pid, how in _waiting():
        unit = unit_of(pid)
        if first.get(pid) == how and (pid == 1 or unit.endswith(".service")) and len(found) < MOST:
            name = ""
            with suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
            frozen = how if how.startswith("/") else ""
            found.append({"unit": unit, "pid": pid, "program": name, "how": "frozen" if frozen else how, "at": frozen})
    return found


def _waiting() -> Iterator[tuple[int, str]]:
    """The processes that can't go on, and how; of one in a frozen control group, that group."""
    kinds = {"T": "stopped", "t": "traced", "D": "disk"}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            group = (path / "cgroup").read_text().strip().rpartition("::")[2]
            # The group that somebody froze may be above its own.
            for each in (Path(group), *Path(group).parents):
                freeze = GROUPS / str(each).lstrip("/") / "cgroup.freeze"
                if freeze.exists() and freeze.read_text().strip() == "1":
                    yield int(path.name), str(freeze)
                    break
            else:
                state = (path / "stat").read_text().rpartition(")")[2].split()[0]
                if state in kinds:
                    yield int(path.name), kinds[state]


def limits(_: bool) -> list[dict[str, Any]]:
    """See the package."""
    found = [*_open_files(), *groups(), *_kernel()]
    return [
        {"unit": unit, "what": what, "used": used, "limit": limit, "at": where}
        for unit, what, used, limit, where in found[:MOST]
    ]


def _met(used: int, limit: int) -> bool:
    return limit - used < TIGHT or used >= 0.95 * limit


def _open_files() -> Iterator[tuple[str, str, int, int, str]]:
    """Of the programs that listen, and of those that they started."""
    serving = {each["unit"] for each in listeners(True) or ()} - {"", "init.scope"}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, TypeError):
            unit = unit_of(path.name)
            if unit in serving:
                limit, used = _may_open(path.name), len(os.listdir(path / "fd"))
                # A program that has more already, and fewer than its parent may have, gave up the rest itself: so
                # does sshd's for a login that is not through.
                if _met(used, limit) and not (used > limit < _may_open(_parent(path.name))):
                    yield unit, "open files", used, limit, path.name


def _may_open(pid: str) -> int:
    text = re.search(r"^Max open files\s+(\d+)", Path(f"/proc/{pid}/limits").read_text(), re.MULTILINE)
    return int(text[1]) if text else sys.maxsize


def _parent(pid: str) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]


def groups() -> Iterator[tuple[str, str, int, int, str]]:
    """Of the control groups of units, and of those above them."""
    for path in (path for level in LEVELS for path in GROUPS.glob(f"{level}/pids.max")):
        with suppress(OSError, ValueError):
            limit, used = path.read_text().strip(), int((path.parent / "pids.current").read_text())
            if limit != "max" and _met(used, int(limit)):
                yield path.parent.name, "processes", used, int(limit), str(path)
    for path in (path for level in LEVELS for path in GROUPS.glob(f"{level}/memory.max")):
        with suppress(OSError, ValueError):
            limit, used = path.read_text().strip(), int((path.parent / "memory.current").read_text())
            events = dict(line.split() for line in (path.parent / "memory.events").read_text().splitlines())
            if limit != "max" and (used >= 0.98 * int(limit) and int(events.get("oom", 0))):
                yield path.parent.name, "memory", used, int(limit), str(path)
    for path in (path for level in LEVELS for path in GROUPS.glob(f"{level}/cpu.max")):
        with suppress(OSError, ValueError):
            quota, period = path.read_text().split()
            waits = dict(line.split() for line in (path.parent / "cpu.stat").read_text().splitlines())
            if quota != "max" and int(quota) < LITTLE * int(period) and int(waits.get("nr_throttled", 0)):
                share = 100 * int(quota) // int(period)
                yield path.parent.name, PROCESSOR, share, share, str(path)


def _kernel() -> Iterator[tuple[str, str, int, int, str]]:
    """Of the whole host: ports that connections to one other end can have, files, processes, followed connections."""

    def numbers(path: str) -> list[int]:
        with suppress(OSError, ValueError):
            return [int(each) for each in Path(f"/proc/sys/{path}").read_text().split()]
        return []

    with suppress(OSError, ValueError, IndexError):
        low, high = numbers("net/ipv4/ip_local_port_range")
        ends: Counter[str] = Counter()
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            with suppress(OSError), open(table) as rows:
                for row in list(rows)[1:]:
                    _, local, remote, state, *_ = row.split()
                    if state != LISTENING and low <= int(local.rpartition(":")[2], 16) <= high:
                        ends[remote] += 1
        used, whole = max(ends.values(), default=0), high - low + 1
        left = whole - _reserved(low, high)
        if _met(used, left):
            key = "ip_local_port_range" if _met(used, whole) else "ip_local_reserved_ports"
            yield "", "local ports", used, left, f"net.ipv4.{key}"
    with suppress(ValueError, IndexError):
        used, _, most = numbers("fs/file-nr")
        if _met(used, most):
            yield "", "open files", used, most, "fs.file-max"
    with suppress(OSError, ValueError, IndexError):
        running = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
        for key in ("kernel.threads-max", "kernel.pid_max"):
            most = numbers(key.replace(".", "/"))[0]
            if _met(running, most):
                yield "", "processes", running, most, key
    with suppress(ValueError, IndexError):
        used, most = (numbers(f"net/netfilter/nf_conntrack_{each}")[0] for each in ("count", "max"))
        if most and _met(used, most):
            yield "", "followed connections", used, most, "net.netfilter.nf_conntrack_max"


def _reserved(low: int, high: int) -> int:
    """How many of these ports no connection gets."""
    text = Path("/proc/sys/net/ipv4/ip_local_reserved_ports").read_text().strip()
    ranges = [[int(end) for end in each.split("-")] for each in text.split(",") if each]
    return sum(max(0, min(high, each[-1]) - max(low, each[0]) + 1) for each in ranges)


def answers(ends: list[list[Any]]) -> dict[str, str]:
    """See the package."""
    found = at_once(said, ends, f"- no answer within {PAGE} s", PAGE + 0.5)
    return {name or f"{address}:{port}": text for (address, port, name), text in zip(ends, found, strict=True)}


def said(address: str, port: int, name: str) -> str:
    """What a program says first, or to a request for the page of a NAME/PATH; `-` and a word if it says nothing."""
    client, why = connect(address, port, PATIENCE)
    with client:
        if why:
            return f"- {why}"
        try:
            if not name:
                return client.recv(200).decode(errors="replace").partition("\n")[0].strip() or "- closed without a word"
            client.settimeout(PAGE)
            return _page(client, name)
        except TimeoutError:
            return f"- takes the connection, and says nothing within {client.gettimeout():g} s"
        except OSError as error:
            return f"- {words(error, PATIENCE)}"


def _page(client: socket.socket, name: str) -> str:
    host, _, path = name.partition("/")
    client.sendall(f"GET /{path} HTTP/1.1\r\nHost: {host.rpartition('@')[2]}\r\nConnection: close\r\n\r\n".encode())
    answer = http.client.HTTPResponse(client)
    try:
        answer.begin()
    except http.client.HTTPException:
        return "- closed without a word, or it speaks no HTTP"
    return str(answer.status)


def complaints(path: str) -> list[str]:
    """See the package."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.stat(path).st_size - 64_000))
            lines = log.read(64_000).decode(errors="replace").splitlines()
    except OSError:
        return []
    # Of a limit that it may not raise itself nginx speaks at each start.
    bad = [line[:200] for line in lines if re.search(r"\[(emerg|alert|crit)\] (?!.*setrlimit)", line)]
    return bad[-3:]
