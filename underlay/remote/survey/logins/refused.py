"""Why an account does not get in here: what sshd, PAM, its shell and sudo each do with it, in that order.

It changes nothing. `reasons` answers the doctor; `main` a person at the console, where ssh does not lead. Each reason
is {what, fix, then}: plain words; the command that mends it, for a shell of root's here, empty where no command is
known to; and "deploy" where a deploy brings back the rest. Without root only a part can be seen.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress

from underlay.remote.survey.logins import account, keys, session, sshd
from underlay.remote.survey.logins.common import ANYWHERE, RELOAD, RESTART, Reason, reason, said

MOST = 12
"""Reasons that are told."""
RECENT = "-1min"
BY_PAM = "by PAM account configuration"
REFUSALS = re.compile(
    r"not allowed because|refused|denied|[Ff]atal|bad ownership|[Ff]ailed|error|no more|drop connection"
    r"|not permitted|expired|penalty|Exceeded",
)
EXPECTED = re.compile(r"Could not get shadow|Connection (?:closed|reset) by|maximum authentication|preauth\]$")


def reasons(
    user: str, address: str = "", key: str = "", forwards: bool = False, port: int = 22, password: bool = False
) -> list[Reason]:
    """Why an account does not get in from an address with a key (TYPE BASE64), or gets no connection forwarded.

    port: of its sshd; password: it has one for sudo
    """
    address = address or ANYWHERE
    sshd.port = port
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    os.environ["LC_ALL"] = "C.UTF-8"
    if blind := _seen(account.looked_for(user)):
        return blind  # all else follows from it
    made = _seen(
        sshd.listens(),
        sshd.met(),
        account.wrapped(address),
        sshd.settings(user, address, key, forwards),
        keys.keys(user, address, key),
    )
    inside = _seen(account.account(user), account.nologin(user), session.pam(user, address), session.limits(user))
    # Whose account is refused is refused by sudo, too.
    made += inside or _seen(session.runs(user), session.shell(user), session.sudo(user, password))
    if not made:
        made += _seen(_journal(user, address))
    unique = {each["what"]: each for each in made}
    return [*unique.values()][:MOST]


def _seen(*parts: Iterator[Reason]) -> list[Reason]:
    """All reasons; one part that can't be looked at leaves the others."""
    found: list[Reason] = []
    for part in parts:
        with suppress(OSError, ValueError, LookupError, subprocess.SubprocessError):
            found.extend(part)
    return found


def main(user: str = "root", address: str = "", port: str = "22", sudo: str = "") -> int:
    """At the console: say it to a person; 0 if nothing here is in the way."""
    there = reasons(user, address, port=int(port), password=sudo == "password")
    for each in there:
        print(f"{user} does not get in: {each['what']}")
        print(f"  this mends it: {each['fix']}" if each["fix"] else "  no command is known that mends it")
    if not there:
        print(f"nothing here keeps {user} out, as far as this program sees: sshd's own words: journalctl -u ssh -n 20")
    return 1 if there else 0


def _journal(user: str, address: str) -> Iterator[Reason]:
    """Where nothing else was found: sshd's own words of the last minutes."""
    tags = ("--identifier=sshd", "--identifier=sshd-session", "--identifier=sshd-auth")
    _, text = said("journalctl", "-q", "-o", "cat", f"--since={RECENT}", "-n", "200", *tags, seconds=3)
    lines = [line for line in text.splitlines() if REFUSALS.search(line)]
    lines = [line for line in lines if BY_PAM in line or not EXPECTED.search(line)]
    mine = [line for line in lines if address in line or re.search(rf"\b{re.escape(user)}\b", line)] or lines
    if not mine:
        return
    line = mine[-1]
    by_pam = [*session.deciding(user)] if BY_PAM in line else []
    if by_pam:
        yield by_pam[0]
    elif "penalty" in line or "drop connection" in line:
        yield reason(f"sshd drops what comes from there, for earlier failures: {line}", RESTART)
    elif re.search(r"not allowed because|AllowUsers|AllowGroups|DenyUsers|DenyGroups", line):
        yield reason(f"sshd runs with other settings than its files have now: {line}", RELOAD)
    else:
        yield reason(f"sshd says: {line}")
