"""`./inv plan`."""

from json import dumps

from invoke import Context, task

from underlay.errors import report_and_exit
from underlay.plan import load, roles


@task(help={"json": "as JSON"})
@report_and_exit()
def plan(_: Context, json: bool = False) -> None:
    """Show the plan: networks, hosts, published addresses, and each gateway rule with the plan line it comes from.

    Exit code: 0 shown; 1 the plan, or the file of a role, has errors, which are told.
    """
    from underlay.report import tables

    found = load()
    roles.check(found)
    if json:
        print(dumps(tables.document(found), indent=2))
    else:
        tables.show(found)
