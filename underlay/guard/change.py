"""A change of a host that could cut the way to it, as a value: what the guard applies, keeps or undoes as one. Pure."""

import base64
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from underlay.errors import OperatorError
from underlay.plan.literals import shown
from underlay.remote.guard.commands import LONGEST

SECONDS = 30
"""After so long without a confirmation a host rolls back by itself."""
SECONDS_VARIABLE = "UNDERLAY_ROLLBACK_SECONDS"
SOAK_VARIABLE = "UNDERLAY_SOAK_SECONDS"
MOST_SOAK = 86400
"""Seconds that a change may be watched before it is confirmed."""


def seconds() -> float:
    """The rollback timer in force. Raises OperatorError for a variable that is no such number."""
    return _number("rollback timer", SECONDS_VARIABLE, SECONDS, 1, LONGEST)


def soak() -> float:
    """How many seconds a change is watched before it is confirmed; 0: it is not. Raises OperatorError as `seconds`."""
    return _number("soak time", SOAK_VARIABLE, 0, 0, MOST_SOAK)


def check_variables() -> None:
    """Raises OperatorError as `seconds` and `soak`: before the first host is asked."""
    seconds(), soak()


def _number(what: str, variable: str, default: int, least: int, most: int) -> int:
    said = os.environ.get(variable) or str(default)
    if not re.fullmatch("[0-9]{1,6}", said) or not least <= int(said) <= most:
        raise OperatorError(f"{variable}={shown(said)} is no {what}: give it {least} to {most} seconds")
    return int(said)


@dataclass(frozen=True)
class NewFile:
    """A file as it must be; bytes that are no UTF-8 are surrogates. An empty mode keeps the one that it has."""

    content: str
    mode: str = "644"


@dataclass(frozen=True)
class Change:
    """What happens to a host, in this order.

    what: each difference in a line for people
    check: shell commands that fail for bad files, before anything changes; the new files are below $STAGE
    live: shell commands that change the running system
    rules: iptables rules to put in place, as `compare.tables.write` makes them
    files: path → the file, or None to delete it
    activate: shell commands that make services take the files
    settle: shell commands after the change is confirmed, for what can't be undone; what they print is for people
    sysctls: keys that `live` may change
    links: NICs that `live` may make, or make legs of others, those first that others are made of
    restore: instead of all these: the number of the confirmed change of which the state before is to come back
    """

    what: tuple[str, ...]
    check: str = ""
    live: str = ""
    rules: str = ""
    files: Mapping[str, NewFile | None] = field(default_factory=dict)
    activate: str = ""
    settle: str = ""
    sysctls: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    restore: int | None = None

    def request(self) -> dict[str, Any]:
        """The part of the request that says what changes, as `agent` reads it."""
        if self.restore is not None:
            return {"what": self.what, "change": {"restore": self.restore}}
        files = {
            path: None
            if file is None
            else {
                "content": base64.b64encode(file.content.encode(errors="surrogateescape")).decode(),
                "mode": file.mode,
            }
            for path, file in self.files.items()
        }
        change = {
            "check": self.check,
            "live": self.live,
            "rules": self.rules,
            "files": files,
            "activate": self.activate,
        }
        return {"what": self.what, "change": change, "sysctls": self.sysctls, "links": self.links}
