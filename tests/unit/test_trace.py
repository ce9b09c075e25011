"""What was seen beside what was planned, without a host: observations are made up from the plan, then changed."""

import re
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from typing import Any

import pytest
from netaddr import IPAddress
from rich.console import Console

from tests.unit.conftest import Planned
from underlay.compare.network import LiveNetwork
from underlay.desired.routing import host_network
from underlay.errors import COULD_NOT, GOOD, WRONG
from underlay.plan import Plan
from underlay.trace.planned import (
    ARRIVES,
    DELIVERED,
    LEAVES,
    NOTHING,
    TO_ITSELF,
    Packet,
    Path,
    Protocol,
    ends,
    path,
)
from underlay.trace.run import Trace, document, show, summary
from underlay.trace.seen import Chain, Comparison, Observation

OUTSIDE = IPAddress("203.0.113.1")
Observations = dict[str, Observation]


def way(plan: Plan, source: str, destination: str, protocol: Protocol = "tcp") -> Path:
    return path(plan, protocol, *ends(plan, source, destination, OUTSIDE), OUTSIDE)


def as_planned(plan: Plan, found: Path) -> Observations:
    """What hosts note where everything goes as planned."""
    observations = {}
    for name in found.hosts:
        host = plan.host(name)
        wanted = host_network(plan, host)
        live = LiveNetwork(dict.fromkeys(wanted.nics, True), (), (), wanted.rules, {})
        observations[name] = Observation((), (), live, frozenset(), {})
    for step in found.steps:
        old = observations[step.host]
        chains, packets, routes = [*old.chains], [*old.packets], dict(old.routes)
        table, _, chain = step.stage.partition(" ")
        incoming = any(each[0] == "in" and each[2] == step.way for each in packets)
        match step.stage:
            case "leaves" | "arrives" if step.expected != NOTHING:
                direction = "out" if step.stage == LEAVES else "in"
                nic, *_, source, _, destination = f"eth0 {step.expected}".split()[-4:]
                packets.append((direction, nic, step.way, source, destination, "", 64))
                if step.stage == ARRIVES:
                    chains.append(Chain(step.way, "", "prerouting", step.packet, "", (), "accept"))
            case "route" if step.expected != TO_ITSELF:
                words = ["via", "", *step.expected.split()] if "via" not in step.expected else step.expected.split()
                fields = dict(pairwise(words))
                routes[step.way, incoming] = {
                    "gateway": fields["via"],
                    "dev": fields.get("dev", ""),
                    "table": fields.get("table", "254"),
                }
                hook = "forward" if incoming else "output"
                chains.append(Chain(step.way, "", hook, step.packet, fields.get("dev", ""), (), "accept"))
            case "delivered":
                chains.append(Chain(step.way, "", "input", step.packet, "", (), "accept"))
            case _ if step.rule:
                verdict = "continue" if table == "raw" else "accept"
                chains.append(Chain(step.way, table, chain, step.packet, "", ((chain, step.rule.spec, verdict),), ""))
        observations[step.host] = replace(old, chains=tuple(chains), packets=tuple(packets), routes=routes)
    return observations


def compared(found: Path, observations: Observations, error: str | None = None, **more: Any) -> Trace:
    """The trace that comes of it."""
    facts: dict[str, Any] = {"own": False, "said": (), "unasked": {}, "blind": ()} | more
    rows = Comparison(found, observations, {}, 80, error, own=facts["own"]).rows()
    return Trace(path=found, port=80, rows=tuple(rows), error=error, **facts)


CALLS = [("lb", "master-1:storage"), ("dev", "lb"), ("master-1:storage", "192.168.0.53"), ("gateway", "master-1")]


@pytest.mark.parametrize(("source", "destination"), CALLS)
def test_as_planned(planned: Planned, source: str, destination: str) -> None:
    """Nothing differs where all is as planned."""
    found = way(planned(), source, destination)
    trace = compared(found, as_planned(planned(), found))
    assert [(row.step.stage, row.seen) for row in trace.rows if row.verdict != "as planned"] == []
    assert (trace.code, summary(trace)) == (GOOD, "as planned")


