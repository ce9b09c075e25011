"""The invoke tasks about the site. Thin: other modules do the work."""

import difflib
import subprocess
import sys
import time
from json import dumps, loads
from pathlib import Path

from invoke import Context, Exit, task

from lab import control, machine
from underlay import checks, diagram, overview
from underlay import verify as verification
from underlay.errors import report_and_exit
from underlay.plan import REPO, ROLES, load
from underlay.target import current

ROLE_HELP = f"one of {', '.join(ROLES)}; without it, all of them in this order"


def _roles(role: str | None) -> tuple[str, ...]:
    if not role:
        return ROLES
    if role not in ROLES:
        close = difflib.get_close_matches(role, ROLES, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"the roles are {', '.join(ROLES)}"
        raise Exit(f"error: unknown role {role!r}: {hint}", code=1)
    return (role,)


@task
def plan(_: Context) -> None:
    """Show the plan: networks, hosts, published addresses, and each gateway rule with the plan line it comes from."""
    with report_and_exit():
        overview.show(load())


@task
def topology(_: Context) -> None:
    """Print the picture of the site as SVG, drawn from the plan: `./inv topology > docs/site.svg`."""
    with report_and_exit():
        print(diagram.svg(load()))


@task(
    positional=["role"],
    optional=["role"],
    help={
        "role": ROLE_HELP,
        "dry": "show what would change, and change nothing",
        "json": "with --dry: as JSON, role → pyinfra's own",
    },
)
def deploy(_: Context, role: str | None = None, dry: bool = False, json: bool = False) -> None:
    """Bring the hosts of a role, or of all roles in their order, into the planned state."""
    roles = _roles(role)
    if json and not dry:
        raise Exit("error: --json goes with --dry", code=1)
    with report_and_exit():
        # Here too, not in pyinfra alone: a bad plan stops before the first role.
        target = current()
    arguments = ["--dry"] if dry else ["-y"]
    arguments += ["--json"] if json else []
    found: dict[str, object] = {}
    for each in roles:
        if not target.plan.hosts_of(each):
            continue
        if not json:
            print(f"\n=== {each}", flush=True)
        command = [sys.executable, "-m", "pyinfra", "inventory.py", f"deploys/{each}.py", *arguments]
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
    help={"role": ROLE_HELP, "junit": "write the results to this file as JUnit XML"},
)
def verify(_: Context, role: str | None = None, junit: str = "") -> None:
    """Prove the planned state with checks on the hosts and real packets; ends with a table.

    Exit code: 0 all good, 1 something is wrong, 2 nothing was checked.
    """
    roles = _roles(role)
    with report_and_exit():
        target = current()
    raise Exit(code=verification.run(target, roles, Path(junit) if junit else None))


@task(help={"suite": "Debian release of the lab's hosts"})
def demo(_: Context, suite: str = control.DEFAULT_SUITE) -> None:
    """See it work: install what the lab needs, bring the lab up, deploy every role, verify the site."""
    begin = time.monotonic()
    with report_and_exit():
        machine.install_requirements()
    invoke = [sys.executable, "-m", "invoke"]
    # Processes of their own: a command with target lab moves into the lab's network and stays there.
    for step in (["lab.up", "--suite", suite], ["deploy"], ["verify"]):
        print(f"\n### invoke {' '.join(step)}", flush=True)
        done = subprocess.run([*invoke, *step], cwd=REPO, check=False)
        if done.returncode != 0:
            raise Exit(f"error: the demo stopped at `invoke {' '.join(step)}`: see above", code=1)
    print(f"\nThe site works, after {time.monotonic() - begin:.0f} s. Look around:")
    print("  ./inv plan                     what was planned, rule by rule")
    print("  ./inv lab.shell                a shell on the workstation; try: curl http://LB/healthz")
    print("  ./inv lab.run gateway 'iptables-save'")
    print("  ./inv lab.down                 take it all away")


@task
def test(_: Context) -> None:
    """Run everything that CI runs: lint, types, unit and golden tests, the lab on Debian 13 and 12, mutations."""
    with report_and_exit():
        machine.install_requirements()
    raise Exit(code=checks.run())
