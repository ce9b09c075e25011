"""A TCP connection, and in words why there is none. As a program, it times some.

`main(SECONDS, [[NAME, ADDRESS:PORT], …])` (JSON) connects to all at once, each within so many seconds, and prints as
JSON `[[NAME, ADDRESS:PORT, SECONDS or null, ERROR], …]`; the error is empty if there is none.
"""

from __future__ import annotations

import json
import socket
import time

from underlay.remote import at_once


def connect(name: str, port: int, seconds: float, source: str = "") -> tuple[socket.socket, str]:
    """A connection to an address, or to the first of a name's that takes it, and why there is none (empty if there is).

    Then the socket is the one that was tried last: one that has no port could not be bound to its source address.
    """
    client = socket.socket()
    try:
        # As bytes: else Python loads tables for names of other alphabets.
        ends = socket.getaddrinfo(name.encode(), port, type=socket.SOCK_STREAM)
    except socket.gaierror:
        return client, f"{name} can't be resolved to an address"
    why = ""
    for family, _, _, _, end in ends:
        client = socket.socket(family)
        client.settimeout(seconds)
        try:
            if source:
                client.bind((source, 0))
            client.connect(end)
        except OSError as error:
            why = words(error, seconds)
        else:
            return client, ""
    return client, why


def words(error: OSError, seconds: float) -> str:
    """What went wrong with a connection that had so many seconds."""
    return f"no answer within {seconds} s" if isinstance(error, TimeoutError) else error.strerror or str(error)


def tls(client: socket.socket) -> socket.socket:
    """Shake hands, whoever it is. Raises OSError."""
    import ssl  # noqa: PLC0415  it takes long, and most have no use for it

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(client)


def timed(name: str, end: str, seconds: float) -> tuple[str, str, float | None, str]:
    """How long a connection to `ADDRESS:PORT` takes, and why there is none; see the module."""
    address, _, port = end.rpartition(":")
    begin = time.monotonic()
    client, why = connect(address, int(port), seconds)
    client.close()
    return name, end, None if why else time.monotonic() - begin, why


def main(seconds: str, ends: str) -> None:
    """Do what the module's docstring says."""
    print(json.dumps(at_once(timed, [(*each, json.loads(seconds)) for each in json.loads(ends)])))