def changed(observations: Observations, host: str, change: Callable[[Observation], dict[str, Any]]) -> Observations:
    """The observations with those of one host changed."""
    old = observations[host]
    return observations | {host: replace(old, **change(old))}


def forward(table: str, *rules: tuple[str, str, str], policy: str = "") -> Callable[[Observation], dict[str, Any]]:
    """The request meets these rules in a chain of FORWARD instead of those that it met."""

    def change(old: Observation) -> dict[str, Any]:
        kept = tuple(each for each in old.chains if (each.way, each.stage) != ("request", "filter FORWARD"))
        new = Chain("request", table, "FORWARD", Packet(OUTSIDE, OUTSIDE), "", rules, policy)
        return {"chains": (*kept, new)}

    return change


@pytest.mark.parametrize(
    ("change", "stage", "seen", "code"),
    [
        (forward("filter", ("FORWARD", "-j ACCEPT", "accept")), None, "-j ACCEPT (not in the plan)", GOOD),
        (forward("filter", policy="accept"), "filter FORWARD", "no rule", WRONG),
        (forward("filter", policy="drop"), "filter FORWARD", "DROPPED by the chain's policy", WRONG),
        (
            forward("filter", ("FORWARD", "-j DOCKER-USER", "jump"), ("DOCKER-USER", "-j DROP", "drop")),
            "filter FORWARD",
            "DROPPED by -j DROP in chain DOCKER-USER (not in the plan)",
            WRONG,
        ),
        (
            forward("filter", ("FORWARD", "17", "drop")),
            "filter FORWARD",
            "DROPPED by the rule with handle 17 (not in the plan)",
            WRONG,
        ),
    ],
    ids=["accepted by somebody else", "no rule", "policy", "chain of others", "no iptables"],
)
def test_rules(
    planned: Planned, change: Callable[[Observation], dict[str, Any]], stage: str | None, seen: str, code: int
) -> None:
    """What another rule does is told; one that does the same as ours is no difference."""
    found = way(planned(), "lb", "master-1:storage")
    trace = compared(found, changed(as_planned(planned(), found), "gateway", change))
    assert (trace.difference.step.stage if trace.difference else None) == stage
    assert seen in [row.seen for row in trace.rows]
    assert trace.code == code


def test_a_drop_where_nothing_was_expected(planned: Planned) -> None:
    """It becomes a step of its own, where the packet met it."""
    found = way(planned(), "dev", "lb")
    old = as_planned(planned(), found)
    drop = Chain("request", "filter", "INPUT", Packet(OUTSIDE, OUTSIDE), "", (("INPUT", "-j DROP", "drop"),), "")
    trace = compared(found, changed(old, "lb", lambda lb: {"chains": (*lb.chains, drop)}))
    stages = [row.step.stage for row in trace.rows if (row.step.host, row.step.way) == ("lb", "request")]
    assert stages == [ARRIVES, DELIVERED, "filter INPUT", "answers"]
    assert trace.difference is not None
    assert trace.difference.step.stage == "filter INPUT"


@pytest.mark.parametrize("error", ["Invalid cross-device link", "Invalid argument"])
def test_rp_filter(planned: Planned, error: str) -> None:
    """Old kernels and new ones say differently that the source check dropped a packet."""
    found = way(planned(), "lb", "master-1:storage")

    def change(old: Observation) -> dict[str, Any]:
        assert old.live is not None
        live = replace(old.live, sysctls={"net.ipv4.conf.eth2.rp_filter": "1"})
        routes = old.routes | {("request", True): {"error": error}, ("answer", False): {"dev": "eth0"}}
        chains = tuple(each for each in old.chains if each.name != "input")
        return {"live": live, "routes": routes, "chains": chains}

    trace = compared(found, changed(as_planned(planned(), found), "master-1", change))
    assert trace.difference is not None
    assert trace.difference.seen == "dropped by rp_filter on eth2: the way back is eth0"


