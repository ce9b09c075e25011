"""Sends a real packet, watches it on every host of its way at once, and says where that differs from the plan."""

import errno
import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from typing_extensions import TypedDict

from underlay.access.answers import UnreadableError, reading
from underlay.access.sessions import Agent, Links, RefusedError, UnreachableError
from underlay.access.target import Target
from underlay.compare.firewall import canonical
from underlay.console import console
from underlay.desired import nat
from underlay.desired.ruleset import Rule
from underlay.errors import COULD_NOT, GOOD, WRONG, exit_code
from underlay.facts import firewall
from underlay.plan import Plan
from underlay.remote import send
from underlay.remote import trace as trace_agent
from underlay.trace.ended import Ended, ended, shaped
from underlay.trace.planned import NOTHING, PROTOCOLS, Path, Protocol, Step, TraceError, ends, path, proxied
from underlay.trace.seen import RAN, UNREACHABLE, Comparison, Observation, Row, Verdict, observe

NO_LISTENER = 33434
"""The port that is tried where the receiver can't be asked to listen: that of traceroute, where nobody listens."""
PROHIBITED = ("3/9", "3/10", "3/13")


@dataclass(frozen=True)
class Trace:
    """One packet and its answer.

    port: the one asked; None for icmp
    own: whether a listener of ours was put there
    rows: the steps, in the order of time
    error: why no answer came, None if one did
    said: what hosts on the way said about it (ICMP errors that came back)
    unasked: the hosts that can't be asked, and why
    blind: the hosts that could send and answer, but where we may not look, needs root
    ended: where the packet or its answer ended, and by what; None if it did not, or that is not known
    shaped: what may hold packets back on the way
    """

    path: Path
    port: int | None
    own: bool
    rows: tuple[Row, ...]
    error: str | None
    said: tuple[str, ...]
    unasked: dict[str, str]
    blind: tuple[str, ...]
    ended: Ended | None = None
    shaped: tuple[Ended, ...] = ()

    @property
    def difference(self) -> Row | None:
        """The first step that is not as planned."""
        return next((row for row in self.rows if row.verdict == "differs"), None)

    @property
    def code(self) -> int:
        """The exit code: a difference behind a host that can't be asked may be that host's."""
        difference = self.difference
        for row in self.rows:
            if row is difference:
                return WRONG
            if row.verdict == "unknown" and row.step.host in self.unasked:
                return COULD_NOT
        if self.path.end:
            return WRONG if self.error is None else GOOD
        return COULD_NOT if self.error and not (self.path.translated_answer or self.silent) else GOOD

    @property
    def silent(self) -> bool:
        """Whether all that is missing is an answer that a service on UDP need not give."""
        return self.path.protocol == "udp" and not self.own and self.error is not None

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        owner = " (a listener of ours)" if self.own else ""
        source = "" if self.path.receiver is None else f" on {self.path.receiver}"
        return f"{self.path.protocol} {self.path.source} {self.path.packet}{port}{source}{owner}"


def trace(links: Links, path: Path, port: int | None) -> Trace:
    """Send the packet of a path and compare. The links must have been opened; UnreachableError if its source is down.

    port: the one to ask; None for a listener of ours, or for icmp
    """
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(len(path.hosts) + 1))
        agents: dict[str, Agent] = {}
        unasked: dict[str, str] = {}
        for name, agent in zip(path.hosts, pool.map(lambda name: _agent(links, name), path.hosts), strict=True):
            if isinstance(agent, Agent):
                agents[name] = agent
                stack.callback(agent.close)
            else:
                unasked[name] = str(agent)
        if path.source not in agents:
            raise UnreachableError(unasked[path.source])
        return _Run(links.target.plan, path, port, agents, unasked, pool).trace()


def _agent(links: Links, name: str) -> Agent | UnreachableError:
    try:
        # Without root it can send all the same.
        root = links.root_if_possible(name)
        argv = links.command(name, [*root.words, *send.argv()])
        return Agent(name, argv, trace_agent, _Hello, root.stdin)
    except UnreachableError as error:
        return error


