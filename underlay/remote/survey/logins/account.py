"""The account itself: its shell, when it ends, and who gets in at all."""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
import shlex
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from underlay.remote.survey.logins import sshd
from underlay.remote.survey.logins.common import Line, Reason, off, reason, said

DAY = 86400
NOLOGIN = ("/etc/nologin", "/run/nologin")


def shadow(user: str) -> list[str]:
    """The fields of an account in shadow; KeyError if it has none. It needs root."""
    code, text = said("getent", "shadow", user)
    fields = text.strip().split(":")
    if code or len(fields) < 8 or fields[0] != user:
        raise KeyError(user)
    return fields


def looked_for(user: str) -> Iterator[Reason]:
    """Whoever looks for an account looks into /etc/passwd, if it is there."""
    there = re.search(rf"^{re.escape(user)}:", _text("/etc/passwd"), re.MULTILINE)
    order = re.search(r"^passwd:.*$", _text("/etc/nsswitch.conf"), re.MULTILINE)
    if there and order and not {"files", "compat"} & {*order[0].split()}:
        what = f"/etc/nsswitch.conf lets nobody look into /etc/passwd ({order[0]}): there are no accounts"
        yield reason(what, "sed -i -E '/files|compat/!s/^(passwd|group|shadow|gshadow):/& files/' /etc/nsswitch.conf")


def account(user: str) -> Iterator[Reason]:
    """There is one, with a shell that is one, which has not expired."""
    name = shlex.quote(user)
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        yield reason(f"there is no account {user}")
        return
    shell = found.pw_shell or "/bin/sh"
    usable = os.path.isfile(shell) and os.access(shell, os.X_OK) and stat.S_IMODE(os.stat(shell).st_mode) & 1
    if not usable or os.path.basename(shell) in ("nologin", "false", "true", "sync", "git-shell", "rbash"):
        how = "is no login" if usable else "is not there, or can't be run"
        if not usable and os.path.isfile(shell):
            fix = f"chmod 755 {shlex.quote(os.path.realpath(shell))}"
        else:
            fix = f"usermod --shell /bin/bash {name}"
        yield reason(f"its shell {shell} {how}", fix)
    if not os.path.isdir(found.pw_dir):
        yield reason(f"its home {found.pw_dir} is not there")
    try:
        fields = shadow(user)
    except KeyError:
        if os.geteuid() == 0:
            yield reason("its account has no line in /etc/shadow", "pwconv")
        return
    no_pam = [line for line in sshd.lines() if line.words[:2] == ["usepam", "no"]]
    if no_pam and fields[1].startswith("!"):
        locked = not fields[1].strip("!*")
        what = f"its account is locked, which counts without PAM ({no_pam[0]})"
        yield reason(what, f"usermod -p '*' {name}" if locked else f"usermod -U {name}")
    today = int(time.time()) // DAY
    changed, longest, idle, expiry = (int(each) if each.lstrip("-").isdigit() else -1 for each in _times(fields))
    if 0 <= expiry <= today:
        when = datetime.fromtimestamp(expiry * DAY, tz=timezone.utc).date()  # noqa: UP017 (Python 3.10)
        yield reason(f"its account has expired, on {when} (chage -l {user})", f"chage -E -1 {name}")
    if changed == 0:
        yield reason("its password must be changed first (chage -l)", f"chage -d -1 {name}")
    elif 0 <= longest < 99999 and changed >= 0 and changed + longest < today:
        late = idle >= 0 and changed + longest + idle < today
        what = f"its password has expired{' and its account with it' if late else ''} (chage -l {user})"
        yield reason(what, f"chage -M -1 -I -1 {name}")


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _times(fields: list[str]) -> tuple[str, str, str, str]:
    return fields[2], fields[4], fields[6], fields[7]


def nologin(user: str) -> Iterator[Reason]:
    """pam_nologin: nobody but root while this file is there."""
    if user == "root":
        return
    for path in NOLOGIN:
        if os.path.lexists(path):
            words = ""
            with suppress(OSError):
                words = Path(path).read_text(errors="replace")[:200]
            more = " (systemd makes it while the host starts or shuts down)" if path.startswith("/run") else ""
            yield reason(f"{path} is there: nobody but root gets in{more}: {words}", f"rm -f {path}")


def wrapped(address: str) -> Iterator[Reason]:
    """TCP wrappers: the first line of hosts.allow, then of hosts.deny, that is for sshd and the address."""
    for path, lets_in in (("/etc/hosts.allow", True), ("/etc/hosts.deny", False)):
        text = Path(path).read_text(errors="replace") if os.path.exists(path) else ""
        for number, line in enumerate(text.splitlines(), 1):
            daemons, colon, rest = line.partition(":")
            clients, _, option = rest.partition(":")
            if line.lstrip().startswith("#") or not colon:
                continue
            if not {"sshd", "ALL"} & set(re.split(r"[,\s]+", daemons.strip())):
                continue
            if not any(client(each, address) for each in re.split(r"[,\s]+", clients.strip()) if each):
                continue
            if lets_in and "deny" not in option.lower():
                return
            there = Line(path, number, line.split())
            yield reason(f"TCP wrappers refuse it: {there}", off([there]))
            return


def client(pattern: str, address: str) -> bool:
    """Whether a pattern for clients, of TCP wrappers or `pam_access`, is one of an address."""
    if pattern in ("ALL", address) or (pattern.endswith(".") and address.startswith(pattern)):
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(address) in ipaddress.ip_network(pattern.strip("[]"), strict=False)
    return False
