"""Gathers what the doctor looks at, from every host that can be reached, in bounded time."""

import errno
import json
import os
import shlex
import subprocess
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from underlay.access import answers, hostkeys
from underlay.access.anew import anew
from underlay.access.answers import UnreadableError, reading
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target
from underlay.compare.systemd import next_boot
from underlay.desired import nginx, routing, traffic
from underlay.desired.traffic import Flow
from underlay.doctor import policy
from underlay.doctor.causes import ends
from underlay.doctor.causes.between import choice
from underlay.doctor.causes.between.choice import Ask, trouble
from underlay.doctor.diagnosis import unexplained
from underlay.doctor.policy import Packet
from underlay.doctor.survey import CROWDED, Failure, Followed, Hop, HostSurvey, Login, Survey, Way, Why, Workstation
from underlay.doctor.ways import AT_THE_DOOR, CONNECT_SECONDS, Door, Say, Ways, confinement
from underlay.errors import OperatorError
from underlay.observe import exchange, state
from underlay.observe.state import BOOT, CHECKS, HostState
from underlay.plan import Host
from underlay.remote import arp, send, survey
from underlay.remote.guard.paths import COPY
from underlay.remote.survey import programs
from underlay.remote.survey.neighbours import HEARD
from underlay.remote.trace import policy as kernel
from underlay.text import command
from underlay.trace import run as trace
from underlay.trace.seen import Taken

SECTIONS = CHECKS - {BOOT} | {"failed units", "nics", "guard", "conntrack", "counters", "upstreams"}
SURVEY_SECONDS = 11
FULL = 0.97
"""Of a file system, the share from which on it counts as full."""
FOLLOWED = 8
"""Packets that are followed at the same time: sshd opens ten sessions at most in one connection."""
SAMPLE = 4
"""Hosts of each role at most between which connections and pings are tried."""

REFUSED = os.strerror(errno.ECONNREFUSED)

T = TypeVar("T")


def gather(target: Target, say: Say, since: float) -> Survey:
    """Look at everything; takes some seconds, however much is dead. Raises nothing for a host.

    since: what changed on the hosts since then is asked for, too; seconds of the epoch
    """
    with (
        anew(target, ConnectTimeout=str(CONNECT_SECONDS)) as own,
        ThreadPoolExecutor(len(target.plan.hosts) * 4 + 4) as pool,
    ):
        return _Surveyor(own, pool, say, since, target).run()


