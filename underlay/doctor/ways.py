"""How hosts are reached, the plan's way or another, with connections made anew, in bounded time.

Hosts that can't be reached the plan's way are tried through the gateway, and the gateway through the jump host: so what
is wrong with the way is told apart from what is wrong with the host.
"""

import errno
import json
import re
import shlex
import socket
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, get_args

from annotated_types import Len
from typing_extensions import TypedDict

from underlay.access import answers, via
from underlay.access.answers import FloodError, UnreadableError
from underlay.access.sessions import TALK, Links, UnreachableError
from underlay.access.target import Target, configured
from underlay.doctor.investigation import some
from underlay.doctor.survey import Failure, HostSurvey, Login, Reason, Way, Why
from underlay.errors import OperatorError
from underlay.plan import OUTSIDE, Host
from underlay.remote import send, survey

CONNECT_SECONDS = 3
"""What an ssh connection of the doctor's may take: somebody waits for it."""
LOGIN_SECONDS = 5
"""What a host may take to let it in."""
KNOCK_SECONDS = 1.5
CONSOLE_SECONDS = 8
CONFINED_SECONDS = 4
INSIDE = "underlay-is-in"
TELL = ("-o", "LogLevel=DEBUG1")
"""What has ssh tell how far a login got."""
KINDS: tuple[tuple[str, Why], ...] = (
    ("Host key verification failed", "host key"),
    ("Not allowed at this time", "penalty"),
    ("Exceeded MaxStartups", "startups"),
    ("no matching .* found", "nothing in common"),
    (r"Load key .*: |signing failed|UNPROTECTED PRIVATE KEY|no such identity", "own key"),
    ("(?m)^(sudo: |Sorry, try again)|sudo: command not found|is not in the sudoers", "sudo"),
    ("Authenticated to ", "session"),
    # It was the jump host's kernel that refused to send.
    ("connect failed: (Permission denied|Operation not permitted|Invalid argument)", "no route"),
    ("with partial success", "more than a key"),
    ("Permission denied|Too many authentication failures", "key refused"),
    ("Server accepts key", "account"),
    ("administratively prohibited", "forwarding"),
    ("banner exchange", "mute"),
    (r"(?s)(Connection established|Remote protocol version).*(timed out|no answer)", "mute"),
    (r"(?s)(Connection established|Remote protocol version).*([Cc]onnection (closed|reset)|Broken)", "closed"),
    ("Connection refused", "refused"),
    ("No route to host", "no ARP answer"),
    ("timed out|no answer", "silent"),
    ("Network is unreachable", "no route"),
)
"""What ssh says (at DEBUG1) → how far it got; the first one that is there."""
SAID_BY_SSHD = r"^debug1: (?:Remote: (?!.*: key options: )|kex_exchange_identification: banner line \d+: )(.+)"
AT_THE_DOOR: tuple[Why, ...] = get_args(Why)[get_args(Why).index("refused") : get_args(Why).index("the jump host")]
"""The kinds of which the host itself knows more than whoever stands outside."""
Say = Callable[[str], None]
Ask = Callable[[Links, Host, Mapping[str, object]], HostSurvey]


