"""Where commands go: the real hosts, or the lab.

The real hosts are target "ssh". The lab's target is handed in (`ENTER`), where this copy of the repo has a lab. Nothing
changes the target silently.
"""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from netaddr import IPAddress

from underlay import programs
from underlay.access import hostkeys
from underlay.access.endpoints import Endpoint, endpoints_from, vantage_of
from underlay.access.login import key as keys
from underlay.access.login import own_config
from underlay.access.ssh_config import TargetError, private_folder, ssh_config, write
from underlay.plan import REPO, Host, Plan, load

Name = Literal["lab", "ssh"]
MACHINE_KEY = Path("/var/lib/underlay/deploy/key")
"""The jump host is the deploy machine too. There it logs in on the others with this key, which was made there and never
leaves it; its folder is root's alone."""
MACHINE_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
Console = Callable[[str, str, bytes, float], bytes]


@dataclass(frozen=True)
class Target:
    """Where commands go.

    vantage: the plan's host that this process runs on, or None
    endpoints: how each host is reached; in the lab the outside world (`plan.OUTSIDE`) too
    ssh_config: the file to give to ssh
    outside: an address beyond the upstream router that tests may use (in the lab only)
    key: the private key with which this process logs in
    workstation: in the lab, the host whose network this process is in
    agent: the socket of the agent that a person's own ssh configuration names
    touch: the key is on a security key, which somebody touches for every login
    console: where the consoles of hosts are commands: what a shell command prints at one, as root, given its host,
        itself, its stdin and seconds. Raises OperatorError. None: a person has to type there
    """

    plan: Plan
    name: Name
    vantage: Host | None
    endpoints: tuple[Endpoint, ...]
    ssh_config: Path
    known_hosts: Path
    outside: IPAddress | None
    key: Path = MACHINE_KEY
    workstation: str = ""
    agent: str = ""
    touch: bool = False
    console: Console | None = None

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

    Raises TargetError if the target is unknown, or is the lab and this checkout has none running; MissingError.
    """
    programs.require(programs.COMMANDS)  # before anything is begun that would stop half-way
    name = os.environ.get("UNDERLAY_TARGET") or plan.target
    if name not in get_args(Name):
        raise TargetError(f"UNDERLAY_TARGET={name!r} is no target: use 'lab' or 'ssh'")
    if name not in ENTER:
        raise TargetError("target lab, but this copy of the repo has no lab: use target ssh (UNDERLAY_TARGET=ssh)")
    return ENTER[name](plan)


@functools.cache
def current() -> Target:
    """The target of this process: that of the plan in force. Raises PlanError, TargetError."""
    return enter(load())


def _real(plan: Plan) -> Target:
    vantage = vantage_of(plan)
    endpoints = [*endpoints_from(plan, vantage)]
    if vantage is not None and vantage.role == "jumphost":
        if not os.access(MACHINE_KEY, os.R_OK):
            which = f"of the jump host, which a deploy from a workstation makes, {MACHINE_KEY}"
            raise TargetError(f"target ssh, but the key {which} can't be read: run it with sudo")
        return make(plan, "ssh", vantage, endpoints, MACHINE_KEY, MACHINE_KNOWN_HOSTS, None)
    key, known_hosts = path_of(plan.operator.key), path_of(plan.operator.known_hosts)
    target = make(plan, "ssh", vantage, endpoints, key, known_hosts, None)
    if problem := keys.problem(key, target.agent):
        raise TargetError(f"target ssh, but {problem}")
    return target


def path_of(text: str) -> Path:
    """A file that the plan names. A relative one is the plan's: where a command is called has nothing to do with it."""
    return REPO / os.path.expanduser(text)


def make(
    plan: Plan,
    name: Name,
    vantage: Host | None,
    endpoints: list[Endpoint],
    key: Path,
    known_hosts: Path,
    outside: IPAddress | None,
    site: str = "",
    workstation: str = "",
) -> Target:
    """A target whose ssh config is written; `site` tells sites with the same plan apart. Raises TargetError."""
    folder = private_folder(f"{name} {site} {plan.source}")
    published = write(folder / "known_hosts", hostkeys.known_as_published(plan, known_hosts))
    own: dict[str, own_config.Settings] = {}
    # The jump host has a key and ways of its own.
    if plan.operator.ssh_config and key != MACHINE_KEY:
        own = own_config.read(path_of(plan.operator.ssh_config), endpoints, folder)
        endpoints = [replace(each, bastion="proxycommand" in dict(own.get(each.name, ()))) for each in endpoints]
    text = ssh_config(plan, endpoints, key, [published, known_hosts], folder, own)
    path = write(folder / "ssh_config", text)
    agent = next((value for settings in own.values() for name, value in settings if name == "identityagent"), "")
    touch = keys.wants_touch(key)
    return Target(plan, name, vantage, tuple(endpoints), path, known_hosts, outside, key, workstation, agent, touch)


def configured(target: Target, folder: Path, blocks: dict[str, dict[str, str]]) -> Target:
    """The target with further settings of ssh (HOST → KEYWORD → VALUE), in a file of `folder`.

    Of a keyword ssh takes the first value, so these win.
    """
    text = "".join(
        f"Host {name}\n" + "".join(f"    {key} {value}\n" for key, value in settings.items()) + "\n"
        for name, settings in blocks.items()
    )
    path = folder / f"config.{len(list(folder.glob('config.*')))}"
    path.write_text(text + target.ssh_config.read_text())
    return replace(target, ssh_config=path)


def announce(target: Target) -> None:
    """Say where commands go, before the first of them; on stderr, so that stdout stays what a machine may read."""
    print(target, file=sys.stderr)


ENTER: dict[str, Callable[[Plan], Target]] = {"ssh": _real}
"""How each target is entered. The lab's is added by `targets.py`: this package knows nothing of it."""
