"""How many things are asked of a site at the same time, and what is asked once more before it is called failed."""

import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from netaddr import IPAddress

from tests.unit.test_verify import FLOW, NoLinks, target
from underlay.access.sessions import CHANCES, Links, UnreachableError
from underlay.desired.traffic import Flow
from underlay.observe import exchange
from underlay.observe.exchange import AGAIN, Exchange, Outcome
from underlay.plan import REPO, load
from underlay.remote import Pace, at_once

GOOD = Outcome(receiver="dev", seen_as="192.168.0.53", tracked=True)
SILENT = Outcome(error="no answer within 3 s")


def test_more_while_they_are_quick() -> None:
    """One more for each round of quick ones, up to the most."""
    pace = Pace(2, 4, 1)
    for _ in range(20):
        with pace.turn():
            pass
    assert pace.limit == 4
    assert not pace.late


def test_fewer_after_a_slow_one() -> None:
    """Half as many, once for those that were slow together, never none; one that failed says nothing."""
    pace = Pace(8, 8, 0.05)
    turns = [pace.begin() for _ in range(8)]
    time.sleep(0.06)
    pace.end(turns[0], told=False)
    assert (pace.limit, pace.late) == (8, False)
    for turn in turns[1:]:
        pace.end(turn, told=True)
    assert (pace.limit, pace.late) == (4, True)
    for _ in range(5):
        turn = pace.begin()
        time.sleep(0.06)
        pace.end(turn, told=True)
    assert pace.limit == 1


def test_one_that_is_slow_is_no_reason() -> None:
    """A sick host among others that are quick is itself the reason; where a third is slow, somebody else is."""
    pace = Pace(8, 8, 0.05)
    for slow in (False, False, True, False, False):
        turn = pace.begin()
        time.sleep(0.06 * slow)
        pace.end(turn, told=True)
    assert not pace.late
    pace._slow.extend([True, True])
    assert pace.late


def test_never_more_than_the_limit_at_once() -> None:
    """Calls wait for their turn."""
    pace, lock, now, most = Pace(3, 3, 5), threading.Lock(), 0, 0

    def call() -> bool:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.01)
        with lock:
            now -= 1
        return True

    assert at_once(call, [()] * 30, pace=(pace, bool)) == [True] * 30
    assert most == 3


def test_nobody_waits_for_the_silent() -> None:
    """A hundred that never answer are all asked within a few rounds."""
    begin = time.monotonic()
    assert at_once(lambda: time.sleep(0.5), [()] * 100, pace=(Pace(20, 20, 0.1), lambda _: False)) == [None] * 100
    assert 0.8 < time.monotonic() - begin < 2


# --- hosts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def links(tmp_path: Path) -> Links:
    return NoLinks(target(load(REPO / "group_data/all.py"), tmp_path))


@pytest.mark.parametrize(("busy", "asked"), [(False, 1), (True, 2)])
def test_once_more_where_others_are_late(links: Links, busy: bool, asked: int) -> None:
    """A host that is silent while others are quick is not asked again."""
    if busy:
        links.pace._slow.extend([True] * 3)
    answers = iter(["late", "in time"])
    found = links.once_more(lambda: next(answers), lambda answer: answer == "late")
    assert found == ["late", "in time"][asked - 1]


def test_an_error_is_tried_once_more_too(links: Links) -> None:
    """What comes of it is what the second try came to."""
    links.pace._slow.extend([True] * 3)
    said = ["no answer", "here", "no answer", "none"]
    answers = iter([each if each == "here" else UnreachableError(each) for each in said])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, UnreachableError):
            raise answer
        return answer

    assert links.once_more(ask) == "here"
    with pytest.raises(UnreachableError, match="none"):
        links.once_more(ask)


def test_of_many_that_are_late_a_few_are_asked_again(links: Links) -> None:
    """With a hundred dead it must not take a hundred times as long."""
    links.pace._slow.extend([True] * 3)
    count = Counter[int]()
    for host in range(100):
        links.once_more(lambda host=host: count.update([host]), lambda _: True)  # type: ignore[misc]
    assert count.total() == 100 + CHANCES


# --- connections ----------------------------------------------------------------------------------------------------


class Scripted(Exchange):
    """Without hosts: what becomes of the flows when they are tried again is made up."""

    def __init__(self, good: Iterable[Flow]) -> None:
        self.agents, self.good, self.tried = {}, set(good), list[Flow]()

    def _call(self, _: Flow) -> list[object]:
        return []

    def run(self, flows: Iterable[Flow]) -> dict[Flow, Outcome]:
        flows = list(flows)
        self.tried += flows
        return {flow: GOOD if flow in self.good else SILENT for flow in flows}


def flows(count: int, row: str = "row") -> list[Flow]:
    return [replace(FLOW, row=row, source=f"host-{number}", port=number or None) for number in range(count)]


def test_a_failure_is_tried_again() -> None:
    """What is as it must be is not."""
    first, second, third = some = flows(3)
    tried = Scripted([second])
    assert tried.again(dict.fromkeys(some, SILENT) | {third: GOOD}) == {first: SILENT, second: GOOD}
    assert tried.tried == [first, second]


def test_what_must_not_work_and_does_is_not_tried_again() -> None:
    """It was seen."""
    flow = replace(FLOW, must_not=True)
    tried = Scripted([])
    assert tried.again({flow: GOOD}) == {}
    assert tried.tried == []


def test_of_many_failures_some_of_each_kind() -> None:
    """If all of these fail again, so do the others; if one does not, each of its kind has to be seen."""
    dead, lost = flows(300, "dead"), flows(300, "lost")
    tried = Scripted(lost[1:])
    found = tried.again(dict.fromkeys([*dead, *lost], SILENT))
    count = Counter(flow.row for flow in tried.tried)
    assert count == {"dead": exchange.SAMPLE, "lost": 300}
    assert {flow for flow in lost if found[flow] == SILENT} == {lost[0]}
    assert len({flow.source for flow in tried.tried if flow.row == "dead"}) == exchange.SAMPLE


def test_few_failures_are_all_tried_again() -> None:
    """However alike they are."""
    some = flows(AGAIN)
    tried = Scripted([])
    tried.again(dict.fromkeys(some, SILENT))
    assert tried.tried == some
    assert IPAddress("100.64.0.53") in {flow.source_address for flow in tried.tried}
