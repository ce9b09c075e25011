"""Reads the plan in force: `group_data/all.py`, or the file that UNDERLAY_PLAN names. It is read, never run.

That pyinfra does not run it either is `operations.inventory.run_no_data_files`.
"""

import os
import tempfile
from pathlib import Path

from underlay.plan.checks import Checker
from underlay.plan.datafile import PlanError, read_literals, report
from underlay.plan.literals import Literals
from underlay.plan.model import REPO, Plan


def plan_file() -> Path:
    """The plan file in force: what UNDERLAY_PLAN names, or the repo's own."""
    name = os.environ.get("UNDERLAY_PLAN")
    if name is None:
        return REPO / "group_data" / "all.py"
    # What a command starts runs in the repo's folder, and reads the same variable.
    path = os.environ["UNDERLAY_PLAN"] = os.path.abspath(name)
    return Path(path)


def load(path: Path | None = None) -> Plan:
    """Read and check a plan file (default: `plan_file()`). Raises PlanError with everything that is wrong with it."""
    path = Path(os.path.normpath((path or plan_file()).absolute()))
    return _checked(read_literals(path), path)


def load_text(text: str, path: Path) -> Plan:
    """Check a text, which is Python, as if it were that file, with the files beside it. Raises PlanError as `load`."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / path.name
        file.write_text(text)
        source = read_literals(file)
    return _checked(source, path)


def _checked(source: Literals, path: Path) -> Plan:
    checker = Checker(source)
    plan = checker.plan(path)
    if plan is None:
        raise PlanError(report(path, checker.problems))
    return plan
