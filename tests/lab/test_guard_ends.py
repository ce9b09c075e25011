"""A deploy that ends at any moment: the host is as it was, or as a change made it that was confirmed.

    start ── change 1 pending ── confirmed ── change 2 pending ── confirmed ── end
          A                   B            C                   D            E

The deploy publishes one more host: its address on the gateway is one guarded change, the rules are another. Moments are
fractions of the five stretches; how long each is, a deploy tells that goes through.
"""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from lab import control
from lab.process import wait_until
from lab.state import LabState
from tests.lab.commands import invoke
from tests.lab.test_guard import MORE, SLACK, dump, finish, idle, kill, start, write_plan
from tests.lab.test_guard_agent import Guard, differing
from underlay.remote.guard import paths

TABLE = "the operator's command killed, and the gateway's power cut:"
HOST = "gateway"
TIMER = 8
STRETCHES = "ABCDE"

pytestmark = pytest.mark.long


@dataclass
class Deploy:
    """The deploy that is cut off, and what it makes of the gateway.

    folder: the guard's on the gateway, as this machine sees it
    states: what the gateway is before, after the first change, after both
    lasts: the seconds of each stretch
    """

    plan: str
    folder: Path
    states: list[str]
    lasts: list[float]
    first: int = 0

    def start(self) -> subprocess.Popen[str]:
        """Begin it, as an operator does."""
        numbers = [int(path.name) for path in self.folder.glob("history/*")]
        self.first = max(numbers, default=0) + 1
        arguments = ["deploy", HOST, "--rollback-after", str(TIMER)]
        return start(["-m", "invoke", *arguments], UNDERLAY_PLAN=self.plan)

    def confirmed(self) -> int:
        """How many of its changes are confirmed."""
        return sum(int(path.parent.name) >= self.first for path in self.folder.glob("history/*/entry.json"))

    def stretch(self) -> int:
        """In which stretch it is, by what is to be seen on the gateway."""
        return 2 * self.confirmed() + (self.folder / "pending").exists()

    def reach(self, stretch: int, fraction: float) -> subprocess.Popen[str]:
        """Begin it, and return at a moment of it."""
        process = self.start()
        assert wait_until(lambda: self.stretch() >= stretch or process.poll() is not None, seconds=90)
        time.sleep(self.lasts[stretch] * fraction)
        return process

    def put_back(self) -> None:
        """Make the gateway what it was before."""
        if self.confirmed():
            guard = Guard(HOST)
            token, answer = guard.begin({"restore": self.first})
            assert answer.get("state") == "pending", answer
            assert guard.ask("confirm", token)["state"] == "confirmed"


@pytest.fixture(scope="module")
def deploy(deployed: LabState, tmp_path_factory: pytest.TempPathFactory) -> Deploy:
    """One that goes through, timed and taken back step by step."""
    plan = write_plan(tmp_path_factory.mktemp("more"), MORE)
    found = Deploy(plan, deployed.hosts[HOST].root / paths.GUARD.relative_to("/"), [dump(HOST)], [])
    process = found.start()
    at = [time.monotonic()]
    while process.poll() is None:
        at += [time.monotonic()] * (found.stretch() + 1 - len(at))
        time.sleep(0.02)
    at += [time.monotonic()] * (len(STRETCHES) + 1 - len(at))
    assert process.returncode == 0, process.communicate()[0]
    found.lasts = [end - begin for begin, end in pairwise(at)]
    after = dump(HOST)
    invoke("rollback", HOST)
    found.states += [dump(HOST), after]
    found.put_back()
    assert differing(found.states[0], dump(HOST)) == ""
    assert len({*found.states}) == 3
    return found


def quiet() -> bool:
    """Whether nothing is pending, and nothing that was sent is about to begin."""
    return idle(HOST) and control.run(HOST, "pgrep -f '[b]egin$'").returncode == 1


def settled() -> bool:
    """Whether the gateway is quiet in time, and stays so."""
    for _ in range(2):
        if not wait_until(quiet, seconds=TIMER + SLACK, every=0.2):
            return False
        time.sleep(0.5)
    return True


