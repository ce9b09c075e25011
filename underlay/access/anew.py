"""Connections of a command's own, made anew: what an earlier command left open proves nothing.

It works for a while after nobody can log in any more, and leads nowhere for a while after that was mended.
"""

import socket
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from underlay.access.ssh_config import write
from underlay.access.target import Target, configured

KEPT = 20
"""Seconds that such a connection stays without use, if the command is killed."""
CLOSING = 0.5
"""Seconds that the connections have to close."""
HELLO, TERMINATE, VERSION = 1, 0x10000005, 4
"""Of ssh's own protocol between those that share a connection (PROTOCOL.mux): a process for each would cost more."""


@contextmanager
def anew(target: Target, **settings: str) -> Iterator[Target]:
    """The target with connections of its own, which are closed at the end; `settings` are further ones of ssh."""
    with tempfile.TemporaryDirectory(dir=target.ssh_config.parent) as folder:
        # A socket's path is short; the name of a host is, too.
        own = {"ControlPath": f"{folder}/%n", "ControlPersist": str(KEPT), **settings}
        try:
            yield configured(target, Path(folder), {"*": own})
        finally:
            _close(path for path in Path(folder).iterdir() if path.is_socket())


def config(target: Target) -> Path:
    """The ssh configuration of the target for one login, over connections of its own all the way."""
    text = "Host *\n    ControlPath none\n\n" + target.ssh_config.read_text()
    return write(target.ssh_config.with_name("ssh_config.anew"), text)


def _close(paths: Iterable[Path]) -> None:
    asked = struct.pack("!6I", 8, HELLO, VERSION, 8, TERMINATE, 0)
    with ExitStack() as stack:
        waiting = []
        for path in paths:
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(CLOSING)
            with suppress(OSError):  # it has ended, or it hangs: then it ends by itself when it is idle
                client.connect(str(path))
                client.sendall(asked)
                waiting.append(client)
        end = time.monotonic() + CLOSING
        for client in waiting:
            with suppress(OSError):
                while (left := end - time.monotonic()) > 0:
                    client.settimeout(left)
                    if not client.recv(4096):
                        break
