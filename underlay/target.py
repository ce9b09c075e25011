"""Where commands go: the lab or the real hosts; and the ssh configuration with which they get there.

With target "lab" this process steps into the network namespace of the lab's workstation, and from there does what it
would do for real. Nothing changes the target silently.
"""

import ctypes
import functools
import hashlib
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from netaddr import IPAddress

from lab import state
from underlay import access
from underlay.errors import OperatorError
from underlay.plan import OUTSIDE, REPO, Host, Plan, load

CLONE_NEWNET = 0x40000000
CONNECT_SECONDS = 5
WORKSTATION = "dev"
"""The lab's host from which commands are run."""
MACHINE_KEY = Path("/etc/ssh/ssh_host_ed25519_key")
"""The jump host is the deploy machine too. There it logs in on the others as itself, with its host key: every
workstation knows that key beforehand, so no further key must be made, carried or kept."""
MACHINE_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")


class TargetError(OperatorError):
    """The target can't be used; `str()` is one line for a person."""


@dataclass(frozen=True)
class Endpoint:
    """How one host is reached: its address from here, and the host to jump through, if any."""

    name: str
    address: IPAddress
    jump: str = ""


@dataclass(frozen=True)
class Target:
    """Where commands go.

    vantage: the plan's host that this process runs on, or None
    endpoints: how each host is reached; in the lab the outside world (`plan.OUTSIDE`) too
    ssh_config: the file to give to ssh, pyinfra and testinfra
    outside: an address beyond the upstream router that tests may use (in the lab only)
    key: the private key with which this process logs in
    """

    plan: Plan
    name: Literal["lab", "ssh"]
    vantage: Host | None
    endpoints: tuple[Endpoint, ...]
    ssh_config: Path
    known_hosts: Path
    outside: IPAddress | None
    key: Path = MACHINE_KEY

    def __str__(self) -> str:
        where = f"from {self.vantage.name}" if self.vantage else "from this machine"
        return f"site {self.plan.site!r}, target {self.name}, {len(self.plan.hosts)} hosts, {where}"

    def endpoint(self, name: str) -> Endpoint:
        """How a host is reached (KeyError if it is not in the plan)."""
        for endpoint in self.endpoints:
            if endpoint.name == name:
                return endpoint
        raise KeyError(name)


def enter(plan: Plan) -> Target:
    """Choose the target (UNDERLAY_TARGET, or the plan's), step into the lab if that is it, and write the ssh config.

    Raises TargetError if the target is unknown, or is the lab and this checkout has none running.
    """
    name = os.environ.get("UNDERLAY_TARGET") or plan.target
    match name:
        case "lab":
            return _lab(plan)
        case "ssh":
            return _real(plan)
        case _:
            raise TargetError(f"UNDERLAY_TARGET={name!r} is no target: use 'lab' or 'ssh'")


@functools.cache
def current() -> Target:
    """The target of this process: that of the plan in force. Raises PlanError, TargetError."""
    return enter(load())


def _lab(plan: Plan) -> Target:
    running = state.load()
    if running is None or not running.complete:
        raise TargetError("target lab, but no lab is running: start it with `./inv lab.up`")
    if running.checkout != REPO:
        raise TargetError(f"target lab, but the running lab belongs to the checkout {running.checkout}")
    if os.geteuid() != 0:
        raise TargetError("target lab needs root, to step into the lab's network: run it with sudo")
    if WORKSTATION not in running.hosts:
        raise TargetError(f"target lab, but the lab has no host {WORKSTATION!r} to work from: add it to the plan")
    _step_into(running.hosts[WORKSTATION].netns)
    vantage = _vantage(plan)
    endpoints = [*_endpoints(plan, vantage)]
    assert plan.enterprise.upstream is not None  # it is what makes it the enterprise network
    endpoints.append(Endpoint(OUTSIDE, plan.enterprise.upstream))
    return _target(plan, "lab", vantage, endpoints, running.key, running.known_hosts, IPAddress(running.outside))


