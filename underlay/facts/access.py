"""Who may log in: files of keys, the people on call, and the deploy machine's own key."""

import base64
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from pyinfra.api import FactBase

from underlay.access.target import MACHINE_KEY
from underlay.facts import fact, good, script
from underlay.text import command

ON_CALL = "underlay-oncall"
"""The group of the people on call."""
RECORD = "/var/lib/underlay/on-call"
"""The accounts that a deploy made: a line `NAME UID` for each."""
OTHER_NAME = "give the person an account of another name"
FIRST_UID = 1000
"""Debian's accounts of the system have smaller ones."""
MACHINE_PUBLIC = f"if [ -e {MACHINE_KEY} ]; then ssh-keygen -y -f {MACHINE_KEY}; fi"
"""A shell command that prints the public part of the deploy machine's key on the jump host; it needs root."""


@dataclass(frozen=True)
class LoginKeys:
    """A file of keys; bytes that are no UTF-8 are kept as surrogates.

    path: where it is, links followed
    content: None if it is not there
    """

    path: str
    content: str | None


class AuthorizedKeys(FactBase[LoginKeys]):
    """The operator's `authorized_keys`."""

    def command(self, path: str) -> str:
        """+ path: where sshd looks for it, in a home: `~USER/FILE`"""
        home, _, rest = path.partition("/")
        there = f"{home}/{shlex.quote(rest)}"
        return f'f=$(readlink -m {there}) && echo "$f" && if [ -e "$f" ]; then echo there && base64 -w0 "$f"; fi'

    @fact("the operator's keys")
    def process(self, output: list[str]) -> LoginKeys:
        path, *rest = output
        content = base64.b64decode("".join(rest[1:])).decode(errors="surrogateescape") if rest else None
        return LoginKeys(path, content)


def as_account(account: str, commands: str) -> str:
    """A shell command that runs others as an account: `$1` is its home. What is in there is not root's to touch.

    A link there would lead root to any file. The terminal that root may have is not the account's.
    """
    name = shlex.quote(account)
    home = f'"$(getent passwd {name} | cut -d: -f6)"'
    return f"setsid -w runuser -u {name} -- sh -c {shlex.quote(commands)} sh {home} </dev/null"


class AccountKeys(FactBase[str]):
    """The keys with which an account may log in, as the text of its file; empty where there are none."""

    def command(self, account: str) -> str:
        """+ account: its name; there need not be one yet"""
        read = 'f="$1/.ssh/authorized_keys"; if [ -f "$f" ]; then base64 -w0 "$f"; else echo; fi'
        return f"if getent passwd {shlex.quote(account)} >/dev/null; then {as_account(account, read)}; else echo; fi"

    @staticmethod
    def default() -> str:
        """An empty file."""
        return ""

    @fact("the keys of an account")
    def process(self, output: list[str]) -> str:
        return base64.b64decode("".join(output)).decode(errors="surrogateescape")


@dataclass(frozen=True)
class Accounts:
    """The accounts of a host.

    uids: name → UID of each
    groups: the names of all groups
    members: those in the group of the people on call
    recorded: name → UID of those that a deploy made, once
    """

    uids: dict[str, int]
    groups: frozenset[str]
    members: frozenset[str]
    recorded: dict[str, int]

    @property
    def made(self) -> list[str]:
        """The accounts that a deploy made: only these are ever changed or removed."""
        return [name for name, uid in self.recorded.items() if uid >= FIRST_UID and self.uids.get(name) == uid]

    def refusals(self, wanted: Iterable[str], operator: str) -> list[str]:
        """Why these can't be the people on call, each with what to do; empty if they can."""
        wanted, made = list(wanted), self.made
        found = []
        for name in [*wanted, *sorted(self.members - set(wanted))]:
            if name in made:
                continue
            uid = self.uids.get(name)
            fix = OTHER_NAME if name in wanted else f"take it out ({command('sudo', 'gpasswd', '-d', name, ON_CALL)})"
            if uid is not None and uid >= FIRST_UID and name in self.members and name != operator:
                line = command("echo", f"{name} {uid}")
                fix += f"; or, if an earlier version made it, say so there: {line} | sudo tee -a {RECORD}"
            if name not in wanted:
                found.append(f"{name} is in the group {ON_CALL}, and no deploy made this account: {fix}")
            elif uid is not None:
                found.append(f"{name}: an account of this name is there, and no deploy made it: {fix}")
            elif name in self.groups:
                found.append(f"{name}: a group of this name is there: {fix}")
        return found


class OnCallAccounts(FactBase[Accounts]):
    """The accounts of a host, as `Accounts`."""

    def command(self, names: list[str]) -> str:
        """+ names: those that are asked about; a directory service may not list them by itself"""
        asked = command(*names)
        return script(
            {
                "accounts": f"getent passwd\ngetent passwd {asked} || true",
                "groups": f"getent group\ngetent group {asked} || true",
                "recorded": f"[ ! -e {RECORD} ] || cat {RECORD}",
            }
        )

    @fact("the accounts")
    def process(self, output: list[str]) -> Accounts:
        found = good(output)
        rows = [line.split(":") for line in found["accounts"]]
        groups = {row[0]: row for row in (line.split(":") for line in found["groups"])}
        _, _, gid, listed = groups.get(ON_CALL, ["", "", "", ""])
        primary = {row[0] for row in rows if gid and row[3] == gid}
        return Accounts(
            uids={row[0]: int(row[2]) for row in rows},
            groups=frozenset(groups),
            members=frozenset(primary | set(listed.split(",")) - {""}),
            recorded={name: int(uid) for name, uid in map(str.split, found["recorded"])},
        )


def machine_public(output: str) -> str | None:
    """What MACHINE_PUBLIC printed, as TYPE and KEY; None if there is no key. Raises ValueError for anything else."""
    if not output.strip():
        return None
    # No options, and no further line, whatever the jump host says.
    if match := re.fullmatch(r"(ssh-ed25519 [A-Za-z0-9+/]{60,}={0,2})( [^\n]*)?\n?", output):
        return match[1]
    raise ValueError("the jump host shows no key that it could log in with")


class RotationDue(FactBase[list[str]]):
    """The people who were removed since the deploy machine's key was made; they may have a copy of it."""

    def command(self) -> str:
        return f"[ ! -e {MACHINE_KEY.with_name('due')} ] || sort -u {MACHINE_KEY.with_name('due')}"

    @staticmethod
    def default() -> list[str]:
        """Nobody."""
        return []

    def process(self, output: list[str]) -> list[str]:
        return output
