"""What the operator's side of a guarded change makes of what it sees after it, with agents that are made up."""

import json
import time
from contextlib import nullcontext
from typing import Any

import pytest

from underlay.desired import traffic
from underlay.desired.traffic import Flow
from underlay.guard import apply, history
from underlay.guard.change import Change
from underlay.guard.history import HistoryError
from underlay.observe.exchange import Outcome
from underlay.plan import REPO, load
from underlay.remote import probe

FLOWS = traffic.expected(load(REPO / "group_data" / "all.py"), None)[:3]
FAILED, UNASKED = Outcome(error="no answer within 3 s"), Outcome(error="it is gone", unasked=True)


class Agents:
    """Give what is made up: for each time that they are asked, flow number → outcome; all others are good."""

    def __init__(self, *times: dict[int, Outcome]) -> None:
        self.times = list(times)
        self.asked: list[list[int]] = []

    def run(self, flows: list[Flow]) -> dict[Flow, Outcome]:
        self.asked.append([FLOWS.index(flow) for flow in flows])
        bad = self.times.pop(0) if self.times else {}
        return {flow: bad.get(FLOWS.index(flow), good(flow)) for flow in flows}

    def close(self) -> None:
        pass


def good(flow: Flow) -> Outcome:
    return Outcome(receiver=flow.receivers[0], seen_as=str(flow.seen_as), tracked=flow.tracked)


@pytest.mark.parametrize(
    ("before", "anew", "old", "asked", "asked_anew", "wrong"),
    [
        pytest.param([], [], False, [[0, 1, 2]], [], 0, id="all good"),
        pytest.param([{1: FAILED}], [], False, [[0, 1, 2], [1]], [], 0, id="one failed once"),
        pytest.param([{1: FAILED, 2: FAILED}, {2: FAILED}], [], False, [[0, 1, 2], [1, 2]], [], 1, id="failed twice"),
        pytest.param([{1: UNASKED}], [], False, [[0, 1, 2]], [[1]], 0, id="its connection ended"),
        pytest.param([{1: UNASKED}], [{1: UNASKED}], False, [[0, 1, 2]], [[1]], 1, id="it is gone"),
        pytest.param(
            [{0: FAILED, 1: UNASKED}, {0: FAILED}], [], False, [[0, 1, 2], [0]], [], 1, id="told without the others"
        ),
        pytest.param(
            [{0: FAILED, 1: UNASKED}, {}], [{1: FAILED}], False, [[0, 1, 2], [0]], [[1]], 1, id="only another failed"
        ),
        pytest.param([], [{2: FAILED}], True, [], [[0, 1, 2]], 1, id="agents about to end"),
    ],
)
def test_what_passed_before_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
    before: list[dict[int, Outcome]],
    anew: list[dict[int, Outcome]],
    old: bool,
    asked: list[list[int]],
    asked_anew: list[list[int]],
    wrong: int,
) -> None:
    """Those that answered for sure are asked twice; others over new connections, and only if they decide."""
    agents, others, target = Agents(*before), Agents(*anew), Any
    monkeypatch.setattr(apply, "_exchange", lambda *_: others)
    guarded = apply.Guarded(target, "gateway", Change(what=()), print, bool)  # type: ignore[arg-type]
    begun = time.monotonic() - (probe.DEADLINE if old else 0)
    found = guarded._probe_again(target, agents, FLOWS, begun)  # type: ignore[arg-type]
    assert (agents.asked, others.asked, len(found)) == (asked, asked_anew, wrong)


@pytest.mark.parametrize(
    ("status", "confirmed", "said"),
    [
        ({"last": {"token": "mine", "number": 7}}, True, "confirmed: change 7"),
        ({"last_rollback": {"token": "mine"}}, False, "ROLLED BACK: by the host itself"),
        (None, False, "it was asked to confirm the change, and did so or undid it: `invoke history gateway` tells"),
    ],
    ids=["confirmed", "undone", "silent"],
)
def test_an_answer_to_the_confirmation_that_is_lost(
    monkeypatch: pytest.MonkeyPatch, status: dict[str, Any] | None, confirmed: bool, said: str
) -> None:
    """What became of the change is what the host says; one that says nothing is not called failed, nor undone."""
    lines: list[str] = []
    target: Any = None
    guarded = apply.Guarded(target, "gateway", Change(what=()), lines.append, lambda _: None)
    guarded.token, guarded.seconds = "mine", 0.2

    def lost(*_: object) -> Any:
        raise apply.LostError("the connection broke")

    monkeypatch.setattr(apply, "LATE", 0.2)
    monkeypatch.setattr(apply, "_new_connection", lambda *_: nullcontext())
    monkeypatch.setattr(guarded, "_begin", lambda _: {})
    monkeypatch.setattr(guarded, "_look", lambda *_: "")
    monkeypatch.setattr(guarded, "_ask", lost)
    monkeypatch.setattr(guarded, "_ssh", lost if status is None else lambda *_: json.dumps(status))
    assert guarded._make(Agents(), []) == confirmed  # type: ignore[arg-type]
    assert said in lines[-1]
    assert guarded.settled.is_set()


def test_a_host_that_was_not_reached_has_nothing_to_roll_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for its timer."""
    lines: list[str] = []
    target: Any = None
    guarded = apply.Guarded(target, "gateway", Change(what=()), lines.append, lambda _: None)

    def nowhere(*_: object) -> Any:
        raise apply.LostError("ssh: connect to host 192.0.2.1 port 22: Network is unreachable")

    monkeypatch.setattr(guarded, "_ssh", nowhere)
    assert not guarded._make(Agents(), [])  # type: ignore[arg-type]
    assert lines == ["not changed: ssh: connect to host 192.0.2.1 port 22: Network is unreachable"]


def test_further_back_than_what_is_kept() -> None:
    entries = [{"number": 7}, {"number": 6}]
    assert history.before(entries, "gateway", 2) == 6
    with pytest.raises(HistoryError, match="gateway keeps 2 confirmed changes: it can't go 3 back"):
        history.before(entries, "gateway", 3)
