"""`./inv deploy`."""

import os
import subprocess
import sys
from json import dumps, loads

from invoke import Context, Exit, task

from underlay.access.login import sudo
from underlay.access.target import current
from underlay.commands import parameters
from underlay.errors import GOOD, WRONG, OperatorError, exit_code, report_and_exit
from underlay.guard.change import MOST_SOAK, SECONDS, SECONDS_VARIABLE, SOAK_VARIABLE, check_variables
from underlay.plan import REPO, roles
from underlay.remote.guard.commands import LONGEST


@task(
    positional=["role"],
    optional=["role"],
    help={
        "role": parameters.ROLE_HELP,
        "dry": "show what would change, and change nothing",
        "json": "with --dry: as JSON, role → pyinfra's own",
        "rollback_after": f"seconds until a host undoes a change that was not confirmed; default {SECONDS}",
        "soak": "watch each change for so long (90s, 5m) before it is confirmed, with the timer armed",
    },
)
@report_and_exit()
def deploy(
    _: Context,
    role: str | None = None,
    dry: bool = False,
    json: bool = False,
    rollback_after: str = "",
    soak: str = "",
) -> None:
    """Bring the hosts of a role, or of all roles in their order, into the planned state.

    Exit code: 0 done; 1 a role failed, and later ones were left alone. With --dry: 0 nothing would change; 2 something
    would; 1 a host could not be looked at.
    """
    wanted = parameters.roles(role)
    if json and not dry:
        raise OperatorError("--json goes with --dry")
    # Here too, not in pyinfra alone: a bad plan, or bad data of any role, stops before the first role.
    target = current()
    roles.check(target.plan)
    if rollback_after:
        os.environ[SECONDS_VARIABLE] = str(parameters.whole(rollback_after, 1, LONGEST))
    if soak:
        os.environ[SOAK_VARIABLE] = str(parameters.duration(soak, MOST_SOAK))
    check_variables()
    command = [sys.executable, "-m", *(("underlay.commands.site.dry_run", "--dry") if dry else ("pyinfra", "-y"))]
    command += ["--json"] if json else []
    found: dict[str, object] = {}
    changing = False
    for each in wanted:
        if not target.plan.hosts_of(each):
            continue
        if not json:
            print(f"\n=== {each}", flush=True)
        argv = [*command, "inventory.py", f"deploys/{each}.py"]
        done = subprocess.run(
            argv,
            cwd=REPO,
            check=False,
            stdout=subprocess.PIPE if json else None,
            text=True,
            pass_fds=sudo.shared_files(),
        )
        changing |= dry and done.returncode == WRONG
        if done.returncode not in ((GOOD, WRONG) if dry else (GOOD,)):
            what, left = ("dry run", "not looked at") if dry else ("deploy", "left alone")
            raise Exit(
                f"error: the {what} of {each} failed: see above; later roles were {left}",
                code=exit_code(wrong=changing, unread=True),
            )
        if json:
            found[each] = loads(done.stdout)
    if json:
        print(dumps(found, indent=2))
    raise Exit(code=exit_code(wrong=changing, unread=False))