class _Surveyor:
    def __init__(self, target: Target, pool: ThreadPoolExecutor, say: Say, since: float, plain: Target) -> None:
        self.target = target
        self.since = since
        self.door = Door(plain, self._ask, self._public_key())
        self.plan = target.plan
        self.pool = pool
        self.say = say
        self.deployed = self.plan.deployed
        self.sampled = traffic.sample(self.plan, SAMPLE)
        self.ways = Ways(target, pool, say, self._read, self._heard)
        self.states: dict[str, Future[HostState]] = {}
        self.looks: dict[str, Future[HostSurvey]] = {}
        self.unread: list[str] = []
        self.blind: dict[str, str] = {}

    def run(self) -> Survey:
        links, failures = self.ways.connect()
        self._at_the_jump_host(links, failures)
        other_ways: dict[str, Way] = {}
        if failures:
            links, other_ways = self.ways.find_others(links, failures)
        for host in self.deployed:
            if host.name in other_ways:
                self._read(links, host)
        failures, elsewhere = self._knocked(links, failures, other_ways)
        asked = self._logins(links, failures)
        self.say(f"read {len(self.states)} hosts, trying connections between them")
        outcomes = exchange.run(self._flows(), links, self.plan.gateway.name)
        states = {name: self._result(name, future) for name, future in self.states.items()}
        looks = {name: self._result(name, future) for name, future in self.looks.items()}
        looks |= self._measured_again(links, looks)
        confined = self._confined(links, [name for name, each in states.items() if each is None])
        asked |= self._logins(links, confined)
        self.blind = {name: str(error) for name, each in self.looks.items() if (error := each.exception())}
        failing = [flow for flow, outcome in outcomes.items() if exchange.judge(flow, outcome)]
        seen = Survey(
            target=self.target,
            workstation=self._workstation(failures),
            taken=self._taken(links, failing),
            failures=failures,
            other_ways=other_ways,
            states={name: _with_boot(each, looks.get(name)) for name, each in states.items() if each is not None},
            looks={name: each for name, each in looks.items() if each is not None},
            outcomes=outcomes,
            unread=tuple(dict.fromkeys(self.unread)),
            blind=self.blind,
            elsewhere=elsewhere,
            confined=confined,
            logins={name: each.result() for name, each in asked.items()},
            host_keys={host.name: hostkeys.of_host(host, self.target.known_hosts) for host in self.deployed},
        )
        return replace(seen, followed=tuple(self._follow(links, seen)))

    def _knocked(
        self, links: Links, failures: dict[str, Failure], other_ways: Collection[str]
    ) -> tuple[dict[str, Failure], dict[str, list[str]]]:
        """Of hosts that take no connection: whether they refuse it, as seen from near, and where else sshd answers."""
        failures, elsewhere = dict(failures), {}
        for host in self.deployed:
            failure = failures.get(host.name)
            if failure is None or failure.why not in ("refused", "other") or host.name in other_ways:
                continue
            ports = dict.fromkeys((host.login.port, *ends.SSH_PORTS))
            asked = [[str(nic.address), port, ""] for nic in host.interfaces for port in ports]
            answers: dict[str, str] = {}
            if host == self.plan.gateway:
                answers = programs.answers(asked)
            elif self.plan.gateway.name in self.looks:
                with suppress(UnreachableError, UnreadableError):
                    answers = self._ask(links, self.plan.gateway, {"answers": asked}).answers
            heard = answers.get(f"{host.primary.address}:{host.login.port}", "")
            if heard == f"- {os.strerror(errno.ECONNREFUSED)}":
                failures[host.name] = replace(failure, why="refused")
                elsewhere[host.name] = [end for end, text in answers.items() if text.startswith("SSH-")]
        return failures, {name: there for name, there in elsewhere.items() if there}

    def _confined(self, links: Links, unread: Collection[str]) -> dict[str, Failure]:
        """Hosts that let the operator in, and run nothing for him, or nothing as root."""
        tried = {host: self.pool.submit(confinement, links, host) for host in self.deployed if host.name in unread}
        return {host.name: found for host, future in tried.items() if (found := future.result())}

    def _logins(self, links: Links, failures: Mapping[str, Failure]) -> dict[str, Future[Login]]:
        """Begin to ask hosts why the operator does not get in, or is not root: they know it themselves."""
        asked: dict[str, tuple[str, bool]] = {}
        for host in self.deployed:
            failure = failures.get(host.name)
            through = "" if host.name == self.ways.here else self.target.endpoint(host.name).jump
            if failure and failure.why == "forwarding" and through:
                asked[through] = (self.target.endpoint(through).jump, True)
            elif failure and failure.why in AT_THE_DOOR:
                asked.setdefault(host.name, (through, False))
        if asked:
            self.say(f"asking {', '.join(asked)} why ssh does not get in")
        return {
            name: self.pool.submit(self.door.login, links, self.plan.host(name), *how) for name, how in asked.items()
        }

    def _at_the_jump_host(self, links: Links, failures: dict[str, Failure]) -> None:
        """Of hosts behind another one ssh does not say whether they take its connections: that one is asked."""
        for jump in {self.target.endpoint(name).jump for name in failures} - {"", *failures}:
            behind = {
                f"{end.address}:{end.port}": end.name
                for end in self.target.endpoints
                if end.jump == jump and end.name in failures and failures[end.name].why in ("other", "silent", "mute")
            }
            if not behind:
                continue
            with suppress(UnreachableError, UnreadableError):
                ends = [[address, int(port), False] for address, _, port in (each.rpartition(":") for each in behind)]
                asked = self.door.request(self.plan.host(jump), "", forwards=True)
                seen = self._ask(links, self.plan.host(jump), {"connect": ends, **asked})
                for address, error in seen.connect.items():
                    if address not in behind:
                        continue
                    failure = failures[behind[address]]
                    if error in ("", REFUSED):
                        # Of what it does not forward ssh may say no word.
                        told: Why = "mute" if failure.why == "mute" else "forwarding" if seen.login else "closed"
                        failures[behind[address]] = replace(failure, why="refused" if error else told)
                    elif failure.why == "mute":
                        # It was the jump host that ssh heard nothing through: nobody there took the connection.
                        failures[behind[address]] = replace(failure, why="silent")

    def _read(self, links: Links, host: Host) -> None:
        """Begin to read a host, and to look around from it."""
        self.states[host.name] = self.pool.submit(state.read, links, self.plan, host, SECTIONS)
        self.looks[host.name] = self.pool.submit(self._look, links, host)

    def _result(self, name: str, future: Future[T]) -> T | None:
        try:
            return future.result()
        except (UnreachableError, UnreadableError) as error:
            if any(host.name == name for host in self.deployed):
                self.unread.append(str(error))
            return None

    def _measured_again(self, links: Links, looks: Mapping[str, HostSurvey | None]) -> dict[str, HostSurvey]:
        """Of paths that were slow while all was asked at once, what they are by themselves."""
        asked = {}
        for name, look in looks.items():
            slow = [ends for ends, measured in look.paths.items() if trouble(measured)] if look else []
            if slow:
                request: dict[str, object] = {"paths": [ends.split() for ends in slow]}
                asked[name] = self.pool.submit(self._ask, links, self.plan.host(name), request)
        found = {}
        for name, future in asked.items():
            look, again = looks[name], self._result(name, future)
            if look and again:
                found[name] = replace(look, paths=look.paths | again.paths)
        return found

    def _heard(self, gateway: Host) -> set[str] | None:
        """The addresses that answer the gateway in their own network; None if it can't tell."""
        seen = self._result(gateway.name, self.looks[gateway.name])
        if seen is None:
            return None
        nics = {nic.nic: nic for nic in gateway.interfaces}
        return {
            address
            for nic, heard in seen.arp.items()
            for address, macs in heard.items()
            if macs and nic in nics and address in nics[nic].cidr
        }

    def _taken(self, links: Links, failing: list[Flow]) -> dict[str, list[tuple[Packet, Taken]]]:
        """Ask the hosts that were reached what their kernels do with the packets of connections that fail."""
        asked: dict[str, tuple[list[Packet], Future[HostSurvey]]] = {}
        for host in map(self.plan.host, self.states):
            if found := policy.packets(host, failing):
                request: dict[str, object] = {"policy": [each.request() for each in found]}
                asked[host.name] = found, self.pool.submit(self._ask, links, host, request)
        looks = {name: self._result(name, future) for name, (_, future) in asked.items()}
        return {name: list(zip(asked[name][0], look.policy, strict=False)) for name, look in looks.items() if look}

    def _look(self, links: Links, host: Host) -> HostSurvey:
        return self._ask(links, host, self._request(host))

    def _ask(self, links: Links, host: Host, wanted: Mapping[str, object]) -> HostSurvey:
        request = json.dumps(wanted).encode()
        command, stdin = shlex.join(send.argv()), send.line(survey) + request
        links.check(host.name)
        told = links.once_more(
            lambda: links.ask(host.name, command, dict[str, Any], seconds=SURVEY_SECONDS, stdin=stdin),
            lambda told: None in told.values(),
        )
        with reading(f"what {host.name} sees"):
            late = [key for key in wanted if told.get(key) is None]
            if host in self.deployed:
                self.unread += [f"{key} of {host.name} can't be looked at: it took too long" for key in late]
            kept = json.dumps({key: value for key, value in told.items() if value is not None})
            found: HostSurvey = answers.parsed(HostSurvey, kept)
        return found

    def _request(self, host: Host) -> dict[str, object]:
        """What to ask a host to look at; see `remote.survey`."""
        if host not in self.deployed:
            return {"services": True, "stuck": True, "listeners": True}
        found: dict[str, object] = {**ends.request(self.plan, host)}
        neighbours: list[list[object]] = [[nic.nic, str(nic.address), False] for nic in host.interfaces]
        found |= {"arp": neighbours, "sources": True, "names": True, "full": FULL, "accounts": True}
        found |= {"odd": self._plain(host), "changed": self.since, "failed": True}
        boot = next_boot.request(host, routing.host_network(self.plan, host), COPY)
        # systemd's test of a boot takes half a second of a processor: virtual hosts may share theirs.
        found["boot"] = boot if host in self.sampled.hosts else boot | {"units": []}
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
        if host in self.sampled.hosts:
            found["paths"] = choice.paths(self.sampled, host)
        masters = self.plan.hosts_of("master")
        match host.role:
            case "lb_nginx":
                found["connect"] = [[str(self.plan.api_address(each)), nginx.API_PORT, True] for each in masters]
            case "master":
                found |= {"owners": [nginx.API_PORT], "services": True}
        return found

    def _plain(self, host: Host) -> dict[str, object]:
        """What is the plan's on a host, and not odd."""
        tables, priorities = ([each.start, each.stop] for each in (routing.TABLES, routing.PRIORITIES))
        nics = [nic.nic for nic in host.interfaces]
        return {"nics": nics, "tables": tables, "priorities": priorities, "iptables": host == self.plan.gateway}

    def _flows(self) -> list[Flow]:
        """The connections to try; of a large site, those between a few hosts of each role."""
        return traffic.expected(self.sampled, self.target.outside)

    def _follow(self, links: Links, seen: Survey) -> Iterator[Followed]:
        """Packets of what fails, each followed: some connections, pings, and ssh to hosts that can't be reached."""
        chosen = list(choice.telling(seen, self.ways.here, *unexplained(seen)))
        chosen = [each for each in chosen if links.error(each.source) is None][:FOLLOWED]
        if chosen:
            self.say(f"following {len(chosen)} packets of what fails")
        return self.pool.map(lambda each: self._followed(links, each), chosen)

    def _followed(self, links: Links, asked: Ask) -> Followed:
        words = [asked.sender, asked.destination, *(["--port", asked.port] if asked.port else [])]
        words += ["--proto", asked.protocol] if asked.protocol != "tcp" else []
        found = Followed(asked.to, command("./inv", "trace", *words), asked.flow, asked.about, asked.said)
        try:
            legs = trace.make(self.target, links, asked.sender, asked.destination, asked.protocol, asked.port)
        except OperatorError as error:
            return replace(found, why_not=str(error))
        ended = next((leg.ended for leg in legs if leg.ended), None)
        if ended is None and asked.flow is None:
            ended = next((each for leg in legs for each in leg.shaped), None)
        why_not = [*(why for leg in legs for why in leg.unasked.values())]
        return replace(found, ended=ended, why_not="" if ended else "; ".join(dict.fromkeys(why_not)))

    def _workstation(self, failures: Collection[str]) -> Workstation:
        """Read last, when every address was tried."""
        jump = self.plan.jumphost.name
        names = dict.fromkeys([self.plan.gateway.name, jump, *failures])
        direct = [name for name in names if name != self.ways.here and not self.target.endpoint(name).jump]
        there = [self.target.endpoint(name) for name in direct if not self.target.endpoint(name).bastion]
        hops = {str(each.address): _hop(str(each.address), each.port) for each in there[: SAMPLE * 2]}
        links = _json("ip", "-j", "link", "show")
        return Workstation(
            name=self.ways.here,
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
            host_keys=hostkeys.known_hosts(self.plan, self.target.known_hosts),
        )

    def _public_key(self) -> str:
        beside = Path(f"{self.target.key}.pub")
        return beside.read_text(errors="replace").strip() if os.access(beside, os.R_OK) else ""


def _hop(address: str, port: int) -> Hop:
    """How this machine sends to an address."""
    found = _json("ip", "-j", "route", "get", address)
    packet = {"source": "", "destination": address, "nic": "", "protocol": "tcp", "sport": None, "dport": port}
    with suppress(ValueError, KeyError):
        line = str(kernel.taken([packet])[0]["line"] or "")
        first = found[0] if found else {}
        return Hop(first.get("dev", ""), first.get("gateway", ""), first.get("prefsrc", ""), line)
    return Hop("")


def _with_boot(state: HostState, look: HostSurvey | None) -> HostState:
    """What the next boot does was asked with all that a host sees."""
    return replace(state, next_boot=(look and look.boot) or "no answer in time")


def _neighbours(asked: dict[str, str]) -> dict[str, str]:
    """Who answers for addresses on NICs of this machine: address → MAC, empty for nobody. Asking needs root."""
    try:
        heard = arp.probe(((nic, address) for address, nic in asked.items()), HEARD)
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
