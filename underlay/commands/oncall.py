"""The invoke tasks of the person on call. Thin: other modules do the work, each imported by the task that needs it."""

import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.commands import parameters
from underlay.console import console
from underlay.errors import report_and_exit

if TYPE_CHECKING:
    from underlay.oncall.flows import Gateway

EVERY = 5
"""Seconds from one look of `status --watch` to the next."""
CAPTURE_SECONDS = 10


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
    from underlay.access import via as ways

    with report_and_exit():
        target = current()
    planned = parameters.host(target.plan, host)
    name = planned.name
    options: list[str] = []
    if via:
        through = parameters.host(target.plan, via)
        near = [str(each) for each in ways.addresses(planned, through)]
        if not near or (address and address not in near):
            which = f"the address {address}" if address else "an address"
            raise Exit(
                f"error: {name} has not {which} in a network of {via}: it has {', '.join(near) or 'none'}", code=1
            )
        settings = ways.options(target, planned, through, address or near[0])
        options = [f"-o{key}={value}" for key, value in settings.items()]
    if target.vantage is not None and target.vantage.name == name:
        argv = ["sh", "-c", command] if command else [os.environ.get("SHELL", "/bin/sh"), "-l"]
    else:
        argv = ["ssh", "-F", str(target.ssh_config), *options, name, *([command] if command else [])]
    os.execvp(argv[0], argv)


@task(
    help={
        "output": "the file to write; default report.html in the current folder (on the jump host: the temporary one)",
        "json": "print the facts as JSON; the page is written only where --output says so",
    }
)
def report(_: Context, output: str = "", json: bool = False) -> None:
    """Write one HTML page about the whole site as it is now: topology, traffic, rules, drift, history.

    It needs no network to be read, and hosts that are down are shown as such. Exit code: 0 written, whatever it
    says; 1 it could not be written.
    """
    from underlay.report import facts as reports
    from underlay.report import html as page

    with report_and_exit():
        target = current()
    path = None if json and not output else page.path(target, output)
    if path and (problem := page.not_writable(path)):
        raise Exit(f"error: {path} can't be written: {problem}: name another with --output", code=1)
    announce(target)
    facts = reports.gather(target)
    if path:
        try:
            path.write_text(page.page(target.plan, facts))
        except OSError as error:
            raise Exit(f"error: {path} can't be written: {error.strerror}", code=1) from None
        print(f"{path}: {page.summary(facts)}", file=sys.stderr if json else sys.stdout)
    if json:
        print(dumps(asdict(facts), indent=2))


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
    from underlay.oncall import publish as publishing

    with report_and_exit():
        target = current()
        planned = parameters.host(target.plan, host)
        code = publishing.publish(target, planned, parameters.address(address) if address else None, dry)
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
    from underlay.oncall import publish as publishing

    with report_and_exit():
        target = current()
        planned = parameters.host(target.plan, host)
        code = publishing.unpublish(target, planned, parameters.address(address) if address else None, dry)
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
    from underlay.oncall import rotate

    with report_and_exit():
        target = current()
        for name in without:
            parameters.host(target.plan, name)
        announce(target)
        code = rotate.rotate(target, Path(new).expanduser() if new else None, without)
    raise Exit(code=code)


@task(name="announce")
def announce_addresses(_: Context) -> None:
    """Tell the neighbours that the gateway has its addresses now (gratuitous ARP): after its machine was replaced.

    Exit code: 0 done, 1 the gateway can't be reached.
    """
    from underlay.oncall import publish as publishing

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
    from underlay.trace import run as traces

    with report_and_exit():
        target = current()
        announce(target)
        number = parameters.whole(port) if port else None
        code = traces.run(target, source, destination, proto, number, json)
    raise Exit(code=code)


@task(help={"json": "as JSON: findings (id, host, cause, evidence, fix, …), notes, what could not be read"})
def doctor(_: Context, json: bool = False) -> None:
    """Find out what is wrong with the site: each cause, its evidence, the command that fixes it. Changes nothing.

    Exit code: 0 healthy, 2 findings, 1 could not look. What follows from an earlier cause is not a finding.
    """
    from underlay.doctor import run as doctors

    with report_and_exit():
        target = current()
    raise Exit(code=doctors.run(target, json))


