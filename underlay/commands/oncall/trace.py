"""`./inv trace`."""

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.commands import parameters
from underlay.errors import report_and_exit


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
@report_and_exit()
def trace(_: Context, source: str, destination: str, port: str = "", proto: str = "", json: bool = False) -> None:
    """Send a real packet and show its way step by step: what the plan has for it beside what each kernel does.

    `./inv trace lb master-1:storage --port 22`. The first difference is marked, each rule has its line of the plan.
    Nothing is changed on the hosts, and no other traffic is looked at.
    Exit code: 0 as planned; 2 something differs; 1 it could not be traced (a host on its way is down).
    """
    from underlay.trace import run as traces

    target = current()
    announce(target)
    number = parameters.whole(port, 1, 65535) if port else None
    raise Exit(code=traces.run(target, source, destination, proto, number, json))
