"""The process with the connections, asked as pyinfra asks it: with an ssh that is made up."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_guard_apply import FLOWS, Agents, good
from tests.unit.test_inventory import target
from underlay.access.endpoints import Endpoint
from underlay.access.sessions import UnreachableError
from underlay.access.target import Target
from underlay.guard import apply, runner
from underlay.guard.apply import Guarded, Shared
from underlay.guard.change import Change
from underlay.observe.exchange import Outcome
from underlay.plan import REPO, load

# ssh [-n] -F CONFIG [OPTION …] HOST COMMAND; no connection is left from before.
SSH = """#!/bin/sh
case "$*" in *"-O check"*) exit 255;; esac
while [ "$1" != box ] && [ "$1" != dead ]; do shift; done
[ "$1" = box ] || { echo 'No route to host' >&2; exit 255; }
echo "$$" >> "$0.asked"
exec sh -c "$2"
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> runner.Worker:
    ssh = tmp_path / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    plan = load(REPO / "group_data" / "all.py")
    [address] = [host.primary.address for host in plan.hosts_of("master")]
    found = replace(target(plan), endpoints=(Endpoint("box", address), Endpoint("dead", address)))
    made = runner.Worker(found)
    monkeypatch.setattr(runner, "_workers", [made])
    return made


def test_what_is_asked_is_answered_at_the_same_time(worker: runner.Worker) -> None:
    assert worker.connect("box") is None
    assert "No route to host" in str(worker.connect("dead"))
    begun = time.monotonic()
    with ThreadPoolExecutor(30) as pool:
        done = list(pool.map(lambda n: worker.shell("box", f"cat; sleep 1; exit {n}", b"%d" % n, 20), range(30)))
    assert done == [(n, b"%d" % n, b"") for n in range(30)]
    assert time.monotonic() - begun < 15
    with pytest.raises(UnreachableError, match="box was reached, but not read: it said more than 16 MB"):
        worker.shell("box", "yes", b"", 60)
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        worker.shell("box", "sleep 20 & wait", b"", 0.5)  # what it started holds its output
    assert time.monotonic() - begun < 10


def test_a_worker_that_ends_is_told_to_all_that_wait(worker: runner.Worker) -> None:
    """And to whoever asks later; nobody hangs."""
    worker.connect("box")
    lines: list[str] = []
    with ThreadPoolExecutor() as pool:
        waits = pool.submit(worker.shell, "box", "sleep 20", b"", 20)
        time.sleep(0.5)
        worker._process.kill()
        with pytest.raises(UnreachableError, match="undoes by itself"):
            waits.result(5)
    assert not runner.run(worker.target, "box", Change(what=()), lines.append)
    assert len(lines) == 1
    assert "undoes by itself" in lines[0]


def test_a_worker_ends_with_whoever_started_it(worker: runner.Worker) -> None:
    assert worker._process.stdin is not None
    worker._process.stdin.close()
    assert worker._process.wait(10) == 0


# --- several changes at the same time -------------------------------------------------------------------------------


def test_what_is_asked_at_the_same_time_is_tried_together() -> None:
    """Ten that ask while the first is busy are one further round of connections, and each gets its own outcomes."""
    busy, go = threading.Event(), threading.Event()

    class Slow(Agents):
        def run(self, flows: Any) -> dict[Any, Outcome]:
            found = super().run(list(flows))
            busy.set()
            assert go.wait(10)
            return found

    agents = Slow()
    shared = Shared(agents)  # type: ignore[arg-type]
    with ThreadPoolExecutor(11) as pool:
        first = pool.submit(shared.run, FLOWS[:1])
        assert busy.wait(10)
        others = [pool.submit(shared.run, [FLOWS[n % 2 + 1]]) for n in range(10)]
        time.sleep(0.5)
        go.set()
        assert first.result(10) == {FLOWS[0]: good(FLOWS[0])}
        assert [other.result(10) for other in others] == [{FLOWS[n % 2 + 1]: good(FLOWS[n % 2 + 1])} for n in range(10)]
    assert len(agents.asked) == 2
    assert sorted(agents.asked[1]) == [1, 2]


def test_an_error_of_a_shared_try_is_everybodys() -> None:
    class Broken(Agents):
        def run(self, _: Any) -> dict[Any, Outcome]:
            raise RuntimeError("broken")

    shared = Shared(Broken())  # type: ignore[arg-type]
    with ThreadPoolExecutor() as pool:
        for each in [pool.submit(shared.run, FLOWS) for _ in range(5)]:
            with pytest.raises(RuntimeError):
                each.result(10)


class Ended:
    """What was said of changes, and how they ended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fate: Any) -> None:
        self.said: list[str] = []
        self.ends: dict[str, bool] = {}
        monkeypatch.setattr(apply, "_probes", lambda *_: FLOWS)
        monkeypatch.setattr(apply, "_exchange", lambda *_: Agents())
        monkeypatch.setattr(Guarded, "_make", lambda guarded, *_: fate(guarded))

    def guarded(self, site: Target, host: str) -> Guarded:
        return Guarded(site, host, Change(what=()), self.said.append, lambda end: self.ends.update({host: end}))


SITE = target(load(REPO / "group_data" / "all.py"))


def test_one_that_fails_in_an_unforeseen_way_is_told_and_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fate(guarded: Guarded) -> bool:
        if guarded.host == "lb":
            raise ZeroDivisionError("unforeseen")
        return guarded.host == "gateway"

    ended = Ended(monkeypatch, fate)
    apply.make_all(SITE, [ended.guarded(SITE, host) for host in ("gateway", "jumphost", "lb")])
    assert ended.ends == {"gateway": True, "jumphost": False, "lb": False}
    assert "ZeroDivisionError: unforeseen" in "".join(ended.said)


def test_one_that_waits_for_its_hosts_timer_does_not_hold_up_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def fate(guarded: Guarded) -> bool:
        if guarded.host == "lb":
            guarded.settled.set()
            over.wait(10)
        return True

    ended = Ended(monkeypatch, fate)
    lost = ended.guarded(SITE, "lb")
    apply.make_all(SITE, [ended.guarded(SITE, "gateway"), lost])
    assert ended.ends == {"gateway": True}
    over.set()
    assert lost.thread is not None
    lost.thread.join(10)
    assert ended.ends == {"gateway": True, "lb": True}


def test_a_try_before_the_changes_that_breaks_ends_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Ended(monkeypatch, lambda _: True)
    monkeypatch.setattr(apply, "_exchange", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        apply.make_all(SITE, [ended.guarded(SITE, host) for host in ("gateway", "lb")])
    assert ended.ends == {"gateway": False, "lb": False}
