"""The lab's coming and going, however it is ended. These tests take the session's lab down, so they run last."""

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import control, host, image, machine, network
from lab.process import LabError, wait_until
from lab.state import IMAGES, NAME, RUNTIME, VARIABLE, LabState, load
from tests.lab.commands import invoke
from underlay.plan import REPO, Plan

Snapshot = dict[str, str]
UP = "from lab import control; from underlay import plan; control.up(plan.load())"
BUILD = "from lab import image; image.image = lambda suite: image.IMAGES / f'{suite}-test'; " + UP


@pytest.fixture(autouse=True)
def no_lab(lab: LabState) -> Iterator[None]:
    """Start and end without a lab (the session's has made sure of an image)."""
    control.down()
    yield
    control.down()


def leftovers() -> list[str]:
    """What a lab that is down may not have: namespaces, mounts, processes, control groups, files but the images."""
    found = [str(path) for path in (*network.namespaces(), *machine.mounts_below(host.HOSTS))]
    found += [str(path) for path in VARIABLE.glob("*") if path != IMAGES]
    found += [str(path) for path in IMAGES.glob(f".*{image.UNFINISHED}")]
    found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/{machine.ROOT}")]
    found += [str(path) for path in host.NSPAWN.glob(f"*/{network.PREFIX}*")]
    found += [str(RUNTIME)] if RUNTIME.exists() else []
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_text().split("\0")
        except OSError:
            continue
        if any(f"--machine={network.PREFIX}" in word or image.UNFINISHED in word for word in command):
            found.append(" ".join(command))
    return found


def start(program: str, checkout: Path = REPO) -> subprocess.Popen[str]:
    """A Python program in a process of its own."""
    return subprocess.Popen([sys.executable, "-c", program], cwd=checkout, stderr=subprocess.PIPE, text=True)


def test_down_leaves_nothing(plan: Plan, machine_before: Snapshot, snapshot: Callable[[], Snapshot]) -> None:
    control.up(plan)
    there = [Path(f"/proc/{pid}") for pid in machine.processes_below(machine.cgroup_root())]
    assert len(there) > len(plan.hosts)
    control.down()
    assert [process for process in there if process.exists()] == []
    assert leftovers() == []
    assert snapshot() == machine_before


def test_down_ends_what_runs_in_the_lab_from_outside(plan: Plan) -> None:
    state = control.up(plan)
    guest = subprocess.Popen(["nsenter", f"--net={state.hosts['dev'].netns}", "sleep", "600"])
    assert wait_until(lambda: guest.pid in machine.processes_in({machine.namespace(network.netns("dev"))}), seconds=5)
    control.down()
    assert guest.wait(timeout=5) == -signal.SIGKILL


def test_down_without_a_lab_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    control.down()
    assert "the lab was down already" in capsys.readouterr().err
    with pytest.raises(LabError, match=r"the lab is not up: start it with `./inv lab\.up`"):
        control.run("dev", "true")
    assert control.status().state == "down"