class Ways:
    """The ways to the hosts of a target.

    read: begins to read a host that was reached
    heard: the addresses that answer the gateway in their own network; None if it can't tell
    """

    def __init__(
        self,
        target: Target,
        pool: ThreadPoolExecutor,
        say: Say,
        read: Callable[[Links, Host], None],
        heard: Callable[[Host], set[str] | None],
    ) -> None:
        self.target = target
        self.plan = target.plan
        self.pool = pool
        self.say = say
        self.read = read
        self.heard = heard
        self.here = target.vantage.name if target.vantage else ""
        self.deployed = self.plan.deployed
        self.hosts = {host.name: host for host in self.plan.hosts}
        self.names = [*self.hosts, *([OUTSIDE] if target.outside is not None else [])]

    def connect(self) -> tuple[Links, dict[str, Failure]]:
        """Connections the plan's way; and why there is none, for the hosts that have none. The others are read."""
        self.say(f"connecting to {len(self.names)} hosts")
        links = Links(self.target, LOGIN_SECONDS, TELL)
        jump = {name: self.target.endpoint(name).jump for name in self.names if name != self.here}
        # Only ssh knows how to get through somebody's bastion.
        knocks = {
            name: self.pool.submit(self._knock, links, name)
            for name, through in jump.items()
            if not (through or self.target.endpoint(name).bastion)
        }
        links.open(name for name in self.names if name != self.here and self.target.endpoint(name).bastion)
        if self.here:
            links.open([self.here])
        failures = {}
        for name in sorted(self.names, key=lambda name: bool(jump.get(name))):
            knocked = knocks[name].result() if name in knocks else None
            if (through := jump.get(name)) in knocks:
                knocks[through].result()
            elif through:
                links.open([name])
            if said := links.error(name):
                failures[name] = knocked or failure_of(links.said.get(name, [said]), jump.get(name, "") in failures)
            elif name in self.hosts and (name != self.here or self.hosts[name] in self.deployed):
                self.read(links, self.hosts[name])
        return links, failures

    def _knock(self, links: Links, name: str) -> Failure | None:
        """Begin to connect to a host, and to those behind it, if its sshd takes connections.

        One that does not would cost the patience of ssh.
        """
        failure = self._refusal(name)
        if failure:
            links.take(name, f"{name} can't be reached at {self.target.endpoint(name).address}: {failure.said}")
        links.open([name, *(each.name for each in self.target.endpoints if each.jump == name)])
        return failure

    def _refusal(self, name: str) -> Failure | None:
        try:
            socket.create_connection(
                (str(self.target.endpoint(name).address), self.target.endpoint(name).port), KNOCK_SECONDS
            ).close()
        except TimeoutError:
            return Failure("silent", f"no answer within {KNOCK_SECONDS} s")
        except OSError as error:
            kinds: dict[int | None, Why] = {
                errno.ECONNREFUSED: "refused",
                errno.EHOSTUNREACH: "no ARP answer",
                errno.ENETUNREACH: "no route",
            }
            return Failure(kinds.get(error.errno, "other"), error.strerror or str(error))
        return None

    def find_others(self, links: Links, failures: dict[str, Failure]) -> tuple[Links, dict[str, Way]]:
        """Connections by other ways for the deployed hosts that need one."""
        gateway, jumphost = self.plan.gateway, self.plan.jumphost
        lost = [host for host in self.deployed if host.name in failures]
        if not lost:
            return links, {}
        self.say(f"no way to {some(host.name for host in lost)}: trying other ways")
        candidates: dict[str, list[Way]] = {}
        if gateway.name in failures:
            if jumphost.name not in failures:
                candidates[gateway.name] = self._ways_through(gateway, jumphost)
        else:
            heard = self.heard(gateway)
            for host in lost:
                found = self._ways_through(host, gateway)
                candidates[host.name] = [each for each in found if heard is None or each.address in heard]
        # All at the same time: each that leads nowhere takes the patience of ssh.
        rounds = [
            {name: each[index] for name, each in candidates.items() if index < len(each)}
            for index in range(max(map(len, candidates.values()), default=0))
        ]
        trials = [(tried, self._links_with(failures, tried, tried, {"ControlPath": "none"})) for tried in rounds]
        asked = {
            self.pool.submit(trial.error, name): (name, way) for tried, trial in trials for name, way in tried.items()
        }
        other_ways: dict[str, Way] = {}
        for future in as_completed(asked):
            name, way = asked[future]
            if future.result() is None:
                other_ways.setdefault(name, way)
            if len(other_ways) == len({name for name, _ in asked.values()}):
                break  # the others need not come to their end
        return self._links_with(failures, other_ways, self.names), other_ways

    def _ways_through(self, host: Host, through: Host) -> list[Way]:
        return [Way(through.name, str(address)) for address in via.addresses(host, through)]

    def _links_with(
        self,
        failures: dict[str, Failure],
        other_ways: dict[str, Way],
        names: Iterable[str],
        settings: dict[str, str] | None = None,
    ) -> Links:
        """Connections to some hosts, by other ways, with further settings of ssh for these."""
        blocks = {
            name: via.options(self.target, self.hosts[name], self.hosts[way.via], way.address) | (settings or {})
            for name, way in other_ways.items()
        }
        target = configured(self.target, self.target.ssh_config.parent, blocks)
        endpoints = (
            replace(each, jump=other_ways[each.name].via) if each.name in other_ways else each
            for each in target.endpoints
        )
        links = Links(replace(target, endpoints=tuple(endpoints)), LOGIN_SECONDS, TELL)
        dead = {name for name in failures if name not in other_ways}
        for name in dead:
            links.take(name, f"{name} can't be reached: {failures[name].said}")
        links.open(name for name in names if name not in dead)
        return links


