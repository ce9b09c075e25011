"""The invoke tasks of the person on call. Thin: other modules do the work."""

import os

from invoke import Context, Exit, task

from underlay import arguments
from underlay.errors import report_and_exit
from underlay.oncall import trace as traces
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
    positional=["source", "destination"],
    help={
        "source": "who sends: HOST, HOST:NETWORK (from its address there), an address of a host; in the lab `internet`",
        "destination": "to whom: HOST, HOST:NETWORK, a published address, or any other",
        "port": "the port to ask; without it, a listener of ours on a free one",
        "proto": "tcp, udp or icmp; default tcp, but icmp to an address that is no host of ours if no port is given",
        "json": "as JSON",
    },
)
def trace(_: Context, source: str, destination: str, port: str = "", proto: str = "", json: bool = False) -> None:
    """Send a real packet and show its way step by step: what the plan has for it beside what each kernel does.

    `./inv trace lb master-1:storage --port 22`. The first difference is marked, each rule has its line of the plan.
    Nothing is changed on the hosts, and no other traffic is looked at.
    Exit code: 0 as planned, 2 something differs, 1 it could not be traced (a host on its way is down).
    """
    with report_and_exit():
        target = current()
        announce(target)
        number = arguments.whole(port) if port else None
        try:
            raise Exit(code=traces.run(target, source, destination, proto, number, json))
        except KeyboardInterrupt:
            raise Exit("interrupted", code=130) from None
