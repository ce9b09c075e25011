"""How hosts are reached, the plan's way or another, with connections made anew, in bounded time.

Hosts that can't be reached the plan's way are tried through the gateway, and the gateway through the jump host: so what
is wrong with the way is told apart from what is wrong with the host.
"""

import errno
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from underlay.access import via
from underlay.access.sessions import Links
from underlay.access.target import Target, configured
from underlay.doctor.survey import Failure, Way, Why
from underlay.plan import OUTSIDE, Host

CONNECT_SECONDS = 3
"""What an ssh connection of the doctor's may take: somebody waits for it."""
KNOCK_SECONDS = 1.5
Say = Callable[[str], None]


@contextmanager
def patient(target: Target) -> Iterator[Target]:
    """The target with connections of its own, made anew: what an earlier command left open proves nothing."""
    with tempfile.TemporaryDirectory(dir=target.ssh_config.parent) as folder:
        # A socket's path is short; the name of a host is, too.
        settings = {"ConnectTimeout": str(CONNECT_SECONDS), "ControlPath": f"{folder}/%n", "ControlPersist": "15"}
        own = configured(target, Path(folder), {"*": settings})
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
                failures[name] = knocked or failure_of(said, jump.get(name, "") in failures)
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

    def find_others(self, links: Links, failures: dict[str, Failure]) -> tuple[Links, dict[str, Way]]:
        """Connections by other ways for the deployed hosts that need one."""
        gateway, jumphost = self.plan.gateway, self.plan.jumphost
        lost = [host for host in self.deployed if host.name in failures]
        if not lost:
            return links, {}
        self.say(f"no way to {', '.join(host.name for host in lost)}: trying other ways")
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
        links = Links(replace(target, endpoints=tuple(endpoints)))
        dead = {name for name in failures if name not in other_ways}
        for name in dead:
            links.take(name, f"{name} can't be reached: {failures[name].said}")
        links.open(name for name in names if name not in dead)
        return links


def failure_of(said: str, jump: bool) -> Failure:
    """Why ssh did not get in, from its own words; `jump`: the jump host in between could not be reached either."""
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
