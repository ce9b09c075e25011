"""The report as one HTML page that needs nothing else: no network, no other file.

Facts come from hosts and from people, so every text is escaped by the template; the page's own policy (CSP) lets it
run its one script, known by its digest, and load nothing.
"""

import base64
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from markupsafe import Markup
from netaddr import IPAddress

from underlay.access.target import Target
from underlay.desired.templates import render_html
from underlay.plan import REPO, ROLES, Plan
from underlay.report import diagram
from underlay.report.diagram import Live, State
from underlay.report.facts import Facts, FlowFacts, RuleFacts, shown
from underlay.text import printable

SCRIPT = REPO / "templates" / "report" / "page.js"
UNKNOWN = "-"
"""What stands for a figure that is not known."""
TOLD = 3
"""Things of one kind that are told on top of the page; all are further down."""
CHANGES, LINES = 10, 40
"""Changes of a host, and lines of each, at most: `invoke history` has all."""
_WORST: tuple[State, ...] = ("bad", "attention", "unknown", "good")


@dataclass(frozen=True)
class Tile:
    """One figure at the top of the page."""

    label: str
    figure: str
    note: str
    state: State


@dataclass(frozen=True)
class Trouble:
    """Something that needs attention: what, the details, and where on the page there is more."""

    state: State
    what: str
    details: tuple[str, ...]
    href: str


@dataclass(frozen=True)
class HistoryEntry:
    """A confirmed change of a host; `more` lines of it follow the first one, `left` are left out."""

    number: str
    time: str
    who: str
    commit: str
    first: str
    more: tuple[str, ...]
    left: int


@dataclass(frozen=True)
class HostHistory:
    """The latest changes of a host, or why they are not known; `left` earlier ones are left out."""

    host: str
    error: str
    changes: tuple[HistoryEntry, ...]
    left: int


@dataclass(frozen=True)
class Cell:
    """The connections from a host to one destination and port; `kind` is the mark that it is shown with."""

    anchor: str
    title: str
    kind: str
    state: State
    words: str
    flows: tuple[FlowFacts, ...]


@dataclass(frozen=True)
class TableRow:
    """A destination and port, with a cell for each source; None where nothing is planned."""

    host: str
    address: str
    port: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class Group:
    """Rows whose destinations are of one kind."""

    title: str
    note: str
    rows: tuple[TableRow, ...]


def path(target: Target, output: str) -> Path:
    """Where to write the page: what was asked for, or a place that is nobody else's business."""
    if output:
        return Path(output).absolute()
    # The repo on the deploy machine is compared with what was deployed: no further file belongs there.
    local = target.vantage is not None and target.vantage.role == "jumphost"
    return (Path.home() if local else Path.cwd()) / "report.html"


def not_writable(path: Path) -> str:
    """Why a file can't be written, as far as that can be told before; empty if nothing is in the way."""
    if path.is_dir():
        return "it is a folder"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    return "" if os.access(path if path.exists() else path.parent, os.W_OK) else "permission denied"


def summary(facts: Facts) -> str:
    """The whole page in a few words."""
    troubles = len(list(_troubles(facts)))
    return f"{troubles} thing{'s need' if troubles > 1 else ' needs'} attention" if troubles else "as planned"


def page(plan: Plan, facts: Facts) -> str:
    """The page. `facts` are of this plan."""
    script = SCRIPT.read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    sources = _sources(plan, facts)
    groups = list(_groups(plan, facts, sources))
    troubles = list(_troubles(facts))
    found = render_html(
        "report/page.html.j2",
        facts=facts,
        when=_time(facts.generated),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'",
        script=Markup(script),  # noqa: S704 (our own file)
        dark=diagram.DARK,
        tiles=list(_tiles(facts)),
        troubles=troubles,
        verdict=min((each.state for each in troubles), key=_WORST.index, default="good"),
        summary=summary(facts).capitalize(),
        picture=Markup(diagram.svg(shown(plan), _live(facts))),  # noqa: S704 (made by ElementTree, which escapes)
        sources=sources,
        groups=groups,
        cells=[cell for group in groups for row in group.rows for cell in row.cells if cell],
        differences=[each for host in facts.hosts for each in host.differences],
        unread=[host for host in facts.hosts if host.reason],
        histories=list(_histories(facts)),
        chains=_chains(facts.rules),
        kinds=KINDS,
        number=_number,
        size=_size,
    )
    return printable(found)


KINDS = {
    "good": "works as planned",
    "bad": "not as planned",
    "kept-out": "must not get through, and does not",
    "got-in": "must not get through, but does",
    "unknown": "could not be tried",
}
"""The marks of the traffic matrix, and what each means."""


