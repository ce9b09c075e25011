"""All that the doctor looks at before it says anything, gathered from every host that can be reached, in bounded time.

Hosts that can't be reached the plan's way are tried through the gateway, and the gateway through the jump host: so what
is wrong with the way is told apart from what is wrong with the host.
"""

import errno
import json
import os
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from underlay.access import via
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target
from underlay.desired import nginx, traffic
from underlay.desired.traffic import Flow
from underlay.observe import exchange, state
from underlay.observe.exchange import Outcome
from underlay.observe.state import DRIFT, HostState
from underlay.plan import OUTSIDE, Host, Plan
from underlay.remote import arp, send, survey

SECTIONS = DRIFT | {"failed units", "nics", "guard", "conntrack", "counters", "upstreams"}
CONNECT_SECONDS = 3
"""What an ssh connection of the doctor's may take: somebody waits for it at night."""
KNOCK_SECONDS = 1.5
LOOK_SECONDS = 6
FULL = 0.97
"""Of a file system, the share from which on it counts as full."""
CROWDED = 0.9
"""Of the connection table, the share from which on it counts as full: new connections are lost in bursts then."""
SAMPLE = 4
"""Hosts of each role at most between which connections are tried."""

Why = Literal["no route", "no ARP answer", "silent", "refused", "key refused", "host key", "the jump host", "other"]
T = TypeVar("T")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Failure:
    """Why a host could not be reached the plan's way: as a kind, and in ssh's own words."""

    why: Why
    said: str


@dataclass(frozen=True)
class Hop:
    """The first hop to an address, from the workstation, and the source address; `nic` is empty without a route."""

    nic: str
    via: str = ""
    source: str = ""


@dataclass(frozen=True)
class Workstation:
    """The machine that the doctor runs on.

    name: its name in the plan, or empty
    links: NIC → whether it is switched on, and whether its cable has a signal
    hops: address → how packets to it leave, for the addresses at which hosts are reached from here
    neighbours: address → MAC, empty where nobody answered; asked only if the gateway can't be reached, and by root only
    public_key: the operator's; empty if it is not known
    """

    name: str
    links: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    hops: dict[str, Hop] = field(default_factory=dict)
    neighbours: dict[str, str] = field(default_factory=dict)
    public_key: str = ""


