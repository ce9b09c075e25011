"""The invoke tasks of the person on call. Thin: other modules do the work."""

import os
from collections.abc import Sequence
from pathlib import Path

from invoke import Context, Exit, task

from underlay import arguments
from underlay.errors import report_and_exit
from underlay.oncall import detour, rotate
from underlay.oncall import doctor as doctors
from underlay.oncall import publish as publishing
from underlay.oncall import trace as traces
from underlay.target import announce, current


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
        announce(target)
        code = rotate.rotate(target, Path(new).expanduser() if new else None, without)
    raise Exit(code=code)


@task(name="announce")
def announce_addresses(_: Context) -> None:
    """Tell the neighbours that the gateway has its addresses now (gratuitous ARP): after its machine was replaced.

    Exit code: 0 done, 1 the gateway can't be reached.
    """
    with report_and_exit():
        target = current()
        announce(target)
        code = publishing.announce_all(target)
    raise Exit(code=code)


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


@task(help={"json": "as JSON: findings (id, host, cause, evidence, mend, …), notes, what could not be read"})
def doctor(_: Context, json: bool = False) -> None:
    """Find out what is wrong with the site: each cause, its evidence, the command that mends it. Changes nothing.

    Exit code: 0 healthy, 2 findings, 1 could not look. What follows from an earlier cause is not a finding.
    """
    with report_and_exit():
        target = current()
    raise Exit(code=doctors.run(target, json))
