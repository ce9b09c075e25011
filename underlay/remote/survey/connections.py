"""What answers on TCP, and which name servers do."""

from __future__ import annotations

import os
import re
import select
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from underlay.remote import at_once
from underlay.remote.checks.connect import connect, tls, words
from underlay.remote.survey import programs

PATIENCE = 1.5
"""Seconds that a connection has."""
LATE = "no answer in time"
SPEAKS_FIRST = 0.2
OUR_PROBE = "nothing listens but a probe of ours (Connection refused otherwise)"
"""What verify and the doctor put there for a moment (`remote.probe`) tells whoever connects who he is, in JSON; a TLS
server never speaks first."""


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
                    page = f"{end.hostname}{end.path or '/'}" if end.scheme == "http" else ""
                    found[uri] = (end.hostname or "", end.port or (443 if page == "" else 80), page)
    for path in (Path("/etc/apt/apt.conf"), *Path("/etc/apt/apt.conf.d").glob("*")):
        with suppress(OSError):
            for uri in re.findall(r"^\s*[^/#\s].*proxy\S*\s+\"(https?://[^\"\s]+)\"", path.read_text(), re.I | re.M):
                end = urlsplit(uri)
                with suppress(ValueError):
                    found[f"proxy {uri}"] = (end.hostname or "", end.port or 80, "")
    return dict(zip(found, at_once(served, found.values(), LATE, 2 * PATIENCE + 0.5), strict=True))


def served(name: str, port: int, page: str) -> str:
    """What goes wrong with a web server, or with one of its pages; empty if nothing does."""
    if not page:
        return error_of(name, port)
    said = programs.said(name, port, page)
    return said.removeprefix("- ") if said.startswith("- ") else f"answers {said}" if said >= "500" else ""


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
