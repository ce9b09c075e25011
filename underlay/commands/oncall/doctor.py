"""`./inv doctor`."""

import time

from invoke import Context, Exit, task

from underlay.access.target import current
from underlay.commands.parameters import past
from underlay.errors import report_and_exit


@task(
    help={
        "since": "show what changed on all hosts since then: 30m, 2h, 3d, 14:02 or '2026-03-01 14:02'",
        "json": "as JSON: findings (id, host, cause, evidence, fix, …), notes, what could not be read",
    }
)
@report_and_exit()
def doctor(_: Context, since: str | None = None, json: bool = False) -> None:
    """Find out what is wrong with the site: each cause, its evidence, the command that fixes it. Changes nothing.

    What follows from an earlier cause is not a finding. Exit code: 0 healthy; 2 findings; 1 none, but something could
    not be looked at.
    """
    from underlay.doctor import run as doctors

    begin = None if since is None else past(since, time.time())
    raise Exit(code=doctors.run(current(), json, begin))
