"""pyinfra's dry run, with an exit code that says whether something would change: its own is 0 in both cases.

`python -m underlay.commands.site.dry_run` takes pyinfra's arguments, and prints what pyinfra prints.
"""

import sys

from pyinfra.context import ctx_state
from pyinfra_cli import cli
from pyinfra_cli.main import main
from pyinfra_cli.prints import build_plan_json

from underlay.errors import exit_code


def run() -> int:
    """The exit code."""
    # It would ask whether to go on without a host that can't be reached: nothing is changed, so it goes on.
    cli._do_confirm = lambda _: True
    failed: object = None
    try:
        main()
    except SystemExit as end:
        failed = end.code
    # What pyinfra has for any kind of operation, as it prints it with --json. What is conditional follows from others.
    state = ctx_state.get() if ctx_state.isset() else None  # type: ignore[no-untyped-call]
    operations = build_plan_json(state) if state else []
    return exit_code(wrong=[each for each in operations if each["hosts_with_change"]], unread=failed)


if __name__ == "__main__":
    sys.exit(run())
