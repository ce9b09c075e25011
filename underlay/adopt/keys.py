"""The keys of hosts that were not known: how a person compares them, and the file that knows them afterwards."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from underlay.adopt.look import Look
from underlay.errors import OperatorError
from underlay.oncall import redact
from underlay.plan import Plan, given


@dataclass(frozen=True)
class NewKey:
    """A key that is not known yet, with the names that it will be known by: as `ssh` writes them."""

    asked: str
    names: tuple[str, ...]
    kind: str
    key: str

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it."""
        return redact.fingerprint(self.key)

    @property
    def line(self) -> str:
        """Of `known_hosts`."""
        return f"{','.join(self.names)} {self.kind} {self.key}\n"

    @property
    def console(self) -> str:
        """The command that prints the fingerprint at the host's console."""
        name = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}.get(self.kind, "ecdsa")
        return f"ssh-keygen -lf /etc/ssh/ssh_host_{name}_key.pub"


def new_keys(looks: Sequence[Look], plan: Plan | None) -> list[NewKey]:
    """The keys that were not known. With a plan, each is for all addresses that it gives the host.

    An address that another host was asked at is that one's, whatever this one says of itself.
    """
    others = {look.asked for look in looks}
    found = []
    for look in looks:
        for line in look.keys:
            name, kind, key = line.split()
            more = [each for each in _addresses(look, plan) if each not in others]
            # With a port of its own, ssh writes `[ADDRESS]:PORT`.
            names = [name, *(name.replace(look.asked, each) for each in more if look.asked in name)]
            found.append(NewKey(look.asked, tuple(dict.fromkeys(names)), kind, key))
    return found


def twice(looks: Iterable[Look]) -> list[tuple[str, str]]:
    """Pairs of addresses at which two hosts show the same new key: one was copied of the other, with its key."""
    first: dict[str, Look] = {}
    found = []
    for look in looks:
        for line in look.keys:
            key = line.split()[2]
            other = first.setdefault(key, look)
            if other is not look and _macs(other) != _macs(look):
                found.append((other.asked, look.asked))
    return found


def _macs(look: Look) -> set[str]:
    nics = look.seen.part(lambda each: each.nics) if look.seen else None
    return {nic.mac for nic in nics or ()}


def _addresses(look: Look, plan: Plan | None) -> list[str]:
    if plan is None or look.seen is None:
        return []
    own = {text.partition("/")[0] for nic in look.seen.part(lambda each: each.nics) or () for text in nic.addresses}
    for host in plan.hosts:
        planned = [str(nic.address) for nic in host.interfaces]
        if own & set(planned):
            return planned + ([str(host.published)] if host.published else [])
    return []


def write(path: Path, keys: Sequence[NewKey]) -> None:
    """Add keys to a file of known hosts, which need not be there. Raises OperatorError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        old = given.content(path) if path.exists() else b""
        text = ("" if not old or old.endswith(b"\n") else "\n") + "".join(each.line for each in keys)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a") as file:
            file.write(text)
    except OSError as error:
        raise OperatorError(f"{path} can't be written: {error.strerror}") from error


def document(keys: Sequence[NewKey]) -> list[Mapping[str, object]]:
    """For programs."""
    return [
        {"asked": each.asked, "names": each.names, "kind": each.kind, "fingerprint": each.fingerprint} for each in keys
    ]
