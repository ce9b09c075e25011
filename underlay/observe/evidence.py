"""All that a run finds out, gathered at once from all hosts while the checks wait for their part of it."""

from collections.abc import Collection, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property

from underlay.access.answers import UnreadableError
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target
from underlay.desired import traffic
from underlay.desired.traffic import Flow
from underlay.observe import exchange, state
from underlay.observe.exchange import Outcome
from underlay.observe.state import HostState
from underlay.plan import Host, Plan

SECONDS = 60
"""After so long, and one for each host, a check stops waiting; every step on the way has a deadline of its own."""
THREADS = 128


class Evidence:
    """The states of hosts and the outcomes of flows of one run.

    plan, target: what it is about
    links: the connections to the hosts that were asked; its own, if none are given
    """

    def __init__(self, target: Target, links: Links | None = None) -> None:
        self.target = target
        self.plan: Plan = target.plan
        self.links = links or Links(target)
        self.seconds = SECONDS + len(target.plan.hosts)
        self._states: dict[str, Future[HostState]] = {}
        self._outcomes: Future[dict[Flow, Outcome]] | None = None

    @cached_property
    def flows(self) -> list[Flow]:
        """Every flow of the plan: those that have to work, and those that must not."""
        return [each for find in (traffic.expected, traffic.forbidden) for each in find(self.plan, self.target.outside)]

    @cached_property
    def machine_public(self) -> str | None:
        """The deploy machine's public key; None if the jump host has none, or did not say."""
        name = self.plan.jumphost.name
        with suppress(UnreachableError, UnreadableError):
            return self.state(name).machine_public if name in self._states else None
        return None

    def gather(
        self,
        hosts: Iterable[Host],
        flows: Iterable[Flow],
        sections: Collection[str] = state.CHECKS,
        patience: int = state.PATIENT,
    ) -> None:
        """Begin to read these hosts (`sections`, `patience` of `state.read`), make these flows; returns at once."""
        hosts, flows = list(hosts), list(flows)
        names = {host.name for host in hosts} | {name for flow in flows for name in flow.hosts}
        if flows:
            names.add(self.plan.gateway.name)
        self.links.open(names)
        # How many are read at the same time is up to the pace of the links.
        pool = ThreadPoolExecutor(min(len(hosts), THREADS) + 1)
        if flows:
            self._outcomes = pool.submit(exchange.run, flows, self.links, self.plan.gateway.name)
        for host in hosts:
            self._states[host.name] = pool.submit(state.read, self.links, self.plan, host, sections, patience)
        pool.shutdown(wait=False)

    def state(self, name: str) -> HostState:
        """The state of a host. Raises UnreachableError."""
        try:
            return self._states[name].result(self.seconds)
        except TimeoutError:
            raise UnreachableError(f"{name} did not say in time how it is") from None

    def outcome(self, flow: Flow) -> Outcome:
        """What became of a flow."""
        assert self._outcomes is not None
        return self._outcomes.result(self.seconds)[flow]

    def bystander(self, flow: Flow) -> str | None:
        """Why a host of a flow that is not deployed from here, a workstation say, can't be asked; or None.

        Nothing is wrong with the site then, and nothing is known about the flow.
        """
        deployed = {host.name for host in self.plan.deployed}
        dead = self.unreachable(flow.hosts - deployed)
        return dead[1] if dead else None

    def unreachable(self, names: Iterable[str]) -> tuple[str, str] | None:
        """The first of these hosts that can't be reached, and why; or None."""
        for name in sorted(names):
            try:
                self.links.check(name)
            except UnreachableError as error:
                return name, str(error)
        return None
