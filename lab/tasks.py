"""The tasks `lab.*`. Thin: `lab.control` does the work, imported by the task that needs it."""

import subprocess
import sys
import time
from json import dumps

from invoke import Exit
from invoke.collection import Collection
from invoke.context import Context
from invoke.tasks import task

from lab.flavour import DEFAULT, FLAVOURS, MIXED
from lab.state import SUITES
from underlay import plan as plans
from underlay import programs
from underlay.commands import parameters
from underlay.errors import COULD_NOT, report_and_exit

SUITE_HELP = (
    f"Debian release of the hosts: {' or '.join(SUITES)} (default: that of the lab that is up, else {SUITES[0]})"
)

VM_HELP = "hosts that are machines of their own (qemu), separated by commas (default: those of the lab that is up)"

HOSTS_HELP = (
    f"how the hosts' network was set up: {', '.join(FLAVOURS)} or {MIXED} (default: as in the lab that is up, else "
    f"{DEFAULT})"
)


@task(help={"suite": SUITE_HELP, "hosts": HOSTS_HELP, "vm": VM_HELP})
@report_and_exit()
def up(_: Context, suite: str | None = None, hosts: str | None = None, vm: str | None = None) -> None:
    """Bring the lab up: every host of the plan, as it is after its installation. Leaves a lab that is up as it is."""
    from lab import control

    control.up(plans.load(), suite, hosts=hosts, vms=parameters.several(vm) if vm else None)


@task(help={"purge": "remove the cached images too: the next `lab.up` builds them again"})
@report_and_exit()
def down(_: Context, purge: bool = False) -> None:
    """Take the lab down; nothing of it stays on the machine but the cached images."""
    from lab import control

    control.down(purge)


@task(help={"suite": SUITE_HELP, "hosts": HOSTS_HELP, "vm": VM_HELP})
@report_and_exit()
def reset(_: Context, suite: str | None = None, hosts: str | None = None, vm: str | None = None) -> None:
    """Bring the lab up with fresh disks and the plan as it is now."""
    from lab import control

    control.reset(plans.load(), suite, hosts=hosts, vms=parameters.several(vm) if vm else None)


@task(help={"json": "as JSON, for programs"})
@report_and_exit()
def status(_: Context, json: bool = False) -> None:
    """Show the lab's hosts and their state."""
    from lab import control

    found = control.status()
    print(found.model_dump_json(indent=2) if json else found.table())


@task(help={"host": "name of a host of the lab", "command": "a command line for its shell"})
@report_and_exit()
def run(_: Context, host: str, command: str) -> None:
    """Run a command as root inside a host; its output and exit code are the command's."""
    from lab import control

    sys.exit(control.run(host, command, capture=False).returncode)


@task(help={"host": "name of a host of the lab"})
@report_and_exit()
def shell(_: Context, host: str = "dev") -> None:
    """Open a shell as root inside a host."""
    from lab import control

    sys.exit(control.shell(host))


@task(help={"host": "name of a host of the lab"})
@report_and_exit()
def reboot(_: Context, host: str) -> None:
    """Cut a host's power and boot it from disk: what was only set in its running kernel is gone."""
    from lab import control

    control.reboot(host)


@task
@report_and_exit()
def add(_: Context) -> None:
    """Install and boot the hosts of the plan that the lab does not have yet."""
    from lab import control

    control.add(plans.load())


@task(help={"host": "name of a host of the lab"})
@report_and_exit()
def remove(_: Context, host: str) -> None:
    """Take a host out of the lab, with its disk; `lab.add` would install it anew."""
    from lab import control

    control.remove(host)


@task(help={"host": "name of a host of the lab"})
@report_and_exit()
def replace(_: Context, host: str) -> None:
    """Put a new machine in the place of a host: as an installer leaves it; other MACs, a new, known, host key."""
    from lab import control

    control.replace(host)


@task(
    positional=["name"],
    optional=["name"],
    help={"name": "a fault of lab/faults; without it, all of them", "json": "as JSON, for programs"},
)
@report_and_exit()
def fault(_: Context, name: str | None = None, json: bool = False) -> None:
    """Break the lab on purpose: `./inv doctor` finds it, `./inv lab.heal` takes it back. Without NAME, list the faults.

    One fault at a time in each place: another is refused until it is healed.
    """
    from lab import fault as faults

    if name:
        print(f"injected {name}: {faults.inject(name, plans.load()).what}")
        return
    found = faults.catalogue()
    if json:
        print(dumps({each.name: each.model_dump() for each in found.values()}, indent=2))
        return
    there = {each.name for each in faults.injected()}
    width = max(map(len, found))
    for each in found.values():
        print(f"{'*' if each.name in there else ' '} {each.name:{width}}  {each.what}")


@task
@report_and_exit()
def heal(_: Context) -> None:
    """Take back the faults that `lab.fault` made, whether the site was fixed meanwhile or not."""
    from lab import fault as faults

    found = faults.heal(plans.load())
    names = ", ".join(each.name for each in found)
    print(f"healed {names}" if found else "nothing to heal: the lab has no fault that `lab.fault` made")


@task(help={"suite": "Debian release of the lab's hosts"})
def demo(_: Context, suite: str = SUITES[0]) -> None:
    """See it work: install what the lab needs, bring the lab up, deploy every role, verify the site.

    Exit code: 0 the site works; 1 a step failed: its own words are above.
    """
    from lab import machine

    begin = time.monotonic()
    with report_and_exit():
        parameters.one_of("suite", suite, SUITES)
        machine.install(programs.COMMANDS | programs.LAB)
    invoke = [sys.executable, "-m", "invoke"]
    # Processes of their own: a command with target lab moves into the lab's network and stays there.
    for step in (["lab.up", "--suite", suite], ["deploy"], ["verify"]):
        print(f"\n### invoke {' '.join(step)}", flush=True)
        done = subprocess.run([*invoke, *step], cwd=plans.REPO, check=False)
        if done.returncode != 0:
            raise Exit(f"error: the demo stopped at `invoke {' '.join(step)}`: see above", code=COULD_NOT)
    print(f"\nThe site works, after {time.monotonic() - begin:.0f} s. Look around:")
    print("  ./inv plan                     what was planned, rule by rule")
    print("  ./inv drift                    what differs from the plan on the hosts")
    print("  ./inv lab.shell                a shell on the workstation of the site")
    print("  ./inv lab.run gateway 'iptables-save'")
    print("  ./inv lab.down                 take it all away")


namespace = Collection("lab", up, down, reset, status, run, shell, reboot, add, remove, replace, fault, heal)
