"""What is known of the whole site at one moment: hosts, connections, rules, drift and history, gathered at once."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from underlay.access.anew import anew
from underlay.access.answers import UnreadableError, reading
from underlay.access.sessions import UnreachableError
from underlay.access.target import Target
from underlay.compare.firewall import canonical
from underlay.desired import nat, traffic
from underlay.desired.traffic import Flow
from underlay.doctor import run as doctor
from underlay.guard import history
from underlay.guard.apply import commit, who
from underlay.guard.history import Entries
from underlay.observe.drift import Line, line, of_host
from underlay.observe.evidence import Evidence
from underlay.observe.exchange import expectation, judge, observation
from underlay.observe.state import DRIFT, HostState
from underlay.plan import Host, Plan
from underlay.plan.model import shown_path
from underlay.report.diagram import State

SAMPLE = 8
"""Hosts of each role at most that connections are tried between: a page of all pairs of a large site is no help."""


@dataclass(frozen=True)
class NicFacts:
    """A NIC of the plan; `state` is good, bad or unknown, `word` says what is wrong with it (empty if good)."""

    network: str
    nic: str
    address: str
    plan: str
    state: State
    word: str


@dataclass(frozen=True)
class HostFacts:
    """A host of the plan.

    state, word: good "as planned", attention (reachable, but not as planned), bad (can't be reached); unknown for one
        that is deployed by somebody else and can't be asked
    reason: why it can't be reached or read; else empty
    differences: from the plan, those of others ("unmanaged") too
    history: its confirmed changes, the latest first; or `history_error`
    """

    name: str
    role: str
    published: str | None
    plan: str
    state: State
    word: str
    reason: str
    nics: tuple[NicFacts, ...]
    differences: tuple[Line, ...]
    history: Entries
    history_error: str


@dataclass(frozen=True)
class FlowFacts:
    """A connection that has to work, or must not: what was expected, what was seen, and where both come from.

    port: None for any: it was tried with a listener on a free port
    verdict: unknown if it could not be tried, because a host that it needs can't be reached
    why: rules and routes that bring it about, with their lines of the plan
    """

    row: str
    source: str
    source_address: str
    destination: str
    port: int | None
    receivers: tuple[str, ...]
    through: tuple[str, ...]
    must_not: bool
    verdict: State
    expected: str
    seen: str
    why: tuple[str, ...]


@dataclass(frozen=True)
class RuleFacts:
    """A rule of the gateway's plan; `state` is bad if it is missing; counters are None where they are not known."""

    table: str
    chain: str
    spec: str
    plan: str
    state: State
    packets: int | None
    bytes: int | None


@dataclass(frozen=True)
class FindingFacts:
    """What the doctor found, see `doctor.cause`."""

    host: str
    cause: str
    evidence: tuple[str, ...]
    fix: str
    at: str
    advice: str
    latent: bool


@dataclass(frozen=True)
class NetworkFacts:
    """A network of the plan."""

    name: str
    cidr: str
    router: str
    plan: str


@dataclass(frozen=True)
class Facts:
    """All of it.

    generated: local time with its offset, ISO 8601; by, commit: who asked, from which commit of this repo
    seconds: what the gathering took
    left_out: hosts that no connection was tried with, of many alike
    """

    site: str
    plan: str
    target: str
    generated: str
    by: str
    commit: str
    seconds: float
    networks: tuple[NetworkFacts, ...]
    hosts: tuple[HostFacts, ...]
    flows: tuple[FlowFacts, ...]
    left_out: int
    rules: tuple[RuleFacts, ...]
    findings: tuple[FindingFacts, ...]


def gather(target: Target) -> Facts:
    """Ask every host, over new connections. Never raises for a host: what can't be read is a fact as well."""
    started = time.monotonic()
    with anew(target) as own:
        facts = _gather(own)
    found = tuple(_findings(target))
    return replace(facts, findings=found, seconds=round(time.monotonic() - started, 1))


def _gather(target: Target) -> Facts:
    generated = datetime.now().astimezone()
    plan, evidence = target.plan, Evidence(target)
    sampled = shown(plan)
    deployed = plan.deployed
    flows = [flow for find in (traffic.expected, traffic.forbidden) for flow in find(sampled, target.outside)]
    evidence.gather(deployed, flows, DRIFT | {"nics", "counters"})
    histories = history.read(target, deployed, evidence.links)
    states = {host.name: _state(evidence, host) for host in deployed}
    asked = {name for flow in flows for name in flow.hosts}
    return Facts(
        site=plan.site,
        plan=shown_path(plan.source),
        target=target.name,
        hosts=tuple(
            _deployed(plan, host, states[host.name], histories[host.name])
            if host.name in states
            else _bystander(plan, host, evidence, host.name in asked)
            for host in plan.hosts
        ),
        flows=tuple(_flow(sampled, flow, evidence) for flow in flows),
        left_out=len(plan.hosts) - len(sampled.hosts),
        rules=tuple(_rules(plan, states[plan.gateway.name])),
        networks=tuple(
            NetworkFacts(
                each.name, str(each.cidr), str(plan.gateway_address(each.name)), plan.line("networks", each.name)
            )
            for each in plan.networks
        ),
        findings=(),
        generated=generated.isoformat(timespec="seconds"),
        by=who(),
        commit=commit(),
        seconds=0,
    )


def _findings(target: Target) -> Iterator[FindingFacts]:
    for each in doctor.examine(target).findings:
        yield FindingFacts(each.host, each.cause, each.evidence, each.fix, each.at, each.advice, each.latent)


def shown(plan: Plan) -> Plan:
    """The part of a plan between whose hosts connections are tried, and which is drawn."""
    return traffic.sample(plan, SAMPLE)


def _state(evidence: Evidence, host: Host) -> HostState | UnreachableError:
    try:
        with reading(f"what {host.name} says"):
            return evidence.state(host.name)
    except UnreachableError as error:
        return error
    except UnreadableError as error:
        return UnreachableError(str(error))


def _deployed(
    plan: Plan, host: Host, state: HostState | UnreachableError, changes: Entries | UnreachableError
) -> HostFacts:
    differences: list[Line] = []
    reason, word = "", "as planned"
    verdict: State = "good"
    if isinstance(state, UnreachableError):
        reason, verdict, word = str(state), "bad", "can't be reached"
    else:
        try:
            # One by one: what was read before a part that can't be is known.
            with reading(f"what {host.name} says"):
                for each in of_host(plan, host, state):
                    differences.append(line(plan, host, each))
        except UnreadableError as error:
            reason, verdict, word = str(error), "attention", "can't be read"
        if count := sum(each.kind != "unmanaged" for each in differences):
            verdict, word = "attention", f"{count} difference{'s'[: count > 1]} from the plan"
    failed = isinstance(changes, UnreachableError)
    return HostFacts(
        name=host.name,
        role=host.role,
        published=str(host.published) if host.published else None,
        plan=plan.line("hosts", host.name),
        state=verdict,
        word=word,
        reason=reason,
        nics=tuple(_nics(plan, host, None if isinstance(state, UnreachableError) else state)),
        differences=tuple(differences),
        history=[] if isinstance(changes, UnreachableError) else changes,
        history_error=str(changes) if failed else "",
    )


def _bystander(plan: Plan, host: Host, evidence: Evidence, asked: bool) -> HostFacts:
    """A host without a deploy: that it can be reached is all that there is to say."""
    dead = evidence.unreachable([host.name]) if asked else None
    reason = dead[1] if dead else ""
    state: State = "good" if asked and not reason else "unknown"
    return HostFacts(
        name=host.name,
        role=host.role,
        published=str(host.published) if host.published else None,
        plan=plan.line("hosts", host.name),
        state=state,
        word="reachable" if state == "good" else "can't be asked" if asked else "not asked",
        reason=reason,
        nics=tuple(_nics(plan, host, None)),
        differences=(),
        history=[],
        history_error="",
    )


def _nics(plan: Plan, host: Host, state: HostState | None) -> Iterator[NicFacts]:
    try:
        live = (state.nics, state.network) if state else None
    except UnreadableError:
        live = None
    for nic in host.interfaces:
        word = ""
        if live:
            link, network = live[0].get(nic.nic), live[1]
            if link is None:
                word = "missing"
            elif not link.up:
                word = "switched off"
            elif not link.carrier:
                word = "no signal"
            elif not any((each.nic, each.cidr) == (nic.nic, nic.with_prefix) for each in network.addresses):
                word = "no address"
        line = plan.line("hosts", host.name, "addresses", nic.network)
        verdict: State = "unknown" if live is None else "bad" if word else "good"
        yield NicFacts(nic.network, nic.nic, str(nic.address), line, verdict, word)


def _flow(plan: Plan, flow: Flow, evidence: Evidence) -> FlowFacts:
    unproven = False
    try:
        outcome = evidence.outcome(flow)
        judged = judge(flow, outcome)
        seen = judged[1] if judged else observation(outcome)
        unproven = outcome.unproven(flow)
    except TimeoutError:
        judged, seen = ("", ""), "it was not tried in time"
    verdict: State = "good"
    if judged:
        dead = evidence.unreachable(flow.hosts)
        verdict, seen = ("unknown", dead[1]) if dead else ("unknown" if unproven else "bad", seen)
    return FlowFacts(
        row=flow.row,
        source=flow.source,
        source_address=str(flow.source_address),
        destination=str(flow.destination),
        port=flow.port,
        receivers=flow.receivers,
        through=flow.through,
        must_not=flow.must_not,
        verdict=verdict,
        expected=expectation(flow),
        seen=seen,
        why=tuple(traffic.why(plan, flow)),
    )


def _rules(plan: Plan, state: HostState | UnreachableError) -> Iterator[RuleFacts]:
    wanted = nat.gateway_rules(plan)
    try:
        if isinstance(state, UnreachableError):
            raise UnreadableError(str(state))
        wanted = canonical(wanted, state.firewall.wanted)
        counters = {(each.table, each.chain, each.spec): each for each in state.counters}
    except UnreadableError:
        for rule in wanted:
            yield RuleFacts(rule.table, rule.chain, rule.spec, rule.origin, "unknown", None, None)
        return
    for rule in wanted:
        found = counters.get(rule.place)
        counts = (found.packets, found.bytes) if found else (None, None)
        yield RuleFacts(rule.table, rule.chain, rule.spec, rule.origin, "good" if found else "bad", *counts)
