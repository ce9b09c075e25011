"""The connections that go through the gateway: shown from its connection table, and taken out of it."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from underlay.access.sessions import Links
from underlay.access.target import Target
from underlay.observe.state import UnreadableError
from underlay.plan import Host
from underlay.remote import conntrack, send
from underlay.remote.conntrack import Connection

SECONDS = 30
"""What a pass over a table of millions may take."""


@dataclass(frozen=True)
class Found:
    """A part of the connection table.

    entries: how many entries it has
    matching: how many of them were asked for
    connections: the first of those
    """

    entries: int
    matching: int
    connections: tuple[Connection, ...]

    def document(self) -> dict[str, Any]:
        """For programs."""
        found = [{"name": each.name, "translated": each.translated, **asdict(each)} for each in self.connections]
        return {"entries": self.entries, "matching": self.matching, "connections": found}


class Gateway:
    """The gateway's connection table.

    Its methods raise UnreachableError, and UnreadableError for a table that is not there or takes too long.
    """

    def __init__(self, target: Target) -> None:
        self.name = target.plan.gateway.name
        self._links = Links(target)
        self._links.open([self.name])

    def find(
        self,
        *,
        host: Host | None = None,
        published: str = "",
        protocol: str = "",
        name: str = "",
        identifier: int | None = None,
        limit: int,
    ) -> Found:
        """The connections of a host, of a published address, a protocol, or of that name or id (see `Connection`)."""
        addresses = [str(nic.address) for nic in host.interfaces] if host else []
        addresses += [str(host.published)] if host and host.published else []
        wanted = {
            "hosts": addresses,
            "published": [published] if published else [],
            "protocol": protocol,
            "name": name,
            "id": identifier,
            "limit": limit,
        }
        answer = self._ask("find", wanted)
        connections = (Connection(**{**each, "icmp": each["icmp"] and tuple(each["icmp"])}) for each in answer["found"])
        return Found(answer["entries"], answer["matching"], tuple(connections))

    def delete(self, connection: Connection) -> bool:
        """Take a connection out of the table; False if it was gone already."""
        return bool(self._ask("delete", asdict(connection))["deleted"])

    def renew(self, outdated: dict[str, Any]) -> dict[str, int]:
        """End the connections with an outdated translation; see `remote.conntrack.renew`."""
        return self._ask("renew", outdated)

    def _ask(self, command: str, argument: object) -> dict[str, Any]:
        argv = shlex.join(send.argv(command, json.dumps(argument)))
        done = self._links.run(self.name, argv, seconds=SECONDS, stdin=send.line(conntrack))
        if done.returncode:
            words = done.stderr.decode(errors="replace").strip().splitlines() or [f"no answer within {SECONDS} s"]
            raise UnreadableError(f"the connection table of {self.name} can't be read: {words[-1]}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def show(connections: Sequence[Connection], console: Console) -> None:
    """Print connections as a table, by protocol and source."""
    counted = any(each.bytes is not None for each in connections)
    aged = any(each.age is not None for each in connections)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    columns = ["id", "proto", "from", "to", "translated", "state"]
    columns += ["packets", "bytes"] if counted else []
    columns += ["age"] if aged else []
    for column in (*columns, "ends in"):
        right = column in ("id", "packets", "bytes", "age", "ends in")
        table.add_column(column, overflow="fold", justify="right" if right else "left")
    for each in sorted(connections, key=lambda one: (one.protocol, one.name)):
        _, source, destination = each.name.split()
        row = [str(each.id), each.protocol, source, destination, each.translated, each.state.lower()]
        row += [str(each.packets), str(each.bytes)] if counted else []
        row += [f"{each.age} s"] if aged else []
        table.add_row(*row, f"{each.timeout} s")
    console.print(table, highlight=False, markup=False)
