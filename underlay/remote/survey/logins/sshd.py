"""What sshd does for an account: whether it listens, and what its configuration says, with the lines that say so."""

from __future__ import annotations

import fnmatch
import glob
import ipaddress
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from underlay.remote.survey import programs
from underlay.remote.survey.logins.common import RELOAD, RESTART, Line, Reason, groups_of, off, plain, reason, said

CONFIG = "/etc/ssh/sshd_config"
DEPTH = 4
MISSING = 127
FOLDER = "Missing privilege separation directory"
EVERYWHERE = ("*", "0.0.0.0", "[::]")  # noqa: S104 (nothing is bound)
SPOKEN = {
    "ciphers": r"^chacha20|^aes\d+-(ctr|gcm)",
    "kexalgorithms": r"^(curve25519|ecdh-|sntrup|mlkem|diffie-hellman-group(14-sha256|16|18|-exchange-sha256))",
    "macs": r"^(umac-|hmac-sha2-)",
    "hostkeyalgorithms": r"^(ssh-ed25519|ecdsa-|rsa-sha2-|sk-)",
}
"""What every ssh of today speaks some of."""


def lines(path: str = CONFIG, depth: int = DEPTH) -> Iterator[Line]:
    """The lines of its configuration, in the order in which it reads them."""
    text = ""
    with suppress(OSError):
        text = Path(path).read_text(errors="replace")
    for number, line in enumerate(text.splitlines(), 1):
        words = re.sub(r"^\s*(\w+)\s*=\s*", r"\1 ", line).split()
        if not words or words[0].startswith("#"):
            continue
        words[0] = words[0].lower()
        yield Line(path, number, words, line)
        if words[0] == "include" and depth:
            for pattern in words[1:]:
                for each in sorted(glob.glob(str(Path("/etc/ssh") / pattern.strip('"')))):
                    yield from lines(each, depth - 1)


def found(keyword: str, value: str = "") -> list[Line]:
    """The lines that set a keyword, to this value."""
    return [
        line
        for line in lines()
        if line.words[0] == keyword and (not value or " ".join(line.words[1:]).strip('"').lower() == value.lower())
    ]


port = 22
"""Where it must listen: the plan's."""


def effective(user: str, address: str) -> dict[str, list[str]]:
    """What holds for an account from an address: keyword → values. Raises ValueError with its own words."""
    who = f"user={user},host={address},addr={address},laddr={address},lport={port}"
    code, text = said("sshd", "-T", "-C", who)
    if code:
        raise ValueError(text.strip())
    made: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        made.setdefault(key.lower(), []).append(value)
    return made


def names(pattern: str, user: str, address: str) -> bool:
    """Whether a pattern of AllowUsers or DenyUsers names an account from an address."""
    name, at, host = pattern.rpartition("@")
    if not at:
        return glob_match(pattern, user)
    return glob_match(name, user) and near(host, address)


def near(pattern: str, address: str) -> bool:
    """Whether a pattern for hosts is one of an address."""
    if "/" in pattern:
        with suppress(ValueError):
            return ipaddress.ip_address(address) in ipaddress.ip_network(pattern, strict=False)
        return False
    return glob_match(pattern, address)


def glob_match(pattern: str, text: str) -> bool:
    """With `*` and `?`, and nothing else that stands for something."""
    return fnmatch.fnmatchcase(text, pattern.replace("[", "[[]"))


def listed(patterns: str, address: str) -> bool:
    """Whether a list of patterns for hosts, as `from=` has it, has an address; one with `!` excludes."""
    each = [one.strip() for one in patterns.split(",")]
    if any(one.startswith("!") and near(one[1:], address) for one in each):
        return False
    return any(near(one, address) for one in each if not one.startswith("!"))


# --- it listens -----------------------------------------------------------------------------------------------------


def listens() -> Iterator[Reason]:
    """It takes its configuration, runs, and listens at the plan's port of all addresses."""
    code, words = said("sshd", "-t")
    if code == MISSING:
        yield reason("its sshd can't be run: the package openssh-server, or the file, is gone")
    elif code and os.geteuid() == 0 and not (FOLDER in words and _makes_folder()):
        yield _broken(words)
    else:
        yield from _elsewhere()


def _makes_folder() -> bool:
    """Whether a start of the unit makes the folder that sshd wants: while it does not run, there is none."""
    return said("systemctl", "show", "--property=RuntimeDirectory", "--value", "ssh.service")[1].strip() == "sshd"


