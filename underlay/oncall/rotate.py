"""Change the key with which the operator logs in on the hosts, so that nobody is locked out on the way.

    add the new key ── log in with it ── take the old one out ── log in anew ── new key in its place here ── keep it so
    nothing changed for anybody up to here; the hosts put the old key back ────────────────────────────────┘

Until every host was logged in to with the new key while the old one was out, whatever goes wrong puts the old one back
on all of them. The hosts do that by themselves when the connection ends: the operator's machine may die at any moment.
"""

import hashlib
import os
import re
import select
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from underlay.access import answers, hostkeys
from underlay.access.answers import FloodError
from underlay.access.sessions import last_words
from underlay.access.ssh_config import CONNECT_SECONDS, TargetError, write
from underlay.access.target import MACHINE_KEY, Target
from underlay.errors import COULD_NOT, GOOD, WRONG
from underlay.remote import send
from underlay.remote.files import login_keys

SECONDS = 5 * CONNECT_SECONDS
"""For one command on a host, the login on the jump host in between included; many come at the same time."""
AT_ONCE = 8
"""New connections at the same time: a jump host refuses some of more than ten."""


def rotate(target: Target, new: Path | None, without: Iterable[str] = ()) -> int:
    """Replace the operator's key on all hosts of the target and here; the exit code.

    new: a private key whose public one is beside it (`.pub`); None: one is made, without a passphrase
    without: hosts that are left out: what is down, else, stops it before anything changes
    Raises TargetError.
    """
    if target.key == MACHINE_KEY:
        raise TargetError(
            "from here the machine's own key logs in (--deploy-machine changes that one): "
            "change the operator's key from a workstation"
        )
    old, made = target.key, new is None
    if not old.is_file() or old.suffix == ".pub":
        raise TargetError(f"the private key of {old} is not here: what an agent has is changed where it comes from")
    new = _given(new) if new else old.with_name(f"{old.name}.new")
    with tempfile.TemporaryDirectory(dir=target.ssh_config.parent) as folder:
        keys = Keys(target, Path(folder))
        names = [each.name for each in target.endpoints if each.name not in set(without)]
        down = keys.refusals(old, names)
        deployed = [host.name for host in target.plan.deployed]
        if any(name in deployed for name in down):
            tell(down)
            print("nothing was changed: fix it first, or leave hosts out (--without)")
            return COULD_NOT
        # A host without a deploy (a workstation, say) need not know the operator.
        names = [name for name in names if name not in down]
        if made:
            _make(new)
        lines = [hostkeys.public_line(new), hostkeys.public_line(old)]
        if lines[0].split()[1] == lines[1].split()[1]:
            raise TargetError(f"{new} is the key in use already")
        kept: Path | None = None
        try:
            errors = keys.edit(old, names, "add", *lines) or keys.refusals(new, names)
            if not errors:
                print(f"the new key logs in on {', '.join(names)}", flush=True)
                with keys.replaced(new, names, *lines) as (keep, failed):
                    errors = failed or keys.refusals(new, names)
                    if not errors:
                        kept = _swap(old, new)
                        print(f"{old} is the new key now, {kept} the old one", flush=True)
                        errors = keep()
        finally:
            # What is in its place already is the key to log in with.
            if kept is None and new.exists():
                _undo(keys, names, old, new, lines, made)
        tell(errors)
        if kept is None:
            return COULD_NOT
        refused = keys.refusals(kept, names)
    if still := [name for name in names if name not in refused]:
        print(f"the old key still logs in on {', '.join(still)}: delete its line there in ~/.ssh/authorized_keys")
        return WRONG
    print(f"the old key is refused on {', '.join(names)}")
    for name in sorted(set(without)):
        print(f"left out: {name} still takes the old key, and only that")
    return GOOD


def _given(key: Path) -> Path:
    """A private key that a person names, looked at before any host is asked."""
    if not key.is_file():
        raise TargetError(f"{key} is no file: name a private key with --new")
    hostkeys.public_line(key)
    return key


class Keys:
    """Runs commands on hosts, over connections of their own with a key of choice."""

    def __init__(self, target: Target, folder: Path) -> None:
        self._config = target.ssh_config.read_text()
        self._folder = folder

    def _argv(self, key: Path, name: str, line: str) -> list[str]:
        # Of a keyword ssh takes the first value. A connection that is open already would prove nothing.
        settings = ["ControlMaster no", "ControlPath none", f"ConnectTimeout {2 * CONNECT_SECONDS}"]
        alone = "".join(f"    {each}\n" for each in (*settings, f'IdentityFile "{key}"'))
        text = f"Host *\n{alone}\n" + re.sub(r"(?m)^ *IdentityFile .*\n", "", self._config)
        path = write(self._folder / hashlib.sha256(text.encode()).hexdigest()[:8], text)
        return ["ssh", "-F", str(path), name, line]

    def refusals(self, key: Path, names: Iterable[str]) -> dict[str, str]:
        """Log in on hosts; host → why it can't be logged in to with this key, of those."""
        return at_once(names, lambda name: _run(self._argv(key, name, "true"), b""))

    def edit(self, key: Path, names: Iterable[str], what: str, *lines: str) -> dict[str, str]:
        """Run a command of `remote.files.login_keys` on hosts; host → error of those where it failed."""
        line = shlex.join(send.argv(what, *lines))
        return at_once(names, lambda name: _run(self._argv(key, name, line), send.line(login_keys)))

    @contextmanager
    def replaced(
        self, key: Path, names: Iterable[str], *lines: str
    ) -> Iterator[tuple[Callable[[], dict[str, str]], dict[str, str]]]:
        """Take the old key out on hosts; at the end they put it back, unless they were told to keep it so.

        What tells them, and host → error of those where it could not be taken out.
        """
        line = shlex.join(send.argv("replace", *lines))
        waiting = {name: _Waiting(self._argv(key, name, line)) for name in names}
        try:
            yield (
                lambda: at_once(waiting, lambda name: waiting[name].keep()),
                at_once(waiting, lambda name: waiting[name].begin()),
            )
        finally:
            at_once(waiting, lambda name: waiting[name].end())


