"""An account's keys: where sshd looks for them, whether it may, and what is there."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from underlay.remote.files import login_keys
from underlay.remote.survey.logins import sshd
from underlay.remote.survey.logins.common import ANYWHERE, Reason, as_account, off, reason


def keys(user: str, address: str, key: str) -> Iterator[Reason]:
    """The file of keys is where sshd looks, may be used (StrictModes), and has the key."""
    account = pwd.getpwnam(user)
    if not os.path.isdir(account.pw_dir):
        return  # told by `account`
    strict, patterns = True, [".ssh/authorized_keys", ".ssh/authorized_keys2"]
    with suppress(ValueError):
        there = sshd.effective(user, address)
        strict = there.get("strictmodes") != ["no"]
        patterns = (there.get("authorizedkeysfile") or [" ".join(patterns)])[0].split()
    paths = [_path(each, account) for each in patterns]
    usual = f"{account.pw_dir}/.ssh/authorized_keys"
    if usual not in paths:
        lines = sshd.found("authorizedkeysfile")
        where = str(lines[0]) if lines else " ".join(paths)
        if not any(_has(path, key) for path in paths):
            yield reason(f"sshd looks for keys elsewhere: {where}", sshd.config(off(lines)))
        return
    bad = [each for path in paths if os.path.lexists(path) for each in _modes(path, account, strict, key)]
    yield from bad
    if bad or not key or os.geteuid() != 0:
        return
    if any(_has(path, key) for path in paths):
        for path in paths:
            yield from _options(path, key, address)
        return
    yield reason(f"{usual} has not the operator's key", add_key(account, usual, key), "deploy")


def _path(pattern: str, account: pwd.struct_passwd) -> str:
    made = pattern.replace("%h", account.pw_dir).replace("%u", account.pw_name).replace("%%", "%")
    return made if made.startswith("/") else f"{account.pw_dir}/{made}"


def add_key(account: pwd.struct_passwd, path: str, key: str) -> str:
    """The command that makes a key one of an account's: once, however often it is run."""
    user, folder, name = shlex.quote(account.pw_name), shlex.quote(os.path.dirname(path)), shlex.quote(path)
    group = str(account.pw_gid)
    aside = ""
    if os.path.lexists(path) and not os.path.isfile(path):
        aside = f"{{ [ -f {name} ] || mv -T {name} {shlex.quote(f'{path}.was')}; }} && "
    line = shlex.quote(key)
    return (
        f"install -d -m 700 -o {user} -g {group} {folder} && {aside}"
        f"{{ grep -qsxF {line} {name} || echo {line} >> {name}; }} && chown {user}:{group} {name} && chmod 600 {name}"
    )


def _lines(path: str) -> list[bytes]:
    try:
        return login_keys.lines_of(Path(path).read_bytes()[:1_000_000]) if os.path.isfile(path) else []
    except OSError:
        return []


def _has(path: str, key: str) -> bool:
    wanted = key.split()[1].encode() if len(key.split()) > 1 else b""
    return bool(wanted) and any(login_keys.split(line)[1] == wanted for line in _lines(path))


def _modes(path: str, account: pwd.struct_passwd, strict: bool, key: str) -> Iterator[Reason]:
    """As sshd looks at it: the file, and each folder above it up to the home."""
    real = os.path.realpath(path)
    if not os.path.exists(real):
        yield reason(f"{path} leads nowhere (to {real})", add_key(account, path, key) if key else "", "deploy")
        return
    if not os.path.isfile(real):
        yield reason(f"{path} is no file", add_key(account, path, key) if key else "", "deploy")
        return
    home = os.path.realpath(account.pw_dir)
    above, folders = real, list[str]()
    while above not in ("/", home) and len(folders) < 20:
        above = os.path.dirname(above)
        folders.append(above)
    trusted = True
    for each in (real, *folders):
        found = os.stat(each)
        kind = "file" if each == real else "folder"
        owner = account.pw_name if each.startswith(home) else "root"
        fixes = []
        if strict and found.st_uid not in (0, account.pw_uid):
            fixes.append((f"belongs to uid {found.st_uid}", f"chown {shlex.quote(owner)} {shlex.quote(each)}"))
        if strict and found.st_mode & 0o022:
            mode = f"has mode {stat.S_IMODE(found.st_mode):04o}: others may write to it"
            fixes.append((mode, f"chmod go-w {shlex.quote(each)}"))
        if fixes:
            trusted = False
            yield reason(
                f"sshd does not trust its keys: the {kind} {each} {' and '.join(what for what, _ in fixes)}",
                " && ".join(fix for _, fix in fixes),
            )
    readable = as_account(account, "test", "-r", path) if trusted else None
    if readable is not None and readable[0] != 0:
        for each in (*map(str, reversed(Path(real).parents)), real):
            test = ("test", "-r" if each == real else "-x", each)
            tried = as_account(account, *test)
            if tried is not None and tried[0] != 0:
                found = os.stat(each)
                mode = "u+r" if each == real else "u+rx"
                give = f"chown {shlex.quote(account.pw_name)} {shlex.quote(each)} && " if found.st_uid == 0 else ""
                if not each.startswith(home):
                    mode, give = "a+rx", ""
                what = f"{account.pw_name} may not read its own keys: {each} is of uid {found.st_uid}"
                what += f", mode {stat.S_IMODE(found.st_mode):04o}"
                yield reason(what, f"{give}chmod {mode} {shlex.quote(each)}")
                return


def _options(path: str, key: str, address: str) -> Iterator[Reason]:
    """What the options of its line say."""
    wanted = key.split()[1].encode()
    for number, line in enumerate(_lines(path), 1):
        options, there = login_keys.split(line)
        if there != wanted:
            continue
        text = options.decode(errors="replace")
        at = f"{path} line {number}"
        limit = re.search(r'(?:^|,)from="([^"]*)"', text)
        if limit and address != ANYWHERE and not sshd.listed(limit[1], address):
            yield reason(
                f'its key is for from="{limit[1]}" only, and it comes from {address} ({at})', _bare(path, number)
            )
        until = re.search(r'(?:^|,)expiry-time="(\d{8})', text)
        if until and until[1] <= time.strftime("%Y%m%d"):
            yield reason(f"its key expired on {until[1]} ({at})", _bare(path, number))
        forced = re.search(r'(?:^|,)command="((?:[^"\\]|\\.)*)"', text)
        if forced:
            yield reason(f"its key runs {forced[1]!r} and nothing else ({at})", _bare(path, number))
        if re.search(r"(?:^|,)cert-authority(?:,|$)", text):
            yield reason(f"its key is marked as an authority's ({at})", _bare(path, number))


def _bare(path: str, number: int) -> str:
    """The command that takes the options of a line away."""
    return f"sed -i -E '{number}s/^.* ((ssh|ecdsa|sk-)[^ ]* AAAA)/\\1/' {shlex.quote(path)}"