def _broken(words: str) -> Reason:
    """Why `sshd -t` fails, and so every start, and every login at one that runs with it."""
    line = next((each for each in reversed(words.splitlines()) if "terminating" not in each), words)
    fix = ""
    if at := re.search(r"^(/\S+?):? line (\d+): .*", words, re.MULTILINE):
        line, fix = at[0], off([Line(at[1], int(at[2]), [])])
    elif folder := re.search(
        r"^(?:Missing privilege separation directory: )?(/[^\s:]+)(?: must be owned by .*)?$", line
    ):
        path = shlex.quote(folder[1])
        fix = f"install -d {path} && chown root:root {path} && chmod 755 {path}"
    else:
        keys = [
            key for key in Path("/etc/ssh").glob("ssh_host_*_key") if key.stat().st_uid or key.stat().st_mode & 0o077
        ]
        if keys:
            line = f"others may read its host key {keys[0]}, so it does not use it"
            paths = " ".join(shlex.quote(str(key)) for key in keys)
            fix = f"chown root:root {paths} && chmod 600 {paths}"
    return reason(f"sshd does not take its configuration (sshd -t): {line}", f"{fix} && {RESTART}" if fix else "")


LIMITS = {"processes": "TasksMax=infinity", "memory": "MemoryMax=infinity", programs.PROCESSOR: "CPUQuota="}
LOGINS = re.compile(r"(ssh\.service|system\.slice|user\.slice|user-\d+\.slice)", re.ASCII)


def met() -> Iterator[Reason]:
    """Limits of control groups that keep it, or what it starts, from going on."""
    for unit, what, used, limit, at in programs.groups():
        if LOGINS.fullmatch(unit):
            said_so = f"{unit} has {used} of the {limit} {what} that it may have ({at})"
            yield reason(said_so, f"systemctl set-property {unit} {LIMITS[what]}")


def _elsewhere() -> Iterator[Reason]:
    """It does not run, does not go on, or listens elsewhere."""
    code, words = said("ss", "-Hltn")
    ends = {line.split()[3].rpartition(":")[::2] for line in words.splitlines() if len(line.split()) > 3}
    shown = said("systemctl", "show", "--property=LoadState,FreezerState,MainPID", "ssh.service")[1]
    unit = dict(line.partition("=")[::2] for line in shown.splitlines())
    if unit.get("FreezerState", "running") not in ("running", ""):
        yield reason("its sshd is frozen (systemctl freeze)", "systemctl thaw ssh")
    main = unit.get("MainPID", "0")
    with suppress(OSError):
        if main != "0" and Path(f"/proc/{main}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t"):
            yield reason(f"its sshd is stopped (process {main}, state T)", f"kill -CONT {main}")
    if code or any(at == str(port) and host in EVERYWHERE for host, at in ends):
        if not os.path.isdir("/run/sshd"):
            yield reason("the folder /run/sshd is gone, without which sshd lets nobody in", RESTART)
        return
    odd = [
        line
        for line in lines()
        if (line.words[0] == "port" and line.words[1:] != [str(port)])
        or (line.words[0] == "listenaddress" and f"{''.join(line.words[1:2])}" not in ("0.0.0.0", "::"))  # noqa: S104
        or line.words == ["addressfamily", "inet6"]
    ]
    near = sorted(host for host, at in ends if at == str(port) and not host.startswith(("127.", "[::1]")))
    named = port == 22 or any(line.words == ["port", str(port)] for line in lines())
    fixes = [*([off(odd)] if odd else []), *([] if named else [f"sed -i '1i Port {port}' {CONFIG}"]), RESTART]
    if unit.get("LoadState") == "masked":
        yield reason("its sshd is masked, and does not run", "systemctl unmask ssh && systemctl start ssh")
    elif odd or not named:
        where = str(odd[0]) if odd else f"no line of its files says Port {port}"
        yield reason(f"sshd does not listen at port {port} of every address: {where}", " && ".join(fixes))
    elif near:
        yield reason(f"sshd listens at {', '.join(near)} only, and its files say everywhere", RESTART)
    else:
        yield reason(f"its sshd does not run: nothing listens at port {port}", "systemctl start ssh")


def _has_key(path: str, key: str) -> bool:
    words = key.split()
    return len(words) > 1 and words[1] in Path(path).read_text(errors="replace")


