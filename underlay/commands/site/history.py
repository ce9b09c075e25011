"""`./inv history`."""

import sys
from json import dumps

from invoke import Context, Exit, task

from underlay.access.target import current
from underlay.commands import parameters
from underlay.errors import exit_code, report_and_exit

LATEST = 10**9
"""More changes than any host will see."""


@task(
    positional=["host", "number"],
    optional=["host", "number"],
    help={
        "host": "a host of the plan; without it, all that are deployed",
        "number": "show this change of the host, as a diff",
        "json": "as JSON",
    },
)
@report_and_exit()
def history(_: Context, host: str | None = None, number: str | None = None, json: bool = False) -> None:
    """Show the confirmed changes of the hosts: number, time, who, from which commit, and what changed.

    Exit code: 0 shown; 1 a host could not be read.
    """
    from underlay.guard import history as histories
    from underlay.report import differences as shown

    target = current()
    hosts = [parameters.host(target.plan, host)] if host else target.plan.deployed
    if number:
        change = histories.change(target, hosts[0].name, parameters.whole(number, 1, LATEST))
        print(dumps(change, indent=2) if json else change["diff"])
        return
    found = histories.read(target, hosts)
    unread = [str(entries) for entries in found.values() if isinstance(entries, Exception)]
    if json:
        print(
            dumps({name: {"error": str(e)} if isinstance(e, Exception) else e for name, e in found.items()}, indent=2)
        )
    else:
        shown.show_history(found)
        for reason in unread:
            print(f"error: {reason}", file=sys.stderr)
    raise Exit(code=exit_code(wrong=False, unread=unread))