def failure_of(said: Sequence[str], jump: bool) -> Failure:
    """Why ssh did not get in, from its own words; `jump`: the jump host in between could not be reached either."""
    plain = [line for line in said if not TALK.match(line)]
    last = answers.short(plain[-1]) if plain else "ssh failed"
    if jump:
        return Failure("the jump host", last)
    text = "\n".join(said)
    why: Why = next((why for words, why in KINDS if re.search(words, text)), "other")
    # What sshd or PAM says is told before ssh says that it is over.
    more = [answers.short(line) for line in plain[:-1] if not line.startswith("kex_exchange_identification")]
    remote = re.findall(SAID_BY_SSHD, text, re.MULTILINE)
    shown = re.findall(r"^debug1: Server host key: \S+ (SHA256:\S+)$", text, re.MULTILINE)
    return Failure(why, last, tuple(dict.fromkeys([*more, *map(answers.short, remote)]))[:4], (shown or [""])[-1])


class Door:
    """Asks hosts themselves why the operator does not get in, by whatever way there is.

    target: the target without the doctor's own connections
    ask: how a host that was reached is asked (`remote.survey`)
    """

    def __init__(
        self, target: Target, ask: Callable[[Links, Host, Mapping[str, object]], HostSurvey], key: str
    ) -> None:
        self.target = target
        self.plan = target.plan
        self.ask = ask
        self.key = key

    def login(self, links: Links, host: Host, through: str, forwards: bool) -> Login:
        """What a host says of the operator's logins; `through`: the host that they come from, empty for this one."""
        request = self.request(host, through, forwards)
        unread = ""
        with suppress(UnreachableError, UnreadableError):
            return Login(tuple(self.ask(links, host, request).login), "ssh")
        open_links = Links(self.target)
        if links.is_local(host.name) is False and self._is_open(host.name):
            open_links.take(host.name)
            with suppress(UnreachableError, UnreadableError):
                return Login(tuple(self.ask(open_links, host, request).login), "an open connection")
        if self.target.console is not None:
            try:
                stdin = send.line(survey) + json.dumps(request).encode()
                told = self.target.console(host.name, shlex.join(send.argv()), stdin, CONSOLE_SECONDS)
                found = answers.parsed(_Said, told)
                return Login(tuple(found["login"]), "the console")
            except (OperatorError, ValueError) as error:
                unread = f"at the console of {host.name}: {answers.short(error)}"
        return Login(None, "", unread)

    def request(self, host: Host, through: str, forwards: bool) -> dict[str, list[object]]:
        """What to ask a host, see `remote.survey`."""
        login = host.login
        how = [self._address(host, through), self.key, forwards, login.port, login.sudo == "password"]
        return {"login": [login.user, *how]}

    def _is_open(self, name: str) -> bool:
        """Whether an earlier command has left a connection that still works."""
        argv = ["ssh", "-F", str(self.target.ssh_config), "-O", "check", name]
        with suppress(subprocess.TimeoutExpired, OSError):
            return answers.run(argv, seconds=1, most=64_000).returncode == 0
        return False

    def _address(self, host: Host, through: str) -> str:
        """Where the operator comes from, as a host sees it; empty if that is not known."""
        if through:
            near = self.plan.host(through).interfaces
            return next((str(nic.address) for nic in near if host.interface(nic.network)), "")
        with suppress(OSError, KeyError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.connect((str(self.target.endpoint(host.name).address), host.login.port))
            return str(asking.getsockname()[0])
        return ""


class _Said(TypedDict):
    login: Annotated[list[Reason], Len(0, 20)]


def confinement(links: Links, host: Host) -> Failure | None:
    """Why a host that lets the operator in can't be read: its shell, or sudo; None if it is neither."""
    root = links.root(host.name)
    argv = links.shell(host.name, f"echo {INSIDE} && exec {root.line('true')}")
    try:
        done = answers.run(argv, stdin=root.stdin, seconds=CONFINED_SECONDS, most=64_000)
    except (subprocess.TimeoutExpired, FloodError, OSError):
        return Failure("session", "no answer to a command")
    words = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    if done.stdout.decode(errors="replace").strip() != INSIDE:
        seen = done.stdout.decode(errors="replace").strip().splitlines() or words or ["nothing"]
        return Failure("session", f"`echo {INSIDE}` there prints {answers.short(seen[0])!r}")
    if done.returncode:
        return Failure(
            "sudo", answers.short(next(iter(words), "sudo: it failed")), tuple(map(answers.short, words[1:3]))
        )
    return None
