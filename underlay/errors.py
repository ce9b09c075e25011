"""How a mistake of a person is told: one report on stderr, exit code 1, no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class OperatorError(Exception):
    """What a person can fix; `str()` says what, where and how, in one line unless its class says otherwise."""


@contextmanager
def report_and_exit() -> Iterator[None]:
    """Turn an OperatorError into its text and exit code 1; Ctrl-C into exit code 130."""
    try:
        yield
    except OperatorError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
