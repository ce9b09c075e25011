"""The state of a host, read once for all checks: one command, made of what the role's checks look at.

Each of its sections is read beside all others, with a time and a size of its own: one that hangs costs itself alone.
"""

import base64
import json
import re
import shlex
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

from typing_extensions import TypedDict

from underlay.access import answers
from underlay.access.answers import UnreadableError, reading
from underlay.access.sessions import Links, UnreachableError, last_words
from underlay.compare.difference import UnitState
from underlay.compare.filters import Filters
from underlay.compare.network import LiveNetwork
from underlay.compare.sshd import Sshd
from underlay.compare.systemd import next_boot
from underlay.compare.systemd.next_boot import NextBoot
from underlay.desired import checkout, nat, nginx, routing, units
from underlay.desired.files import SSHD, authorized_keys
from underlay.facts import files, filters, firewall, network, sshd
from underlay.facts.access import MACHINE_PUBLIC, ON_CALL, RotationDue, machine_public
from underlay.facts.firewall import Firewall
from underlay.nodes import state as node
from underlay.nodes.state import NodeState
from underlay.observe import health
from underlay.observe.health import (
    HEALTH,
    Clock,
    Conntrack,
    Disk,
    GuardStatus,
    Link,
    RuleCounter,
    Tally,
    Upstream,
)
from underlay.plan import Host, Plan, roles
from underlay.remote import send, survey
from underlay.remote.guard.paths import COPY

SECONDS = 4
"""What a section may take, but for one that takes long where all is well; for who wants to know where a fault is."""
PATIENT = 20
"""The same for who wants to know whether all is as planned, and where it is known that a host is slow."""
MOST = 4_000_000
"""Bytes of a section; and eight times that of all."""
LATE = (124, 137)
"""Exit codes of timeout(1): ended after its time, or killed."""
FLOOD = 141
"""That of a command whose reader has gone."""
NO_SUCH_NAME = "no-such-name.invalid"
ANSWERS, BOOT = "answers", "boot"
BOOT_SECONDS = 30
DRIFT = frozenset({"network", "units", "files", "firewall", "filters", "sshd", "node"})
"""The sections that tell whether a host is as planned."""
CHECKS = DRIFT | {
    "listening",
    "nics",
    "packages",
    "on call",
    "deploy key",
    "rotation due",
    "tree",
    "python",
    "nginx",
    BOOT,
    ANSWERS,
}
"""The sections that the checks of all roles look at; a role has only some of them."""
ALL = CHECKS | HEALTH

_NAMES = " ".join(unit.name for unit in units.ALL)
UNITS = f"""\
systemctl show --property=Id,ActiveState {_NAMES}
for unit in {_NAMES}; do echo "$unit=$(SYSTEMD_OFFLINE=1 systemctl is-enabled $unit 2>/dev/null)"; done"""
"""Whether one is enabled is asked of the disk: systemd itself keeps what it read at its last reload."""

LAST_TIME = 2.0**40
"""Seconds since 1970 that a clock can tell."""

T = TypeVar("T")


