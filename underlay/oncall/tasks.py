"""The invoke tasks of the person on call. Thin: other modules do the work."""

import os
import sys
from contextlib import suppress
from json import dumps

from invoke import Context, Exit, task
from rich.console import Console

from underlay import arguments
from underlay.errors import report_and_exit
from underlay.oncall import status as statuses
from underlay.target import announce, current


@task(
    positional=["host", "command"],
    optional=["command"],
    help={"host": "a host of the plan", "command": "a command line for its shell, instead of a login"},
)
def ssh(_: Context, host: str, command: str | None = None) -> None:
    """Log in on a host, through the jump host where that is the way: `./inv ssh master-1`.

    With a command, its output and exit code are those of this task: `./inv ssh gateway "ip route"`.
    """
    with report_and_exit():
        target = current()
    name = arguments.host(target.plan, host).name
    if target.vantage is not None and target.vantage.name == name:
        argv = ["sh", "-c", command] if command else [os.environ.get("SHELL", "/bin/sh"), "-l"]
    else:
        argv = ["ssh", "-F", str(target.ssh_config), name, *([command] if command else [])]
    os.execvp(argv[0], argv)


@task(
    help={
        "watch": f"look again every {statuses.EVERY} seconds, until Ctrl-C",
        "json": "as JSON: hosts, connection table, upstreams, what is down, what needs attention",
    }
)
def status(_: Context, watch: bool = False, json: bool = False) -> None:
    """Show how the site is, on one screen: hosts, the gateway's connections, the servers behind the proxy.

    Exit code: 0 all well, 1 a host is down or could not be read, 2 something needs attention. With --watch: 0.
    """
    if watch and (json or not sys.stdout.isatty()):
        raise Exit("error: --watch needs a terminal: leave it out for a program", code=1)
    with report_and_exit():
        target = current()
        announce(target)
        if watch:
            with suppress(KeyboardInterrupt):
                statuses.watch(target, Console())
            return
        found = statuses.read(target)
    if json:
        print(dumps(found.document(), indent=2))
    else:
        statuses.show(target.plan, found)
    raise Exit(code=found.code)
