"""The invoke tasks about the site. Thin: other modules do the work, each imported by the task that needs it."""

import os
import subprocess
import sys
from dataclasses import asdict
from json import dumps, loads
from pathlib import Path

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.commands import parameters
from underlay.errors import report_and_exit
from underlay.guard.change import SECONDS, SECONDS_VARIABLE, Change
from underlay.plan import REPO, ROLES, load


@task(help={"json": "as JSON"})
def plan(_: Context, json: bool = False) -> None:
    """Show the plan: networks, hosts, published addresses, and each gateway rule with the plan line it comes from."""
    from underlay.report import tables

    with report_and_exit():
        found = load()
    if json:
        print(dumps(tables.document(found), indent=2))
    else:
        tables.show(found)


@task(help={"format": "one of svg, mermaid, plantuml; default svg. The other two are text, for documents of your own"})
def topology(_: Context, format: str = "svg") -> None:
    """Print the picture of the site, drawn from the plan: `./inv topology > docs/site.svg`; contacts no host."""
    from underlay.report import diagram, diagram_text

    pictures = {"svg": diagram.svg, "mermaid": diagram_text.mermaid, "plantuml": diagram_text.plantuml}
    draw = pictures[parameters.one_of("format", format, pictures)]
    with report_and_exit():
        print(draw(load()), end="")


@task(
    positional=["role"],
    optional=["role"],
    help={
        "role": parameters.ROLE_HELP,
        "dry": "show what would change, and change nothing",
        "json": "with --dry: as JSON, role → pyinfra's own",
        "rollback_after": f"seconds until a host undoes a change that was not confirmed; default {SECONDS}",
    },
)
def deploy(
    _: Context, role: str | None = None, dry: bool = False, json: bool = False, rollback_after: str = ""
) -> None:
    """Bring the hosts of a role, or of all roles in their order, into the planned state."""
    roles = parameters.roles(role)
    if json and not dry:
        raise Exit("error: --json goes with --dry", code=1)
    with report_and_exit():
        # Here too, not in pyinfra alone: a bad plan stops before the first role.
        target = current()
    if rollback_after:
        os.environ[SECONDS_VARIABLE] = str(parameters.whole(rollback_after))
    options = ["--dry"] if dry else ["-y"]
    options += ["--json"] if json else []
    found: dict[str, object] = {}
    for each in roles:
        if not target.plan.hosts_of(each):
            continue
        if not json:
            print(f"\n=== {each}", flush=True)
        command = [sys.executable, "-m", "pyinfra", "inventory.py", f"deploys/{each}.py", *options]
        done = subprocess.run(command, cwd=REPO, check=False, stdout=subprocess.PIPE if json else None, text=True)
        if done.returncode != 0:
            raise Exit(f"error: the deploy of {each} failed: see above; later roles were left alone", code=1)
        if json:
            found[each] = loads(done.stdout)
    if json:
        print(dumps(found, indent=2))


@task(
    positional=["role"],
    optional=["role"],
    help={"role": parameters.ROLE_HELP, "junit": "write the results to this file as JUnit XML"},
)
def verify(_: Context, role: str | None = None, junit: str = "") -> None:
    """Prove the planned state with checks on the hosts and real packets; ends with a table.

    Exit code: 0 all good, 1 something is wrong, 2 nothing was checked.
    """
    from underlay.verify import run as command

    roles = parameters.roles(role)
    with report_and_exit():
        target = current()
    raise Exit(code=command.run(target, roles, Path(junit) if junit else None))


@task(
    positional=["role"],
    optional=["role"],
    help={
        "role": parameters.ROLE_HELP,
        "json": "as JSON: host → its differences, or the reason why it could not be read",
    },
)
def drift(_: Context, role: str | None = None, json: bool = False) -> None:
    """Show what differs from the plan on the hosts, live and on disk; changes nothing.

    Exit code: 0 nothing, 2 drift, 1 a host could not be read. What others put there is shown, and is no drift.
    """
    from underlay.observe import drift as drifts
    from underlay.report import tables

    roles = parameters.roles(role)
    with report_and_exit():
        target = current()
        found = drifts.read(target, [host for each in roles for host in target.plan.hosts_of(each)])
    differences = [each for of_host in found.values() if isinstance(of_host, list) for each in of_host]
    unread = [reason for reason in found.values() if isinstance(reason, str)]
    if json:
        document = {
            host: {"error": each} if isinstance(each, str) else {"differences": [asdict(one) for one in each]}
            for host, each in found.items()
        }
        print(dumps(document, indent=2))
    else:
        announce(target)
        tables.show_drift(differences, unread)
    drifted = any(each.kind != "unmanaged" for each in differences)
    raise Exit(code=1 if unread else 2 if drifted else 0)


@task(
    positional=["host", "number"],
    optional=["host", "number"],
    help={
        "host": "a host of the plan; without it, all that are deployed",
        "number": "show this change of the host, as a diff",
        "json": "as JSON",
    },
)
def history(_: Context, host: str | None = None, number: str | None = None, json: bool = False) -> None:
    """Show the confirmed changes of the hosts: number, time, who, from which commit, and what changed."""
    from underlay.guard import history as histories
    from underlay.report import tables

    with report_and_exit():
        target = current()
        hosts = (
            [parameters.host(target.plan, host)]
            if host
            else [one for each in ROLES for one in target.plan.hosts_of(each)]
        )
        if number:
            change = histories.change(target, hosts[0].name, parameters.whole(number))
            print(dumps(change, indent=2) if json else change["diff"])
            return
        found = histories.read(target, hosts)
    unread = [str(entries) for entries in found.values() if isinstance(entries, Exception)]
    if json:
        print(
            dumps({name: {"error": str(e)} if isinstance(e, Exception) else e for name, e in found.items()}, indent=2)
        )
    else:
        tables.show_history(found)
        for reason in unread:
            print(f"error: {reason}", file=sys.stderr)
    raise Exit(code=1 if unread else 0)


@task(
    positional=["host", "steps"],
    optional=["steps"],
    help={"host": "a host of the plan", "steps": "how many confirmed changes to go back; default 1"},
)
def rollback(_: Context, host: str, steps: str | None = None) -> None:
    """Bring a host back to how it was some confirmed changes ago; guarded like any change, and itself in the history.

    Rules, addresses, routes, policy rules, sysctls and files. The plan stays: a later deploy brings it back.
    """
    from underlay.guard import history as histories
    from underlay.guard import runner

    with report_and_exit():
        target = current()
        announce(target)
        planned = parameters.host(target.plan, host)
        [entries] = histories.read(target, [planned]).values()
        if isinstance(entries, Exception):
            raise entries
        number = histories.before(entries, planned.name, parameters.whole(steps or "1"))
        change = Change(what=(f"back to the state before change {number}",), restore=number)
        if not runner.run(target, planned.name, change, print):
            raise Exit(code=1)
