"""What differs from a plain host and what changed there, shown beside a finding: it may be why. No causes."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime

from underlay.access.answers import UnreadableError, reading
from underlay.desired.ruleset import Rule
from underlay.doctor.cause import Cause
from underlay.doctor.investigation import Investigation
from underlay.doctor.survey import HostSurvey, Odd

NOTHING_NAMED = ("unexplained", "packet-lost", "not-answered", "path-slow", "silent")
SHOWN = 6
"""Oddities of a host, and changes there, that are shown beside a finding."""


def beside(case: Investigation, finding: Cause) -> Cause:
    """A finding with what is odd on its host, and what changed there lately; of one that names nothing that did it
    also what is odd on the gateway, which most packets cross."""
    look = case.seen.looks.get(finding.host, HostSurvey())
    odd = [*map(_odd, look.odd), *_rules(case, finding)]
    gateway = case.gateway.name
    if finding.id in NOTHING_NAMED and finding.host != gateway:
        odd += [f"on {gateway}: {_odd(each)}" for each in case.look(case.gateway).odd]
    told = [*odd[:SHOWN], *([f"and {len(odd) - SHOWN} more"] if len(odd) > SHOWN else [])]
    changes = [f"changed {moment(when)}: {what}: {text}" for when, what, text in (look.changed or [])[:SHOWN]]
    return replace(finding, odd=(*told, *changes)) if told or changes else finding


def _rules(case: Investigation, finding: Cause) -> list[str]:
    """The rules of others among the iptables of the gateway, but for those that the finding names."""
    state = case.state(case.gateway)
    if finding.host != case.gateway.name or state is None:
        return []
    with suppress(UnreadableError), reading(f"what {finding.host} says"):
        found = case.differences(case.gateway, state)
        rules = [each.thing for each in found if each.kind == "unmanaged" and isinstance(each.thing, Rule)]
        told = [f"-t {each.table} -A {each.chain} {each.spec}" for each in rules]
        return [f"unmanaged rule: {each}" for each in told if each not in finding.cause]
    return []


def _odd(odd: Odd) -> str:
    since = f", since {moment(odd['since'])}" if odd["since"] else ""
    return f"{odd['what']}: {odd['text']}{since}"


def moment(when: float) -> str:
    """A time, by the clock here; with its day if that is not today."""
    try:
        found = datetime.fromtimestamp(when)
    except (ValueError, OverflowError, OSError):
        return "?"
    return f"{found:%H:%M:%S}" if found.date() == datetime.now().date() else f"{found:%Y-%m-%d %H:%M:%S}"


def lines(looks: Mapping[str, HostSurvey | None]) -> Iterator[str]:
    """What is odd on each host, and what changed there, for people: the latest first. None: it was not read."""
    for name, look in looks.items():
        yield ""
        if look is None or look.changed is None:
            yield f"changed on {name}: not read: it {'did not answer in time' if look else 'was not reached'}"
            continue
        yield f"changed on {name}:" if look.changed else f"changed on {name}: nothing that was seen"
        for when, what, text in look.changed:
            yield f"  {moment(when)}  {what}: {text}"
        for each in look.odd:
            yield f"  odd there: {_odd(each)}"


def document(looks: Mapping[str, HostSurvey | None]) -> dict[str, dict[str, object] | None]:
    """The same for programs; times in seconds of the epoch."""
    return {
        name: {
            "changes": [{"time": when, "what": what, "text": text} for when, what, text in look.changed],
            "odd": look.odd,
        }
        if look and look.changed is not None
        else None
        for name, look in looks.items()
    }
