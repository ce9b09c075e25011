"""`./inv capture`."""

from json import dumps
from pathlib import Path

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.commands import parameters
from underlay.errors import OperatorError, exit_code, report_and_exit

SECONDS = 10
DAY = 86400


@task(
    positional=["host"],
    help={
        "host": "a host of the plan",
        "nic": "a NIC of it, like eth1; default: all of them",
        "filter": "what to capture, as tcpdump takes it, like 'host 192.0.2.1 and tcp port 443'",
        "seconds": f"for how long; default {SECONDS}",
        "output": "the file here; default: the host's name and the time; - is stdout, for `| wireshark -k -i -`",
        "json": "the summary as JSON",
    },
)
@report_and_exit()
def capture(
    _: Context,
    host: str,
    nic: str = "any",
    filter: str = "",
    seconds: str = str(SECONDS),
    output: str = "",
    json: bool = False,
) -> None:
    """Capture packets on a host into a pcap on this machine, with a live summary; nothing stays on the host.

    The packets of the ssh connection that carries it are left out, whatever the filter. Ctrl-C ends it early and keeps
    what came. Exit code: 0 captured; 1 the host can't be reached, the filter is wrong, or the connection broke.
    """
    from underlay.console import console, screen
    from underlay.oncall import capture as captures

    if json and output == "-":
        raise OperatorError("--json and --output - both need stdout: name a file")
    target = current()
    name = parameters.host(target.plan, host).name
    length = parameters.whole(seconds, 1, DAY)
    announce(target)
    file = None if output == "-" else Path(output) if output else captures.default_file(name)
    progress = screen(stderr=True)
    found = captures.run(target, name, nic=nic, filter_=filter, seconds=length, output=file, console=progress)
    if json:
        print(dumps(found.document(), indent=2))
    else:
        captures.show(found, console() if file else progress)
    raise Exit(code=exit_code(wrong=False, unread=found.broken))
