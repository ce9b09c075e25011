"""The invoke tasks of the person on call. Thin: other modules do the work."""

import os
from collections.abc import Sequence
from pathlib import Path

from invoke import Context, Exit, task

from underlay import arguments
from underlay.errors import report_and_exit
from underlay.oncall import publish as publishing
from underlay.oncall import rotate
from underlay.target import announce as name_target
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


@task(
    positional=["host"],
    help={
        "host": "a host of the plan",
        "address": "its address in the enterprise network; without it, a free one is proposed",
        "dry": "show what the deploy would change, and change nothing",
    },
)
def publish(_: Context, host: str, address: str = "", dry: bool = False) -> None:
    """Publish a host: shows the line of the plan that it takes; with the line there: deploys, announces, verifies.

    The plan is never edited: `./inv publish web | git apply` does that. What fails its verification is rolled back.
    Exit code: 0 published, and verified from outside and inside; 2 the plan has no such line yet; 1 anything else.
    """
    with report_and_exit():
        target = current()
        planned = arguments.host(target.plan, host)
        code = publishing.publish(target, planned, arguments.address(address) if address else None, dry)
    raise Exit(code=code)


@task(
    positional=["host"],
    help={
        "host": "a host of the plan",
        "address": "an address to look for on the gateway, if a deploy has taken it away already",
        "dry": "show what the deploy would change, and change nothing",
    },
)
def unpublish(_: Context, host: str, address: str = "", dry: bool = False) -> None:
    """End the publication of a host: shows what to delete in the plan; with that deleted: deploys and verifies.

    Exit code: 0 the address is silent and nothing of it is left; 2 the plan still publishes the host; 1 anything else.
    """
    with report_and_exit():
        target = current()
        planned = arguments.host(target.plan, host)
        code = publishing.unpublish(target, planned, arguments.address(address) if address else None, dry)
    raise Exit(code=code)


@task(
    help={
        "new": "a private key, with its public one beside it (.pub); without it, one is made that has no passphrase",
        "without": "a host to leave out: one that is down stops it otherwise (may be given again)",
    },
    iterable=["without"],
)
def rotate_key(_: Context, new: str = "", without: Sequence[str] = ()) -> None:
    """Change the key with which the operator logs in on all hosts; the old one goes when the new one has logged in.

    The new key takes the old one's place (operator.key of the plan), the old one gets the ending .old.
    Exit code: 0 done; 1 nothing was changed, or it says which hosts still take the old key.
    """
    with report_and_exit():
        target = current()
        for name in without:
            arguments.host(target.plan, name)
        name_target(target)
        code = rotate.rotate(target, Path(new).expanduser() if new else None, without)
    raise Exit(code=code)


@task
def announce(_: Context) -> None:
    """Tell the neighbours that the gateway has its addresses now (gratuitous ARP): after its machine was replaced.

    Exit code: 0 done, 1 the gateway can't be reached.
    """
    with report_and_exit():
        target = current()
        name_target(target)
        code = publishing.announce_all(target)
    raise Exit(code=code)
