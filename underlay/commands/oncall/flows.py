"""`./inv flows`."""

from json import dumps

from invoke import Context, task

from underlay.access.target import Target, announce, current
from underlay.commands import parameters
from underlay.errors import OperatorError, report_and_exit
from underlay.plan.literals import shown

NAME = ("PROTOCOL", "SOURCE", "DESTINATION")
"""What names a connection, as the list shows it."""
MOST = 2**32 - 1
"""Of connections, and of their ids: the kernel counts both in 32 bits."""


@task(
    help={
        "host": "only those that a host of the plan has a part in",
        "published": "only those to or from this published address (or the gateway's own)",
        "limit": "how many to show",
        "kill": f"take this one out of the table: its id, or '{' '.join(NAME)}' as the list shows them",
        "yes": "with --kill: do not ask",
        "json": "as JSON",
    }
)
@report_and_exit()
def flows(
    _: Context,
    host: str = "",
    published: str = "",
    limit: str = "40",
    kill: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Show the connections that go through the gateway, from its connection table; or kill one of them.

    A TCP connection that was killed is picked up anew by its next packet, with the translation that holds now; one
    whose translation is gone ends. Exit code: 0 done; 1 the gateway can't be asked, or there is no such connection.
    """
    from underlay.console import console
    from underlay.oncall import flows as tables

    if sum(map(bool, (host, published, kill))) > 1:
        raise OperatorError("--host, --published and --kill exclude each other: give one of them")
    number = parameters.whole(limit, 0, MOST)
    target = current()
    one = parameters.host(target.plan, host) if host else None
    address = parameters.outer_address(target.plan, published) if published else ""
    announce(target)
    if kill:
        _kill(target, kill, yes, json)
        return
    found = tables.Gateway(target).find(host=one, published=address, limit=number)
    if json:
        print(dumps(found.document(), indent=2))
        return
    tables.show(found.connections, console())
    more = found.matching - len(found.connections)
    hidden = f", {more} of them not shown (--limit)" if more else ""
    print(f"{found.matching} of the {found.entries} entries of the table{hidden}")


def _kill(target: Target, which: str, yes: bool, json: bool) -> None:
    from underlay.console import console, screen
    from underlay.oncall import flows as tables

    gateway = tables.Gateway(target)
    words = which.replace("->", " ").split()
    name = " ".join(words)
    if not name.isdecimal() and len(words) != len(NAME):
        raise OperatorError(f"{shown(which)} is neither an id nor '{' '.join(NAME)}': see `./inv flows`")
    identifier = parameters.whole(name, 0, MOST) if name.isdecimal() else None
    found = gateway.find(identifier=identifier, name="" if name.isdecimal() else name, limit=1)
    if not found.connections:
        raise OperatorError(f"no connection {name!r} in the table of {gateway.name}: `./inv flows` lists them")
    tables.show(found.connections, screen(stderr=True) if json else console())
    if not yes:
        parameters.confirmed("kill it?")
    [connection] = found.connections
    if not gateway.delete(connection):
        raise OperatorError("it ended by itself meanwhile")
    print(dumps(found.document(), indent=2) if json else f"killed {connection.name}")
