"""Who may get in here: accounts, keys, rights of sudo, and files of these that others may write to. No secrets."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from underlay.remote.files import login_keys
from underlay.remote.survey.logins import sshd
from underlay.remote.survey.logins.account import DAY, shadow
from underlay.remote.survey.logins.common import ANYWHERE, Line, as_account
from underlay.remote.survey.logins.session import pam_lines, pam_words, sudoers

ACCOUNTS, KEYS, RIGHTS = 60, 300, 200
NO_SHELLS = ("nologin", "false", "sync", "shutdown", "halt")
ADMINS = ("sudo", "wheel", "admin")
NO_RIGHT = ("Defaults", "@include", "#include", "User_Alias", "Runas_Alias", "Host_Alias", "Cmnd_Alias", "Cmd_Alias")
RECORD = "/var/lib/underlay/on-call"


def accounts(_: bool) -> dict[str, Any]:
    """See `remote.survey`."""
    found = [each for each in pwd.getpwall() if os.path.basename(each.pw_shell) not in NO_SHELLS][:ACCOUNTS]
    patterns, recorded = [".ssh/authorized_keys", ".ssh/authorized_keys2"], ""
    with suppress(ValueError):
        patterns = "".join(sshd.effective("root", ANYWHERE).get("authorizedkeysfile", [])).split()
    with suppress(OSError):
        recorded = Path(RECORD).read_text()
    return {
        "accounts": [[each.pw_name, each.pw_uid, *_password(each.pw_name)] for each in found],
        "keys": [row for each in found for row in _keys(each, patterns)][:KEYS],
        "rights": [[line.path, line.number, " ".join(line.words)[:300]] for line in _rights()][:RIGHTS],
        "admins": sorted({name for group in ADMINS for name in _members(group)})[:ACCOUNTS],
        "writable": [[path, mode] for path, mode in _writable(found)],
        "asks_nothing": [[line.path, line.number, " ".join(line.words)[:300]] for line in _asks_nothing()][:ACCOUNTS],
        "recorded": [line.split()[0] for line in recorded.splitlines() if line.split()][:ACCOUNTS],
    }


def _password(user: str) -> tuple[bool, bool]:
    """Whether its password is empty; whether it has expired, so that nobody gets in."""
    with suppress(KeyError):
        fields = shadow(user)
        expiry = int(fields[7]) if fields[7].isdigit() else -1
        return fields[1] == "", 0 <= expiry <= time.time() // DAY
    return False, False


def _keys(account: pwd.struct_passwd, patterns: list[str]) -> Iterator[list[Any]]:
    """Account, file, line, TYPE and BASE64, comment, and whether it runs one command only, of each of its keys."""
    for pattern in patterns:
        made = pattern.replace("%h", account.pw_dir).replace("%u", account.pw_name).replace("%%", "%")
        path = made if made.startswith("/") else f"{account.pw_dir}/{made}"
        # As the account: a link there would lead root to any file.
        done = as_account(account, "head", "-c", "200000", path, most=200_000) if os.path.lexists(path) else None
        for number, line in enumerate(login_keys.lines_of(done[1].encode()) if done else [], 1):
            options, key = login_keys.split(line)
            if key:
                words = line.decode(errors="replace")[len(options) :].split(key.decode(errors="replace"))
                kind, comment = words[0].split()[-1], " ".join(words[-1].split())[:80]
                yield [account.pw_name, path, number, f"{kind} {key.decode()}", comment, b"command=" in options]


def _rights() -> Iterator[Line]:
    for line in sudoers():
        if not line.words[0].startswith(NO_RIGHT):
            yield line


def _asks_nothing() -> Iterator[Line]:
    """Lines by which PAM takes everybody for who he says he is."""
    for name in ("common-auth", "su", "su-l", "sudo", "sudo-i", "login", "sshd"):
        for line in pam_lines(Path("/etc/pam.d") / name, depth=0):
            kind, control, module, *_ = [*pam_words(line.words), "", "", ""]
            enough = control == "sufficient" or "success=done" in control
            if (kind, module, enough) == ("auth", "pam_permit.so", True):
                yield line


def _members(group: str) -> list[str]:
    try:
        found = grp.getgrnam(group)
    except KeyError:
        return []
    return [*found.gr_mem, *(each.pw_name for each in pwd.getpwall() if each.pw_gid == found.gr_gid)]


def _writable(found: list[pwd.struct_passwd]) -> Iterator[tuple[str, str]]:
    """Files that make people root or let them in, and that others than root and their owner may write to."""
    paths = [Path(name) for name in ("/etc/passwd", "/etc/shadow", "/etc/group", "/etc/sudoers", "/etc/sudoers.d")]
    paths += [*Path("/etc/sudoers.d").glob("*"), Path("/etc/ssh"), Path(sshd.CONFIG)]
    paths += [*Path("/etc/ssh/sshd_config.d").glob("*.conf"), Path("/etc/pam.d/sshd"), Path("/root")]
    for each in found:
        paths += [Path(each.pw_dir) / name for name in (".ssh", ".ssh/authorized_keys", ".ssh/authorized_keys2")]
    for path in dict.fromkeys(paths):
        with suppress(OSError):
            mode = path.lstat().st_mode
            if mode & 0o002 and not stat.S_ISLNK(mode):
                yield str(path), f"{stat.S_IMODE(mode):04o}"
