"""How a mistake of a person is told: one report on stderr, exit code 1, no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lab.process import LabError
from underlay.history import HistoryError
from underlay.oncall.errors import OncallError
from underlay.oncall.trace_plan import TraceError
from underlay.plan import PlanError
from underlay.target import TargetError
from underlay.verify.links import UnreachableError
from underlay.verify.state import UnreadableError


@contextmanager
def report_and_exit() -> Iterator[None]:
    """Turn the errors that are a person's to mend into their text and exit code 1."""
    try:
        yield
    except (
        PlanError,
        TargetError,
        LabError,
        HistoryError,
        UnreachableError,
        UnreadableError,
        TraceError,
        OncallError,
    ) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