@dataclass(frozen=True)
class HostState:
    """What a host said, by section; each property reads one, or raises UnreadableError.

    answers: of the web server: `NAME/PATH` → status (0: none) and body
    next_boot: what it will do, or why it did not say
    asked: when the host was asked and when it had answered, by the operator's clock, in seconds since 1970
    """

    name: str
    sections: dict[str, tuple[int, list[str]]]
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: tuple[float, float] = (0.0, 0.0)
    next_boot: NextBoot | str = "it was not asked"

    def lines(self, section: str) -> list[str]:
        """The output of a section whose command succeeded."""
        code, lines = self.sections.get(section, (1, ["it was not read"]))
        if code != 0:
            why = (
                "it took too long"
                if code in LATE
                else f"it said more than {MOST // 1_000_000} MB"
                if code == FLOOD
                else (lines or ["no output"])[-1]
            )
            raise UnreadableError(f"{section} of {self.name} can't be read: {answers.short(why)}")
        return lines

    @property
    def late(self) -> bool:
        """Whether a section took too long."""
        return any(code in LATE for code, _ in self.sections.values())

    def _read(self, section: str, parse: Callable[[list[str]], T]) -> T:
        lines = self.lines(section)
        with reading(f"{section} of {self.name}"):
            return parse(lines)

    @cached_property
    def network(self) -> LiveNetwork:
        """Addresses, routes, policy rules, sysctls, and the files that make them."""
        return self._read("network", network.parse)

    @cached_property
    def firewall(self) -> Firewall:
        """The iptables rules: live, at the next boot, recorded, and the wanted ones in the host's own form."""
        found = self._read("firewall", firewall.process)
        if not found.installed:
            raise UnreadableError(f"{self.name} has no iptables")
        return found

    @cached_property
    def filters(self) -> Filters:
        """What filters packets beside the host's iptables."""
        return self._read("filters", filters.parse)

    @cached_property
    def units(self) -> dict[str, UnitState]:
        """The systemd units of `units.ALL`."""
        return self._read("units", _units)

    @cached_property
    def node(self) -> NodeState:
        """What a node of the cluster needs."""
        return self._read("node", node.parse)

    @cached_property
    def listening(self) -> set[int]:
        """The TCP ports on which something listens that other hosts can reach."""
        return self._read("listening", _listening)

    @cached_property
    def packages(self) -> set[str]:
        """The installed Debian packages."""
        return self._read("packages", _packages)

    @cached_property
    def sshd(self) -> Sshd:
        """What sshd makes of its configuration."""
        return self._read("sshd", sshd.parse)

    @cached_property
    def files(self) -> dict[str, str]:
        """Path → content of the files of the role's checks, those that are there."""
        return self._read("files", files.parse)

    @cached_property
    def on_call(self) -> dict[str, str]:
        """Account → its authorized_keys, of the members of the group of the people on call."""
        return self._read("on call", files.parse)

    @cached_property
    def machine_public(self) -> str | None:
        """The public key with which the deploy machine logs in, as TYPE and KEY; None if it has none yet."""
        return self._read("deploy key", lambda lines: machine_public("\n".join(lines)))

    @cached_property
    def rotation_due(self) -> list[str]:
        """The people who were removed since the deploy machine's key was made."""
        return self.lines("rotation due")

    @cached_property
    def tree(self) -> dict[str, str]:
        """Relative path → SHA-256 of the repo on the deploy machine."""
        rows = (line.partition("  ") for line in self.lines("tree"))
        return {path.removeprefix("./"): digest for digest, _, path in rows}

    @cached_property
    def python_packages(self) -> dict[str, str]:
        """Normalised name → version of what the deploy machine's environment has."""
        found = (re.fullmatch(r"(.+)-([^-]+)\.dist-info", line) for line in self.lines("python"))
        return {checkout.normalised(match[1]): match[2] for match in found if match}

    @property
    def boot(self) -> NextBoot:
        """What its next boot will do."""
        if isinstance(self.next_boot, str):
            raise UnreadableError(f"what the next boot of {self.name} does can't be read: {self.next_boot}")
        return self.next_boot

    @cached_property
    def clock(self) -> Clock:
        """How far the host's clock is from the operator's, and how long a command is on its way."""
        first, last = (self._read(section, _time) for section in ("begin", "end"))
        return health.clock(self.asked[0], first, last, self.asked[1])

    @cached_property
    def uptime(self) -> float:
        """Seconds since boot."""
        return self._read("uptime", health.uptime)

    @cached_property
    def disks(self) -> dict[str, Disk]:
        """`/` and `/var`."""
        return self._read("disks", health.disks)

    @cached_property
    def failed_units(self) -> tuple[str, ...]:
        """The systemd units that have failed."""
        return self._read("failed units", health.failed_units)

    @cached_property
    def nics(self) -> dict[str, Link]:
        """Every NIC but the loopback."""
        return self._read("nics", health.nics)

    @cached_property
    def guard(self) -> GuardStatus:
        """The change that is pending, and the last one that was confirmed."""
        return self._read("guard", health.guard)

    @cached_property
    def conntrack(self) -> Conntrack:
        """The gateway's connection table in numbers."""
        return self._read("conntrack", health.connections)

    @cached_property
    def tally(self) -> Tally:
        """The entries of the gateway's connection table, counted; a large table takes seconds."""
        return self._read("tally", health.tally)

    @cached_property
    def counters(self) -> tuple[RuleCounter, ...]:
        """What each of the gateway's rules has matched, in their order."""
        return self._read("counters", health.counters)

    @cached_property
    def upstreams(self) -> tuple[Upstream, ...]:
        """The servers behind the proxy, as seen from it."""
        return self._read("upstreams", health.upstreams)


