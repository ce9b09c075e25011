"""Who may log in: files of keys."""

import base64
import shlex
from dataclasses import dataclass

from pyinfra.api import FactBase

from underlay.facts import fact


@dataclass(frozen=True)
class LoginKeys:
    """A file of keys; bytes that are no UTF-8 are kept as surrogates.

    path: where it is, links followed
    content: None if it is not there
    """

    path: str
    content: str | None


class AuthorizedKeys(FactBase[LoginKeys]):
    """An `authorized_keys`."""

    def command(self, path: str) -> str:
        """+ path: where sshd looks for it"""
        quoted = shlex.quote(path)
        return f'f=$(readlink -m {quoted}) && echo "$f" && if [ -e "$f" ]; then echo there && base64 -w0 "$f"; fi'

    @fact("the operator's keys")
    def process(self, output: list[str]) -> LoginKeys:
        path, *rest = output
        content = base64.b64decode("".join(rest[1:])).decode(errors="surrogateescape") if rest else None
        return LoginKeys(path, content)


class AccountKeys(FactBase[str]):
    """The keys with which an account may log in, as the text of its file; empty where there are none."""

    def command(self, account: str) -> str:
        """+ account: its name; there need not be one yet"""
        home = f'"$(getent passwd {shlex.quote(account)} | cut -d: -f6)"'
        return f'f={home}/.ssh/authorized_keys; if [ -f "$f" ]; then base64 -w0 "$f"; else echo \'\'; fi'

    @staticmethod
    def default() -> str:
        """An empty file."""
        return ""

    @fact("the keys of an account")
    def process(self, output: list[str]) -> str:
        return base64.b64decode("".join(output)).decode(errors="surrogateescape")