class _Hello(TypedDict):
    root: bool


class _Run:
    def __init__(
        self,
        plan: Plan,
        path: Path,
        port: int | None,
        agents: dict[str, Agent],
        unasked: dict[str, str],
        pool: ThreadPoolExecutor,
    ) -> None:
        self.plan, self.path, self.port = plan, path, port
        self.agents, self.unasked, self.pool = agents, unasked, pool
        self.sees = [name for name, agent in agents.items() if agent.hello["root"]]
        self.own = self.no_address = False
        self.source_port, self.asked, self.error = 0, NO_LISTENER if port is None else port, ""
        self.forms: dict[Rule, str] = {}

    def trace(self) -> Trace:
        """All of it: prepare, send, gather, compare."""
        list(self.pool.map(self._prepare, self.agents))
        observations: dict[str, Observation] = {}
        error: str | None = f"{self.path.packet.source}: {self.error}"
        if self.error and not self.no_address:
            raise UnreachableError(f"{self.path.source} can't send from {error}")
        if self.source_port:
            ends = (self.source_port, self.asked)
            self._each(lambda agent: agent.ask("watch", [self.path.protocol, ends, self._nics(agent.name)], bool))
            error = self.agents[self.path.source].ask(
                "send", [str(self.path.packet.destination), self.asked], str | None
            )
            lost = error is not None
            observations = self._each(
                lambda agent: observe(agent, self._steps(agent.name), self.path.protocol, ends, lost=lost)
            )
        with reading(f"what {', '.join(observations)} noted"):
            comparison = Comparison(self.path, observations, self.forms, self.asked, error, own=self.own)
            rows, said = comparison.rows(), self._said(observations)
            if not self.source_port:
                rows[0] = Row(self.path.steps[0], f"{NOTHING} was sent from {error}", "differs")
            blind = tuple(self.agents.keys() - self.sees - self.unasked.keys())
            unseen = self.unasked | {name: f"{name} was not looked at, which needs root" for name in blind}
            ours = frozenset(self.forms.values())
            place = ended(self.plan, self.path, rows, observations, ours, unseen, error, self.asked)
            queues = shaped(self.plan, self.path, observations)
        port = None if self.path.protocol == "icmp" else self.asked
        return Trace(self.path, port, self.own, tuple(rows), error, said, self.unasked, blind, place, queues)

    def _prepare(self, name: str) -> None:
        """What a host has to do before: one thread a host, because an agent takes one request at a time."""
        agent = self.agents[name]
        if name == self.path.source:
            try:
                self.source_port = agent.ask("reserve", [self.path.protocol, str(self.path.packet.source)], int)
            except RefusedError as problem:
                self.error, self.no_address = problem.said, problem.errno == errno.EADDRNOTAVAIL
        if name == self.path.receiver and self.port is None and self.path.protocol != "icmp":
            self._listen(agent)
        if name == self.plan.gateway.name and name in self.sees:
            self.forms = self._canonical(agent)

    def _listen(self, receiver: Agent) -> None:
        """A listener of ours, where the request will arrive."""
        assert self.path.arrival is not None  # a receiver has one
        try:
            port = receiver.ask("listen", [self.path.protocol, str(self.path.arrival.destination)], int)
        except UnreachableError:  # it lacks the address, which is found out soon
            port = receiver.ask("listen", [self.path.protocol, "0.0.0.0"], int)  # noqa: S104 (it lacks the address that was asked)
        self.asked, self.own = int(port), True

    def _steps(self, name: str) -> list[Step]:
        return [step for step in self.path.steps if step.host == name]

    def _nics(self, name: str) -> list[str]:
        return sorted({step.nic for step in self._steps(name)} - {"", "lo"})

    def _each(self, ask: Any) -> dict[str, Any]:
        """Ask all hosts that can see something, at once; one that fails is not asked again."""

        def one(name: str) -> Any:
            try:
                with reading(f"what {name} noted"):
                    return ask(self.agents[name])
            except UnreachableError as error:
                return error
            except UnreadableError as error:
                return UnreachableError(str(error))

        found = dict(zip(self.sees, self.pool.map(one, self.sees), strict=True))
        for name, answer in found.items():
            if isinstance(answer, UnreachableError):
                self.sees.remove(name)
                self.unasked[name] = str(answer)
        return {name: answer for name, answer in found.items() if name in self.sees}

    def _canonical(self, gateway: Agent) -> dict[Rule, str]:
        """The plan's rules → as the gateway's iptables writes them; empty if it can't."""
        rules = nat.gateway_rules(self.plan)
        try:
            with reading("the firewall"):
                [(_, output, _)] = gateway.ask("run", [[["sh", "-c", firewall.command(rules)], ""]], RAN)
                found = firewall.process(output.splitlines())
                return {rule: form.spec for rule, form in zip(rules, canonical(rules, found.wanted), strict=True)}
        except (UnreadableError, UnreachableError):
            return {}

    def _said(self, observations: dict[str, Observation]) -> tuple[str, ...]:
        source = observations.get(self.path.source)
        errors = [each for each in source.packets if (each[0], each[2]) == ("in", "error")] if source else []
        return tuple(
            f"{sender}: {'prohibited' if kind in PROHIBITED else UNREACHABLE.get(kind, f'ICMP {kind}')}"
            for _, _, _, sender, _, kind, *_ in errors
        )


