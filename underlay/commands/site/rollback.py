"""`./inv rollback`."""

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.commands import parameters
from underlay.errors import COULD_NOT, report_and_exit
from underlay.guard.change import Change, check_variables
from underlay.remote.guard.pending import KEPT


@task(
    positional=["host", "steps"],
    optional=["steps"],
    help={"host": "a host of the plan", "steps": "how many confirmed changes to go back; default 1"},
)
@report_and_exit()
def rollback(_: Context, host: str, steps: str | None = None) -> None:
    """Bring a host back to how it was some confirmed changes ago; guarded like any change, and itself in the history.

    Rules, addresses, routes, policy rules, sysctls and files. The plan stays: a later deploy brings it back. Exit code:
    0 done; 1 not done.
    """
    from underlay.guard import history as histories
    from underlay.guard import runner

    number = parameters.whole(steps or "1", 1, KEPT)
    check_variables()
    target = current()
    planned = parameters.host(target.plan, host)
    announce(target)
    [entries] = histories.read(target, [planned]).values()
    if isinstance(entries, Exception):
        raise entries
    first = histories.before(entries, planned.name, number)
    change = Change(what=(f"back to the state before change {first}",), restore=first)
    if not runner.run(target, planned.name, change, print):
        raise Exit(code=COULD_NOT)
