"""Makes the flows of a plan happen, as many at once as the hosts can follow, and says what became of each.

One that fails is tried again, with few others, before it is called failed: a busy host loses packets, too.
"""

from collections.abc import Callable, Iterable, Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from underlay.access.sessions import QUICK, Agent, Links, UnreachableError
from underlay.desired import nginx
from underlay.desired.traffic import Flow
from underlay.remote import Pace, probe

T = TypeVar("T")

CONNECT = probe.PATIENCE + 3
"""Seconds for an agent's answer about its connections; with many hosts or connections some more."""
THREADS = 128
ALONE = 8
"""Hosts that try again at the same time."""
AGAIN = 16
"""Connections that fail which are all tried again; of more, some of each kind that fail in the same way."""
SAMPLE = 4
REVIVED = 4
"""Agents that gave no answer which are started anew, at most."""


@dataclass(frozen=True)
class Outcome:
    """What became of a flow.

    error: why there was no answer
    receiver, seen_as: who answered, and as what it saw the sender; both None behind a real service that can't tell
    tracked: whether the gateway's connection table had it; None if the flow does not ask
    unasked: nothing is known about the flow: a host could not be asked, or the sender lacks the address
    """

    error: str | None = None
    receiver: str | None = None
    seen_as: str | None = None
    tracked: bool | None = None
    unasked: bool = False

    def unproven(self, flow: Flow) -> bool:
        """Whether the source could not send as the flow has it, which says nothing of the site."""
        return flow.router is not None and self.unasked


def judge(flow: Flow, outcome: Outcome) -> tuple[str, str] | None:
    """What was expected of a flow and what was seen, in words; None if they agree."""
    expected = f"{flow}: {expectation(flow)}"
    if flow.must_not:
        reached = outcome.receiver in flow.receivers
        return (expected, observation(outcome)) if reached or outcome.unasked else None
    if outcome.error:
        return expected, outcome.error
    if outcome.receiver is not None:
        if outcome.receiver not in flow.receivers:
            return expected, f"{outcome.receiver} answers"
        if outcome.seen_as != str(flow.seen_as):
            return expected, f"{outcome.receiver} sees {outcome.seen_as}"
    if flow.tracked is not None and outcome.tracked != flow.tracked:
        return expected, _TABLE[outcome.tracked].removeprefix(", ") or "the gateway's connection table was not read"
    return None


_TABLE = {True: ", in the gateway's connection table", False: ", not in the gateway's connection table", None: ""}


def expectation(flow: Flow) -> str:
    """What is expected of a flow, in words."""
    receivers = " or ".join(flow.receivers)
    if flow.must_not:
        return f"must not reach {receivers}: from outside, only published addresses lead inside"
    return f"{receivers} answers and sees {flow.seen_as}{_TABLE[flow.tracked]}"


def observation(outcome: Outcome) -> str:
    """What became of a flow, in words."""
    if outcome.error:
        return outcome.error
    if outcome.seen_as is None and outcome.receiver:
        return f"{outcome.receiver} answers"
    if outcome.receiver is None:
        return f"a real service answers{_TABLE[outcome.tracked]}"
    return f"{outcome.receiver} answers and sees {outcome.seen_as}{_TABLE[outcome.tracked]}"


def run(flows: Iterable[Flow], links: Links, gateway: str) -> dict[Flow, Outcome]:
    """Every flow's outcome. Never raises for a host: a flow whose host can't be asked has that as its error."""
    flows = list(flows)
    with closing(Exchange(flows, links, gateway)) as exchange:
        outcomes = exchange.run(flows)
        return outcomes | exchange.again(outcomes)


def _each(
    pool: ThreadPoolExecutor, work: Mapping[str, Any], function: Callable[[str, Any], T]
) -> dict[str, T | UnreachableError]:
    """The results for hosts, at the same time; UnreachableError as a result where it was raised."""

    def call(name: str) -> T | UnreachableError:
        try:
            return function(name, work[name])
        except UnreachableError as error:
            return error

    return dict(zip(work, pool.map(call, work), strict=True))


_Told = tuple[int, tuple[str, str] | str | None, str | None]
"""See `remote.probe.converse`: the local port, who answered and as what he saw us, the error."""


def _as_many(agent: Agent, answers: list[T], asked: Sized) -> list[T]:
    if len(answers) != len(asked):
        raise UnreachableError(
            f"{agent.name} was reached, but not read: {len(answers)} answers to {len(asked)} requests"
        )
    return answers