def run(target: Target, source: str, destination: str, protocol: str, port: int | None, as_json: bool) -> int:
    """Trace and print. Returns the exit code; see `make` for the rest."""
    found = make(target, Links(target), source, destination, protocol, port)
    if as_json:
        print(json.dumps([document(each) for each in found], indent=2))
    else:
        page = console()
        for each in found:
            show(page, each, proxy=found[0].path.receiver if each is not found[0] else None)
    codes = {each.code for each in found}
    return exit_code(wrong=WRONG in codes, unread=COULD_NOT in codes)


def make(target: Target, links: Links, source: str, destination: str, protocol: str, port: int | None) -> list[Trace]:
    """The trace, and behind the API's proxy one of each connection that the proxy makes for this one.

    protocol: one of PROTOCOLS, or empty: tcp, but icmp to a host without a listener of ours
    Raises TraceError for what can't be traced, UnreachableError if the source can't be asked.
    """
    first = _asked(target, source, destination, protocol, port)
    plan = target.plan
    legs = [path(plan, "tcp", name, packet, target.outside, port) for name, packet in proxied(plan, first, port)]
    links.open({name for leg in (first, *legs) for name in leg.hosts})
    with ThreadPoolExecutor(len(legs) + 1) as pool:
        return list(pool.map(lambda leg: trace(links, leg, port), (first, *legs)))


def _asked(target: Target, source: str, destination: str, protocol: str, port: int | None) -> Path:
    if protocol and protocol not in PROTOCOLS:
        raise TraceError(f"unknown protocol {protocol!r}: the protocols are {', '.join(PROTOCOLS)}")
    if port is not None and not 0 < port < 65536:
        raise TraceError(f"{port} is no port: it is a number from 1 to 65535")
    if protocol == "icmp" and port is not None:
        raise TraceError("icmp has no ports: leave out --port, or --proto")
    sender, packet = ends(target.plan, source, destination, target.outside)
    chosen: Protocol = next((each for each in PROTOCOLS if each == protocol), "tcp")
    found = path(target.plan, chosen, sender, packet, target.outside, port)
    if port is None and found.arrival is not None and found.receiver is None and chosen != "icmp":
        if protocol:
            raise TraceError(f"{packet.destination} is no host of ours, which could listen: say which --port to ask")
        return path(target.plan, "icmp", sender, packet, target.outside)
    return found


