"""`./inv ssh`."""

import os
import sys

from invoke import Context, task

from underlay.access.target import current
from underlay.commands import parameters
from underlay.errors import report_and_exit


@task(
    positional=["host", "command"],
    optional=["command"],
    help={
        "host": "a host of the plan",
        "command": "a command line for its shell, instead of a login",
        "via": "go through this host instead of the plan's way",
        "address": "with --via: to this address of the host, instead of the first that both are near",
    },
)
@report_and_exit()
def ssh(_: Context, host: str, command: str | None = None, via: str = "", address: str = "") -> None:
    """Log in on a host over a new connection, through the jump host where that is the way: `./inv ssh master-1`.

    With a command, its output and exit code are those of this task: `./inv ssh gateway "ip route"`. Exit code of ssh
    itself: 255 the host can't be reached.
    """
    from underlay.access import anew
    from underlay.access import via as ways

    parameters.only_with("--address", address, "--via", via)
    target = current()
    planned = parameters.host(target.plan, host)
    name = planned.name
    options: list[str] = []
    if command and planned.login.sudo == "password" and sys.stdin.isatty() and sys.stdout.isatty():
        options.append("-t")  # its sudo asks there
    if via:
        through = parameters.host(target.plan, via)
        settings = ways.options(target, planned, through, ways.chosen(planned, through, address))
        options += [f"-o{key}={value}" for key, value in settings.items()]
    if target.vantage is not None and target.vantage.name == name:
        argv = ["sh", "-c", command] if command else [os.environ.get("SHELL", "/bin/sh"), "-l"]
    else:
        argv = ["ssh", "-F", str(anew.config(target)), *options, name, *([command] if command else [])]
    os.execvp(argv[0], argv)  # noqa: S606 (words, and no shell)
