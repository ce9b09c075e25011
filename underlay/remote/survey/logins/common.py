"""What the parts have in common: reasons, lines of files, programs that are asked."""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

LONGEST = 400
SECONDS = 2
ANYWHERE = "192.0.2.1"
"""An address that nobody has."""
RESTART = "systemctl restart ssh"
RELOAD = "sshd -t && systemctl reload-or-restart ssh"

Reason = dict[str, str]


def reason(what: str, fix: str = "", then: str = "") -> Reason:
    """A reason, short enough to be shown."""
    return {"what": " ".join(what.split())[:LONGEST], "fix": fix if len(fix) <= 4 * LONGEST else "", "then": then}


class Line(NamedTuple):
    """A line of a file of configuration, as its words: the first one in lower case."""

    path: str
    number: int
    words: list[str]
    text: str = ""

    def __str__(self) -> str:
        return f"{self.path} line {self.number}: {self.text.strip() or ' '.join(self.words)}"


def said(*argv: str, seconds: float = SECONDS) -> tuple[int, str]:
    """The exit code of a program, and all that it says; 127 if it can't be run, 124 if it takes too long."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, ""
    except OSError as error:
        return 127, error.strerror or str(error)
    return done.returncode, done.stdout.decode(errors="replace")


def off(there: list[Line]) -> str:
    """The command that makes lines of files comments; nothing for no line."""
    return " && ".join(f"sed -i {line.number}s/^/#/ {shlex.quote(line.path)}" for line in there[:4])


def plain(name: str) -> bool:
    """Whether a name is one for a shell and for sed."""
    return bool(re.fullmatch(r"[\w.-]+", name, re.ASCII))


def groups_of(user: str) -> list[str]:
    """The groups of an account, its own first."""
    try:
        found = pwd.getpwnam(user)
        names = []
        for gid in os.getgrouplist(user, found.pw_gid):
            with suppress(KeyError):
                names.append(grp.getgrgid(gid).gr_name)
    except KeyError:
        return []
    return names


def as_account(
    account: pwd.struct_passwd, *argv: str, most: int = 2000, variables: Mapping[str, str] | None = None
) -> tuple[int, str, str] | None:
    """A command as an account: exit code, what it prints, what it says on stderr; None where this process may not."""
    mine = os.geteuid()
    if mine not in (0, account.pw_uid):
        return None
    change: dict[str, Any] = {}
    if mine == 0:
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        change = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "USER": account.pw_name, "LOGNAME": account.pw_name}
    environment |= {"HOME": account.pw_dir, "LC_ALL": "C.UTF-8", **(variables or {})}
    try:
        done = subprocess.run(
            argv,
            env=environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=2,
            check=False,
            **change,
        )
    except subprocess.TimeoutExpired:
        return 124, "", ""
    except OSError as error:
        return 126, "", error.strerror or str(error)
    return done.returncode, done.stdout.decode(errors="replace")[:most], done.stderr.decode(errors="replace")[:2000]