# --- what it is told ------------------------------------------------------------------------------------------------


def settings(user: str, address: str, key: str, forwards: bool) -> Iterator[Reason]:
    """What its settings are for an account that comes from an address with a key."""
    try:
        there = effective(user, address)
    except ValueError:
        return  # told by `listens`
    yield from _lists(user, address, there)
    for keyword, is_bad, what in _rules(user, key, forwards):
        value = " ".join(there.get(keyword, [])).strip()
        if value and is_bad(value):
            lines = found(keyword, value) or found(keyword)
            where = str(lines[0]) if lines else f"{keyword} {value}, and no line of its files says so"
            yield reason(f"{what}: {where}", config(off(lines)))
    revoked = "".join(there.get("revokedkeys", []))
    if revoked not in ("none", "") and os.path.isfile(revoked) and _has_key(revoked, key):
        yield reason(f"the operator's key is among those that sshd takes no more: {revoked}")


def _rules(user: str, key: str, forwards: bool) -> Iterator[tuple[str, Callable[[str], bool], str]]:
    """Keyword, whether a value is in the way, what it does then."""
    kind = key.split(maxsplit=1)[0] if key else ""
    yield "pubkeyauthentication", lambda value: value == "no", "sshd takes no keys"
    yield "authenticationmethods", lambda value: not {"any", "publickey"} & set(value.split()), "a key is not enough"
    yield "maxsessions", lambda value: value == "0", "sshd lets in, and gives no session"
    yield "forcecommand", lambda value: value != "none", "sshd runs another command than the one that is asked for"
    yield "chrootdirectory", lambda value: value != "none", "sshd shuts it up in a folder"
    yield "logingracetime", lambda value: value.isdigit() and 0 < int(value) < 5, "sshd gives no time to log in"
    yield "maxstartups", lambda value: int(value.partition(":")[0]) < 5, "sshd takes hardly any newcomer"
    few = "sshd takes hardly any newcomer from one address"
    yield "persourcemaxstartups", lambda value: value.isdigit() and int(value) < 3, few
    for keyword, usual in SPOKEN.items():
        yield keyword, partial(_speaks_none, usual), "sshd speaks nothing that ssh does"
    yield "revokedkeys", lambda value: value != "none" and not os.path.isfile(value), "sshd refuses all keys"
    if kind and kind != "ssh-rsa":
        yield "pubkeyacceptedalgorithms", lambda value: kind not in value.split(","), f"sshd takes no {kind} keys"
    if user == "root":
        yield "permitrootlogin", lambda value: value in ("no", "forced-commands-only"), "sshd does not let root in"
    if forwards:
        yield "disableforwarding", lambda value: value == "yes", "sshd forwards nothing"
        yield "allowtcpforwarding", lambda value: value in ("no", "remote"), "sshd forwards nothing"
        yield "permitopen", lambda value: value != "any", "sshd does not forward to everywhere"


def _speaks_none(usual: str, value: str) -> bool:
    return not any(re.search(usual, each) for each in value.split(","))


def _lists(user: str, address: str, there: dict[str, list[str]]) -> Iterator[Reason]:
    """AllowUsers and the like."""
    groups = groups_of(user)
    for keyword, mine in (("users", [user]), ("groups", groups)):
        for line in found(f"deny{keyword}") if f"deny{keyword}" in there else ():
            if any(names(pattern, name, address) for pattern in line.words[1:] for name in mine):
                yield reason(f"sshd refuses {' and '.join(mine)}: {line}", config(off([line])))
        patterns = [each for value in there.get(f"allow{keyword}", []) for each in value.split()]
        if patterns and not any(names(pattern, name, address) for pattern in patterns for name in mine):
            lines, name = found(f"allow{keyword}"), (mine or [""])[0]
            where = str(lines[-1]) if lines else " ".join(patterns)
            can = lines and plain(name)
            fix = f"sed -i '{lines[-1].number}s/.*/& {name}/' {shlex.quote(lines[-1].path)}" if can else ""
            who = f"{user} is not" if keyword == "users" else f"no group of {user} is"
            yield reason(f"sshd lets in whom it names, and {who} among them: {where}", config(fix))


def config(fix: str) -> str:
    """A change of the files of sshd, and what makes it read them."""
    return f"{fix} && {RELOAD}" if fix else ""