def test_up_again_changes_nothing(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    first = control.up(plan)
    assert control.up(plan) == first
    assert "the lab is up already" in capsys.readouterr().err


def test_reset_gives_fresh_disks_and_keys(plan: Plan) -> None:
    before = control.up(plan).known_hosts.read_text()
    control.run("dev", "touch /root/mark")
    state = control.reset(plan)
    assert control.run("dev", "test -e /root/mark").returncode == 1
    assert state.known_hosts.read_text() != before


MOMENTS: dict[str, tuple[str, Callable[[], bool]]] = {
    "record written": (UP, lambda: load() is not None),
    "keys made": (UP, (RUNTIME / "known_hosts").exists),
    "switch made": (UP, lambda: len(network.namespaces()) > 0),
    "disks mounted": (UP, lambda: len(machine.mounts_below(host.HOSTS)) > 2),
    "hosts started": (UP, lambda: len(network.namespaces()) > 4),
    "hosts booting": (UP, lambda: host.leader("lb") is not None),
    "image begun": (BUILD, lambda: any(IMAGES.glob(f".*{image.UNFINISHED}/root/proc"))),
}


@pytest.mark.parametrize("how", ["up", "down"])
@pytest.mark.parametrize(
    "moment", [pytest.param(each, marks=pytest.mark.long if each.startswith("image") else ()) for each in MOMENTS]
)
def test_a_killed_up_is_fixed(moment: str, how: str, plan: Plan) -> None:
    """1. kill -9 in the middle; 2. `up` works, or `down` leaves nothing; 3. `down` leaves nothing."""
    program, reached = MOMENTS[moment]
    process = start(program)
    assert wait_until(reached, seconds=60, every=0.001), process.communicate()
    process.kill()
    process.communicate()
    # Not at once: a process that it was about to start may have its lock for a moment.
    assert wait_until(lambda: control.status().state == "broken", seconds=5)
    if how == "up":
        state = control.up(plan)
        assert {each.state for each in control.status().hosts} == {"running"}
        assert state.complete
    control.down()
    assert leftovers() == []


def test_an_interrupted_up_cleans_up_itself() -> None:
    process = start(UP)
    assert wait_until(lambda: len(network.namespaces()) > 4, seconds=60)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "taking down what was begun" in said
    assert leftovers() == []


def test_an_up_that_fails_names_the_host_and_cleans_up(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "BOOT_SECONDS", 0.1)
    with pytest.raises(LabError, match=r"host '\w+' is not ready after 0 s, its systemd is \w+: see .*\.log") as error:
        control.up(plan)
    assert len(str(error.value).splitlines()) > 1
    assert leftovers() == []


# --- two labs -----------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_further_lab_has_everything_of_its_own(plan: Plan) -> None:
    """1. two labs are up; 2. one is cut off and taken down; 3. the other has not noticed."""
    mine = control.up(plan)

    def other(*arguments: str) -> str:
        return invoke(*arguments, UNDERLAY_LAB=f"{NAME}x").stdout

    try:
        other("lab.up")
        assert "owned by" in other("lab.status")
        assert other("lab.run", "dev", "hostname; touch /root/theirs").strip() == "dev"
        assert control.run("dev", "test -e /root/theirs").returncode == 1
    finally:
        other("lab.down")
    assert other("lab.status").startswith("the lab is down")
    assert load() == mine
    assert {each.state for each in control.status().hosts} == {"running"}


# --- two checkouts --------------------------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another checkout of this repo."""
    for name in ("lab", "underlay", "group_data"):
        shutil.copytree(REPO / name, tmp_path / "other" / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "requirements.txt", tmp_path / "other")
    return tmp_path / "other"


def up_in(checkout: Path) -> None:
    process = start(UP, checkout)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said


def test_the_lab_of_another_checkout_is_left_alone(plan: Plan, other: Path) -> None:
    up_in(other)
    attempts: list[Callable[[], object]] = [
        lambda: control.up(plan),
        lambda: control.reset(plan),
        control.down,
        lambda: control.reboot("dev"),
        lambda: control.run("dev", "true"),
    ]
    for attempt in attempts:
        with pytest.raises(LabError, match=rf"belongs to {other}: take it down there first \(cd {other} && ./inv"):
            attempt()
    assert control.status().checkout == other
    assert {each.state for each in control.status().hosts} == {"running"}
    shutil.rmtree(other)
    control.down()


def test_the_lab_of_a_checkout_that_is_gone_is_taken_over(plan: Plan, other: Path) -> None:
    up_in(other)
    shutil.rmtree(other)
    assert control.up(plan).checkout == REPO
    assert control.run("dev", "true").returncode == 0


def test_the_record_of_a_lab_that_died_binds_nobody(plan: Plan, other: Path) -> None:
    """The other checkout is there, but nothing of its lab runs: only its record was left."""
    up_in(other)
    machine.kill_cgroup()
    for path in network.namespaces():
        network.remove(path)
    assert control.up(plan).checkout == REPO