def _live(facts: Facts) -> dict[str, Live]:
    return {
        host.name: Live(host.state, host.word, {nic.network: nic.word for nic in host.nics if nic.state == "bad"})
        for host in facts.hosts
    }


def _tiles(facts: Facts) -> Iterator[Tile]:
    reached = [host for host in facts.hosts if host.state in ("good", "attention")]
    down = sum(host.state == "bad" for host in facts.hosts)
    note = f"{down} can't be reached" if down else "reachable"
    yield Tile("Hosts", f"{len(reached)} of {len(reached) + down}", note, _if(down))
    read = [host for host in facts.hosts if host.role in ROLES and not host.reason]
    unread = sum(host.role in ROLES for host in facts.hosts) - len(read)
    drifted = sum(each.kind != "unmanaged" for host in facts.hosts for each in host.differences)
    note = f"{unread} not read" if unread else "differences from the plan"
    state: State = "attention" if drifted else "unknown" if unread else "good"
    yield Tile("Drift", str(drifted) if read or drifted else UNKNOWN, note, state)
    for must_not, label in ((False, "Connections"), (True, "Kept out")):
        yield _connections(label, [flow for flow in facts.flows if flow.must_not == must_not])
    if any(rule.state == "unknown" for rule in facts.rules):
        yield Tile("Rules", UNKNOWN, "could not be read", "unknown")
    else:
        missing = sum(rule.state == "bad" for rule in facts.rules)
        note = f"{missing} missing" if missing else "live on the gateway"
        yield Tile("Rules", f"{len(facts.rules) - missing} of {len(facts.rules)}", note, _if(missing))


def _connections(label: str, flows: list[FlowFacts]) -> Tile:
    wrong = sum(flow.verdict == "bad" for flow in flows)
    untried = sum(flow.verdict == "unknown" for flow in flows)
    tried = len(flows) - untried
    notes = [f"{wrong} wrong"] * bool(wrong) + [f"{untried} not tried"] * bool(untried)
    state: State = "bad" if wrong else "unknown" if untried else "good"
    figure = f"{tried - wrong} of {tried}" if tried else UNKNOWN
    return Tile(label, figure, ", ".join(notes) or "as planned", state)


def _if(wrong: object) -> State:
    return "bad" if wrong else "good"


def _troubles(facts: Facts) -> Iterator[Trouble]:
    """What needs attention: what the doctor found, or else what is not as planned, the hosts first."""
    names = {host.name for host in facts.hosts}
    for each in facts.findings:
        fix = (f"fix{f' ({each.at})' if each.at else ''}: {each.fix}",) if each.fix else ()
        advice = (f"advice: {each.advice}",) if each.advice else ()
        href = f"#host-{each.host}" if each.host in names else "#hosts"
        yield Trouble("attention" if each.latent else "bad", each.cause, (*each.evidence, *advice, *fix), href)
    yield from _traffic(facts, explained=any(not each.latent for each in facts.findings))
    if not facts.findings:
        yield from _hosts(facts)


def _hosts(facts: Facts) -> Iterator[Trouble]:
    down = sorted((host for host in facts.hosts if host.state == "bad"), key=lambda host: host.role != "gateway")
    for host in down[:1]:
        yield Trouble("bad", f"{host.name} can't be reached", (host.reason,), f"#host-{host.name}")
    if others := down[1:]:
        # Most often they follow from the first: one thing, whatever their number.
        names = ", ".join(host.name for host in others)
        reasons = tuple(host.reason for host in others[:TOLD])
        yield Trouble("bad", f"{names} can't be reached either", reasons, "#hosts")
    for host in facts.hosts:
        if host.state == "attention":
            details = [host.reason] if host.reason else []
            details += [
                f"{each.kind}, {each.where}: {each.what}" for each in host.differences if each.kind != "unmanaged"
            ]
            yield Trouble("attention", f"{host.name}: {host.word}", tuple(details), f"#host-{host.name}")
        elif wrong := [f"{nic.nic}: {nic.word}" for nic in host.nics if nic.state == "bad"]:
            yield Trouble("bad", f"{host.name}: a NIC is not as planned", tuple(wrong), f"#host-{host.name}")


def _traffic(facts: Facts, explained: bool) -> Iterator[Trouble]:
    """Connections that are wrong; if what fails is explained, only those that must not get through."""
    rows: dict[str, list[FlowFacts]] = {}
    for flow in facts.flows:
        rows.setdefault(flow.row, []).append(flow)
    for row, flows in rows.items():
        if wrong_flows := [flow for flow in flows if flow.verdict == "bad" and (flow.must_not or not explained)]:
            told = tuple(
                f"{each.source} {each.source_address} to {_end(each)}: expected: {each.expected}; seen: {each.seen}"
                for each in wrong_flows[:TOLD]
            )
            more = (f"and {len(wrong_flows) - TOLD} more",) if len(wrong_flows) > TOLD else ()
            yield Trouble("bad", f"Traffic, {row}: {len(wrong_flows)} of {len(flows)} wrong", told + more, "#traffic")