class _Waiting:
    """`replace` of `remote.files.login_keys` at work on a host; each method returns an error, or nothing."""

    def __init__(self, argv: list[str]) -> None:
        self._argv = argv
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> str:
        """Take the old key out."""
        pipe = subprocess.PIPE
        self._process = process = subprocess.Popen(self._argv, stdin=pipe, stdout=pipe, stderr=pipe)
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # then it says why
            process.stdin.write(send.line(login_keys))
            process.stdin.flush()
        end, said = time.monotonic() + SECONDS, b""
        while b"\n" not in said and (left := end - time.monotonic()) > 0:
            if select.select([process.stdout], [], [], left)[0]:
                piece = os.read(process.stdout.fileno(), 100)
                if not piece or len(said) > 1000:
                    break
                said += piece
        return "" if said == b"replaced\n" else self.end() or f"no answer within {SECONDS} s"

    def keep(self) -> str:
        """Have it stay so."""
        return self._end(b"keep\n")

    def end(self) -> str:
        """Have the old key put back, if it was not kept."""
        return self._end(b"")

    def _end(self, word: bytes) -> str:
        process = self._process
        if process is None or process.returncode is not None:
            return ""
        assert process.stdin is not None
        with suppress(OSError):  # then it is gone, and says why
            process.stdin.write(word)
            process.stdin.close()
        said, late = answers.rest(process, SECONDS)
        if late:
            process.kill()
        return _why(process.wait(), said)


def at_once(names: Iterable[str], run: Callable[[str], str]) -> dict[str, str]:
    """Do something with hosts at the same time; host → error of those where there is one."""
    names = list(names)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {name: error for name, error in zip(names, pool.map(run, names), strict=True) if error}


def _run(argv: list[str], stdin: bytes) -> str:
    try:
        done = answers.run(argv, stdin=stdin, seconds=SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS} s"
    except FloodError as error:
        return str(error)
    return _why(done.returncode, done.stderr)


def _why(code: int, said: bytes) -> str:
    return last_words(said, f"exit code {code}") if code else ""


def _undo(keys: Keys, names: list[str], old: Path, new: Path, lines: list[str], made: bool) -> None:
    """Take the new key away where the old one logs in, and delete it here if it was made here and nobody needs it."""
    lost = keys.refusals(old, names)
    left = keys.edit(old, [name for name in names if name not in lost], "take-away", *lines)
    for name, error in lost.items():
        print(f"{name}: the old key does not log in: {error}; the new one is left there, and here in {new}")
    for name, error in left.items():
        print(f"{name}: the new key could not be taken away: {error}")
    for path in (new, new.with_name(f"{new.name}.pub")) if made and not lost else ():
        path.unlink(missing_ok=True)
    if not (lost or left):
        print("the new key was taken away again: nothing changed")


def tell(errors: Mapping[str, str]) -> None:
    for name, error in errors.items():
        print(f"{name}: {error}")


def _make(path: Path) -> None:
    if path.exists():
        raise TargetError(f"{path} is there already: use it with --new, or delete it")
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        for each in (path, path.with_name(f"{path.name}.pub")):
            each.unlink(missing_ok=True)
        raise TargetError(f"{path} can't be made, nothing was changed: {(done.stderr or done.stdout).strip()}")


def _swap(old: Path, new: Path) -> Path:
    """Put the new key in the old one's place; where the old one is now. There is a key in that place all the time."""
    kept = old.with_name(f"{old.name}.old")
    for suffix in ("", ".pub"):
        spare = kept.with_name(f"{kept.name}{suffix}.new")
        spare.unlink(missing_ok=True)
        spare.hardlink_to(old.with_name(old.name + suffix))
        spare.replace(kept.with_name(kept.name + suffix))
        spare.unlink(missing_ok=True)  # where it was that file already
    # A public key that is not the private one's would keep ssh from using it; where there is none it needs none.
    old.with_name(f"{old.name}.pub").unlink()
    new.replace(old)
    new.with_name(f"{new.name}.pub").replace(old.with_name(f"{old.name}.pub"))
    return kept
