"""`./inv doctor`."""

from invoke import Context, Exit, task

from underlay.access.target import current
from underlay.errors import report_and_exit


@task(help={"json": "as JSON: findings (id, host, cause, evidence, fix, …), notes, what could not be read"})
@report_and_exit()
def doctor(_: Context, json: bool = False) -> None:
    """Find out what is wrong with the site: each cause, its evidence, the command that fixes it. Changes nothing.

    What follows from an earlier cause is not a finding. Exit code: 0 healthy; 2 findings; 1 none, but something could
    not be looked at.
    """
    from underlay.doctor import run as doctors

    raise Exit(code=doctors.run(current(), json))
