"""Which packets tell where something fails: the few that are followed, and the pings that are measured. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from underlay.desired.traffic import Flow
from underlay.doctor.survey import Survey
from underlay.plan import Host, Plan

FLOWS, LOST, PINGS, NAMES = 5, 2, 3, 2
"""How many are followed of connections that fail, of hosts that can't be reached, of pings, of name servers."""
NEAR = 3
"""Hosts beside the gateway that each host pings."""
LOSSY = 0.05
"""Of pings, the share that may be lost: by chance, or because a queue was full for a moment."""
LATE = 0.2
"""Seconds that a ping may take, and that 20 packets of 1400 bytes may take to come in (1 Mbit/s)."""


@dataclass(frozen=True)
class Ask:
    """A packet to follow: see `survey.Followed`; `source` is the host that sends, `sender` what `trace` takes."""

    to: str
    source: str
    sender: str
    destination: str
    port: int | None
    protocol: str = "tcp"
    flow: Flow | None = None
    about: frozenset[str] = field(default_factory=frozenset)
    said: str = ""


def paths(plan: Plan, host: Host) -> list[list[str]]:
    """Whom a host pings, from which of its addresses: the gateway, and the next few hosts."""
    others = [each for each in plan.deployed if each not in (host, plan.gateway)]
    later = [each for each in others if each.name > host.name]
    near = (later + [each for each in others if each not in later])[:NEAR]
    found = []
    for other in [plan.gateway, *near]:
        for nic in other.interfaces if other != host else ():
            own = host.interface(nic.network)
            if own or plan.gateway not in (host, other):
                found.append([str((own or host.primary).address), str(nic.address)])
    return found


def trouble(measured: list[float]) -> str:
    """What is wrong with a path of which that was measured, in words; empty if nothing is."""
    sent, got, delay, spread = measured
    parts = []
    if sent - got > max(2, LOSSY * sent):
        parts.append(f"{sent - got:.0f} of {sent:.0f} pings are lost")
    if delay > LATE:
        parts.append(f"the fastest takes {delay * 1000:.0f} ms")
    if spread > LATE:
        parts.append(f"20 packets of 1400 bytes take {spread * 1000:.0f} ms")
    return ", ".join(parts)


def telling(seen: Survey, here: str, flows: list[Flow], lost: list[Host]) -> Iterator[Ask]:
    """The packets to follow. flows, lost: what nothing explains so far"""
    plan = seen.plan
    real = [flow for flow in flows if not (flow.must_not or seen.outcomes[flow].unasked)]
    for flow in few(plan, real, FLOWS):
        ends = (flow.source, str(flow.source_address), str(flow.destination))
        yield Ask(flow.receivers[0], *ends, flow.port, flow=flow)
    for host in lost[:LOST]:
        endpoint = seen.target.endpoint(host.name)
        source = endpoint.jump or here
        if source:
            about = frozenset({host.name})
            said = f"{source} -> {host.name} (ssh)"
            yield Ask(host.name, source, source, str(endpoint.address), endpoint.port, about=about, said=said)
    failing = {name for flow in flows for name in flow.hosts} | set(seen.failures)
    yield from _pings(seen, failing)
    yield from _names(seen, failing)


def _pings(seen: Survey, failing: set[str]) -> Iterator[Ask]:
    """Pings that are lost or slow, between hosts of which the connections work."""
    plan = seen.plan
    owners = {str(nic.address): host.name for host in plan.hosts for nic in host.interfaces}
    found: dict[frozenset[str], Ask] = {}
    for name, look in seen.looks.items():
        for ends, measured in look.paths.items():
            source, _, destination = ends.partition(" ")
            words, to = trouble(measured), owners.get(destination, "")
            about = frozenset({name, to})
            if words and to and not (about - {plan.gateway.name}) & failing:
                said = f"{name} {source} -> {destination}: {words}"
                found.setdefault(about, Ask(to, name, source, destination, None, "icmp", None, about, said))
    yield from list(found.values())[:PINGS]


def _names(seen: Survey, failing: set[str]) -> Iterator[Ask]:
    """Questions to name servers that are not answered."""
    found = []
    for name, look in seen.looks.items():
        for server, error in look.names.items():
            if error and name not in failing:
                host = seen.plan.host(name)
                said = f"{name} asks name server {server}: {error}"
                sender = str(
                    next((nic.address for nic in host.interfaces if nic.network == host.default_network), name)
                )
                found.append(Ask(server, name, sender, server, 53, "udp", None, frozenset({name}), said))
    yield from found[:NAMES]


def few(plan: Plan, flows: Iterable[Flow], most: int) -> list[Flow]:
    """The few of many connections whose packets tell most: between neighbours first, then what they do not cover."""
    left = dict.fromkeys(flows)
    covered: set[object] = set()
    chosen: list[Flow] = []

    def news(flow: Flow) -> tuple[int, bool]:
        near = any(flow.source_address in each.cidr and flow.destination in each.cidr for each in plan.networks)
        return len(_places(plan, flow) - covered), near

    while left and len(chosen) < most:
        best = max(left, key=news)
        if chosen and not news(best)[0]:
            break
        chosen.append(best)
        covered |= _places(plan, best)
        del left[best]
    return chosen


def _places(plan: Plan, flow: Flow) -> set[object]:
    """What a connection is about: its hosts, its networks, each pair of hosts, the port."""
    ends = (flow.source_address, flow.destination)
    networks = {each.name for each in plan.networks if any(end in each.cidr for end in ends)}
    return {*flow.hosts, *networks, frozenset(flow.hosts), (flow.source, flow.receivers[0]), flow.port}
