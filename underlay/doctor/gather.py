"""Gathers what the doctor looks at, from every host that can be reached, in bounded time."""

import json
import os
import shlex
import subprocess
from collections.abc import Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from underlay.access import answers
from underlay.access.answers import UnreadableError, reading
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target
from underlay.desired import nginx, traffic
from underlay.desired.traffic import Flow
from underlay.doctor import policy
from underlay.doctor.policy import Packet
from underlay.doctor.survey import CROWDED, Drop, Hop, HostSurvey, Survey, Taken, Way, Workstation
from underlay.doctor.ways import Say, Ways, patient
from underlay.errors import OperatorError
from underlay.observe import exchange, state
from underlay.observe.exchange import Outcome
from underlay.observe.state import DRIFT, HostState
from underlay.plan import Host
from underlay.remote import arp, send, survey
from underlay.trace import run as trace

SECTIONS = DRIFT | {"failed units", "nics", "guard", "conntrack", "counters", "upstreams"}
SURVEY_SECONDS = 6
FULL = 0.97
"""Of a file system, the share from which on it counts as full."""
TRACES = 1
"""Connections that are traced for each host whose own nftables may be to blame."""
SAMPLE = 4
"""Hosts of each role at most between which connections are tried."""

T = TypeVar("T")


def gather(target: Target, say: Say) -> Survey:
    """Look at everything; takes some seconds, however much is dead. Raises nothing for a host."""
    with patient(target) as own, ThreadPoolExecutor(len(target.plan.hosts) * 4 + 4) as pool:
        return _Surveyor(own, pool, say).run()


class _Surveyor:
    def __init__(self, target: Target, pool: ThreadPoolExecutor, say: Say) -> None:
        self.target = target
        self.plan = target.plan
        self.pool = pool
        self.say = say
        self.deployed = self.plan.deployed
        self.ways = Ways(target, pool, say, self._read, self._heard)
        self.states: dict[str, Future[HostState]] = {}
        self.looks: dict[str, Future[HostSurvey]] = {}
        self.unread: list[str] = []

    def run(self) -> Survey:
        links, failures = self.ways.connect()
        other_ways: dict[str, Way] = {}
        if failures:
            links, other_ways = self.ways.find_others(links, failures)
        for host in self.deployed:
            if host.name in other_ways:
                self._read(links, host)
        self.say(f"read {len(self.states)} hosts, trying connections between them")
        outcomes = exchange.run(self._flows(), links, self.plan.gateway.name)
        states = {name: self._result(name, future) for name, future in self.states.items()}
        drops = self._drops(links, outcomes, {name: each for name, each in states.items() if each is not None})
        looks = {name: self._result(name, future) for name, future in self.looks.items()}
        failing = [flow for flow, outcome in outcomes.items() if exchange.judge(flow, outcome)]
        return Survey(
            target=self.target,
            workstation=self._workstation(failures),
            taken=self._taken(links, failing),
            failures=failures,
            other_ways=other_ways,
            states={name: each for name, each in states.items() if each is not None},
            looks={name: each for name, each in looks.items() if each is not None},
            outcomes=outcomes,
            unread=tuple(dict.fromkeys(self.unread)),
            drops=drops,
        )

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

    def _ask(self, links: Links, host: Host, wanted: dict[str, object]) -> HostSurvey:
        request = json.dumps(wanted).encode()
        command, stdin = shlex.join(send.argv()), send.line(survey) + request
        told = links.ask(host.name, command, dict[str, Any], seconds=SURVEY_SECONDS, stdin=stdin)
        with reading(f"what {host.name} sees"):
            # What took too long is null.
            kept = json.dumps({key: value for key, value in told.items() if value is not None})
            found: HostSurvey = answers.parsed(HostSurvey, kept)
        return found

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
        return traffic.expected(traffic.sample(self.plan, SAMPLE), self.target.outside)

    def _drops(
        self, links: Links, outcomes: Mapping[Flow, Outcome], states: Mapping[str, HostState]
    ) -> tuple[Drop, ...]:
        """For each host with chains of its own that may drop: one connection that fails there is traced."""
        failing = [
            flow
            for flow, outcome in outcomes.items()
            if not (flow.must_not or outcome.unasked) and exchange.judge(flow, outcome)
        ]
        flows: dict[Flow, None] = {}
        for host in self.deployed:
            state = states.get(host.name)
            with suppress(UnreadableError):
                filtering = state is not None and (state.filters.chains or state.filters.policies)
                if filtering:
                    passing = (each for each in failing if host == self.plan.gateway or host.name in each.hosts)
                    flows |= dict.fromkeys(islice(passing, TRACES))
        if flows:
            self.say(f"tracing {len(flows)} connections that fail")
        found = self.pool.map(lambda flow: self._traced(links, flow), flows)
        return tuple(dict.fromkeys(drop for drops in found for drop in drops))

    def _traced(self, links: Links, flow: Flow) -> list[Drop]:
        try:
            source, destination = str(flow.source_address), str(flow.destination)
            legs = trace.make(self.target, links, source, destination, "tcp", flow.port)
        except OperatorError:
            return []
        found = []
        for host, chain in (drop for leg in legs for drop in leg.drops):
            rule = next(((name, text) for name, text, verdict in chain.rules if verdict == "drop"), None)
            drop = Drop(host, str(flow), chain.family, chain.table, chain.name, rule)
            if not (drop.is_iptables and host == self.plan.gateway.name):
                found.append(drop)
        return found

    def _workstation(self, failures: Collection[str]) -> Workstation:
        """Read last, when every address was tried."""
        jump = self.plan.jumphost.name
        names = dict.fromkeys([self.plan.gateway.name, jump, *failures])
        direct = [name for name in names if name != self.ways.here and not self.target.endpoint(name).jump]
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
        )

    def _public_key(self) -> str:
        key = next(
            line.split(maxsplit=1)[1]
            for line in self.target.ssh_config.read_text().splitlines()
            if "IdentityFile" in line
        )
        beside = Path(f"{key}.pub")
        return beside.read_text(errors="replace").strip() if os.access(beside, os.R_OK) else ""


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