def test_a_host_that_cannot_be_asked(planned: Planned) -> None:
    """What lies behind it is not known; what lies before it is."""
    found = way(planned(), "lb", "master-1:storage")
    whole = as_planned(planned(), found)
    down: dict[str, Any] = {"unasked": {"gateway": "gateway can't be reached"}}
    without = {name: each for name, each in whole.items() if name != "gateway"}
    assert compared(found, without, None, **down).code == COULD_NOT
    assert "gateway can't be reached" in summary(compared(found, without, None, **down))
    lost = changed(without, "lb", lambda lb: {"packets": (), "neighbours": frozenset(["100.64.0.1"])})
    trace = compared(found, lost, "no answer", **down)
    assert trace.code == WRONG
    assert summary(trace) == (
        "DIFFERS: the packet at lb, leaves: nothing: 100.64.0.1 does not answer ARP on eth0; "
        "planned: eth0 100.64.0.53 -> 100.64.64.2"
    )


def test_silence_over_udp(planned: Planned) -> None:
    """A service that takes a packet and says nothing is no difference; our own listener would have answered."""
    found = way(planned(), "dev", "lb", "udp")
    whole = as_planned(planned(), found)
    silent = {
        name: replace(
            each,
            packets=tuple(packet for packet in each.packets if packet[2] == "request"),
            chains=tuple(chain for chain in each.chains if chain.way == "request"),
        )
        for name, each in whole.items()
    }
    trace = compared(found, silent, "no answer")
    assert (trace.code, summary(trace)) == (GOOD, "as planned; no answer, which a service on UDP need not give")
    lost = compared(found, silent, "no answer", own=True)
    assert lost.difference is not None
    assert (lost.difference.step.host, lost.difference.step.stage, lost.difference.seen) == ("lb", "answers", "no")
    assert compared(found, whole, "no answer", own=True).code == COULD_NOT


def test_an_answer_where_there_is_no_way(planned: Planned) -> None:
    """That nothing gets through is part of the plan, too."""
    found = way(planned(), "dev", "100.64.64.2")
    whole = as_planned(planned(), found)
    assert compared(found, whole, "no answer").code == GOOD
    assert summary(compared(found, whole, "no answer")).startswith("as planned: the plan has no way from enterprise")
    assert compared(found, whole).code == WRONG


def test_for_programs(planned: Planned) -> None:
    """The document has every step, and marks the first difference."""
    found = way(planned(), "lb", "master-1:storage")
    whole = changed(as_planned(planned(), found), "gateway", forward("filter", policy="drop"))
    written = document(compared(found, whole))
    assert written["result"] == "differs"
    assert written["destination"] == {"host": "master-1", "address": "100.64.64.2", "port": 80}
    [first] = [step for step in written["steps"] if step["first_difference"]]
    assert first["plan"].endswith("networks.storage")
    assert first["verdict"] == "differs"


def test_for_people(planned: Planned) -> None:
    """A line a step with its line of the plan; what was not seen behind the first difference is counted only."""
    found = way(planned(), "lb", "master-1:storage")
    whole = as_planned(planned(), found)
    page = Console(width=200, file=StringIO())
    show(page, compared(found, whole), proxy=None)
    assert re.search(r"gateway +raw PREROUTING +-s \S+ -d \S+ -j NOTRACK +as planned +\S+ networks.mgmt", text(page))
    assert ">>" not in text(page)
    dropped = changed(whole, "gateway", forward("filter", policy="drop"))
    for host in ("master-1", "lb"):
        dropped = changed(
            dropped,
            host,
            lambda old: {"packets": tuple(each for each in old.packets if each[:3:2] == ("out", "request"))},
        )
    page = Console(width=200, file=StringIO())
    show(page, compared(found, dropped, "no answer", said=("192.168.0.51: prohibited",)), proxy="lb")
    printed = text(page)
    assert "through the proxy on lb" in printed
    assert re.search(r"^>> +gateway +filter FORWARD .* DROPPED by the chain's policy", printed, re.MULTILINE)
    assert re.search(r"^\d+ steps more, where nothing was seen$", printed, re.MULTILINE)
    assert printed.rstrip().endswith("; 192.168.0.51: prohibited")


def text(page: Console) -> str:
    """What was printed, without the blanks at the ends of lines."""
    assert isinstance(page.file, StringIO)
    return "".join(f"{line.rstrip()}\n" for line in page.file.getvalue().splitlines())
