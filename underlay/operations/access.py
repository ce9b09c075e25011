"""Who may log in: each file of keys is replaced as a whole, after it was checked."""

import base64
import shlex
from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FunctionCommand, StringCommand, operation

from underlay.access import hostkeys
from underlay.compare import files
from underlay.compare.difference import Difference, File
from underlay.facts.access import AccountKeys, AuthorizedKeys
from underlay.guard.change import Change, NewFile
from underlay.operations import guarded, tell


@operation()
def machine_key(path: str, key: str, mark: str) -> Generator[FunctionCommand, None, None]:
    """
    A key of ours among those of the operator, as a confirmed change: it is the operator's way in that changes.

    + path: the operator's authorized_keys
    + key: the line
    + mark: its comment, by which one from before is known
    """
    found = host.get_fact(AuthorizedKeys, path=path)
    if found is None:
        return
    content = hostkeys.with_key(found.content or "", key, mark)
    if content == found.content:
        host.noop(f"{mark} may log in")
        return
    what = files.lines(Difference("differs", File(found.path, content), found.content))
    tell(what)
    # One that is there keeps its mode and its owner; sshd reads a new one as the operator.
    mode = "644" if found.content is None else ""
    yield guarded(Change(what=tuple(what), files={found.path: NewFile(content, mode)}))


@operation()
def account_keys(account: str, keys: list[str]) -> Generator[StringCommand, None, None]:
    """
    Exactly these keys for an account that is there by now.

    + account: its name
    + keys: lines of its authorized_keys

    A file that is not complete, or that ssh-keygen does not read all keys of, leaves the old one in place, and the
    operation fails.
    """
    present = host.get_fact(AccountKeys, account=account)
    content = "".join(f"{key}\n" for key in keys)
    if present == content:
        host.noop(f"the keys of {account} are as planned")
        return
    name, encoded = shlex.quote(account), base64.b64encode(content.encode()).decode()
    yield StringCommand(
        f"set -e\nhome=$(getent passwd {name} | cut -d: -f6)\n"
        'f=$(readlink -m "$home/.ssh/authorized_keys")\nNEW="$f.underlay-new"\ntrap \'rm -f "$NEW"\' EXIT\n'
        f'install -d -m 700 -o {name} -g "$(id -g {name})" "$(dirname "$f")"\n'
        f'rm -f "$NEW"\n(umask 077; echo {encoded} | base64 -d > "$NEW")\n'
        f'[ "$(ssh-keygen -lf "$NEW" 2>/dev/null | wc -l)" = {len(keys)} ]\n'
        f'chown {name}: "$NEW"\nsync "$NEW"\nmv -f "$NEW" "$f"\n'
    )
