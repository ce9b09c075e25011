"""Who may get in that the plan does not know: a finding where it is a hole, or was put there since; else a note."""

import base64
import hashlib
import re
from collections.abc import Iterator

from underlay.access import hostkeys
from underlay.access.answers import UnreadableError
from underlay.compare.sshd import PASSWORDS
from underlay.doctor.cause import Cause
from underlay.doctor.investigation import SHOWN, Investigation, some
from underlay.doctor.survey import Accounts
from underlay.facts.access import ON_CALL
from underlay.plan import Host, roles
from underlay.text import command

FOR_ALL = re.compile(r"ALL\s+\S+\s*=.*\bNOPASSWD:")
SUDO = re.compile(rf"%{ON_CALL}\s+ALL\s*=\s*\(ALL(?::ALL)?\)\s*NOPASSWD:\s*ALL")
OTHERS_DECIDE = {
    "authorizedkeyscommand": "the keys that a program names",
    "trustedusercakeys": "the certificates of an authority",
    "authorizedprincipalscommand": "the names that a program tells",
}
"""Settings of sshd by which others than the files of keys let people in."""


def accounts(case: Investigation) -> Iterator[Cause]:
    """`account-root`, `account-open`, `sudo-open`, `file-open`, `key-unknown`, `on-call-differs`."""
    seen = {host: found for host in case.deployed if (found := case.look(host).accounts) is not None}
    for host, found in seen.items():
        yield from _holes(case, host, found)
    yield from _keys(case, seen)
    yield from _on_call(case, case.plan.jumphost, seen.get(case.plan.jumphost))
    _note_others(case, seen)


def _holes(case: Investigation, host: Host, found: Accounts) -> Iterator[Cause]:
    """What is one wherever it is seen."""
    for name, uid, empty, expired in found["accounts"]:
        if uid == 0 and name != "root" and not expired:
            yield case.cause(
                "account-root",
                host,
                f"the account {name} is root by another name (uid 0)",
                [f"getent passwd {name}"],
                case.ssh(host.name, command("usermod", "--lock", "--expiredate", 1, name)),
                "somebody made it: find out who; after this nobody logs in with it any more",
            )
        elif empty and not expired and _takes_empty_passwords(case, host):
            yield case.cause(
                "account-open",
                host,
                f"anybody logs in as {name}: its password is empty, and sshd takes that",
                [f"passwd -S {name}"],
                case.ssh(host.name, command("usermod", "--lock", name)),
            )
        elif empty and not expired:
            case.notes.append(f"{host.name}: the password of {name} is empty; sshd does not take it, a console does")
    for path, number, text in found["rights"]:
        if FOR_ALL.match(text):
            line = f"sed -i {number}s/^/#/ {command(path)}"
            yield case.cause(
                "sudo-open",
                host,
                "sudo makes every account root, without a password",
                [f"{path} line {number}: {text}"],
                case.ssh(host.name, command("sh", "-c", f"{line} && visudo -cq")),
                "this makes the line a comment",
            )
    for path, number, text in found["asks_nothing"]:
        yield case.cause(
            "account-open",
            host,
            f"PAM asks nobody for a password ({path}): whoever is on the host becomes root, or anybody",
            [f"{path} line {number}: {text}"],
            case.ssh(host.name, f"sed -i {number}s/^/#/ {command(path)}"),
            "this makes the line a comment; somebody wrote it: find out what for",
        )
    if found["writable"]:
        paths = [path for path, _ in found["writable"]]
        yield case.cause(
            "file-open",
            host,
            f"everybody may write to {some(paths)}, and so become root or somebody else",
            [f"{path} has mode {mode}" for path, mode in found["writable"]],
            case.ssh(host.name, command("chmod", "o-w", *paths)),
        )


def _takes_empty_passwords(case: Investigation, host: Host) -> bool:
    state = case.state(host)
    try:
        settings = state.sshd.settings if state else {}
    except UnreadableError:
        return False
    return settings.get("permitemptypasswords") == "yes" and any(settings.get(key) == "yes" for key in PASSWORDS)


