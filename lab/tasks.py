"""The tasks `lab.*`. Thin: `lab.control` does the work."""

import sys
from collections.abc import Callable
from functools import wraps
from json import dumps
from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from lab import control, image
from lab import fault as faults
from lab.process import LabError
from underlay import plan as plans

SUITE_HELP = (
    f"Debian release of the hosts: {' or '.join(image.SUITES)} "
    f"(default: that of the lab that is up, else {control.DEFAULT_SUITE})"
)


def _explained(body: Callable[..., None]) -> Callable[..., None]:
    """Show a person's error as its own text and exit 1; anything else is a bug and keeps its traceback."""

    @wraps(body)
    def explained(*args: Any, **kwargs: Any) -> None:
        try:
            body(*args, **kwargs)
        except (LabError, plans.PlanError) as error:
            raise Exit(str(error), code=1) from None
        except KeyboardInterrupt:
            raise Exit("interrupted", code=130) from None

    return explained


@task(help={"suite": SUITE_HELP})
@_explained
def up(_: Context, suite: str | None = None) -> None:
    """Bring the lab up: every host of the plan, as it is after its installation. Leaves a lab that is up as it is."""
    control.up(plans.load(), suite)


@task(help={"purge": "remove the cached images too: the next `lab.up` builds them again"})
@_explained
def down(_: Context, purge: bool = False) -> None:
    """Take the lab down; nothing of it stays on the machine but the cached images."""
    control.down(purge)


@task(help={"suite": SUITE_HELP})
@_explained
def reset(_: Context, suite: str | None = None) -> None:
    """Bring the lab up with fresh disks and the plan as it is now."""
    control.reset(plans.load(), suite)


@task(help={"json": "as JSON, for programs"})
@_explained
def status(_: Context, json: bool = False) -> None:
    """Show the lab's hosts and their state."""
    found = control.status()
    print(found.model_dump_json(indent=2) if json else found.table())


@task(help={"host": "name of a host of the lab", "command": "a command line for its shell"})
@_explained
def run(_: Context, host: str, command: str) -> None:
    """Run a command as root inside a host; its output and exit code are the command's."""
    sys.exit(control.run(host, command, capture=False).returncode)


@task(help={"host": "name of a host of the lab"})
@_explained
def shell(_: Context, host: str = "dev") -> None:
    """Open a shell as root inside a host."""
    sys.exit(control.shell(host))


@task(help={"host": "name of a host of the lab"})
@_explained
def reboot(_: Context, host: str) -> None:
    """Cut a host's power and boot it from disk: what was only set in its running kernel is gone."""
    control.reboot(host)


@task(
    positional=["name"],
    optional=["name"],
    help={"name": "a fault of lab/faults; without it, all of them", "json": "as JSON, for programs"},
)
@_explained
def fault(_: Context, name: str | None = None, json: bool = False) -> None:
    """Break the lab on purpose: `./inv doctor` finds it, `./inv lab.heal` takes it back. Without NAME, list the faults.

    One fault at a time: another is refused until it is healed.
    """
    if name:
        print(f"injected {name}: {faults.inject(name, plans.load()).what}")
        return
    found = faults.catalogue()
    if json:
        print(dumps({each.name: each.model_dump() for each in found.values()}, indent=2))
        return
    there = faults.injected()
    width = max(map(len, found))
    for each in found.values():
        print(f"{'*' if each == there else ' '} {each.name:{width}}  {each.what}")


@task
@_explained
def heal(_: Context) -> None:
    """Take back the fault that `lab.fault` made, whether the site was mended meanwhile or not."""
    found = faults.heal(plans.load())
    print(f"healed {found.name}" if found else "nothing to heal: the lab has no fault that `lab.fault` made")


namespace = Collection("lab", up, down, reset, status, run, shell, reboot, fault, heal)