class _Boot(TypedDict):
    """See `remote.survey`."""

    boot: NextBoot | None


def _time(lines: list[str]) -> float:
    found = float(lines[0])
    if not 0 <= found < LAST_TIME:
        raise ValueError(lines[0])
    return found


def _units(lines: list[str]) -> dict[str, UnitState]:
    found, values = {}, dict[str, str]()
    for line in lines:
        key, _, value = line.partition("=")
        if key == "ActiveState":
            found[values["Id"]] = value
        values[key] = value
    return {name: UnitState(active, values[name].replace("not-found", "")) for name, active in found.items()}


def _listening(lines: list[str]) -> set[int]:
    ends = [line.split()[3].rpartition(":") for line in lines]
    return {int(port) for address, _, port in ends if not address.startswith(("127.", "[::1]"))}


def _packages(lines: list[str]) -> set[str]:
    rows = [line.split() for line in lines]
    if not rows or any(len(row) != 4 for row in rows):
        raise ValueError("each line has to be a package and its status")
    return {name for name, _, _, status in rows if status == "installed"}


def read(links: Links, plan: Plan, host: Host, wanted: Collection[str] = CHECKS, patience: int = SECONDS) -> HostState:
    """The state of a host, by one command; a section that it does not have is left out.

    patience: seconds that a section may take, at least

    Raises UnreachableError; a part that failed says so when it is asked for.
    """
    links.check(host.name)
    commands = {name: command for name, command in _commands(plan, host).items() if name in wanted}
    tries = iter((patience, PATIENT))
    got = _answers(links, plan, host) if ANSWERS in wanted else {}

    def ask() -> HostState:
        sent, least = time.time(), next(tries)
        seconds = {name: max(health.SECONDS.get(name, 0), least) for name in commands}
        text, longest = script(commands, seconds), max(seconds.values(), default=least)
        done = links.run(host.name, "exec bash -s", seconds=longest + 3, stdin=text, most=8 * MOST)
        found = sections(done.stdout, commands)
        if not found:
            raise UnreachableError(f"{host.name} was reached, but not read: {last_words(done.stderr, 'no answer')}")
        return HostState(host.name, found, got, (sent, time.time()))

    with ThreadPoolExecutor(1) as beside:
        boot = beside.submit(_boot, links, plan, host) if BOOT in wanted and host in plan.deployed else None
        state = links.once_more(ask, lambda state: state.late)
        return replace(state, next_boot=boot.result()) if boot else state


def _commands(plan: Plan, host: Host) -> dict[str, str]:
    found = {
        "network": network.command(routing.host_network(plan, host).sysctls),
        "units": UNITS,
        "filters": filters.command(),
        "sshd": sshd.command(host.login.port),
        "listening": "ss -Hltn",
        "packages": "dpkg-query --show --showformat='${Package} ${Status}\\n'",
    }
    if host in plan.nodes:
        found["node"] = node.command()
    paths = [SSHD]
    match host.role:
        case "gateway":
            found["firewall"] = firewall.command(nat.gateway_rules(plan))
            paths.append(units.FIREWALL_FILE)
        case "jumphost":
            packages = f"{checkout.FOLDER}/.venv/lib/python3*/site-packages"
            digests = "find . \\( -name .venv -o -name __pycache__ -o -name .pytest_cache \\) -prune -o -type f"
            found |= {
                "on call": f"for u in $(getent group {ON_CALL} | cut -d: -f4 | tr , ' '); do "
                # As the account: a link there would lead root to any file.
                'home=$(getent passwd "$u" | cut -d: -f6); echo "$u $(setsid -w runuser -u "$u" -- '
                'base64 -w0 "$home/.ssh/authorized_keys" 2>/dev/null </dev/null)"; done',
                "deploy key": MACHINE_PUBLIC,
                "rotation due": RotationDue().command(),
                "tree": f"cd {checkout.FOLDER} && {digests} -exec sha256sum {{}} +",
                "python": f"cd {packages} && ls -d *.dist-info",
            }
        case "lb_nginx":
            paths.append(nginx.PATH)
            found["nginx"] = "nginx -t"
    found["files"] = f"{files.command(map(shlex.quote, paths))}; {files.home_command(authorized_keys(host))}"
    return found | health.commands(plan, host)


