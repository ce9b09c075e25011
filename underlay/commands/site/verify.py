"""`./inv verify`."""

from pathlib import Path

from invoke import Context, Exit, task

from underlay.access.target import current
from underlay.commands import parameters
from underlay.errors import report_and_exit


@task(
    positional=["role"],
    optional=["role"],
    help={"role": parameters.ROLE_HELP, "junit": "write the results to this file as JUnit XML"},
)
@report_and_exit()
def verify(_: Context, role: str | None = None, junit: str = "") -> None:
    """Prove the planned state with checks on the hosts and real packets; ends with a table.

    Exit code: 0 all good; 2 something is wrong, or a deployed host can't be reached; 1 nothing was checked, or the run
    was cut off before anything was found wrong.
    """
    from underlay.verify import run as command

    roles = parameters.roles(role)
    raise Exit(code=command.run(current(), roles, Path(junit) if junit else None))
