"""An image of a host of the plan: one file, with a host key that is known before the host is there."""

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from underlay import programs
from underlay.access import hostkeys
from underlay.errors import OperatorError
from underlay.image import build, disk, seed
from underlay.image.build import Say
from underlay.plan import REPO, Bond, Host, Plan, Vlan
from underlay.plan.literals import shown
from underlay.text import command

ROOM = 7 << 30
"""Bytes that a build takes for a while: Debian's files, its file system, the disk."""


@dataclass(frozen=True)
class Wanted:
    """What is asked for. `kind`: raw, qcow2 or seed; `further`: packages; `name_servers`: their addresses."""

    host: Host
    kind: str
    output: Path
    suite: str = build.SUITES[0]
    further: tuple[str, ...] = ()
    name_servers: tuple[str, ...] = ()

    @property
    def host_key(self) -> Path:
        """The private host key, made unless it is there; the public one is beside it."""
        return self.output.with_name(f"{self.host.name}.hostkey")


def check(plan: Plan, wanted: Wanted) -> None:
    """OperatorError with the fix, if this machine can't make it, or its host could not be known by its key."""
    if wanted.host.login.sudo == "password":
        raise OperatorError(
            f"{plan.line('hosts', wanted.host.name)}: its account becomes root by a password, and an image has none: "
            "give the host sudo = 'nopasswd' first"
        )
    needed = programs.SEED if wanted.kind == "seed" else programs.IMAGE
    if wanted.kind != "seed" and os.geteuid():
        needed = needed | programs.UNPRIVILEGED
    programs.require(needed | (programs.QCOW2 if wanted.kind == "qcow2" else {}))
    hostkeys.public_line(_operators(plan.operator.key))
    folder = wanted.output.parent
    if not folder.is_dir() or wanted.output.is_dir():
        raise OperatorError(f"{wanted.output} can't be a file: name another one with --output")
    if os.path.lexists(wanted.output):
        raise OperatorError(f"{wanted.output} is there already: name another file with --output")
    if wanted.kind != "seed":
        _check_nics(plan, wanted.host)
        build.room(folder, disk.TOTAL_MIB * disk.MIB)
        build.room(build.WORK, ROOM)
    known = hostkeys.of_host(wanted.host, known_hosts(plan))
    key = wanted.host_key
    if known and not (key.exists() and _kind_and_key(key) in known):
        forget = (command("ssh-keygen", "-f", known_hosts(plan), "-R", each) for each in hostkeys.names(wanted.host))
        raise OperatorError(
            f"{wanted.host.name} is known by a host key that is not in {key}: put its private key there "
            f"(`./inv backup` has it), or forget the old host: {' && '.join(forget)}"
        )


def _check_nics(plan: Plan, host: Host) -> None:
    """That its NICs have names that an image gives: all the kernel's own, or all those of their places."""
    names = real_nics(host)
    if not any(all(re.fullmatch(kind, name) for name in names) for kind in ("eth[0-9]+", "en[opsx][a-z0-9]+")):
        raise OperatorError(
            f"{plan.line('hosts', host.name)}: an image can't have NICs called {', '.join(names)}: name all of them by "
            "their places (eno1, enp1s0f0), or all eth0, eth1, …"
        )


def real_nics(host: Host) -> list[str]:
    """The NICs that a host has, also those of which it makes others, each once."""
    wanted = {link.name: link for link in host.links}
    found: list[str] = []
    todo = [nic.nic for nic in host.interfaces]
    while todo:
        name = todo.pop(0)
        match wanted.get(name):
            case Bond(legs=legs):
                todo[:0] = legs
            case Vlan(parent=parent):
                todo.insert(0, parent)
            case _ if name not in found:
                found.append(name)
    return found


def make(plan: Plan, wanted: Wanted, say: Say) -> bool:
    """Make the image, and let the host be known by its key; whether that was not so before. Raises OperatorError.

    The file has the host's private key: only its owner may read it. Cut off, nothing of it is left but the host key.
    """
    check(plan, wanted)
    run = build.runner(say)
    key = wanted.host_key
    if not key.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", wanted.host.name, "-f", str(key)])
    login = hostkeys.public_line(_operators(plan.operator.key))
    first = seed.of_host(
        plan, wanted.host, login, (key.read_text(), hostkeys.public_line(key)), list(wanted.name_servers)
    )
    with tempfile.TemporaryDirectory(prefix=f".{wanted.output.name}-", dir=wanted.output.parent) as work:
        folder = Path(work)
        made = folder / "seed"
        build.write_seed(made, first, run)
        if wanted.kind != "seed":
            made = _disk(plan, wanted, made, folder, run, say)
        made.rename(wanted.output)  # whole or not at all
    return _let_known(plan, wanted.host, key)


def _disk(plan: Plan, wanted: Wanted, seed_file: Path, folder: Path, run: disk.Run, say: Say) -> Path:
    names = build.names(plan.site, wanted.host.name)
    options = build.kernel_options(real_nics(wanted.host))
    with tempfile.TemporaryDirectory(prefix="underlay-image-", dir=build.WORK) as work:
        os.chmod(work, 0o755)  # noqa: S103 (the root of the user namespace is another one)
        build.parts(folder, Path(work), names, options, wanted.suite, wanted.further, run)
    say("writing the disk")
    raw = folder / "raw"
    raw.touch(mode=0o600)
    disk.write(raw, folder, seed_file, names, run)
    if wanted.kind == "raw":
        return raw
    made = folder / "qcow2"
    made.touch(mode=0o600)
    build.convert(raw, made, run)
    return made


def known_hosts(plan: Plan) -> Path:
    """The operator's file of known host keys."""
    return _operators(plan.operator.known_hosts)


def _operators(path: str) -> Path:
    return REPO / os.path.expanduser(path)


def _kind_and_key(key: Path) -> str:
    return " ".join(hostkeys.public_line(key).split()[:2])


def _let_known(plan: Plan, host: Host, key: Path) -> bool:
    line = f"{','.join(hostkeys.names(host))} {_kind_and_key(key)}\n"
    path = known_hosts(plan)
    if _kind_and_key(key) in hostkeys.of_host(host, path):
        return False
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "r+b") as file:
        content = file.read()
        file.write((b"\n" if content and not content.endswith(b"\n") else b"") + line.encode())
    return True


def package(name: str) -> str:
    """The name of a Debian package. OperatorError for what can't be one."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9+.-]{1,60}", name):
        raise OperatorError(f"{shown(name)} is no name of a Debian package: separate several by commas")
    return name


def planned(plan: Plan, wanted: Wanted) -> list[str]:
    """What would be made, for people."""
    host, disk_of = wanted.host, f"a disk of Debian {wanted.suite}, {wanted.kind}"
    lines = [
        f"{wanted.output}: {'a cloud-init seed' if wanted.kind == 'seed' else disk_of}",
        f"  host          {host.name}, {host.primary.with_prefix} on {host.primary.nic}",
        f"  account       {host.login.user}, with the key {_operators(plan.operator.key)}.pub",
        f"  host key      {wanted.host_key}{'' if wanted.host_key.exists() else ' (will be made)'}",
        f"  name servers  {', '.join(wanted.name_servers) or 'none: --dns names them'}",
    ]
    return lines + (
        [] if wanted.kind == "seed" else [f"  packages      {' '.join([*build.PACKAGES, *wanted.further])}"]
    )