def spread(*counts: int) -> Iterator[tuple[int, float]]:
    """So many moments of each stretch."""
    for stretch, count in enumerate(counts):
        for number in range(count):
            yield stretch, (number + 0.5) / count


def verdict(deploy: Deploy, states: list[str], what: str, took: float, table: list[str]) -> str:
    """Compare the gateway with the state that it must be in, and put it back; empty if it is in that state."""
    confirmed = deploy.confirmed()
    wrong = differing(states[confirmed], dump(HOST))
    name = ("old", "new after change 1", "new")[confirmed]
    table.append(f"  {what}: {'BETWEEN' if wrong else name}, after {took:.1f} s")
    deploy.put_back()
    return f"{what}, not {name}:\n{wrong}" if wrong else ""


def test_kill_at_any_moment(deploy: Deploy, table: list[str]) -> None:
    """
    1. `invoke deploy` runs, timer 8 s; 2. `kill -9` of it with all its processes, at 20 moments;
    3. within the timer the gateway is old, or new as far as it was confirmed; 4. in the end a deploy goes through.
    """
    wrong = []
    for stretch, fraction in spread(4, 6, 3, 6, 1):
        process = deploy.reach(stretch, fraction)
        now = STRETCHES[min(deploy.stretch(), 4)]
        kill(process)
        killed = time.monotonic()
        what = f"kill -9    at {STRETCHES[stretch]} {fraction:4.0%} ({now})"
        if not settled():
            wrong.append(f"{what}: it does not settle")
        wrong.append(verdict(deploy, deploy.states, what, time.monotonic() - killed, table))
    assert [each for each in wrong if each] == []
    code, output = finish(deploy.start(), 90)
    assert code == 0, output
    assert differing(deploy.states[2], dump(HOST)) == ""
    deploy.put_back()
    assert differing(deploy.states[0], dump(HOST)) == ""


@pytest.fixture(scope="module")
def booted(deploy: Deploy) -> list[str]:
    """The states of the gateway after a boot from each."""
    found = []
    for change in (0, 1, 2):
        if change:
            assert finish(deploy.start(), 90)[0] == 0
            if change == 1:
                invoke("rollback", HOST)
        control.reboot(HOST, patience=60)
        found.append(dump(HOST))
        if change:
            deploy.put_back()
    return found


def test_power_cut_at_any_moment(deploy: Deploy, booted: list[str], table: list[str]) -> None:
    """
    1. `invoke deploy` runs; 2. the gateway's power is cut at 10 moments, and it boots;
    3. the command ends by itself within timer and 15 s; 4. the gateway is what was confirmed last.
    """
    wrong = []
    for stretch, fraction in spread(2, 3, 1, 3, 1):
        process = deploy.reach(stretch, fraction)
        now = STRETCHES[min(deploy.stretch(), 4)]
        cut = time.monotonic()
        control.reboot(HOST, patience=60)
        code, _ = finish(process, TIMER + SLACK - (time.monotonic() - cut))
        took = time.monotonic() - cut
        what = f"power cut  at {STRETCHES[stretch]} {fraction:4.0%} ({now}), exit code {code}"
        if not settled():
            wrong.append(f"{what}: it does not settle")
        wrong.append(verdict(deploy, booted, what, took, table))
    assert [each for each in wrong if each] == []


@pytest.mark.parametrize("fraction", [0.3, 0.5, 0.7])
def test_silence_ends_in_time(deploy: Deploy, table: list[str], fraction: float) -> None:
    """The gateway loses its power while the deploy still reads, and stays off: the command ends by itself."""
    process = deploy.reach(0, fraction)
    cut = time.monotonic()
    control.power_off(HOST)
    try:
        code, output = finish(process, 120)
    finally:
        control.power_on(HOST)
    took = time.monotonic() - cut
    table.append(f"  power off  at A {fraction:4.0%}, exit code {code}, after {took:.1f} s")
    assert code == 1, output
    assert took < 30 + SLACK
