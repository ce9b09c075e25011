"""How a command ends: the exit codes of all of them, and a mistake of a person as one report without a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from underlay.text import is_blank, shown_safely

GOOD = 0
"""As it should be, or done."""
COULD_NOT = 1
"""Could not be done or looked at: a mistake in a command or the plan, a host that can't be reached."""
WRONG = 2
"""Looked at, and something is wrong or would change; done, but not with all of it."""
INTERRUPTED = 130
"""Ended by Ctrl-C, in the way of shells."""


def exit_code(*, wrong: object, unread: object) -> int:
    """The exit code of a look at the site: what is wrong counts for more than what could not be looked at."""
    return WRONG if wrong else COULD_NOT if unread else GOOD


class OperatorError(Exception):
    """What a person can fix; `str()` says what, where and how, in one line unless its class says otherwise."""


@contextmanager
def report_and_exit() -> Iterator[None]:
    """Turn an OperatorError into its text and exit code COULD_NOT, Ctrl-C into INTERRUPTED.

    It is around every command: what is printed meanwhile is only shown, whoever wrote it (see `text`).
    """
    with shown_safely():
        try:
            _no_empty_variables()
            yield
        except OperatorError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(COULD_NOT) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None


def _no_empty_variables() -> None:
    for name, value in os.environ.items():
        if name.startswith("UNDERLAY_") and is_blank(value):
            raise OperatorError(f"{name} is set, but empty: unset it, or say what is meant")
