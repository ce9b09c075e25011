"""`./inv change`."""

import os

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.commands import parameters
from underlay.errors import COULD_NOT, report_and_exit


@task(
    positional=["host", "command"],
    help={
        "host": "a host of the plan",
        "command": "a command line for the root of that host",
        "via": "go through this host instead of the plan's way",
        "address": "with --via: to this address of the host, instead of the first that both are near",
        "soak": "watch it for so long (90s, 5m) before it is confirmed, with the timer armed",
    },
)
@report_and_exit()
def change(_: Context, host: str, command: str, via: str = "", address: str = "", soak: str = "") -> None:
    """Run a command on a host as a confirmed change: for what might cut the way to it, as `./inv doctor` prints it.

    `./inv change gateway "iptables -D FORWARD 1"`. The host undoes it unless a new connection works, and all probes
    after it that worked before; then it is in the history, as a deploy's changes are. Undone are addresses, routes,
    policy rules, iptables rules, sysctls and services, not files. Exit code: 0 done, confirmed; 1 not done, or undone.
    """
    import tempfile
    from pathlib import Path

    from underlay.access import via as ways
    from underlay.guard import runner
    from underlay.guard.change import MOST_SOAK, SOAK_VARIABLE, Change

    parameters.only_with("--address", address, "--via", via)
    if soak:
        os.environ[SOAK_VARIABLE] = str(parameters.duration(soak, MOST_SOAK))
    target = current()
    announce(target)
    planned = parameters.host(target.plan, host)
    with tempfile.TemporaryDirectory(dir=target.ssh_config.parent) as folder:
        if via:
            through = parameters.host(target.plan, via)
            target = ways.target(target, Path(folder), planned, through, ways.chosen(planned, through, address))
        made = Change(what=(f"by hand: {command}",), live=command)
        if not runner.run(target, planned.name, made, print):
            raise Exit(code=COULD_NOT)