@task(
    help={
        "watch": f"look again every {EVERY} seconds, until Ctrl-C",
        "json": "as JSON: hosts, connection table, upstreams, what is down, what needs attention",
    }
)
def status(_: Context, watch: bool = False, json: bool = False) -> None:
    """Show how the site is, on one screen: hosts, the gateway's connections, the servers behind the proxy.

    Exit code: 0 all well, 1 a host is down or could not be read, 2 something needs attention. With --watch: 0.
    """
    from rich.console import Console

    from underlay.oncall import status as statuses

    if watch and (json or not sys.stdout.isatty()):
        raise Exit("error: --watch needs a terminal: leave it out for a program", code=1)
    with report_and_exit():
        target = current()
        announce(target)
        if watch:
            with suppress(KeyboardInterrupt):
                statuses.watch(target, Console(), EVERY)
            return
        found = statuses.read(target)
    if json:
        print(dumps(found.document(), indent=2))
    else:
        statuses.show(target.plan, found)
    raise Exit(code=found.code)


@task(
    help={
        "host": "only those that a host of the plan has a part in",
        "published": "only those to or from this published address (or the gateway's own)",
        "limit": "how many to show",
        "kill": "take this one out of the table: its id, or 'PROTOCOL SOURCE DESTINATION' as the list shows them",
        "yes": "with --kill: do not ask",
        "json": "as JSON",
    }
)
def flows(
    _: Context,
    host: str = "",
    published: str = "",
    limit: str = "40",
    kill: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Show the connections that go through the gateway, from its connection table; or kill one of them.

    A TCP connection that was killed is picked up anew by its next packet, with the translation that holds now; one
    whose translation is gone ends. Exit code: 0 done, 1 the gateway can't be asked, or there is no such connection.
    """
    from underlay.oncall import flows as flow_tables

    if sum(map(bool, (host, published, kill))) > 1:
        raise Exit("error: --host, --published and --kill exclude each other: give one of them", code=1)
    number = parameters.whole(limit)
    with report_and_exit():
        target = current()
        one = parameters.host(target.plan, host) if host else None
        address = parameters.outer_address(target.plan, published) if published else ""
        announce(target)
        gateway = flow_tables.Gateway(target)
        if kill:
            _kill(gateway, kill, yes, json)
            return
        found = gateway.find(host=one, published=address, limit=number)
    if json:
        print(dumps(found.document(), indent=2))
        return
    flow_tables.show(found.connections, console())
    more = found.matching - len(found.connections)
    hidden = f", {more} of them not shown (--limit)" if more else ""
    print(f"{found.matching} of the {found.entries} entries of the table{hidden}")


def _kill(gateway: "Gateway", which: str, yes: bool, json: bool) -> None:
    from rich.console import Console

    from underlay.oncall import flows as flow_tables

    name = " ".join(which.replace("->", " ").split())
    if not name.isdecimal() and name.count(" ") != 2:
        raise Exit(f"error: {which!r} is neither an id nor 'PROTOCOL SOURCE DESTINATION': see `./inv flows`", code=1)
    found = gateway.find(identifier=int(name), limit=1) if name.isdecimal() else gateway.find(name=name, limit=1)
    if not found.connections:
        raise Exit(f"error: no connection {name!r} in the table of {gateway.name}: `./inv flows` lists them", code=1)
    flow_tables.show(found.connections, Console(stderr=True) if json else console())
    if not yes:
        _confirm("kill it?")
    [connection] = found.connections
    if not gateway.delete(connection):
        raise Exit("it ended by itself meanwhile", code=1)
    print(dumps(found.document(), indent=2) if json else f"killed {connection.name}")


def _confirm(question: str) -> None:
    """Go on only if a person at the terminal says so."""
    if not sys.stdin.isatty():
        raise Exit("error: there is no terminal to ask at: say --yes, nothing was changed", code=1)
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Exit("nothing was changed", code=1)


@task(
    positional=["host"],
    help={
        "host": "a host of the plan",
        "nic": "a NIC of it, like eth1; default: all of them",
        "filter": "what to capture, as tcpdump takes it, like 'host 192.0.2.1 and tcp port 443'",
        "seconds": f"for how long; default {CAPTURE_SECONDS}",
        "output": "the file here; default: the host's name and the time; - is stdout, for `| wireshark -k -i -`",
        "json": "the summary as JSON",
    },
)
def capture(
    _: Context,
    host: str,
    nic: str = "any",
    filter: str = "",
    seconds: str = str(CAPTURE_SECONDS),
    output: str = "",
    json: bool = False,
) -> None:
    """Capture packets on a host into a pcap on this machine, with a live summary; nothing stays on the host.

    The packets of the ssh connection that carries it are left out, whatever the filter. Ctrl-C ends it early and keeps
    what came. Exit code: 0 captured, 1 the host can't be reached, the filter is wrong, or the connection broke.
    """
    from rich.console import Console

    from underlay.oncall import capture as captures

    if json and output == "-":
        raise Exit("error: --json and --output - both need stdout: name a file", code=1)
    with report_and_exit():
        target = current()
        name = parameters.host(target.plan, host).name
        length = parameters.whole(seconds)
        announce(target)
        file = None if output == "-" else Path(output) if output else captures.default_file(name)
        screen = Console(stderr=True)
        found = captures.run(target, name, nic=nic, filter_=filter, seconds=length, output=file, console=screen)
    if json:
        print(dumps(found.document(), indent=2))
    else:
        captures.show(found, console() if file else screen)
    raise Exit(code=1 if found.broken else 0)


@task(
    help={
        "output": "the file here; default: the site's name and the time",
        "json": "what was written as JSON",
    }
)
def bundle(_: Context, output: str = "", json: bool = False) -> None:
    """Write one archive with all that a colleague needs, without secrets.

    Plan, drift, history, and of each host its configuration, live state, versions and the last hour's logs. Exit code:
    0 written, 2 written without hosts that can't be asked (they are noted in it), 1 not written.
    """
    from underlay.oncall import bundle as bundles

    with report_and_exit():
        target = current()
        announce(target)
        found = bundles.write(target, Path(output) if output else bundles.default_file(target))
    missing = {name: why for name, why in found.hosts.items() if why}
    if json:
        print(dumps(asdict(found), indent=2))
    else:
        for why in missing.values():
            print(f"not in it: {why}")
        hosts = f"{len(found.hosts) - len(missing)} of {len(found.hosts)} hosts"
        print(f"{found.file}: {hosts}, {found.bytes / 1e6:.1f} MB, without secrets")
    raise Exit(code=2 if missing else 0)


@task(
    help={
        "output": "the file here; default: backup, the site's name and the time",
        "json": "what was written as JSON",
    }
)
def backup(_: Context, output: str = "", json: bool = False) -> None:
    """Keep what is on the hosts and in no repo: host keys, history, who may log in, rules of others.

    The archive has private keys: only its owner may read it; keep it like them. Exit code: 0 written, 2 written without
    hosts that can't be asked (they are named), 1 not written.
    """
    from underlay.oncall import backup as backups

    with report_and_exit():
        target = current()
        announce(target)
        found = backups.write(target, Path(output) if output else backups.default_file(target))
    missing = [each for each in found.hosts.values() if isinstance(each, str)]
    if json:
        print(dumps(asdict(found), indent=2))
    else:
        for name, each in found.hosts.items():
            print(f"{name}: {each} files" if isinstance(each, int) else f"not in it: {each}")
        print(f"{found.file} has private keys: only you may read it (mode 600); keep it like them")
    raise Exit(code=2 if missing else 0)


@task(
    positional=["file", "host"],
    help={
        "file": "what `./inv backup` wrote",
        "host": "a host of the plan: the one to bring back",
        "dry": "show what it would write, and change nothing",
        "host_key": "SHA256:… of the key that a host installed anew shows at its console, before it has its own back",
        "yes": "do not ask",
        "json": "as JSON: path → new, differs, same or kept",
    },
)
def restore(
    _: Context, file: str, host: str, dry: bool = False, host_key: str = "", yes: bool = False, json: bool = False
) -> None:
    """Bring back a backup to a host that was installed anew: its host keys, its history, who may log in.

    A host that has a history of its own keeps that. Deploy the host's role afterwards: the plan is in the repo, not in
    the backup. Exit code: 0 done, 1 not done, or the host can't be logged in to with its own key afterwards.
    """
    from underlay.access.sessions import Links
    from underlay.oncall import backup as backups

    with report_and_exit(), ExitStack() as stack:
        target = current()
        one = parameters.host(target.plan, host)
        content = backups.load(Path(file), target.plan, one)
        announce(target)
        way = stack.enter_context(backups.installed_anew(target, one, host_key)) if host_key else target
        links = backups.connected(way, one)
        found = backups.restore(links, target.plan, one, content, dry=True)
        if not json:
            backups.show(found, console())
        if not dry and set(found.values()) & {"new", "differs"}:
            if not yes:
                _confirm(f"write these files to {one.name}?")
            backups.restore(links, target.plan, one, content, dry=False)
            if error := Links(target).log_in_anew(one.name):
                raise Exit(f"error: restored, but {one.name} can't be logged in to with its own key: {error}", code=1)
            print(f"{one.name} has them, and its own host key: now ./inv deploy {one.role}", file=sys.stderr)
    if json:
        print(dumps(found, indent=2))
