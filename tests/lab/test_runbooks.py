"""Every page of docs/runbooks, executed on the deployed site as an operator would, and its outputs compared.

A page begins and ends with the site as planned: each ends with a green `./inv verify`. So one may follow the other, in
any order; only after one that fails the site is healed and deployed.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import blueprint, control, fault
from lab.state import LabState
from tests.lab.commands import CLEAN, inside, invoke
from tests.lab.runbook import Command, Edit, LabStep, Page, Step, difference, edited, read
from underlay.plan import REPO, Plan, load

PLAN = REPO / "group_data" / "all.py"
FOLDER = REPO / "docs" / "runbooks"
PAGES = [path for path in sorted(FOLDER.glob("*.md")) if path.name != "README.md"]
SECONDS = 240
"""For one command."""
TASKS: dict[str, Callable[..., object]] = {
    "run": inside,
    "off": control.power_off,
    "on": control.power_on,
    "reboot": control.reboot,
    "remove": control.remove,
    "replace": control.replace,
    "fault": lambda name: fault.inject(name, load(PLAN)),
    "heal": lambda: fault.heal(load(PLAN)),
}
"""What is done in this process, to save its start; the rest is `invoke lab.TASK`."""


class Play:
    """One page on its way: the operator's plan is a copy, so that a page may change it."""

    def __init__(self, folder: Path, say: Callable[[str], None] = print) -> None:
        self.folder = folder
        self.say = say
        shutil.copytree(REPO / "group_data", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        self.plan = folder / "all.py"

    def page(self, page: Page) -> None:
        """Execute a page up to its end, or to the first step that does not do what the page says."""
        for step in page.steps:
            begun = time.monotonic()
            self._step(step, f"{page.path.name}:{step.line}")
            what = step.text if isinstance(step, Command) else f"({step})"
            self.say(f"{time.monotonic() - begun:6.1f} s  {what}")

    def _step(self, step: Step, where: str) -> None:
        match step:
            case Command():
                code, seen = self._run(step.text)
                wrong = difference(step.output, seen)
                if code != step.exit or wrong:
                    pytest.fail(f"{where}: {step.text}: exit code {code}, expected {step.exit}\n{wrong}", pytrace=False)
            case Edit():
                path = self.folder / Path(step.path).name
                path.write_text(edited(path.read_text(), step))
            case LabStep(task=task, arguments=arguments) if task in TASKS:
                TASKS[task](*arguments)
            case LabStep():
                invoke(f"lab.{step.task}", *step.arguments, UNDERLAY_PLAN=str(self.plan))

    def _run(self, command: str) -> tuple[int, str]:
        """Exit code, and what a terminal would show, with the plan where a reader has it."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=REPO,
            env=CLEAN | {"UNDERLAY_PLAN": str(self.plan)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        output = done.stdout
        for shown, real in (("--- a/", "--- "), ("+++ b/", "+++ "), ("", "")):
            output = output.replace(f"{real}{self.folder}", f"{shown}group_data")
        return done.returncode, output


@pytest.fixture(scope="module")
def seconds(request: pytest.FixtureRequest) -> Iterator[dict[str, float]]:
    """What each page took; printed at the end."""
    found: dict[str, float] = {}
    yield found
    lines = [f"  {took:6.1f} s  {name}" for name, took in found.items()]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n".join(["", "runbooks:", *lines, f"  {sum(found.values()):6.1f} s  all pages"]))


LONG = (
    *("add-node", "add-published-host", "rotate-keys"),
    *("slow-connections", "replace-gateway", "api-unreachable", "upgrade-debian"),
)
"""Pages that take long, of which other tests in CI have the parts."""


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=pytest.mark.long if path.stem in LONG else ()) for path in PAGES],
)
def test_page(path: Path, deployed: LabState, plan: Plan, tmp_path: Path, seconds: dict[str, float]) -> None:
    """A page does what it says, and ends with the site as planned."""
    begun = time.monotonic()
    good = False
    try:
        Play(tmp_path).page(read(path))
        good = True
    finally:
        seconds[path.name] = time.monotonic() - begun
        if not good:
            heal(plan)


def heal(plan: Plan) -> None:
    """The site as planned again, whatever a page left."""
    fault.heal(plan)
    for name in {each.name for each in blueprint.load().machines} - {host.name for host in plan.hosts} - {"internet"}:
        control.remove(name)
    control.up(plan)
    invoke("deploy")
