"""Run a command of the guard; the answer is one JSON object on stdout."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from underlay.compare.tables import RulesetError
from underlay.remote.guard import commands
from underlay.remote.guard.programs import Refused
from underlay.remote.rules.place import put_file
from underlay.remote.survey.logins import refused


def main(*arguments: str) -> int:
    """Run a command; the exit code."""
    known: dict[str, Callable[..., dict[str, Any]]] = {
        "begin": lambda: commands.begin(json.load(sys.stdin)),
        "apply": commands.apply,
        "extend": commands.extend,
        "confirm": commands.confirm,
        "rollback": commands.rollback,
        "expire": commands.expire,
        "boot": commands.boot,
        "status": commands.status,
        "history": commands.history,
        "rules": put_file,
    }
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    os.environ["LC_ALL"] = "C.UTF-8"
    os.umask(0o022)
    if arguments[:1] == ("login",):
        return refused.main(*arguments[1:5])  # for people
    try:
        answer = known[arguments[0]](*arguments[1:])
    except Refused as error:
        answer = {"error": str(error), **error.facts}
    except (RulesetError, OSError, ValueError, KeyError, TypeError, IndexError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))
    return 1 if "error" in answer else 0
