"""`./inv status`."""

import sys
from contextlib import suppress
from json import dumps

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.errors import OperatorError, report_and_exit

EVERY = 5
"""Seconds from one look of `--watch` to the next."""


@task(
    help={
        "watch": f"look again every {EVERY} seconds, until Ctrl-C",
        "json": "as JSON: hosts, connection table, upstreams, what is down, what needs attention",
    }
)
@report_and_exit()
def status(_: Context, watch: bool = False, json: bool = False) -> None:
    """Show how the site is, on one screen: hosts, the gateway's connections, the servers behind the proxy.

    Exit code: 0 all well; 2 something needs attention; 1 nothing seen does, but a host is down or could not be read.
    With --watch: 0.
    """
    from underlay.console import screen
    from underlay.oncall import status as statuses

    if watch and (json or not sys.stdout.isatty()):
        raise OperatorError("--watch needs a terminal: leave it out for a program")
    target = current()
    announce(target)
    if watch:
        with suppress(KeyboardInterrupt):
            statuses.watch(target, screen(), EVERY)
        return
    found = statuses.read(target)
    if json:
        print(dumps(found.document(), indent=2))
    else:
        statuses.show(target.plan, found)
    raise Exit(code=found.code)
