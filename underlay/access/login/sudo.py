"""How a command becomes root's on a host, and the password that sudo may ask for.

The password is asked once for an account, on the terminal. It is kept in memory that the processes of this command
share (a file without a name), and goes to a host as the first line of a command's stdin: it is in no list of
processes, no environment, no log and no file.
"""

import fcntl
import getpass
import json
import os
import re
import shlex
import threading
from typing import NamedTuple

from underlay.access.target import Target
from underlay.errors import OperatorError
from underlay.plan import Host

VARIABLE = "UNDERLAY_SECRETS"
"""The number of the file, for processes that this one starts."""
NAME = "underlay-secrets"
MOST = 65536
MARK = "underlay: the password ends here"
END = f"{MARK}\n".encode()
SKIP = f'while IFS= read -r line && [ "$line" != {shlex.quote(MARK)} ]; do :; done; exec "$@"'
"""Before a command: where sudo asks for no password after all, the command does not read it either."""
WITH_PASSWORD = ("sudo", "-S", "-k", "-p", "", "sh", "-c", SKIP, "sh")
WITHOUT = ("sudo", "-n")
REFUSALS: tuple[tuple[str, str], ...] = (
    (r"command not found|No such file|not found$", "there is no sudo: {install}"),
    (r"incorrect password|Sorry, try again|Authentication fail|no password was provided", "wrong password: {again}"),
    (r"not in the sudoers|not allowed to|may not run", "sudo gives it no right to that: {right}"),
    (r"a password is required", 'sudo asks for a password: {right}, or write "sudo": "password" in the plan'),
)
"""What sudo says → what it means, and what to do."""

_asking = threading.Lock()


class Root(NamedTuple):
    """What goes before the words of a command, and before its stdin, so that it is root's."""

    words: tuple[str, ...]
    stdin: bytes = b""

    def line(self, *words: object) -> str:
        """A command as a line for the host's shell."""
        return shlex.join([*self.words, *map(str, words)])


def root(target: Target, name: str) -> Root:
    """For a host. Raises OperatorError if there is no terminal to ask for a password."""
    if target.vantage is not None and target.vantage.name == name:
        return Root(WITHOUT)
    host = next((each for each in target.plan.hosts if each.name == name), None)
    if host is None or host.login.sudo == "nopasswd":
        return Root(WITHOUT)
    if host.login.sudo is None:
        return Root(())
    return Root(WITH_PASSWORD, f"{password(host.login.user)}\n".encode() + END)


def asking(target: Target) -> dict[str, str]:
    """The hosts where sudo asks for a password, but for the one that this process is on: host → account."""
    here = target.vantage.name if target.vantage else ""
    return {
        host.name: host.login.user for host in target.plan.hosts if host.login.sudo == "password" and host.name != here
    }


def ask(target: Target) -> None:
    """Ask for all passwords that a command may need, where nobody can be asked in the middle of it."""
    for user in dict.fromkeys(asking(target).values()):
        password(user)


def password(user: str) -> str:
    """The password of an account on the hosts; asked if no process of this command has asked yet."""
    with _asking:
        shared = _shared()
        fcntl.lockf(shared, fcntl.LOCK_EX)
        try:
            known: dict[str, str] = json.loads(os.pread(shared, MOST, 0) or b"{}")
            if user not in known:
                known[user] = _asked(user)
                os.pwrite(shared, json.dumps(known).encode(), 0)
            return known[user]
        finally:
            fcntl.lockf(shared, fcntl.LOCK_UN)


def shared_files() -> tuple[int, ...]:
    """What a process that this one starts must inherit (`pass_fds`) to share what was asked."""
    return (_shared(),)


def _shared() -> int:
    number = os.environ.get(VARIABLE, "")
    try:
        if number.isdigit() and NAME in os.readlink(f"/proc/self/fd/{number}"):
            return int(number)
    except OSError:
        pass  # whoever started this one did not hand it on
    made = os.memfd_create(NAME)
    os.environ[VARIABLE] = str(made)
    return made


def _asked(user: str) -> str:
    try:
        # Without a terminal it would be read from stdin, and shown.
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        raise OperatorError(
            f"sudo of {user} needs a password, and there is no terminal to ask for it: run this on a terminal"
        ) from None
    try:
        found = getpass.getpass(f"Password of {user} for sudo: ")
    except EOFError:
        found = ""
    if not found:
        raise OperatorError(f"no password of {user} for sudo was given")
    return found


def refusal(host: Host, said: str) -> str:
    """Why an account does not become root on a host, from sudo's words, and what to do; empty if it is not sudo."""
    user, name = host.login.user, host.name
    rule = shlex.quote(f"{user} ALL=(ALL:ALL) {'NOPASSWD: ' if host.login.sudo == 'nopasswd' else ''}ALL")
    path = f"/etc/sudoers.d/{user}"
    do = {
        "install": "as root there: apt-get install -y sudo",
        "again": f"try again with the password that {user} has on {name}",
        "right": f"as root there: echo {rule} > {path} && chmod 440 {path}",
    }
    for words, means in REFUSALS:
        if re.search(words, said, re.MULTILINE):
            return f"{user} can't become root on {name}: {means.format(**do)}"
    if host.login.sudo is not None and "sudo" in said:
        return f"{user} can't become root on {name}: {said}"
    return ""