def _real(plan: Plan) -> Target:
    vantage = _vantage(plan)
    key, known_hosts = Path(plan.operator.key).expanduser(), Path(plan.operator.known_hosts).expanduser()
    if vantage is not None and vantage.role == "jumphost":
        key, known_hosts = MACHINE_KEY, MACHINE_KNOWN_HOSTS
    if not os.access(key, os.R_OK):
        hint = "run it with sudo" if key == MACHINE_KEY else "set operator.key in the plan"
        raise TargetError(f"target ssh, but the key {key} can't be read: {hint}")
    return _target(plan, "ssh", vantage, [*_endpoints(plan, vantage)], key, known_hosts, None)


def _step_into(netns: Path) -> None:
    try:
        with netns.open() as namespace:
            # os.setns came with Python 3.12.
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except OSError as error:
        raise TargetError(
            f"can't step into the lab ({netns}: {error.strerror}): mend it with `./inv lab.reset`"
        ) from error


def _vantage(plan: Plan) -> Host | None:
    for host in plan.hosts:
        for nic in host.interfaces:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind((str(nic.address), 0))
                except OSError:
                    continue
                return host
    return None


def _endpoints(plan: Plan, vantage: Host | None) -> Iterator[Endpoint]:
    """Directly where a network is shared, else by its published or enterprise address, else through the jump host."""
    shared = [nic.network for nic in vantage.interfaces] if vantage else [plan.enterprise.name]
    for host in plan.hosts:
        near = next((nic for nic in host.interfaces if nic.network in shared), None)
        outer = host.interface(plan.enterprise.name)
        if near is not None:
            yield Endpoint(host.name, near.address)
        elif host.published is not None:
            yield Endpoint(host.name, host.published)
        elif outer is not None:
            yield Endpoint(host.name, outer.address)
        else:
            yield Endpoint(host.name, host.primary.address, jump=plan.jumphost.name)


def _target(
    plan: Plan,
    name: Literal["lab", "ssh"],
    vantage: Host | None,
    endpoints: list[Endpoint],
    key: Path,
    known_hosts: Path,
    outside: IPAddress | None,
) -> Target:
    # Of each lab its own: the same addresses are other hosts there.
    folder = _private_folder(f"{name} {state.NAME} {plan.source}")
    published = _write(folder / "known_hosts", access.known_as_published(plan, known_hosts))
    text = ssh_config(plan, endpoints, key, [published, known_hosts], folder)
    path = _write(folder / "ssh_config", text)
    return Target(plan, name, vantage, tuple(endpoints), path, known_hosts, outside, key)


def _write(path: Path, text: str) -> Path:
    # Written aside and renamed: several commands may run at once.
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as new:
        new.write(text)
    return Path(new.name).replace(path)


def _private_folder(what: str) -> Path:
    """A folder of this user for the ssh config and the sockets of shared connections; short, for sockets' sake."""
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp") / f"underlay-{os.geteuid()}"
    folder = base / hashlib.sha256(what.encode()).hexdigest()[:8]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    base.chmod(0o700)
    if base.stat().st_uid != os.geteuid():
        raise TargetError(f"{base} belongs to somebody else: delete it")
    return folder


def ssh_config(plan: Plan, endpoints: list[Endpoint], key: Path, known_hosts: list[Path], sockets: Path) -> str:
    """The ssh_config of a target: one `Host` block a host, then what holds for all of them."""
    blocks = []
    for endpoint in endpoints:
        block = f"Host {endpoint.name}\n    HostName {endpoint.address}\n"
        blocks.append(block + (f"    ProxyJump {endpoint.jump}\n" if endpoint.jump else ""))
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
    return "\n".join([*blocks, "Host *\n" + "".join(f"    {name} {value}\n" for name, value in common.items())])


def announce(target: Target) -> None:
    """Say where commands go, before the first of them; on stderr, so that stdout stays what a machine may read."""
    print(target, file=sys.stderr)
