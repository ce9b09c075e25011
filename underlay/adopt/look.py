"""Looks at hosts that exist: all at once, over one connection each, with one program, which changes nothing.

A host's key need not be known: then it is taken for the time of the look, and told, and whoever asked decides about it.
Nothing secret goes to such a host: one logs in with a key or not at all, and no agent is forwarded.
"""

import shlex
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from netaddr import IPAddress, IPNetwork

from underlay.access import answers
from underlay.access.anew import anew
from underlay.access.answers import FloodError
from underlay.access.endpoints import Endpoint
from underlay.access.hostkeys import is_key
from underlay.access.sessions import LATE, NO_ANSWER, Links, UnreachableError, last_words
from underlay.access.ssh_config import CONNECT_SECONDS, TargetError
from underlay.access.target import Target
from underlay.adopt.seen import SECTIONS, Seen
from underlay.observe.state import MOST, HostState, script, sections
from underlay.plan import given
from underlay.remote import at_once
from underlay.text import argument, command

PATIENCE = 10
"""Seconds that each part has: nobody is in a hurry who looks at a host for the first time."""
CHANGED = "Host key verification failed."
"""The last word of ssh about a host whose key is another one than the known one."""
ROUTES = "/proc/thread-self/net/route"
ENTER = shlex.join(
    (
        "sh",
        "-c",
        'CAME="$(id -un) $SSH_CONNECTION"; export CAME; [ "$(id -u)" = 0 ] || ! sudo -n true 2>/dev/null || '
        'exec sudo -n env CAME="$CAME" bash -s; exec bash -s',
    )
)
"""Runs a script there, as root where that needs no password, and says who came in, and where."""


@dataclass(frozen=True)
class Ways:
    """How hosts are reached that are in no plan.

    user, port: empty and 0 for the plan's and ssh's own
    config: an ssh configuration of the person's, that knows more
    via: the host through which those are reached that are in no network of this machine; empty for none
    """

    user: str = ""
    port: int = 0
    config: Path | None = None
    via: str = ""


@dataclass(frozen=True)
class Look:
    """What came of one address: what the host says, or why it could not be looked at; the keys that were not known.

    keys: as lines of `known_hosts`
    changed: it showed another key than the one that is known
    """

    asked: str
    seen: Seen | None = None
    error: str = ""
    keys: tuple[str, ...] = ()
    changed: bool = False


def look(target: Target, asked: Sequence[str], ways: Ways) -> list[Look]:
    """Look at hosts, each by an address (or by a name of the person's ssh configuration), in their order."""
    with _reached(target, asked, ways) as (links, folder):
        links.open(asked)
        found: list[Look] = at_once(lambda name: _look(links, name), [[name] for name in asked])
        return [replace(each, keys=_new_keys(folder / f"new-{each.asked}")) for each in found]


def _look(links: Links, name: str) -> Look:
    if error := links.error(name):
        return Look(name, error=error, changed=CHANGED in error)
    try:
        return Look(name, Seen(name, links.once_more(lambda: _asked(links, name), lambda state: state.late)))
    except (UnreachableError, OSError) as error:
        return Look(name, error=str(error))


def _asked(links: Links, name: str) -> HostState:
    text, sent = script(SECTIONS, dict.fromkeys(SECTIONS, PATIENCE)), time.time()
    argv = links.shell(name, ENTER)
    with links.pace.turn():
        try:
            done = answers.run(argv, stdin=text, seconds=PATIENCE + 3 + LATE, most=8 * MOST)
        except subprocess.TimeoutExpired as error:
            done = subprocess.CompletedProcess(argv, 1, error.output or b"", NO_ANSWER.format(PATIENCE).encode())
        except FloodError as error:
            raise UnreachableError(f"{name} was reached, but not read: {error}") from None
    found = sections(done.stdout, SECTIONS)
    if not found:
        raise UnreachableError(f"{name} was reached, but not read: {last_words(done.stderr, 'it gave no answer')}")
    return HostState(name, found, asked=(sent, time.time()))


# --- the way ---------------------------------------------------------------------------------------------------------


@contextmanager
def _reached(target: Target, asked: Sequence[str], ways: Ways) -> Iterator[tuple[Links, Path]]:
    near = networks_here()
    names = dict.fromkeys([*asked, *([ways.via] if ways.via else [])])
    ends = [Endpoint(name, _address(name), _jump(name, ways, near)) for name in names]
    with tempfile.TemporaryDirectory(dir=target.ssh_config.parent) as folder:
        path = Path(folder) / "ssh_config"
        path.write_text(_config(target, ends, asked, ways, Path(folder)))
        own = replace(target, vantage=None, endpoints=tuple(ends), ssh_config=path)
        with anew(own) as fresh:
            yield Links(fresh), Path(folder)


def _address(name: str) -> IPAddress:
    return IPAddress(name) if is_address(name) else IPAddress(0)


