"""`./inv add`."""

import sys

from invoke import Context, task

from underlay.commands import parameters
from underlay.errors import OperatorError, report_and_exit
from underlay.plan import NODES, MistakeError, PlanError, edit, load, load_text
from underlay.plan.model import shown_path
from underlay.plan.parts import further
from underlay.text import raw


@task(
    positional=["host"],
    iterable=["host"],
    help={"host": "the name of a new node; several, where their number counts", "role": f"one of {', '.join(NODES)}"},
)
@report_and_exit()
def add(_: Context, host: list[str], role: str = "worker") -> None:
    """Show the lines of the plan that further nodes take, each with a number that is free in all its networks.

    The plan is never edited: `./inv add worker-3 | git apply` does that; from then on the addresses stand there.
    Exit code: 0 shown; 1 a name is taken, no address is free, or the plan would have errors.
    """
    plan = load()
    parameters.one_of("role", role, NODES)
    if not host:
        raise OperatorError("no name is given: ./inv add worker-3")
    try:
        new = further.with_nodes(plan, role, list(dict.fromkeys(host)))
        load_text(new, plan.source)
    except MistakeError as error:
        raise OperatorError(f"{error}: {error.fix}") from None
    except PlanError as error:
        raise OperatorError(str(error).replace(shown_path(plan.source), "the plan with these lines", 1)) from None
    # `git apply` takes it as it is.
    print(edit.difference(plan.source, new), end="", file=raw(sys.stdout))
