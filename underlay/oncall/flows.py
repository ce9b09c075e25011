"""The connections that go through the gateway: shown from its connection table, and taken out of it."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import AfterValidator
from rich.console import Console
from rich.table import Table
from typing_extensions import TypedDict

from underlay.access import answers
from underlay.access.answers import UnreadableError, reading
from underlay.access.sessions import Links, last_words
from underlay.access.target import Target
from underlay.plan import Host
from underlay.remote import conntrack, send
from underlay.remote.conntrack import Connection

SECONDS = 30
"""What a pass over a table of millions may take."""
LARGEST = 1000
"""Bytes that one of its entries takes on the way here, and some more."""


def _named(connection: Connection) -> Connection:
    if len(connection.name.split()) != 3:
        raise ValueError("it has no protocol and two ends")
    return connection


class _Part(TypedDict):
    entries: int
    matching: int
    found: list[Annotated[Connection, AfterValidator(_named)]]


class _Renewed(TypedDict):
    looked: int
    ended: int
    left: int


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
        answer: _Part = self._ask("find", wanted, _Part, answers.MOST + limit * LARGEST)
        return Found(answer["entries"], answer["matching"], tuple(answer["found"]))

    def delete(self, connection: Connection) -> bool:
        """Take a connection out of the table; False if it was gone already."""
        return bool(self._ask("delete", asdict(connection), dict[str, int])["deleted"])

    def renew(self, outdated: dict[str, Any]) -> dict[str, int]:
        """End the connections with an outdated translation; see `remote.conntrack.renew`."""
        renewed: _Renewed = self._ask("renew", outdated, _Renewed)
        return {"looked": renewed["looked"], "ended": renewed["ended"], "left": renewed["left"]}

    def _ask(self, command: str, argument: object, shape: Any, most: int = answers.MOST) -> Any:
        argv = shlex.join(send.argv(command, json.dumps(argument)))
        done = self._links.run(self.name, argv, seconds=SECONDS, stdin=send.line(conntrack), most=most)
        what = f"the connection table of {self.name}"
        if done.returncode:
            raise UnreadableError(f"{what} can't be read: {last_words(done.stderr, f'no answer within {SECONDS} s')}")
        with reading(what):
            return answers.parsed(shape, done.stdout)


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
