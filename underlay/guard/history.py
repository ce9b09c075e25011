"""The confirmed changes that each host keeps: read them, show them, go back."""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target
from underlay.errors import OperatorError
from underlay.plan import Host
from underlay.remote.guard.paths import COPY

SECONDS = 15
"""A host has so long to tell its history."""


class HistoryError(OperatorError):
    """What was asked for is not in the history; `str()` is for a person."""


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
            found: Entries = _ask(links, host.name, "history")["history"]
        except UnreachableError as error:
            return error
        return found

    with ThreadPoolExecutor(max(len(hosts), 1)) as pool:
        return dict(zip((host.name for host in hosts), pool.map(one, hosts), strict=True))


def change(target: Target, host: str, number: int) -> dict[str, Any]:
    """One confirmed change of a host, with its `diff`. Raises UnreachableError, HistoryError."""
    links = Links(target)
    links.open([host])
    return _ask(links, host, f"history {number}")


def _ask(links: Links, host: str, command: str) -> dict[str, Any]:
    nothing = '{"history": []}'
    line = f"if [ -e {COPY} ]; then python3 {COPY} {command}; else echo '{nothing}'; fi"
    done = links.run(host, line, seconds=SECONDS)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise UnreachableError(f"{host}: {words or 'no answer'}") from None
    if "error" in answer:
        raise HistoryError(f"{host}: {answer['error']}")
    return answer


def before(entries: Entries, host: str, steps: int) -> int:
    """The number of the change that was made so many steps ago: the state before it is what `steps` back means."""
    if not 0 < steps <= len(entries):
        raise HistoryError(f"{host} keeps {len(entries)} confirmed changes: it can't go {steps} back")
    number: int = entries[steps - 1]["number"]
    return number