@dataclass(frozen=True)
class HostSurvey:
    """What a host sees around it; see `remote.survey`, whose keys these are."""

    arp: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    echo: dict[str, list[int]] = field(default_factory=dict)
    connect: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    services: list[str] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    full: dict[str, list[list[Any]]] = field(default_factory=dict)
    talkers: list[list[Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Detour:
    """The way by which a host was reached that the plan's way does not lead to."""

    via: str
    address: str


@dataclass(frozen=True)
class Survey:
    """Everything that was seen.

    failures: the hosts that the plan's way does not lead to; `detours`: those of them that were reached another way
    states, looks: of the hosts that were reached; `unread`: what could not be read of them, in words
    outcomes: of the connections that were tried
    """

    target: Target
    workstation: Workstation
    failures: dict[str, Failure] = field(default_factory=dict)
    detours: dict[str, Detour] = field(default_factory=dict)
    states: dict[str, HostState] = field(default_factory=dict)
    looks: dict[str, HostSurvey] = field(default_factory=dict)
    outcomes: dict[Flow, Outcome] = field(default_factory=dict)
    unread: tuple[str, ...] = ()

    @property
    def plan(self) -> Plan:
        """The plan of the site."""
        return self.target.plan


def examine(target: Target, say: Say) -> Survey:
    """Look at everything; takes some seconds, however much is dead. Raises nothing for a host."""
    with _patient(target) as own, ThreadPoolExecutor(len(target.plan.hosts) * 4 + 4) as pool:
        return _Examiner(own, pool, say).run()


@contextmanager
def _patient(target: Target) -> Iterator[Target]:
    """The target with connections of its own, made anew: what an earlier command left open proves nothing."""
    with tempfile.TemporaryDirectory(dir=target.ssh_config.parent) as folder:
        # A socket's path is short; the name of a host is, too.
        settings = {"ConnectTimeout": str(CONNECT_SECONDS), "ControlPath": f"{folder}/%n", "ControlPersist": "15"}
        own = _configured(target, Path(folder), {"*": settings})
        try:
            yield own
        finally:
            _disconnect(own)


def _disconnect(target: Target) -> None:
    """Close the connections that are still kept open for more."""
    argv = ["ssh", "-F", str(target.ssh_config), "-O", "exit"]
    open_to = [path.name for path in target.ssh_config.parent.iterdir() if path.is_socket()]
    ending = [subprocess.Popen([*argv, name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for name in open_to]
    for process in ending:
        with suppress(subprocess.TimeoutExpired):  # it ends by itself when it is idle
            process.wait(2)


def _configured(target: Target, folder: Path, blocks: dict[str, dict[str, str]]) -> Target:
    """The target with further settings of ssh for some hosts; of a keyword ssh takes the first value."""
    text = "".join(
        f"Host {name}\n" + "".join(f"    {key} {value}\n" for key, value in settings.items()) + "\n"
        for name, settings in blocks.items()
    )
    path = folder / f"config.{len(list(folder.glob('config.*')))}"
    path.write_text(text + target.ssh_config.read_text())
    return replace(target, ssh_config=path)


class _Examiner:
    def __init__(self, target: Target, pool: ThreadPoolExecutor, say: Say) -> None:
        self.target = target
        self.plan = target.plan
        self.pool = pool
        self.say = say
        self.here = target.vantage.name if target.vantage else ""
        self.deployed = self.plan.deployed
        self.names = [host.name for host in self.plan.hosts]
        if target.outside is not None:
            self.names.append(OUTSIDE)
        self.hosts = {host.name: host for host in self.plan.hosts}
        self.states: dict[str, Future[HostState]] = {}
        self.looks: dict[str, Future[HostSurvey]] = {}
        self.unread: list[str] = []

    def run(self) -> Survey:
        links, failures = self._connect()
        detours: dict[str, Detour] = {}
        if failures:
            links, detours = self._other_ways(links, failures)
        for host in self.deployed:
            if host.name in detours:
                self._read(links, host)
        self.say(f"read {len(self.states)} hosts, trying connections between them")
        outcomes = exchange.run(self._flows(), links, self.plan.gateway.name)
        states = {name: self._result(name, future) for name, future in self.states.items()}
        looks = {name: self._result(name, future) for name, future in self.looks.items()}
        return Survey(
            target=self.target,
            workstation=self._workstation(failures),
            failures=failures,
            detours=detours,
            states={name: each for name, each in states.items() if each is not None},
            looks={name: each for name, each in looks.items() if each is not None},
            outcomes=outcomes,
            unread=tuple(dict.fromkeys(self.unread)),
        )

    def _read(self, links: Links, host: Host) -> None:
        """Begin to read a host, and to look around from it."""
        self.states[host.name] = self.pool.submit(state.read, links, self.plan, host, SECTIONS)
        self.looks[host.name] = self.pool.submit(self._look, links, host)

    def _result(self, name: str, future: Future[T]) -> T | None:
        try:
            return future.result()
        except UnreachableError as error:
            if any(host.name == name for host in self.deployed):
                self.unread.append(str(error))
            return None

    # --- ways to the hosts ---

    def _connect(self) -> tuple[Links, dict[str, Failure]]:
        """Connections the plan's way; and why there is none, for the hosts that have none. The others are read."""
        self.say(f"connecting to {len(self.names)} hosts")
        links = Links(self.target)
        jump = {name: self.target.endpoint(name).jump for name in self.names if name != self.here}
        knocks = {name: self.pool.submit(self._knock, links, name) for name, through in jump.items() if not through}
        if self.here:
            links.open([self.here])
        failures = {}
        for name in sorted(self.names, key=lambda name: bool(jump.get(name))):
            knocked = knocks[name].result() if name in knocks else None
            if through := jump.get(name):
                knocks[through].result()
            if said := links.error(name):
                failures[name] = knocked or _failure(said, jump.get(name, "") in failures)
            elif name in self.hosts and (name != self.here or self.hosts[name] in self.deployed):
                self._read(links, self.hosts[name])
        return links, failures

    def _knock(self, links: Links, name: str) -> Failure | None:
        """Begin to connect to a host, and to those behind it, if its sshd takes connections.

        One that does not would cost the patience of ssh.
        """
        failure = self._refusal(name)
        if failure:
            links.give_up(name, f"{name} can't be reached at {self.target.endpoint(name).address}: {failure.said}")
        links.open([name, *(each.name for each in self.target.endpoints if each.jump == name)])
        return failure

    def _refusal(self, name: str) -> Failure | None:
        try:
            socket.create_connection((str(self.target.endpoint(name).address), 22), KNOCK_SECONDS).close()
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

    def _other_ways(self, links: Links, failures: dict[str, Failure]) -> tuple[Links, dict[str, Detour]]:
        """Connections with detours for the deployed hosts that need one."""
        gateway, jumphost = self.plan.gateway, self.plan.jumphost
        lost = [host for host in self.deployed if host.name in failures]
        if not lost:
            return links, {}
        self.say(f"no way to {', '.join(host.name for host in lost)}: trying other ways")
        candidates: dict[str, list[Detour]] = {}
        if gateway.name in failures:
            if jumphost.name not in failures:
                candidates[gateway.name] = self._detours(gateway, jumphost)
        else:
            heard = self._heard(gateway)
            for host in lost:
                found = self._detours(host, gateway)
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
        detours: dict[str, Detour] = {}
        for future in as_completed(asked):
            name, way = asked[future]
            if future.result() is None:
                detours.setdefault(name, way)
            if len(detours) == len({name for name, _ in asked.values()}):
                break  # the others need not come to their end
        return self._links_with(failures, detours, self.names), detours

    def _detours(self, host: Host, through: Host) -> list[Detour]:
        return [Detour(through.name, str(address)) for address in via.addresses(host, through)]

    def _heard(self, gateway: Host) -> set[str] | None:
        """The addresses that answer the gateway in their own network; None if it can't tell."""
        seen = self._result(gateway.name, self.looks[gateway.name])
        if seen is None:
            return None
        nics = {nic.nic: nic for nic in gateway.interfaces}
        return {
            address
            for nic, answers in seen.arp.items()
            for address, macs in answers.items()
            if macs and address in nics[nic].cidr
        }

    def _links_with(
        self,
        failures: dict[str, Failure],
        detours: dict[str, Detour],
        names: Iterable[str],
        settings: dict[str, str] | None = None,
    ) -> Links:
        """Connections to some hosts, with detours, and further settings of ssh for these."""
        blocks = {
            name: via.options(self.target, self.hosts[name], self.hosts[way.via], way.address) | (settings or {})
            for name, way in detours.items()
        }
        target = _configured(self.target, self.target.ssh_config.parent, blocks)
        endpoints = (
            replace(each, jump=detours[each.name].via) if each.name in detours else each for each in target.endpoints
        )
        links = Links(replace(target, endpoints=tuple(endpoints)))
        dead = {name for name in failures if name not in detours}
        for name in dead:
            links.give_up(name, f"{name} can't be reached: {failures[name].said}")
        links.open(name for name in names if name not in dead)
        return links

    # --- what is looked at ---

    def _look(self, links: Links, host: Host) -> HostSurvey:
        request = json.dumps(self._request(host)).encode()
        command = shlex.join(send.argv())
        done = links.run(host.name, command, seconds=LOOK_SECONDS, stdin=send.line(survey) + request)
        try:
            # What took too long is null.
            return HostSurvey(**{key: value for key, value in json.loads(done.stdout).items() if value is not None})
        except (ValueError, TypeError):
            words = done.stderr.decode(errors="replace").strip().splitlines() or ["no answer"]
            raise UnreachableError(f"{host.name} can't look around: {words[-1]}") from None

    def _request(self, host: Host) -> dict[str, object]:
        """What to ask a host to look at; see `remote.survey`."""
        if host not in self.deployed:
            return {"services": True}
        neighbours: list[list[object]] = [[nic.nic, str(nic.address), False] for nic in host.interfaces]
        found: dict[str, object] = {"arp": neighbours, "sources": True, "names": True, "full": FULL}
        if host == self.plan.gateway:
            primary = host.primary.nic
            neighbours += [[primary, str(each.published), False] for each in self.plan.published]
            neighbours.append([primary, str(self.plan.enterprise.upstream), False])
            neighbours += [
                [near.nic, str(nic.address), True]
                for other in self.plan.hosts
                if other != host
                for nic in other.interfaces
                if (near := host.interface(nic.network))
            ]
            found["talkers"] = CROWDED
        else:
            routers = [(nic, str(self.plan.gateway_address(nic.network))) for nic in host.interfaces]
            neighbours += [[nic.nic, router, True] for nic, router in routers]
            found["echo"] = [[nic.nic, str(nic.address), router] for nic, router in routers]
        masters = self.plan.hosts_of("master")
        match host.role:
            case "lb_nginx":
                found["connect"] = [[str(each.primary.address), nginx.API_PORT, True] for each in masters]
            case "master":
                found |= {"owners": [nginx.API_PORT], "services": True}
        return found

    def _flows(self) -> list[Flow]:
        """The connections to try; of a large site, those between a few hosts of each role."""
        kept = {
            each.name for role in {each.role for each in self.plan.hosts} for each in self.plan.hosts_of(role)[:SAMPLE]
        }
        plan = self.plan.model_copy(update={"hosts": tuple(each for each in self.plan.hosts if each.name in kept)})
        return traffic.expected(plan, self.target.outside)

    # --- the workstation ---

    def _workstation(self, failures: Collection[str]) -> Workstation:
        """Read last, when every address was tried."""
        jump = self.plan.jumphost.name
        names = dict.fromkeys([self.plan.gateway.name, jump, *failures])
        direct = [name for name in names if name != self.here and not self.target.endpoint(name).jump]
        addresses = [str(self.target.endpoint(name).address) for name in direct][: SAMPLE * 2]
        hops = {}
        for address in addresses:
            found = _json("ip", "-j", "route", "get", address)
            hops[address] = (
                Hop(found[0].get("dev", ""), found[0].get("gateway", ""), found[0].get("prefsrc", ""))
                if found
                else Hop("")
            )
        links = _json("ip", "-j", "link", "show")
        return Workstation(
            name=self.here,
            links={
                each["ifname"]: ("UP" in each["flags"], "LOWER_UP" in each["flags"])
                for each in links
                if "LOOPBACK" not in each["flags"]
            },
            hops=hops,
            neighbours=_neighbours({address: hop.nic for address, hop in hops.items() if hop.nic and not hop.via})
            if self.plan.gateway.name in failures
            else {},
            public_key=self._public_key(),
        )

    def _public_key(self) -> str:
        key = next(
            line.split(maxsplit=1)[1]
            for line in self.target.ssh_config.read_text().splitlines()
            if "IdentityFile" in line
        )
        beside = Path(f"{key}.pub")
        return beside.read_text().strip() if os.access(beside, os.R_OK) else ""


def _failure(said: str, jump: bool) -> Failure:
    if jump:
        return Failure("the jump host", said)
    kinds: dict[str, Why] = {
        "Host key verification failed": "host key",
        "Permission denied": "key refused",
        "Connection refused": "refused",
        "No route to host": "no ARP answer",
        "timed out": "silent",
        "no answer": "silent",
        "Network is unreachable": "no route",
    }
    return Failure(next((why for words, why in kinds.items() if words in said), "other"), said)


def _neighbours(asked: dict[str, str]) -> dict[str, str]:
    """Who answers for addresses on NICs of this machine: address → MAC, empty for nobody. Asking needs root."""
    try:
        heard = arp.probe(((nic, address) for address, nic in asked.items()), survey.HEARD)
    except PermissionError:
        return {}
    return {address: next(iter(heard.get(nic, {}).get(address, [])), "") for address, nic in asked.items()}


def _json(*argv: str) -> list[dict[str, Any]]:
    """What a program of this machine says in JSON; empty if it fails."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=5, check=False)
        found: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return []
    return found
