"""Who may log in: each file of keys is replaced as a whole, after it was checked."""

import base64
import shlex
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, Host, State, StringCommand, operation
from pyinfra.api.exceptions import PyinfraError

from underlay.access import hostkeys
from underlay.access.login import sudo
from underlay.access.sessions import UnreachableError, last_words
from underlay.access.target import MACHINE_KEY, Target, current
from underlay.compare import files
from underlay.compare.difference import Difference, File
from underlay.desired.files import authorized_keys
from underlay.facts.access import (
    FIRST_UID,
    MACHINE_PUBLIC,
    ON_CALL,
    RECORD,
    AccountKeys,
    AuthorizedKeys,
    LoginKeys,
    OnCallAccounts,
    RotationDue,
    as_account,
    machine_public,
)
from underlay.guard import runner
from underlay.guard.change import Change, NewFile
from underlay.operations import connection, guarded, tell
from underlay.plan import REPO

FOLDER = MACHINE_KEY.parent
DUE = MACHINE_KEY.with_name("due")
ROTATE = ["rotate-key", "--deploy-machine"]

_public: dict[str, str] = {}
"""The public key of the deploy machine, by the plan's file: asked once, also for a hundred hosts."""
_asking = threading.Lock()


@operation()
def machine_key() -> Generator[StringCommand, None, None]:
    """A key of the jump host's own, with which it logs in on the others; nobody but root reads it."""
    if _machine_public(current()) is not None:
        host.noop("the deploy machine has a key of its own")
        return
    tell(["+ a key of the deploy machine's own"])
    new = f"{MACHINE_KEY}.made"
    yield StringCommand(
        f"set -e\numask 077\nmkdir -p {FOLDER}\nchmod 700 {FOLDER}\nrm -f {new} {new}.pub\n"
        f"ssh-keygen -q -t ed25519 -N '' -C {hostkeys.MARK} -f {new}\n"
        f"rm {new}.pub\nsync {new}\nmv -f {new} {MACHINE_KEY}\n"
    )


@operation()
def deploy_machine(names: list[str]) -> Generator[FunctionCommand, None, None]:
    """
    The deploy machine's key among those of the operator, each as a confirmed change: the operator's way in changes.

    + names: the hosts where; one that is not the current host is looked at through the same connections

    The line of an earlier key of its goes in the same change. Nothing is done while the jump host has no key yet, or
    can't be reached.
    """
    target = current()
    try:
        public = _machine_public(target)
    except UnreachableError as error:
        # A load balancer with an address of its own can be deployed without the jump host.
        tell([f"who may log in from the jump host is left as it is: {error}"])
        return
    if public is None:
        host.noop("the jump host, which is deployed later, has no key yet")
        return
    key = hostkeys.machine_key(target.plan, public)
    differs = False
    for name in names:
        here, path = name == host.name, authorized_keys(target.plan.host(name))
        found = host.get_fact(AuthorizedKeys, path=path) if here else _keys_on(target, name, path)
        if found is None:
            continue
        content = hostkeys.with_key(found.content or "", key, hostkeys.MARK)
        if content == found.content:
            continue
        differs = True
        what = files.lines(Difference("differs", File(found.path, content), found.content))
        tell(what if here else [f"{name}: {line}" for line in what])
        # One that is there keeps its mode and its owner; sshd reads a new one as the operator.
        mode = "644" if found.content is None else ""
        change = Change(what=tuple(what), files={found.path: NewFile(content, mode)})
        yield guarded(change, "" if here else name)
    if not differs:
        host.noop(f"{hostkeys.MARK} may log in")


def _machine_public(target: Target) -> str | None:
    """The deploy machine's public key, as the jump host tells it; None if it has none yet.

    Raises UnreachableError; PyinfraError if it tells something else.
    """
    with _asking:
        name = str(target.plan.source)
        if name not in _public:
            try:
                found = machine_public(_read(target, target.plan.jumphost.name, MACHINE_PUBLIC))
            except ValueError as error:
                raise PyinfraError(f"{host.name}: the deploy machine's key can't be read: {error}") from error
            if found is None:
                return None
            _public[name] = found
        return _public[name]


def _keys_on(target: Target, name: str, path: str) -> LoginKeys | None:
    fact = AuthorizedKeys()
    try:
        return fact.process(_read(target, name, fact.command(path)).splitlines())
    except UnreachableError as error:
        # What is to be done here must not wait for it: somebody is removed, say. `verify` is red until it is done.
        tell([f"who may log in on {name} is left as it is: {error}"])
        return None


def _read(target: Target, name: str, command: str) -> str:
    """What a command prints as root on a host, which need not be the current one. Raises UnreachableError."""
    worker, line = runner.worker(target), shlex.join(["sh", "-c", command])
    if error := worker.connect(name):
        raise UnreachableError(error)
    try:
        code, output, said = worker.shell(name, line, b"", connection.SECONDS)
    except TimeoutError:
        raise UnreachableError(f"{name} gave no answer within {connection.SECONDS} s") from None
    if code:
        raise UnreachableError(last_words(said, f"exit code {code}"))
    return output.decode(errors="replace")


@operation()
def rotated(removed: list[str]) -> Generator[FunctionCommand, None, None]:
    """
    Another key for the deploy machine, on all hosts or on none, if somebody was removed who may have a copy of it.

    + removed: who is removed by this run
    """
    who = sorted({*removed, *(host.get_fact(RotationDue) or [])})
    if not who:
        host.noop("nobody was removed since the deploy machine's key was made")
        return
    tell([f"another key for the deploy machine: {', '.join(who)} could read it"])
    yield FunctionCommand(_rotate, (), {})