def _keys(case: Investigation, seen: dict[Host, Accounts]) -> Iterator[Cause]:
    """Keys of root and of the operator that the plan does not name.

    The plan does not say who else may use these accounts: an installer or a colleague adds keys, and a deploy leaves
    them. Hosts of a role are set up alike, though: a key that all of them have (of two or more) is how the site was set
    up. One that only some have was put there since.
    """
    known = {case.seen.workstation.public_key.split()[1]} if " " in case.seen.workstation.public_key else set()
    there: dict[tuple[str, str], dict[Host, tuple[str, int, str]]] = {}
    for host, found in seen.items():
        for account, path, number, key, comment, forced in found["keys"]:
            ours = key.split()[1] in known or comment == hostkeys.MARK or forced
            if account in ("root", host.login.user) and not ours:
                there.setdefault((account, key), {})[host] = (path, number, comment)
    for (account, key), places in there.items():
        name = fingerprint(key)
        alike = {host for host in seen if host.role in {each.role for each in places}}
        if len(places) > 1 and alike == set(places):
            path, _, comment = next(iter(places.values()))
            where = "all hosts" if len(places) == len(seen) else some(host.name for host in places)
            case.notes.append(f"on {where} {path} has a key that the plan does not name: {name} {comment}")
            continue
        for host, (path, number, comment) in places.items():
            # By its text, not its line: the file may have changed until this is pasted.
            away = f"sed -i /{max(re.split('[/+=]', key.split()[1]), key=len)}/d {command(path)}"
            yield case.cause(
                "key-unknown",
                host,
                f"a key that is not the plan's, nor on all hosts alike, logs in as {account}: {name} {comment}",
                [f"{path} line {number}"],
                case.ssh(host.name, away),
                "find out whose it is: this takes it away; if it is to stay, it belongs on all hosts",
            )


def fingerprint(key: str) -> str:
    """As ssh-keygen prints it."""
    try:
        digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    except ValueError:
        return "a key that is none"
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _on_call(case: Investigation, host: Host, found: Accounts | None) -> Iterator[Cause]:
    """The people on call are the plan's, with their keys, and sudo."""
    state = case.state(host)
    if state is None:
        return
    people = roles.jumphost(case.plan).people_on_call
    there = state.on_call
    strangers = sorted(set(there) - set(people))
    wanted = {f"{account}: {key}" for account, keys in people.items() for key in keys}
    have = {f"{account}: {key}" for account, text in there.items() for key in text.splitlines() if key}
    evidence = [f"{name} is in the group {ON_CALL}, and not in the plan" for name in strangers]
    evidence += [f"{name} has no account there" for name in people if name not in there]
    evidence += [f"a key of {each.partition(':')[0]} is missing" for each in sorted(wanted - have)]
    evidence += [
        f"{account} has a key that the plan does not name: {_words(key)}"
        for account, _, key in (each.partition(": ") for each in sorted(have - wanted))
        if account in people
    ]
    if people and found and not any(SUDO.match(text) for _, _, text in found["rights"]):
        evidence.append("no line of sudo lets them become root")
    if not evidence:
        return
    away = [name for name in strangers if not (found and name in found["recorded"])]
    out = [case.ssh(host.name, command("gpasswd", "-d", name, ON_CALL)) for name in away]
    more = len(evidence) > len(away)
    yield case.cause(
        "on-call-differs",
        host,
        f"the people on call are not those of the plan: {evidence[0]}",
        evidence,
        " && ".join([*out, *([case.deploy(host)] if more else [])]),
        "whoever was in it could copy the deploy machine's key: then ./inv rotate-key --deploy-machine" if away else "",
    )


def _words(line: str) -> str:
    return " ".join(word if len(word) <= 40 else f"{word[:24]}…" for word in line.split()[:6])


def _note_others(case: Investigation, seen: dict[Host, Accounts]) -> None:
    """Other admins are none of the plan's business: who they are is worth to know."""
    others: dict[str, list[str]] = {}
    people = set(roles.jumphost(case.plan).people_on_call)
    for host, found in seen.items():
        mine = {"root", host.login.user, *(people if host.role == "jumphost" else ())}
        keyed = {account for account, *_ in found["keys"]} - mine
        rights = {text.split()[0] for _, _, text in found["rights"]} | set(found["admins"])
        for name in sorted(keyed):
            what = f"{name} (with sudo)" if name in rights else name
            others.setdefault(what, []).append(host.name)
        state = case.state(host)
        try:
            settings = state.sshd.settings if state else {}
        except UnreadableError:
            continue
        for key, what in OTHERS_DECIDE.items():
            if settings.get(key, "none") not in ("none", ""):
                case.notes.append(f"{host.name}: sshd takes {what}, too: {key} {settings[key]}")
    if others:
        shown = [f"{what} on {some(hosts)}" for what, hosts in others.items()]
        more = f"; and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        case.notes.append(f"others may log in, too: {'; '.join(shown[:SHOWN])}{more}")
