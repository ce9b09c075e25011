"""What is sent to a host to make and to take connections there.

It is spoken to as `remote.serve` says, and its hello is `{"port": PORT}`: it opens one listener, on all addresses and
a free port, that tells whoever connects as what it is seen, and closes.

Requests, each an object with one key:

- `{"connect": [[SOURCE, DESTINATION, PORT, HOW], …]}`: connect from SOURCE, as many at once as are answered soon, but
  all of those at once that are `read soon` → `[[LOCAL PORT, TOLD, ERROR], …]`.
  HOW is `read` (TOLD is what the other end said), `read soon` (with less patience), `hold` (stay connected until the
  end) or `tls` (shake hands)
- `{"peers": [PORT, …]}` → `[[PORT, ADDRESS, ITS PORT], …]`: who is connected to these ports here
- `{"free": PORT}` → whether nothing listens there, but further listeners of others like this
- `{"serve": PORT}` → `true`: a further listener, which shares its port with those of others like this
- `{"tracked": [[SOURCE, PORT, DESTINATION, PORT], …]}` → for each whether the connection table has it (needs root)
- `{"knock": [[SOURCE, DESTINATION, PORT, ROUTER], …]}` → for each whether it answers what is sent by that router,
  whatever routes are here (needs root)
- `{"get": [[ADDRESS, PORT, HOST/PATH], …]}` HTTP, all at once → `[[STATUS, BODY], …]`,
  with status 0 the error

Nothing stays behind: it ends with its stdin, and when it was not asked for DEADLINE seconds, whatever happens.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from underlay.remote import Pace, at_once, serve
from underlay.remote.checks import connect

DEADLINE = 30
PATIENCE = 3
"""Seconds that one connection has, from its first packet to its answer."""
ESTABLISHED = "01"
TOLD = 512
"""Bytes at most in which a check says who it is."""
SOON = 1
"""Seconds that one has of which no answer is expected: those that do answer need a few thousandths."""
AT_ONCE, MOST_AT_ONCE, QUICK = 32, 512, 0.2
"""Connections at the same time, to begin with and at most; seconds in which one is answered where nobody is busy."""


def sockets(state: str) -> Iterator[tuple[int, str, int]]:
    """The IPv4 TCP sockets in a state: local port, remote address, remote port."""
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            with open(path) as table:
                rows = [row.split() for row in table][1:]
        except OSError:
            continue
        for row in rows:
            if row[3] == state:
                local, remote = (end.split(":") for end in row[1:3])
                # The kernel prints each 32 bit word in the machine's order; the last one is IPv4's, mapped or not.
                word = int(remote[0][-8:], 16).to_bytes(4, sys.byteorder)
                yield int(local[1], 16), socket.inet_ntoa(word), int(remote[1], 16)


def bound(port: int) -> socket.socket:
    """A socket with a port of its own, or with this one. OSError if others than those like this have it."""
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Two checks at the same time must not take each other for the real service.
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, bool(port))
    server.bind(("0.0.0.0", port))  # noqa: S104 (hosts connect to each of its addresses)
    return server


def free(port: int) -> bool:
    """Whether a further listener can have a port."""
    try:
        bound(port).close()
    except OSError:
        return False
    return True


def listen(name: str, port: int) -> int:
    """Accept for ever in the background: tell each who he is to us. Returns the port."""
    server = bound(port)
    server.listen(1024)

    def serve() -> None:
        while True:
            client, peer = server.accept()
            with client:
                client.settimeout(PATIENCE)
                with suppress(OSError):  # whoever it was has left
                    client.sendall(json.dumps([name, peer[0]]).encode())

    threading.Thread(target=serve, daemon=True).start()
    return int(server.getsockname()[1])


HELD: list[socket.socket] = []
"""The connections that stay open until the end."""


def converse(source: str, destination: str, port: int, how: str) -> tuple[int, Any, str | None]:
    """One connection: the local port, what was told, and the error."""
    patience = SOON if how == "read soon" else PATIENCE
    client, error = connect.connect(destination, port, patience, source)
    HELD.append(client)
    local = client.getsockname()[1]
    if error or how == "hold":
        return local, None, error or None
    try:
        if how == "tls":
            HELD.append(connect.tls(client))
            return local, "tls", None
        told, end = b"", time.monotonic() + patience
        # Whoever it is may say anything, and for ever.
        while len(told) <= TOLD and time.monotonic() < end and (chunk := client.recv(4096)):
            told += chunk
        client.close()
        if not told:
            return local, None, "connected, and closed by the other end without a word"
        name, seen_as = json.loads(told[: TOLD + 1])
        return local, [str(name), str(seen_as)], None
    except OSError as failure:
        return local, None, connect.words(failure, patience)
    except (ValueError, TypeError, RecursionError):
        return local, None, "connected, but something else than this check answered"


def converse_all(calls: list[list[Any]]) -> list[Any]:
    """`converse`, at a pace that the hosts between can follow."""
    # Those of which no answer is expected cost nobody anything.
    soon = [index for index, call in enumerate(calls) if call[3] == "read soon"]
    rest = [index for index, call in enumerate(calls) if call[3] != "read soon"]
    paced = Pace(AT_ONCE, MOST_AT_ONCE, QUICK), lambda result: not result[2]

    def some(indices: list[int], pace: Any) -> list[Any]:
        return at_once(converse, [calls[index] for index in indices], pace=pace)

    groups = at_once(some, [(soon, None), (rest, paced)])
    told = dict(zip([*soon, *rest], [*groups[0], *groups[1]], strict=True))
    return [told[index] for index in range(len(calls))]


def get(address: str, port: int, url: str) -> tuple[int, str]:
    """The status and the beginning of the body of one HTTP request; `url` is `HOST/PATH`."""
    import http.client  # noqa: PLC0415 (for the load balancer alone)

    name, _, path = url.partition("/")
    try:
        connection = http.client.HTTPConnection(address, port, timeout=PATIENCE)
        connection.request("GET", "/" + path, headers={"Host": name})
        answer = connection.getresponse()
        return answer.status, answer.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)


def tracked(flows: list[list[Any]]) -> list[bool]:
    """For each flow whether a connection that was opened so is in the gateway's table."""
    from underlay.remote import conntrack  # noqa: PLC0415  most hosts have no use for it

    wanted = [(source.encode(), to.encode(), b"%d" % port, b"%d" % to_port) for source, port, to, to_port in flows]
    # The table may be huge: keep what matters. To its end, else conntrack would die of the closed pipe.
    known = set(wanted)
    found = {ends for entry in conntrack.opened("-p", "tcp") if (ends := entry[1:5]) in known}
    return [flow in found for flow in wanted]


def knock(calls: list[list[Any]]) -> list[bool]:
    """See `underlay.remote.trace.knock`."""
    from underlay.remote.trace import knock  # noqa: PLC0415  most hosts have no use for it

    return knock.knock(calls)


def main(name: str, seconds: str | int = DEADLINE) -> None:
    """Answer requests as the host of that name; `seconds` in place of DEADLINE."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a file for each connection
    serve(
        {
            "connect": converse_all,
            "peers": lambda ports: [peer for peer in sockets(ESTABLISHED) if peer[0] in ports],
            "free": free,
            "serve": lambda port: bool(listen(name, port)),
            "tracked": tracked,
            "knock": knock,
            "get": lambda calls: at_once(get, calls),
        },
        {"port": listen(name, 0)},
        int(seconds),
    )