class Exchange:
    """Agents on the hosts of some flows, which make these flows as often as they are asked, until they are closed."""

    def __init__(self, flows: Iterable[Flow], links: Links, gateway: str) -> None:
        self.flows = list(flows)
        self.ssh_port = links.target.plan.gateway.login.port
        names = {name for flow in self.flows for name in flow.hosts}
        if any(flow.tracked is not None for flow in self.flows):
            names.add(gateway)
        self.gateway = gateway
        self.links = links
        self.pace = links.pace
        self.pool = ThreadPoolExecutor(min(THREADS, len(names) + 1))
        # None may be about to end when the last one is there.
        self.patience = CONNECT + len(names) // 8
        self.deadline = probe.DEADLINE + len(names) // 2
        self.knocking = {flow.source for flow in self.flows if flow.router}
        self.agents = _each(self.pool, dict.fromkeys(names), lambda name, _: self._start(name))
        self.ports = {name: agent.port for name, agent in self.agents.items() if isinstance(agent, Agent)}
        self.api = self._serve_api({name for flow in self.flows if _is_api(flow) for name in flow.receivers})

    def _start(self, name: str) -> Agent:
        self.links.check(name)
        return self.links.once_more(lambda: self.links.agent(name, self.deadline, root=name in self.knocking))

    def close(self) -> None:
        """End the agents, also those that are asked something still."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(Agent.close, (agent for agent in self.agents.values() if isinstance(agent, Agent))))
        self.pool.shutdown(wait=False)

    def again(self, outcomes: Mapping[Flow, Outcome]) -> dict[Flow, Outcome]:
        """Outcomes of those that are not as they must be, tried once more, with few others at the same time.

        Of many that fail in the same way some are tried; if all of these fail again, so do the others.
        """
        lost = [name for name, agent in self.agents.items() if isinstance(agent, Agent) and agent.lost][:REVIVED]
        for name in lost:
            with suppress(UnreachableError):
                self.agents[name] = agent = self._start(name)
                self.ports[name] = agent.port
        kinds: dict[tuple[str, str], list[Flow]] = {}
        for flow, outcome in outcomes.items():
            hopeless = flow.must_not or isinstance(self._call(flow), UnreachableError)
            if not hopeless and judge(flow, outcome):
                kinds.setdefault((flow.row, outcome.error or ""), []).append(flow)
        few = sum(map(len, kinds.values())) <= AGAIN
        first = {kind: some if few else _spread(some) for kind, some in kinds.items()}
        self.pace = Pace(ALONE, ALONE, QUICK)
        found = self.run(flow for some in first.values() for flow in some)
        mended = [kind for kind, some in first.items() if any(judge(flow, found[flow]) is None for flow in some)]
        return found | self.run(flow for kind in mended for flow in kinds[kind] if flow not in found)

    def run(self, flows: Iterable[Flow]) -> dict[Flow, Outcome]:
        """The outcome of each of these flows, made anew: see `run`."""
        flows = list(flows)
        outcomes = self._knocks([flow for flow in flows if flow.router])
        calls: dict[str, list[tuple[Flow, list[Any]]]] = {}
        for flow in flows:
            if flow in outcomes:
                continue
            call = self._call(flow)
            if isinstance(call, UnreachableError):
                outcomes[flow] = Outcome(error=str(call), unasked=True)
            else:
                calls.setdefault(flow.source, []).append((flow, call))
        ports: dict[Flow, int] = {}
        results = self._ask(calls, self._connect)
        for name, work in calls.items():
            answer = results[name]
            for index, (flow, _) in enumerate(work):
                if isinstance(answer, UnreachableError):
                    outcomes[flow] = Outcome(error=str(answer), unasked=True)
                    continue
                ports[flow], told, error = answer[index]
                if error:
                    # Without a port it was not even bound to its source address.
                    outcomes[flow] = Outcome(error=error, unasked=not ports[flow])
                elif isinstance(told, tuple):
                    outcomes[flow] = Outcome(receiver=told[0], seen_as=told[1])
                else:
                    outcomes[flow] = Outcome()
        outcomes |= self._peers([flow for flow in ports if _is_service(flow) and not outcomes[flow].error], ports)
        good = [flow for flow in ports if flow.tracked is not None and not outcomes[flow].error]
        return outcomes | self._tracked({flow: outcomes[flow] for flow in good}, ports)

    def _connect(self, agent: Agent, work: list[tuple[Flow, list[Any]]]) -> list[_Told]:
        begun, good = self.pace.begin(), False
        try:
            patience = self.patience + len(work) // 100
            found: list[_Told] = agent.ask("connect", [call for _, call in work], list[_Told], patience)
            # One that must not arrive is waited for, whoever is busy.
            good = not any(error for _, _, error in found) and not any(flow.must_not for flow, _ in work)
        finally:
            self.pace.end(begun, good)
        return _as_many(agent, found, work)

    def _ask(self, work: Mapping[str, Any], request: Callable[[Agent, Any], T]) -> dict[str, T | UnreachableError]:
        def ask(name: str, value: Any) -> T:
            agent = self.agents[name]
            if isinstance(agent, UnreachableError):
                raise agent
            return request(agent, value)

        return _each(self.pool, work, ask)

    def _knocks(self, flows: list[Flow]) -> dict[Flow, Outcome]:
        """Those that are sent by a router: a handshake by hand, which gets an answer or not.

        That something would come back is shown by the router's own sshd.
        """
        outcomes: dict[Flow, Outcome] = {}
        work: dict[str, list[tuple[Flow, list[Any]]]] = {}
        for flow in flows:
            call = self._call(flow)
            if isinstance(call, UnreachableError):
                outcomes[flow] = Outcome(error=str(call), unasked=True)
            else:
                work.setdefault(flow.source, []).append((flow, [*call[:3], str(flow.router)]))

        def ask(agent: Agent, mine: list[tuple[Flow, list[Any]]]) -> list[bool]:
            control = [mine[0][1][0], str(mine[0][0].router), self.ssh_port, str(mine[0][0].router)]
            calls = [control, *(call for _, call in mine)]
            answer: list[bool] = _as_many(agent, agent.ask("knock", calls, list[bool], self.patience), calls)
            if not answer[0]:
                raise UnreachableError(
                    f"{agent.name}: {control[1]} does not answer its packets, to port {self.ssh_port}"
                )
            return answer[1:]

        for name, answer in self._ask(work, ask).items():
            for index, (flow, _) in enumerate(work[name]):
                if isinstance(answer, UnreachableError):
                    # As operator nobody may send packets by another way than the host's own.
                    outcomes[flow] = Outcome(error=f"not proven: {answer}", unasked=True)
                elif answer[index]:
                    outcomes[flow] = Outcome(receiver=flow.receivers[0])
                else:
                    outcomes[flow] = Outcome(error="no answer")
        return outcomes

    def _serve_api(self, masters: set[str]) -> str:
        """How to ask for the API. Where no master has one yet, all of them get a listener of ours in its place.

        Never where only some of them have none: behind the load balancer it would be taken for the real one.
        """
        there = {name: nginx.API_PORT for name in masters if isinstance(self.agents[name], Agent)}
        if not all(self._ask(there, lambda agent, port: agent.ask("free", port, bool)).values()):
            return "tls"
        self._ask(there, lambda agent, port: agent.ask("serve", port, bool))
        return "read"

    def _call(self, flow: Flow) -> list[Any] | UnreachableError:
        for name in (flow.source, *flow.through):
            if isinstance(agent := self.agents[name], UnreachableError):
                return agent
        receivers = [self.agents[name] for name in flow.receivers]
        dead = [agent for agent in receivers if isinstance(agent, UnreachableError)]
        if len(dead) == len(receivers):
            return dead[0]
        how = self.api if _is_api(flow) else "hold" if flow.port else "read soon" if flow.must_not else "read"
        return [str(flow.source_address), str(flow.destination), flow.port or self.ports[flow.receivers[0]], how]

    def _peers(self, flows: list[Flow], ports: Mapping[Flow, int]) -> dict[Flow, Outcome]:
        """What real services see: who is connected to them from the port that the sender had."""
        wanted = {
            flow.receivers[0]: [other.port for other in flows if other.receivers == flow.receivers] for flow in flows
        }
        peers = self._ask(wanted, lambda agent, value: agent.ask("peers", value, list[tuple[int, str, int]]))
        outcomes = {}
        for flow in flows:
            [receiver] = flow.receivers
            match peers[receiver]:
                case UnreachableError() as error:
                    outcomes[flow] = Outcome(error=str(error), unasked=True)
                case rows:
                    seen = [address for port, address, theirs in rows if (port, theirs) == (flow.port, ports[flow])]
                    # The same port may be in use by others too.
                    best = str(flow.seen_as) if str(flow.seen_as) in seen else next(iter(seen), None)
                    outcomes[flow] = (
                        Outcome(receiver=receiver, seen_as=best)
                        if best
                        else Outcome(error=f"connected, but not to port {flow.port} of {receiver}")
                    )
        return outcomes

    def _tracked(self, outcomes: Mapping[Flow, Outcome], ports: Mapping[Flow, int]) -> dict[Flow, Outcome]:
        if not outcomes:
            return {}
        entries = [
            [str(flow.source_address), ports[flow], str(flow.destination), flow.port or self.ports[flow.receivers[0]]]
            for flow in outcomes
        ]

        def tracked(agent: Agent, value: list[Any]) -> list[bool]:
            return _as_many(agent, agent.ask("tracked", value, list[bool]), value)

        answer = self._ask({self.gateway: entries}, tracked)[self.gateway]
        if isinstance(answer, UnreachableError):
            return {
                flow: replace(
                    outcome, error=f"connected, but the connection table can't be read: {answer}", unasked=True
                )
                for flow, outcome in outcomes.items()
            }
        return {
            flow: replace(outcome, tracked=tracked)
            for (flow, outcome), tracked in zip(outcomes.items(), answer, strict=True)
        }


def _spread(flows: list[Flow]) -> list[Flow]:
    """Some of them, from different hosts to different ones where there are such."""
    step = max(1, len(flows) // SAMPLE)
    return sorted(flows, key=lambda flow: (flow.source, flow.receivers))[::step][:SAMPLE]


def _is_api(flow: Flow) -> bool:
    return flow.port == nginx.API_PORT


def _is_service(flow: Flow) -> bool:
    return flow.port is not None and not _is_api(flow)
