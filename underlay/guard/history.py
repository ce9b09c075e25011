"""The confirmed changes that each host keeps: read them, show them, go back."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from underlay.access import answers
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target
from underlay.errors import OperatorError
from underlay.plan import Host
from underlay.remote.guard.paths import COPY

SECONDS = 8
"""A host has so long to tell its history."""


class HistoryError(OperatorError):
    """What was asked for is not in the history; `str()` is for a person."""


@with_config(ConfigDict(extra="allow"))
class _Entry(TypedDict):
    number: int
    time: str
    who: str
    commit: str
    what: list[str]


class _Shown(_Entry):
    diff: str


class _All(TypedDict):
    history: list[_Entry]


class _Refused(TypedDict):
    error: str


Entries = list[dict[str, Any]]
"""Confirmed changes, the latest first: number, time, who, commit, what (see `underlay.remote.guard`)."""


def read(target: Target, hosts: Iterable[Host], links: Links | None = None) -> dict[str, Entries | UnreachableError]:
    """The history of each host, read at the same time; UnreachableError for one that can't be asked.

    links: to these hosts, where they are open already
    """
    hosts = list(hosts)
    if links is None:
        links = Links(target)
        links.open(host.name for host in hosts)

    def one(host: Host) -> Entries | UnreachableError:
        try:
            found: Entries = _ask(links, host.name, "history", _All)["history"]
        except UnreachableError as error:
            return error
        return found

    with ThreadPoolExecutor(max(len(hosts), 1)) as pool:
        return dict(zip((host.name for host in hosts), pool.map(one, hosts), strict=True))


def change(target: Target, host: str, number: int) -> dict[str, Any]:
    """One confirmed change of a host, with its `diff`. Raises UnreachableError, HistoryError."""
    links = Links(target)
    links.open([host])
    return _ask(links, host, f"history {number}", _Shown)


def _ask(links: Links, host: str, command: str, shape: Any) -> dict[str, Any]:
    nothing = '{"history": []}'
    # What it refuses it says in its answer.
    line = f"if [ -e {COPY} ]; then python3 {COPY} {command} || [ $? = 1 ]; else echo '{nothing}'; fi"
    answer: dict[str, Any] = links.ask(host, line, _Refused | shape, seconds=SECONDS)
    if "error" in answer:
        raise HistoryError(f"{host}: {answers.short(answer['error'])}")
    return answer


def before(entries: Entries, host: str, steps: int) -> int:
    """The number of the change that was made so many steps ago: the state before it is what `steps` back means."""
    if not 0 < steps <= len(entries):
        raise HistoryError(f"{host} keeps {len(entries)} confirmed changes: it can't go {steps} back")
    number: int = entries[steps - 1]["number"]
    return number