def summary(trace: Trace) -> str:
    """The result in a sentence."""
    row, where = trace.difference, ""
    if row:
        way = "the answer" if row.step.way == "answer" else "the packet"
        where = f"{way} at {row.step.host}, {row.step.stage}: {row.seen}; planned: {row.step.expected}"
        where += "".join(f"; {each}" for each in trace.said)
    if trace.code == WRONG:
        return f"DIFFERS: {where or f'{trace.path.end}, and yet there is an answer'}"
    if trace.code == COULD_NOT:
        why = [*trace.unasked.values()] or [f"as planned, as far as was seen, and yet no answer: {trace.error}"]
        return "; ".join(["could not be traced to its end", *why, *([where] if where else [])])
    if trace.path.end:
        return f"as planned: {trace.path.end}"
    if answer := trace.path.translated_answer:
        return f"as planned, but it can't work: the plan's own rules make the answer {answer}"
    return "as planned; no answer, which a service on UDP need not give" if trace.silent else "as planned"


STYLES: dict[Verdict, str] = {"as planned": "green", "differs": "red", "other rule": "yellow", "unknown": "dim"}


def show(page: Console, trace: Trace, proxy: str | None) -> None:
    """Print a trace: a line a step, what was planned beside what was seen."""
    if proxy:
        page.print(f"\nthrough the proxy on {proxy}, with a connection of its own:", markup=False, highlight=False)
    page.print(str(trace), markup=False, highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("", "host", "step", "planned", "seen", "plan"):
        table.add_column(title, overflow="fold")
    way, difference = "", trace.difference
    behind = [] if difference is None else trace.rows[trace.rows.index(difference) + 1 :]
    empty = [row for row in behind if (row.seen or NOTHING) == NOTHING]
    for row in trace.rows:
        if row in empty:
            continue
        if row.step.way != way:
            way = row.step.way
            table.add_row("", Text(way, style="bold"))
        mark = ">>" if row is difference else "!" if row.verdict == "differs" else ""
        style = "bold red" if row is difference else ""
        table.add_row(mark, row.step.host, row.step.stage, row.step.expected, _seen(row), row.step.plan, style=style)
    page.print(table, highlight=False, markup=False)
    if empty:
        page.print(f"{len(empty)} steps more, where nothing was seen", style="dim", highlight=False)
    for name in trace.blind:
        page.print(f"{name}: not looked at, needs root", style="dim", markup=False, highlight=False)
    for why in trace.unasked.values():
        page.print(f"not asked: {why}", style="yellow", markup=False, highlight=False)
    if trace.ended and trace.code != GOOD:
        for line in _ended(trace.ended):
            page.print(line, markup=False, highlight=False)
    for queue in trace.shaped:
        page.print(f"{queue.host}: {queue.what}; {'; '.join(queue.evidence)}", markup=False, highlight=False)
    style = {GOOD: "bold green", WRONG: "bold red", COULD_NOT: "bold yellow"}[trace.code]
    page.print(summary(trace), style=style, markup=False, highlight=False)


def _ended(found: Ended) -> list[str]:
    parts = [f"{found.host}: {found.what}", *found.evidence]
    parts += [f"as root on {found.host}: {found.undo}"] if found.undo else []
    return [*parts, *([found.advice] if found.advice else [])]


def _seen(row: Row) -> Text:
    if row.verdict == "as planned":
        return Text("as planned", style=STYLES["as planned"])
    return Text(row.seen or "not known", style=STYLES[row.verdict])


def document(trace: Trace) -> dict[str, Any]:
    """A trace for programs."""
    difference = trace.difference
    return {
        "protocol": trace.path.protocol,
        "source": {"host": trace.path.source, "address": str(trace.path.packet.source)},
        "destination": {"host": trace.path.receiver, "address": str(trace.path.packet.destination), "port": trace.port},
        "own_listener": trace.own,
        "result": {GOOD: "as planned", WRONG: "differs", COULD_NOT: "could not be traced"}[trace.code],
        "summary": summary(trace),
        "error": trace.error,
        "unreachable": trace.unasked,
        "ended": asdict(trace.ended) if trace.ended and trace.code != GOOD else None,
        "steps": [
            {
                "way": row.step.way,
                "host": row.step.host,
                "step": row.step.stage,
                "expected": row.step.expected,
                "seen": row.seen,
                "verdict": row.verdict,
                "plan": row.step.plan or None,
                "first_difference": row is difference,
            }
            for row in trace.rows
        ],
    }
