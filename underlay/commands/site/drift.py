"""`./inv drift`."""

from dataclasses import asdict
from json import dumps

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.commands import parameters
from underlay.errors import exit_code, report_and_exit


@task(
    positional=["role"],
    optional=["role"],
    help={
        "role": parameters.ROLE_HELP,
        "json": "as JSON: host → its differences, or the reason why it could not be read",
    },
)
@report_and_exit()
def drift(_: Context, role: str | None = None, json: bool = False) -> None:
    """Show what differs from the plan on the hosts, live and on disk; changes nothing.

    What others put there is shown, and is no drift. Exit code: 0 nothing; 2 drift; 1 none was seen, but a host could
    not be read.
    """
    from underlay.observe import drift as drifts
    from underlay.report import differences as shown

    roles = parameters.roles(role)
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
        shown.show_drift(differences, unread)
    raise Exit(code=exit_code(wrong=[each for each in differences if each.kind != "unmanaged"], unread=unread))
