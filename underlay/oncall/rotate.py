"""Change the key with which the operator logs in on the hosts, so that nobody is locked out on the way.

    add the new key ── log in with it ── put it in the old one's place here ── remove the old one
    nothing changed for anybody up to here ──┘

Until the new key has logged in on every host, whatever goes wrong takes it away again and leaves the old one.
"""

import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from underlay.access.ssh_config import CONNECT_SECONDS, TargetError
from underlay.access.target import MACHINE_KEY, Target
from underlay.errors import COULD_NOT, GOOD, WRONG

SECONDS = 3 * CONNECT_SECONDS
"""For one command on a host, the login on the jump host in between included."""
AT_ONCE = 24

# `$1` and `$2` are the lines of the new and of the old key, as a `.pub` file has them.
_BEGIN = 'set -eu; f=~/.ssh/authorized_keys; key() { echo "$1" | cut -d" " -f2; }; '
ADD = _BEGIN + 'grep -qF "$(key "$1")" $f && exit; [ -z "$(tail -c 1 $f)" ] || echo >> $f; echo "$1" >> $f'
_REMOVE = 'umask 077; grep -vF "$(key "${}")" $f > $f.new || true; chmod --reference=$f $f.new; mv $f.new $f'
REMOVE_NEW = _BEGIN + _REMOVE.format(1)
REMOVE_OLD = _BEGIN + 'grep -qF "$(key "$1")" $f; ' + _REMOVE.format(2)


def rotate(target: Target, new: Path | None, without: Iterable[str] = ()) -> int:
    """Replace the operator's key on all hosts of the target and here; the exit code.

    new: a private key whose public one is beside it (`.pub`); None: one is made, without a passphrase
    without: hosts that are left out: what is down, else, stops it before anything changes
    Raises TargetError.
    """
    if target.key == MACHINE_KEY:
        raise TargetError("from here the machine's own key logs in: change the operator's key from a workstation")
    old, made = target.key, new is None
    new = new or old.with_name(f"{old.name}.new")
    with tempfile.TemporaryDirectory(dir=target.ssh_config.parent) as folder:
        keys = _Keys(target, Path(folder))
        names = [each.name for each in target.endpoints if each.name not in set(without)]
        down = keys.errors(old, names, "true")
        deployed = [host.name for host in target.plan.deployed]
        if any(name in deployed for name in down):
            _tell(down)
            print("nothing was changed: fix it first, or leave hosts out (--without)")
            return COULD_NOT
        # A host without a deploy (a workstation, say) need not know the operator.
        names = [name for name in names if name not in down]
        if made:
            _make(new)
        lines = [_public(new), _public(old)]
        if lines[0].split()[1] == lines[1].split()[1]:
            raise TargetError(f"{new} is the key in use already")
        errors = {"interrupted": ""}
        try:
            errors = keys.errors(old, names, ADD, *lines) or keys.errors(new, names, "true")
        finally:
            if errors:
                keys.errors(old, names, REMOVE_NEW, *lines)
                for path in (new, new.with_name(f"{new.name}.pub")) if made else ():
                    path.unlink()
                print("the new key was taken away again: nothing changed")
        if errors:
            _tell(errors)
            return COULD_NOT
        print(f"the new key logs in on {', '.join(names)}")
        kept = _swap(old, new)
        print(f"{old} is the new key now, {kept} the old one", flush=True)
        errors = keys.errors(old, names, REMOVE_OLD, *lines)
        refused = keys.errors(kept, names, "true")
    _tell(errors)
    if still := [name for name in names if name not in refused]:
        print(f"the old key still logs in on {', '.join(still)}: delete its line there in ~/.ssh/authorized_keys")
        return WRONG
    print(f"the old key is refused on {', '.join(names)}")
    for name in sorted(set(without)):
        print(f"left out: {name} still takes the old key, and only that")
    return GOOD


class _Keys:
    """Runs commands on hosts, over connections of their own with a key of choice."""

    def __init__(self, target: Target, folder: Path) -> None:
        self._config = target.ssh_config.read_text()
        self._folder = folder

    def errors(self, key: Path, names: Iterable[str], script: str, *arguments: str) -> dict[str, str]:
        """Run a script on hosts at the same time; host → error of those where it failed."""
        command = shlex.join(["sh", "-c", script, "sh", *arguments])
        path = self._folder / "ssh_config"
        # Of a keyword ssh takes the first value. A connection that is open already would prove nothing.
        alone = f"Host *\n    ControlMaster no\n    ControlPath none\n    IdentityFile {key}\n\n"
        path.write_text(alone + re.sub(r"(?m)^ *IdentityFile .*\n", "", self._config))

        def run(name: str) -> str:
            argv = ["ssh", "-n", "-F", str(path), name, command]
            try:
                done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
            except subprocess.TimeoutExpired:
                return f"no answer within {SECONDS} s"
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            return last if done.returncode else ""

        names = list(names)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return {name: error for name, error in zip(names, pool.map(run, names), strict=True) if error}


def _tell(errors: Mapping[str, str]) -> None:
    for name, error in errors.items():
        print(f"{name}: {error}")


def _make(path: Path) -> None:
    if path.exists():
        raise TargetError(f"{path} is there already: use it with --new, or delete it")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _public(key: Path) -> str:
    """The line of a key's public file; the comment says which one it is to people."""
    path = key.with_name(f"{key.name}.pub")
    try:
        return " ".join(path.read_text().split())
    except OSError as error:
        raise TargetError(
            f"{path} can't be read ({error.strerror}): `ssh-keygen -y -f {key} > {path}` makes it"
        ) from error


def _swap(old: Path, new: Path) -> Path:
    """Put the new key in the old one's place; where the old one is now."""
    kept = old.with_name(f"{old.name}.old")
    for suffix in (".pub", ""):
        for source, destination in ((old, kept), (new, old)):
            source.with_name(source.name + suffix).replace(destination.with_name(destination.name + suffix))
    return kept
