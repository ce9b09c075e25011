"""Answers all keys of a request at the same time."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from underlay.remote import at_once
from underlay.remote.survey.boot.next_boot import boot
from underlay.remote.survey.connections import errors, names, sources
from underlay.remote.survey.host import failed, full, owners, services, talkers
from underlay.remote.survey.neighbours import echo, neighbours
from underlay.remote.survey.oddities import changed, odd
from underlay.remote.survey.paths import paths
from underlay.remote.survey.programs import answers, complaints, limits, listeners, stuck
from underlay.remote.survey.system import lacking, modes, mounts, resolver, sysctls, units

WHOLE = 6
"""Seconds for all of a request; a key that takes longer has null as its answer."""
ALONE = 27
"""Those for a request of one key: nothing else waits for it."""


def policy(packets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """See the module."""
    from underlay.remote.trace.policy import taken  # noqa: PLC0415  most hosts have no use for it

    return taken(packets)


def login(asked: list[Any]) -> list[dict[str, str]]:
    """See the module."""
    from underlay.remote.survey.logins.refused import reasons  # noqa: PLC0415  most hosts have no use for it

    return reasons(*asked)


def accounts(_: bool) -> dict[str, Any]:
    """See the module."""
    from underlay.remote.survey.logins import others  # noqa: PLC0415  only where it is asked for

    return others.accounts(True)


def main() -> None:
    """Answer the request, all of its keys at the same time."""
    request = json.load(sys.stdin)
    known: dict[str, Callable[[Any], Any]] = {
        **{each.__name__: each for each in (echo, sources, names, services, failed, owners, full, talkers, policy)},
        **{each.__name__: each for each in (odd, changed, paths, answers, complaints, limits, listeners, stuck)},
        **{each.__name__: each for each in (lacking, modes, mounts, resolver, sysctls, units, login, accounts, boot)},
        "arp": neighbours,
        "connect": errors,
    }
    seconds = WHOLE if len(request) > 1 else ALONE
    found = at_once(lambda key: known[key](request[key]), [[key] for key in request], None, seconds)
    print(json.dumps(dict(zip(request, found, strict=True))), flush=True)
    os._exit(0)  # a name server that does not answer may still keep a thread
