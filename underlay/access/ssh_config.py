"""The ssh configuration with which hosts are reached, and the private folder that it is in."""

import hashlib
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from underlay.access.endpoints import Endpoint
from underlay.errors import OperatorError
from underlay.plan import SSH_PORT, Plan

CONNECT_SECONDS = 5


class TargetError(OperatorError):
    """The target can't be used; `str()` is one line for a person."""


def ssh_config(
    plan: Plan,
    endpoints: Iterable[Endpoint],
    key: Path,
    known_hosts: list[Path],
    sockets: Path,
    own: Mapping[str, Sequence[tuple[str, str]]] = MappingProxyType({}),
) -> str:
    """The ssh_config of a target: one `Host` block a host, then what holds for all of them.

    own: what a person's own configuration adds (see `login.own_config`)
    """
    users = {host.name: host.login.user for host in plan.hosts}
    blocks = []
    for endpoint in endpoints:
        user = users.get(endpoint.name, plan.operator.user)
        settings = [
            ("HostName", endpoint.address),
            *([("ProxyJump", endpoint.jump)] if endpoint.jump else []),
            *([("User", user)] if user != plan.operator.user else []),
            *([("Port", endpoint.port)] if endpoint.port != SSH_PORT else []),
            *own.get(endpoint.name, ()),
        ]
        blocks.append(f"Host {endpoint.name}\n" + "".join(f"    {name} {value}\n" for name, value in settings))
    common = {
        "User": plan.operator.user,
        "IdentityFile": key,
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": " ".join(map(str, known_hosts)),
        "GlobalKnownHostsFile": "none",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "ConnectTimeout": CONNECT_SECONDS,
        "ServerAliveInterval": CONNECT_SECONDS,
        "ServerAliveCountMax": 2,
        # One connection a host serves every check of a run.
        "ControlMaster": "auto",
        "ControlPath": f"{sockets}/%C",
        "ControlPersist": 30,
        "LogLevel": "ERROR",
    }
    for_all = [*common.items(), *own.get("*", ())]
    return "\n".join([*blocks, "Host *\n" + "".join(f"    {name} {value}\n" for name, value in for_all)])


def write(path: Path, text: str) -> Path:
    """Write a file in one step; its path."""
    # Written aside and renamed: several commands may run at once.
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as new:
        new.write(text)
    return Path(new.name).replace(path)


def private_folder(what: str) -> Path:
    """A folder of this user for the ssh config and the sockets of shared connections; short, for sockets' sake."""
    base = _runtime() / f"underlay-{os.geteuid()}"
    folder = base / hashlib.sha256(what.encode()).hexdigest()[:8]
    for each in (base, folder):
        # Looked at before anything is done with it: it may be a link that somebody else has made.
        with suppress(FileExistsError):
            each.mkdir(mode=0o700, parents=True)
        found = each.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise TargetError(f"{each} belongs to somebody else: delete it")
        each.chmod(0o700)
    return folder


def _runtime() -> Path:
    """Where only this user, and root, makes folders; else where nobody can take one away that is there."""
    own = os.environ.get("XDG_RUNTIME_DIR")
    # With `sudo -E` it is another user's. Not there, it is made, but not what it would be in.
    if (
        own
        and os.path.isabs(own)
        and Path(own).parent.is_dir()
        and (not Path(own).exists() or Path(own).stat().st_uid == os.geteuid())
    ):
        return Path(own)
    return Path("/var/run" if os.geteuid() == 0 else "/tmp")  # noqa: S108 (whose the folder is gets checked)
