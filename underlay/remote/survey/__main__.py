"""Answers all keys of a request at the same time."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from underlay.remote import at_once
from underlay.remote.survey.boot import boot
from underlay.remote.survey.connections import errors, names, sources
from underlay.remote.survey.host import full, owners, services, talkers
from underlay.remote.survey.neighbours import echo, neighbours

WHOLE = 8
"""Seconds for all of a request; a key that takes longer has null as its answer."""


def policy(packets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """See the module."""
    from underlay.remote.trace.policy import taken  # noqa: PLC0415  most hosts have no use for it

    return taken(packets)


def main() -> None:
    """Answer the request, all of its keys at the same time."""
    request = json.load(sys.stdin)
    known: dict[str, Callable[[Any], Any]] = {
        **{each.__name__: each for each in (echo, sources, names, services, owners, full, talkers, policy, boot)},
        "arp": neighbours,
        "connect": errors,
    }
    answers = at_once(lambda key: known[key](request[key]), [[key] for key in request], None, WHOLE)
    print(json.dumps(dict(zip(request, answers, strict=True))), flush=True)
    os._exit(0)  # a name server that does not answer may still keep a thread
