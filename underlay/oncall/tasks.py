"""The invoke tasks of the person on call. Thin: other modules do the work."""

import os

from invoke import Context, task

from underlay import arguments
from underlay.errors import report_and_exit
from underlay.target import current


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
