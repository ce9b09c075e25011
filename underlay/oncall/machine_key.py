"""Change the key with which the deploy machine (the jump host) logs in on the hosts, on all of them or on none.

It is the operator's change of key (`rotate`), but that the key is made, tried and kept on the jump host, where root
alone reads it. The hosts are told over the way from here: from a workstation with the operator's key, on the jump host
with its own.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from underlay.access import hostkeys
from underlay.access.endpoints import endpoints_from
from underlay.access.sessions import Links, UnreachableError, last_words
from underlay.access.ssh_config import CONNECT_SECONDS, TargetError
from underlay.access.target import MACHINE_KEY, MACHINE_KNOWN_HOSTS, Target
from underlay.errors import COULD_NOT, GOOD, WRONG, OperatorError
from underlay.facts.access import MACHINE_PUBLIC, machine_public
from underlay.oncall.rotate import SECONDS, Keys, at_once, tell
from underlay.text import command

NEW, OLD, DUE = (MACHINE_KEY.with_name(name) for name in ("new", "old", "due"))
MAKE = f"""\
set -e
umask 077
rm -f {NEW} {NEW}.pub
ssh-keygen -q -t ed25519 -N '' -C {hostkeys.MARK} -f {NEW}
rm {NEW}.pub
sync {NEW}
ssh-keygen -y -f {NEW}
"""
SWAP = f"set -e; ln -f {MACHINE_KEY} {OLD}; mv -f {NEW} {MACHINE_KEY}; sync {MACHINE_KEY.parent}"
"""There is a whole key in its place all the time."""


def rotate(target: Target, without: Iterable[str] = ()) -> int:
    """Replace the deploy machine's key on all hosts and on the jump host; the exit code.

    without: hosts that are left out: one that is down, else, stops it before anything changes
    Raises OperatorError.
    """
    left_out = sorted(set(without))
    names = [host.name for host in target.plan.deployed if host.name not in left_out]
    machine = _Machine(target)
    with tempfile.TemporaryDirectory(dir=target.ssh_config.parent) as folder:
        keys = Keys(target, Path(folder))
        if down := keys.refusals(target.key, names):
            tell(down)
            print("nothing was changed: fix it first, or leave hosts out (--without)")
            return COULD_NOT
        old = machine.public(MACHINE_PUBLIC)
        if old is None:
            raise TargetError("the jump host has no key of its own yet: deploy it (./inv deploy jumphost)")
        new = machine.public(MAKE) or ""
        lines = [hostkeys.machine_key(target.plan, new), f"{old} {hostkeys.MARK}", hostkeys.MARK]
        # With the old key gone, the jump host itself comes in with the new one.
        way = NEW if target.key == MACHINE_KEY else target.key
        swapped = False
        try:
            errors = keys.edit(target.key, names, "add", *lines) or machine.refusals(NEW, names)
            if not errors:
                print(f"the deploy machine's new key logs in on {', '.join(names)}", flush=True)
                with keys.replaced(way, names, *lines) as (keep, failed):
                    errors = failed or machine.refusals(NEW, names)
                    if not errors:
                        machine.run(SWAP)
                        swapped = True
                        errors = keep()
        finally:
            if not swapped:
                left = keys.edit(target.key, names, "take-away", *lines)
                tell({name: f"the new key could not be taken away: {error}" for name, error in left.items()})
                machine.run(f"rm -f {NEW}")
        tell(errors)
        if not swapped:
            print("the deploy machine's key is what it was: nothing changed")
            return COULD_NOT
        refused = machine.refusals(OLD, names)
        machine.run(f"rm -f {OLD}")
    if still := [name for name in names if name not in refused]:
        delete = f"{hostkeys.MARK} in ~/.ssh/authorized_keys there"
        print(f"the deploy machine's old key still logs in on {', '.join(still)}: delete the older line {delete}")
        return WRONG
    print(f"the deploy machine's old key is refused on {', '.join(names)}")
    if left_out:
        print(f"left out, and still with the old key: {', '.join(left_out)}: deploy them, or do this again")
        return WRONG
    machine.run(f"rm -f {DUE}")
    return GOOD


class _Machine:
    """The jump host, as root on it."""

    def __init__(self, target: Target) -> None:
        self._links, self._plan = Links(target), target.plan
        self._name = target.plan.jumphost.name
        self._ends = {each.name: each for each in endpoints_from(target.plan, target.plan.jumphost)}
        self._links.open([self._name])

    def run(self, script: str) -> str:
        """What a shell script prints. Raises OperatorError with what it said."""
        done = self._links.run(self._name, script, seconds=SECONDS)
        if done.returncode:
            raise OperatorError(f"{self._name}: {last_words(done.stderr, f'exit code {done.returncode}')}")
        return done.stdout.decode(errors="replace")

    def public(self, script: str) -> str | None:
        """The public key that a script prints. Raises OperatorError."""
        try:
            return machine_public(self.run(script))
        except ValueError as error:
            raise OperatorError(f"{self._name}: {error}") from error

    def refusals(self, key: Path, names: Iterable[str]) -> dict[str, str]:
        """Log in from there; host → why it can't be logged in to with this key, of those."""
        return at_once(names, lambda name: self._refusal(key, name))

    def _refusal(self, key: Path, name: str) -> str:
        settings = {
            "BatchMode": "yes",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "UserKnownHostsFile": MACHINE_KNOWN_HOSTS,
            "GlobalKnownHostsFile": "none",
            "StrictHostKeyChecking": "yes",
            "ControlPath": "none",
            "ConnectTimeout": CONNECT_SECONDS,
        }
        options = [word for keyword, value in settings.items() for word in ("-o", f"{keyword}={value}")]
        login = self._plan.host(name).login
        where = f"ssh://{login.user}@{self._ends[name].address}:{login.port}"
        try:
            self.run(command("ssh", "-n", "-F", "none", "-i", key, *options, where, "true"))
        except (OperatorError, UnreachableError) as error:
            return str(error)
        return ""