SECTION = """\
exec {{fd[{number}]}}< <(
  said=$(timeout -k 1 {seconds} sh -c {command} 2>&1 </dev/null | head -c {most} | base64 -w 0; exit ${{PIPESTATUS[0]}})
  echo "{number} $? $said"
)
"""
"""Begins to read a section: `NUMBER CODE OUTPUT`, which no output can be taken for. Bash for pipes, no file is made."""
SCRIPT = """\
exec 2>/dev/null
now() {{ echo "$1 0 $(date +%s.%N | base64 -w 0)"; }}
now begin
take() {{
  left=$(($2 + 1 - SECONDS))
  # What can't be killed keeps its pipe open: it is not waited for.
  timeout $((left > 0 ? left : 0)).2 cat <&${{fd[$1]}}
  echo
}}
{sections}
{taking}
now end
"""


def script(commands: Mapping[str, str], seconds: Mapping[str, int]) -> bytes:
    """What bash runs on the host."""
    begin = [
        SECTION.format(number=number, seconds=seconds[name], command=shlex.quote(f"exec 2>&1\n{command}"), most=MOST)
        for number, (name, command) in enumerate(commands.items())
    ]
    taking = [f"take {number} {seconds[name]}\n" for number, name in enumerate(commands)]
    return SCRIPT.format(sections="".join(begin), taking="".join(taking)).encode()


def sections(said: bytes, commands: Collection[str]) -> dict[str, tuple[int, list[str]]]:
    """The sections, and the times `begin` and `end`; those that did not end took too long. Empty if none is there."""
    numbers = {str(number).encode(): name for number, name in enumerate(commands)} | {b"begin": "begin", b"end": "end"}
    found: dict[str, tuple[int, list[str]]] = {}
    for line in said.split(b"\n"):
        match line.split(b" "):
            case [number, code, content] if number in numbers and code.isdigit():
                try:
                    raw = base64.b64decode(content, validate=True)
                except ValueError:
                    continue
                lines = raw.decode(errors="replace").removesuffix("\n").split("\n") if raw else []
                found[numbers[number]] = FLOOD if len(raw) >= MOST else int(code), lines
    return {**dict.fromkeys(numbers.values(), (LATE[0], [])), **found} if found else {}


def _boot(links: Links, plan: Plan, host: Host) -> NextBoot | str:
    asked = {BOOT: next_boot.request(host, routing.host_network(plan, host), COPY)}
    stdin = send.line(survey) + json.dumps(asked).encode()
    try:
        said = links.ask(host.name, shlex.join(send.argv()), _Boot, seconds=BOOT_SECONDS, stdin=stdin)
    except UnreachableError as error:
        return str(error)
    found: NextBoot | None = said[BOOT]
    return found or "no answer in time"


def _answers(links: Links, plan: Plan, host: Host) -> dict[str, tuple[int, str]]:
    if host.role != "lb_nginx":
        return {}
    urls = [f"{NO_SUCH_NAME}/", f"{NO_SUCH_NAME}/healthz"]
    urls += [f"{name}{path}" for name in roles.lb_nginx(plan).web_services for path in ("/", "/healthz")]
    agent = links.agent(host.name)
    try:
        wanted = [[str(host.primary.address), nginx.HTTP_PORT, url] for url in urls]
        found = agent.ask("get", wanted, list[tuple[int, str]])
    finally:
        agent.close()
    if len(found) != len(urls):
        raise UnreachableError(f"{host.name} was reached, but not read: {len(found)} answers to {len(urls)} requests")
    return dict(zip(urls, found, strict=True))