def is_address(name: str) -> bool:
    """Whether a word is an IPv4 address, not a name of an ssh configuration."""
    try:
        socket.inet_pton(socket.AF_INET, name)
    except OSError:
        return False
    return True


def is_here(address: str) -> bool:
    """Whether an address is this machine's own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _jump(name: str, ways: Ways, near: Sequence[IPNetwork]) -> str:
    far = is_address(name) and not any(IPAddress(name) in network for network in near)
    return ways.via if far and name != ways.via else ""


def networks_here() -> list[IPNetwork]:
    """The networks that this machine has an address in, as its kernel's routes have them."""
    found = []
    try:
        rows = [line.split() for line in Path(ROUTES).read_text().splitlines()[1:]]
    except OSError:
        return []
    for _, destination, gateway, _, _, _, _, mask, *_ in rows:
        if int(gateway, 16) == 0 and int(mask, 16):
            address, length = (socket.inet_ntoa(struct.pack("=I", int(word, 16))) for word in (destination, mask))
            found.append(IPNetwork(f"{address}/{length}"))
    return found


def _config(target: Target, ends: Sequence[Endpoint], asked: Sequence[str], ways: Ways, folder: Path) -> str:
    """The ssh configuration: what must hold stands first, for ssh takes the first value that it reads."""
    # Nobody is asked about the key of a host that is only passed through.
    passed = [each.jump for each in ends if each.jump and each.jump not in asked]
    lines = [
        *(line for name in passed[:1] for line in (f"Host {name}", "    StrictHostKeyChecking yes")),
        "Host *",
        # Beside the ssh configuration are those that are known by another address.
        f"    UserKnownHostsFile {folder}/new-%n {target.known_hosts} {target.ssh_config.with_name('known_hosts')}",
        "    GlobalKnownHostsFile none",
        # A key that is not known is taken, into a file that is gone after the look; one that differs is refused.
        "    StrictHostKeyChecking accept-new",
        *("    UpdateHostKeys no", "    HashKnownHosts no", "    CheckHostIP no"),
        *("    BatchMode yes", "    ForwardAgent no", "    ClearAllForwardings yes", "    RequestTTY no"),
        *(f"    ConnectTimeout {CONNECT_SECONDS}", f"    ServerAliveInterval {CONNECT_SECONDS}"),
        *("    ServerAliveCountMax 2", "    ControlMaster auto", "    LogLevel ERROR"),
        *([f"    User {ways.user}"] if ways.user else []),
        *([f"    Port {ways.port}"] if ways.port else []),
    ]
    for each in ends:
        lines += [f"Host {each.name}", *([f"    HostName {each.name}"] if is_address(each.name) else [])]
        lines += [f"    ProxyJump {each.jump}"] if each.jump else []
    if ways.config:
        lines += ["Host *", f'Include "{ways.config}"']
    else:
        lines += ["Host *", f"    User {target.plan.operator.user}"]
        lines += [f"    IdentityFile {target.key}", "    IdentitiesOnly yes"]
    return "\n".join(lines) + "\n"


def _new_keys(path: Path) -> tuple[str, ...]:
    try:
        rows = [line.split() for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return ()
    return tuple(" ".join(row[:3]) for row in rows if len(row) > 2 and is_key(row[1].encode(), row[2].encode()))


def on_host(target: Target, ways: Ways, name: str, line: str, *, root: bool = True) -> tuple[str, str]:
    """The command that runs a command line as root on such a host, for people to paste; and where, if not here.

    root: whether sudo asks for no password there; else it has to be typed at the host's console
    """
    if target.workstation:
        # Its addresses lead nowhere from the person's shell, or to somebody else.
        return f"./inv lab.run {_planned(target, name)} {argument(line)}", ""
    if not root:
        return line, f"at the console of {name}, as root"
    argv = ["ssh", *(["-F", str(ways.config)] if ways.config else [])]
    argv += ["-p", str(ways.port)] if ways.port else []
    user = ways.user or ("" if ways.config else target.plan.operator.user)
    jump = _jump(name, ways, networks_here())
    argv += ["-J", f"{user}@{jump}" if user else jump] if jump else []
    argv += [f"{user}@{name}" if user else name]
    return f"{command(*argv)} {argument(command('sudo', 'sh', '-c', line))}", ""


def _planned(target: Target, name: str) -> str:
    """What the plan in force calls the host at an address."""
    for host in target.plan.hosts:
        if name in (str(host.published), *(str(nic.address) for nic in host.interfaces)):
            return host.name
    return name


def config_file(text: str) -> Path:
    """A person's ssh configuration. Raises TargetError if it can't be read."""
    path = Path(text).expanduser().absolute()
    try:
        given.content(path)
    except OSError as error:
        raise TargetError(f"the ssh configuration {path} can't be read: {error.strerror}") from None
    if '"' in str(path) or "\n" in str(path):
        raise TargetError(f"{path}: ssh takes no such name of a configuration")
    return path
