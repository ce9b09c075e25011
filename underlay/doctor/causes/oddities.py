"""What differs from a plain host and what changed there, shown beside a finding: it may be why. No causes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from underlay.doctor.cause import Cause
from underlay.doctor.survey import HostSurvey, Odd

SHOWN = 6
"""Oddities of a host, and changes there, that are shown beside a finding."""

Change = tuple[float, str, str]


def beside(finding: Cause, looks: Mapping[str, HostSurvey]) -> Cause:
    """A finding with what is odd on its host, and what changed there lately."""
    look = looks.get(finding.host)
    if look is None:
        return finding
    odd = [*map(_odd, look.odd)]
    told = [*odd[:SHOWN], *([f"and {len(odd) - SHOWN} more"] if len(odd) > SHOWN else [])]
    changes = [f"changed {moment(when)}: {what}: {text}" for when, what, text in look.changed[:SHOWN]]
    return replace(finding, odd=(*told, *changes))


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


def lines(changes: Mapping[str, Sequence[Change]]) -> Iterator[str]:
    """What changed on each host, for people: the latest first."""
    for name, found in changes.items():
        yield ""
        yield f"changed on {name}:" if found else f"changed on {name}: nothing that is seen"
        for when, what, text in found:
            yield f"  {moment(when)}  {what}: {text}"


def document(changes: Mapping[str, Sequence[Change]]) -> dict[str, list[dict[str, object]]]:
    """The same for programs: host → [{time, what, text}, …], the time in seconds of the epoch."""
    return {
        name: [{"time": when, "what": what, "text": text} for when, what, text in found]
        for name, found in changes.items()
    }