def _end(flow: FlowFacts) -> str:
    return flow.destination if flow.port is None else f"{flow.destination}:{flow.port}"


def _sources(plan: Plan, facts: Facts) -> list[str]:
    """The hosts that connect: those outside first, then the gateway, then the others, each in the plan's order."""
    found = dict.fromkeys(flow.source for flow in facts.flows)
    inside = {host.name for host in plan.hosts for nic in host.interfaces if nic.network != plan.enterprise.name}
    return sorted(found, key=lambda name: (name in inside, name != plan.gateway.name))


def _groups(plan: Plan, facts: Facts, sources: list[str]) -> Iterator[Group]:
    titles = [("Published addresses", "the gateway's enterprise side")]
    titles += [(f"Network {each.name}", str(each.cidr)) for each in plan.internal]
    titles += [("The enterprise network and beyond", str(plan.enterprise.cidr))]
    cells: dict[tuple[str, int | None], dict[str, list[FlowFacts]]] = {}
    for flow in facts.flows:
        cells.setdefault((flow.destination, flow.port), {}).setdefault(flow.source, []).append(flow)
    rows: dict[int, list[tuple[str, int | None]]] = {}
    for end in sorted(cells, key=lambda end: (IPAddress(end[0]), end[1] is None, end[1] or 0)):
        rows.setdefault(_place(plan, IPAddress(end[0])), []).append(end)
    numbers = count(1)
    for index, (title, note) in enumerate(titles):
        if index in rows:
            yield Group(title, note, tuple(_row(end, cells[end], sources, numbers) for end in rows[index]))


def _place(plan: Plan, address: IPAddress) -> int:
    """The group that a destination belongs to."""
    if any(host.published == address for host in plan.published):
        return 0
    return next((index for index, each in enumerate(plan.internal, 1) if address in each.cidr), len(plan.networks))


def _row(
    end: tuple[str, int | None], by_source: dict[str, list[FlowFacts]], sources: list[str], numbers: Iterator[int]
) -> TableRow:
    address, port = end
    flows = next(iter(by_source.values()))
    host = flows[0].through[0] if flows[0].through else flows[0].receivers[0]
    shown_port = "any port" if port is None else f"port {port}"
    to = f"{host} {address}, {shown_port}"
    return TableRow(
        host,
        address,
        shown_port,
        tuple(
            _cell(f"{source} to {to}", by_source[source], next(numbers)) if source in by_source else None
            for source in sources
        ),
    )


def _cell(title: str, flows: list[FlowFacts], number: int) -> Cell:
    state = min((flow.verdict for flow in flows), key=_WORST.index)
    must_not = any(flow.must_not for flow in flows)
    kind = {"good": "kept-out", "bad": "got-in"}.get(state, state) if must_not else state
    return Cell(f"connection-{number}", title, kind, state, KINDS[kind], tuple(flows))


def _chains(rules: Iterable[RuleFacts]) -> list[tuple[str, str, list[RuleFacts]]]:
    """The rules by table and chain, in their order."""
    found: dict[tuple[str, str], list[RuleFacts]] = {}
    for rule in rules:
        found.setdefault((rule.table, rule.chain), []).append(rule)
    return [(table, chain, of_chain) for (table, chain), of_chain in found.items()]


def _histories(facts: Facts) -> Iterator[HostHistory]:
    for host in facts.hosts:
        if host.history or host.history_error:
            changes = tuple(_change(entry) for entry in host.history[:CHANGES])
            yield HostHistory(host.name, host.history_error, changes, len(host.history) - len(changes))


def _change(entry: dict[str, Any]) -> HistoryEntry:
    lines = [line for line in entry["what"] if line.strip()] or ["nothing"]
    more = tuple(lines[1:LINES])
    left = len(lines) - 1 - len(more)
    return HistoryEntry(str(entry["number"]), _time(entry["time"]), entry["who"], entry["commit"], lines[0], more, left)


def _time(text: str) -> str:
    """A time in ISO 8601 as people read it; any other text as it is."""
    try:
        return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S %z}"
    except ValueError:
        return text


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}".replace(",", "\u202f")


def _size(number: int | None) -> str:
    if number is None:
        return UNKNOWN
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f}\u202f{unit}" if unit == "B" or size >= 10 else f"{size:.1f}\u202f{unit}"
        size /= 1024
    return f"{size:.1f}\u202fTiB"
