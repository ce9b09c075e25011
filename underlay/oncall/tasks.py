"""The invoke tasks of the person on call. Thin: other modules do the work."""

import os

from invoke import Context, Exit, task

from underlay import arguments
from underlay.errors import report_and_exit
from underlay.oncall import detour
from underlay.oncall import doctor as doctors
from underlay.target import current


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
def ssh(_: Context, host: str, command: str | None = None, via: str = "", address: str = "") -> None:
    """Log in on a host, through the jump host where that is the way: `./inv ssh master-1`.

    With a command, its output and exit code are those of this task: `./inv ssh gateway "ip route"`.
    """
    with report_and_exit():
        target = current()
    planned = arguments.host(target.plan, host)
    name = planned.name
    options: list[str] = []
    if via:
        through = arguments.host(target.plan, via)
        near = [str(each) for each in detour.addresses(planned, through)]
        if not near or (address and address not in near):
            which = f"the address {address}" if address else "an address"
            raise Exit(
                f"error: {name} has not {which} in a network of {via}: it has {', '.join(near) or 'none'}", code=1
            )
        settings = detour.options(target, planned, through, address or near[0])
        options = [f"-o{key}={value}" for key, value in settings.items()]
    if target.vantage is not None and target.vantage.name == name:
        argv = ["sh", "-c", command] if command else [os.environ.get("SHELL", "/bin/sh"), "-l"]
    else:
        argv = ["ssh", "-F", str(target.ssh_config), *options, name, *([command] if command else [])]
    os.execvp(argv[0], argv)


@task(help={"json": "as JSON: findings (id, host, cause, evidence, mend, …), notes, what could not be read"})
def doctor(_: Context, json: bool = False) -> None:
    """Find out what is wrong with the site: each cause, its evidence, the command that mends it. Changes nothing.

    Exit code: 0 healthy, 2 findings, 1 could not look. What follows from an earlier cause is not a finding.
    """
    with report_and_exit():
        target = current()
    raise Exit(code=doctors.run(target, json))
