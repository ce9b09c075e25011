"""What is sent to a host to make and to take connections there. Runs on any Python 3.10 or later, with nothing else.

It is run as `python3 -c BOOTSTRAP`, reads this file (base64) and its name as the first two lines of stdin, then one
request a line, and answers each with one line; both are JSON. It opens one listener, on all addresses and a free port,
that tells whoever connects as what it is seen, and closes.

Requests, each an object with one key:

- `{"connect": [[SOURCE, DESTINATION, PORT, HOW], …]}`: connect from SOURCE, all at once
  → `[[LOCAL PORT, TOLD, ERROR], …]`.
  HOW is `read` (TOLD is what the other end said), `read soon` (with less patience), `hold` (stay connected until the
  end) or `tls` (shake hands)
- `{"peers": [PORT, …]}` → `[[PORT, ADDRESS, ITS PORT], …]`: who is connected to these ports here
- `{"free": PORT}` → whether nothing listens there, but further listeners of others like this
- `{"serve": PORT}` → `true`: a further listener, which shares its port with those of others like this
- `{"tracked": [[SOURCE, PORT, DESTINATION, PORT], …]}` → for each whether the connection table has it (needs root)
- `{"get": [[ADDRESS, PORT, HOST/PATH], …]}` HTTP, all at once → `[[STATUS, BODY], …]`,
  with status 0 the error

Nothing stays behind: it ends with its stdin, and after DEADLINE seconds whatever happens.
"""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

BOOTSTRAP = "import base64,sys;exec(base64.b64decode(sys.stdin.readline()))"
DEADLINE = 30
PATIENCE = 3
"""Seconds that one connection has, from its first packet to its answer."""
ESTABLISHED = "01"
SOON = 1
"""Seconds that one has of which no answer is expected: those that do answer need a few thousandths."""


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
    server.bind(("0.0.0.0", port))
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


def connect(source: str, destination: str, port: int, how: str) -> tuple[int, Any, str | None]:
    """One connection: the local port, what was told, and the error."""
    client = socket.socket()
    HELD.append(client)
    local = 0
    patience = SOON if how == "read soon" else PATIENCE
    try:
        client.settimeout(patience)
        client.bind((source, 0))
        local = client.getsockname()[1]
        client.connect((destination, port))
        if how == "hold":
            return local, None, None
        if how == "tls":
            import ssl

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            HELD.append(context.wrap_socket(client))
            return local, "tls", None
        told = b""
        while chunk := client.recv(4096):
            told += chunk
        client.close()
        if not told:
            return local, None, "connected, and closed by the other end without a word"
        return local, json.loads(told), None
    except ValueError:
        return local, None, "connected, but something else than this check answered"
    except OSError as error:
        if isinstance(error, TimeoutError):
            return local, None, f"no answer within {patience} s"
        return local, None, error.strerror or str(error)


def get(address: str, port: int, url: str) -> tuple[int, str]:
    """The status and the beginning of the body of one HTTP request; `url` is `HOST/PATH`."""
    import http.client

    name, _, path = url.partition("/")
    try:
        connection = http.client.HTTPConnection(address, port, timeout=PATIENCE)
        connection.request("GET", "/" + path, headers={"Host": name})
        answer = connection.getresponse()
        return answer.status, answer.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)


def at_once(function: Callable[..., Any], calls: list[list[Any]]) -> list[Any]:
    """The results of many calls that wait, in their order."""
    results: list[Any] = [None] * len(calls)

    def work(index: int) -> None:
        results[index] = function(*calls[index])

    threads = [threading.Thread(target=work, args=(index,), daemon=True) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


ENTRY = re.compile(r"\bsrc=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)")


def tracked(flows: list[list[Any]]) -> list[bool]:
    """For each flow whether a connection that was opened so is in the gateway's table."""
    wanted = {tuple(flow) for flow in flows}
    argv = ["conntrack", "-L", "-p", "tcp"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as dump:
        assert dump.stdout is not None
        # The first of an entry's two pairs is the way in which it was opened. The table may be huge: keep what matters.
        entries = ((e[1], int(e[3]), e[2], int(e[4])) for e in map(ENTRY.search, dump.stdout) if e)
        # To its end: `set.intersection` would stop reading when it has all, and conntrack die of the closed pipe.
        found = {entry for entry in entries if entry in wanted}
    if dump.returncode:
        raise OSError(f"conntrack -L failed with {dump.returncode}")
    return [tuple(flow) in found for flow in flows]


def main() -> None:
    """Answer requests until stdin ends."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(DEADLINE)
    name = sys.stdin.readline().strip()
    port = listen(name, 0)
    requests: dict[str, Callable[[Any], Any]] = {
        "connect": lambda calls: at_once(connect, calls),
        "peers": lambda ports: [peer for peer in sockets(ESTABLISHED) if peer[0] in ports],
        "free": free,
        "serve": lambda number: bool(listen(name, number)),
        "tracked": tracked,
        "get": lambda calls: at_once(get, calls),
    }

    def say(answer: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    say({"port": port})
    for line in iter(sys.stdin.readline, ""):
        [(key, value)] = json.loads(line).items()
        try:
            say({"answer": requests[key](value)})
        except OSError as error:
            say({"error": str(error)})


if __name__ == "__main__":
    main()