def _rotate(state: State, host: Host) -> bool:  # noqa: ARG001 (pyinfra looks for both names)
    connection.forget(host)
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *ROTATE],
        cwd=REPO,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        pass_fds=sudo.shared_files(),
    )
    for line in done.stdout.splitlines():
        logger.info(f"{host.print_prefix}{line}")
    if done.returncode:
        again = f"./inv {' '.join(ROTATE)}"
        logger.error(f"{host.print_prefix}who was removed may still have a key of all hosts: fix it, then {again}")
    return done.returncode == 0


def require_accounts_of_ours(people: Iterable[str]) -> list[str]:
    """Stop, before anything changes, if accounts are in the way that no deploy made; those that leave else."""
    people, operator = list(people), current().plan.jumphost.login.user
    found = host.get_fact(OnCallAccounts, names=people)
    if found is None:
        return []
    if refused := found.refusals(people, operator):
        raise PyinfraError("\n".join(f"{host.name}: nothing was changed: {each}" for each in refused))
    return [name for name in found.made if name not in (*people, operator)]


@operation()
def person(account: str) -> Generator[StringCommand, None, None]:
    """
    An account of somebody on call, in their group, which is there by now.

    + account: its name; one that no deploy made was refused before

    A home that somebody of this name left behind is theirs again; no home becomes another person's.
    """
    found = host.get_fact(OnCallAccounts, names=[account])
    if found is None:
        return
    name = shlex.quote(account)
    if account in found.made:
        if account in found.members:
            host.noop(f"{account} is there")
        else:
            yield StringCommand(f"usermod --append --groups {ON_CALL} {name}")
        return
    yield StringCommand(
        f"set -e\nhome=/home/{name}\nset --\n"
        f'uid=$(stat -c %u "$home" 2>/dev/null || true)\n'
        # The UIDs of homes that were left behind are nobody's.
        f"free=$(stat -c %u /home/* 2>/dev/null | awk '$1 >= {FIRST_UID} && $1 < 60000 && $1 >= n {{ n = $1 + 1 }} "
        f"END {{ print n + 0 ? n : {FIRST_UID} }}')\n"
        f'if [ "${{uid:-0}}" -ge {FIRST_UID} ] && ! getent passwd "$uid" >/dev/null; then set -- --uid "$uid"; fi\n'
        f'useradd --key UID_MIN="$free" --create-home --home-dir "$home" --shell /bin/bash --groups {ON_CALL} '
        f'"$@" {name}\n'
        f"mkdir -p {RECORD.rpartition('/')[0]}\n"
        f'echo {name} "$(id -u {name})" >> {RECORD}\nsync {RECORD}\n'
    )


@operation()
def removed(account: str) -> Generator[StringCommand, None, None]:
    """
    No account, no key and no process of somebody who was on call; the home stays.

    + account: one that a deploy made: the host looks at its record once more
    """
    name = shlex.quote(account)
    keys_away = as_account(account, 'rm -f "$1/.ssh/authorized_keys"')
    yield StringCommand(
        f"set -e\nuid=$(id -u {name})\n"
        f'[ "$uid" -ge {FIRST_UID} ] && grep -qxF {name}" $uid" {RECORD}\n'
        # First: whatever ends this half-way, the next deploy makes another key.
        f"umask 077\nmkdir -p {FOLDER}\nchmod 700 {FOLDER}\necho {name} >> {DUE}\nsync {DUE}\n"
        f"{keys_away} || true\n"
        f"usermod --lock --expiredate 1 {name}\n"
        f"rm -f /var/spool/cron/crontabs/{name}\n"
        f"loginctl disable-linger {name} 2>/dev/null || true\nloginctl terminate-user {name} 2>/dev/null || true\n"
        f'n=0; while pkill -KILL -U "$uid" || pkill -KILL -u "$uid"; do\n'
        f"  n=$((n + 1)); [ $n -lt 50 ] || break; sleep 0.1\ndone\n"
        f"userdel {name}\n"
        f'grep -vxF {name}" $uid" {RECORD} > {RECORD}.new || true\nmv -f {RECORD}.new {RECORD}\n'
    )


@operation()
def account_keys(account: str, keys: list[str]) -> Generator[StringCommand, None, None]:
    """
    Exactly these keys for an account that is there by now.

    + account: its name
    + keys: lines of its authorized_keys

    A file that is not complete, or that ssh-keygen does not read all keys of, leaves the old one in place, and the
    operation fails. All of it is done as the account.
    """
    present = host.get_fact(AccountKeys, account=account)
    content = "".join(f"{key}\n" for key in keys)
    if present == content:
        host.noop(f"the keys of {account} are as planned")
        return
    encoded = base64.b64encode(content.encode()).decode()
    commands = (
        'set -e\numask 077\nmkdir -p "$1/.ssh"\nchmod 700 "$1/.ssh"\nf=$(readlink -m "$1/.ssh/authorized_keys")\n'
        'NEW="$f.underlay-new"\ntrap \'rm -f "$NEW"\' EXIT\nrm -f "$NEW"\n'
        f'echo {encoded} | base64 -d > "$NEW"\n'
        f'[ "$(ssh-keygen -lf "$NEW" 2>/dev/null | wc -l)" = {len(keys)} ]\n'
        'sync "$NEW"\nmv -fT "$NEW" "$f"\n'
    )
    yield StringCommand(as_account(account, commands))
