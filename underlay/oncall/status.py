"""The whole site on one screen: how each host is, the gateway's connections, the servers behind the proxy."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from underlay.access.anew import anew
from underlay.access.answers import UnreadableError, reading
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target
from underlay.console import console
from underlay.desired import routing
from underlay.desired.units import Unit
from underlay.errors import GOOD, exit_code
from underlay.observe import drift
from underlay.observe.evidence import Evidence
from underlay.observe.health import HEALTH, Conntrack, Tally, Upstream, outer_addresses
from underlay.observe.state import DRIFT, SECONDS, HostState
from underlay.plan import Host, Plan
from underlay.text import argument, command, one_line

SECTIONS = DRIFT | HEALTH - {"counters"}
FULL = 0.8
"""How much of a connection table, or of an address's ports, may be in use before somebody should look."""
DISK_FULL = 0.9
CLOCK_SECONDS = 2.0
"""Certificates and logs tolerate less of a difference than this."""
PORTS = 65536 - 1024
"""What one address has for the connections that are translated to it, for each protocol."""

T = TypeVar("T")


@dataclass
class HostStatus:
    """One host. Where it was not reached, or a part of it not read, the values are None.

    error: why it was not reached
    behind: the host in between that is down, where that is why
    round_trip: seconds that a command needs to get there and back
    clock_offset: seconds that its clock is ahead of this one
    uptime: seconds
    addresses_missing: planned addresses that it does not have, each `NIC CIDR`
    services_wrong: the units that are stopped, not enabled or failed → what is wrong, in words
    no_carrier: NICs of the plan without a signal
    drift: how many differences from the plan it has
    disk: the fullest of its file systems, 0 to 1
    last_change: the last confirmed one: number, time, who, commit; empty if there was none
    pending: the change that waits for its confirmation; empty if there is none
    unread: what of it could not be read, and why
    """

    name: str
    role: str
    error: str = ""
    behind: str = ""
    round_trip: float | None = None
    clock_offset: float | None = None
    uptime: float | None = None
    addresses_missing: list[str] | None = None
    services_wrong: dict[str, str] | None = None
    no_carrier: list[str] | None = None
    drift: int | None = None
    disk: float | None = None
    last_change: dict[str, Any] | None = None
    pending: dict[str, Any] | None = None
    unread: list[str] = field(default_factory=list)


@dataclass
class Status:
    """The site at one moment.

    conntrack, tally: of the gateway; None where they were not read
    upstreams: of the proxies, as seen from them
    seconds: how long it took to find out
    """

    site: str
    time: str
    seconds: float
    hosts: list[HostStatus]
    conntrack: Conntrack | None
    tally: Tally | None
    upstreams: list[Upstream]

    @property
    def down(self) -> list[str]:
        """What is not reached or not read, a line each."""
        lines = []
        for host in self.hosts:
            if host.error and not host.behind:
                lines.append(host.error)
            lines += host.unread
        behind = dict.fromkeys(host.behind for host in self.hosts if host.behind)
        for between in behind:
            names = [host.name for host in self.hosts if host.behind == between]
            lines.append(f"{', '.join(names)}: not asked, behind {between}")
        return lines

    @property
    def attention(self) -> list[str]:
        """What needs somebody, a line each, with the command that shows more."""
        return [*_of_hosts(self.hosts), *_of_gateway(self.conntrack, self.tally), *_of_upstreams(self.upstreams)]

    @property
    def code(self) -> int:
        """The exit code: a host that does not answer was not looked at, nothing more."""
        return exit_code(wrong=self.attention, unread=self.down)

    def document(self) -> dict[str, Any]:
        """For programs."""
        hosts = [asdict(host) for host in self.hosts]
        for host in hosts:
            host["services_wrong"] = None if host["services_wrong"] is None else [*host["services_wrong"].values()]
        return asdict(self) | {"hosts": hosts, "down": self.down, "attention": self.attention, "code": self.code}


def read(target: Target) -> Status:
    """Look at every host that is deployed, at the same time, over new connections."""
    with anew(target) as own:
        return look(Links(own))


def look(links: Links) -> Status:
    """The same, over these connections."""
    begin = time.monotonic()
    target, plan = links.target, links.target.plan
    hosts = plan.deployed
    evidence = Evidence(target, links)
    evidence.gather(hosts, [], SECTIONS, SECONDS)
    states: dict[str, HostState] = {}
    found = []
    for host in hosts:
        status = HostStatus(host.name, host.role)
        try:
            with reading(f"what {host.name} says"):
                state = evidence.state(host.name)
                _fill(status, plan, host, state)
                states[host.name] = state
        except (UnreachableError, UnreadableError) as error:
            status.error = str(error)
        found.append(status)
    dead = {status.name for status in found if status.error}
    for status in found:
        if status.error:
            status.behind = next((name for name in in_between(target, status.name) if name in dead), "")
    gateway = next(status for status in found if status.name == plan.gateway.name)
    of_gateway = states.get(gateway.name)
    return Status(
        site=plan.site,
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        conntrack=_part(gateway, lambda: of_gateway.conntrack) if of_gateway else None,
        tally=_part(gateway, lambda: of_gateway.tally) if of_gateway else None,
        upstreams=[each for status in found for each in _upstreams(status, states.get(status.name))],
        hosts=found,
        seconds=round(time.monotonic() - begin, 2),
    )


def in_between(target: Target, name: str) -> list[str]:
    """The hosts that the way to a host goes through, the nearest first.

    An address that the gateway publishes ends at the gateway, and the way to a jump host is part of the way through it.
    """
    endpoint = target.endpoint(name)
    if endpoint.jump:
        return [*in_between(target, endpoint.jump), endpoint.jump]
    published = {host.published for host in target.plan.published}
    return [target.plan.gateway.name] if endpoint.address in published else []


def _part(status: HostStatus, part: Callable[[], T]) -> T | None:
    try:
        return part()
    except UnreadableError as error:
        if str(error) not in status.unread:
            status.unread.append(str(error))
        return None


def _fill(status: HostStatus, plan: Plan, host: Host, state: HostState) -> None:
    if clock := _part(status, lambda: state.clock):
        status.round_trip, status.clock_offset = round(clock.round_trip, 4), round(clock.offset, 4)
    status.uptime = _part(status, lambda: state.uptime)
    wanted = routing.host_network(plan, host)
    if network := _part(status, lambda: state.network):
        missing = [address for address in wanted.addresses if address not in network.addresses]
        status.addresses_missing = [f"{address.nic} {address.cidr}" for address in missing]
    if nics := _part(status, lambda: state.nics):
        status.no_carrier = [nic for nic in wanted.every if nic not in nics or not nics[nic].carrier]
    differences = _part(status, lambda: list(drift.of_host(plan, host, state)))
    failed = _part(status, lambda: state.failed_units)
    if differences is not None:
        status.drift = sum(each.kind != "unmanaged" for each in differences)
        if failed is not None:
            stopped = {each.thing.name: each.what for each in differences if isinstance(each.thing, Unit)}
            status.services_wrong = stopped | {unit: f"{unit} has failed" for unit in failed if unit not in stopped}
    if disks := _part(status, lambda: state.disks):
        status.disk = round(max(disk.share for disk in disks.values()), 3)
    if guard := _part(status, lambda: state.guard):
        last = guard.last or {}
        status.last_change = {key: last[key] for key in ("number", "time", "who", "commit") if key in last}
        status.pending = guard.pending or {}


def _upstreams(status: HostStatus, state: HostState | None) -> tuple[Upstream, ...]:
    if state is None or status.role != "lb_nginx":
        return ()
    return _part(status, lambda: state.upstreams) or ()


def _of_hosts(hosts: Iterable[HostStatus]) -> Iterator[str]:
    for host in hosts:
        for address in host.addresses_missing or ():
            yield f"{host.name}: address missing: {address}"
        for nic in host.no_carrier or ():
            yield f"{host.name}: {nic} has no carrier: cable or switch"
        for unit, what in (host.services_wrong or {}).items():
            look = argument(command("sudo", "systemctl", "status", unit))
            yield f"{host.name}: {what}: ./inv ssh {host.name} {look}"
        if host.drift:
            yield f"{host.name}: {_count(host.drift, 'difference')} from the plan: ./inv drift {host.role}"
        if host.disk is not None and host.disk > DISK_FULL:
            yield f'{host.name}: a disk is {host.disk:.0%} full: ./inv ssh {host.name} "df -h; df -i"'
        if host.clock_offset is not None and abs(host.clock_offset) > CLOCK_SECONDS + (host.round_trip or 0) / 2:
            yield f"{host.name}: its clock is {_offset(host.clock_offset)} from this one"
        if host.pending:
            who, left = host.pending["who"], host.pending["left"]
            yield f"{host.name}: a change of {who} waits for its confirmation, else undone in {left:.0f} s"


def _of_gateway(conntrack: Conntrack | None, tally: Tally | None) -> Iterator[str]:
    if conntrack and conntrack.share > FULL:
        yield (
            f"the gateway's connection table is {conntrack.share:.0%} full "
            f"({conntrack.count} of {conntrack.limit}): ./inv flows"
        )
    for address, ports in (tally.ports if tally else {}).items():
        for protocol, used in ports.items():
            if used > FULL * PORTS:
                look = command("./inv", "flows", "--published", address)
                yield f"{used} of {PORTS} NAT ports of {address} in use ({protocol}): {look}"


def _of_upstreams(upstreams: Iterable[Upstream]) -> Iterator[str]:
    failing: dict[tuple[str, str], list[str]] = {}
    for each in upstreams:
        if each.error:
            failing.setdefault((each.name, each.error), []).append(each.address)
    for (name, error), ends in failing.items():
        more = f" and {len(ends) - 1} more" if len(ends) > 1 else ""
        yield f"proxy: no connection to {ends[0]}{more} for {name}: {error}"


def watch(target: Target, console: Console, every: float) -> None:
    """Show the status anew every so many seconds until Ctrl-C."""
    while True:
        begin = time.monotonic()
        found = page(target.plan, read(target))
        # Not rich's Live: that cuts off the end where a screen is too small, and the end is what matters.
        console.clear()
        console.print(found, highlight=False)
        time.sleep(max(0.0, every - (time.monotonic() - begin)))


def show(plan: Plan, status: Status) -> None:
    """Print it."""
    console().print(page(plan, status), highlight=False)


def page(plan: Plan, status: Status) -> RenderableType:
    """The one screen."""
    parts: list[RenderableType] = [_hosts(status)]
    if status.conntrack:
        parts.append(_table_line(status.conntrack))
    if status.tally:
        parts.append(_published(plan, status.tally))
    if status.upstreams:
        parts.append(_proxy(status.upstreams))
    in_part = {one_line(line) for host in status.hosts for line in host.unread}
    parts += [
        Text(f"{'UNREAD' if line in in_part else 'DOWN'}  {line}", style="bold red") for line in _first(status.down)
    ]
    parts += [Text(f"LOOK  {line}", style="yellow") for line in _first(status.attention)]
    when = f"{status.time[:19].replace('T', ' ')} UTC, in {status.seconds:.1f} s"
    if status.code == GOOD:
        parts.append(Text.assemble(("all well", "bold green"), f": {len(status.hosts)} hosts, {when}"))
    else:
        lost = sum(bool(host.error or host.unread) for host in status.hosts)
        counts = f"{lost} of {_count(len(status.hosts), 'host')} not read, {len(status.attention)} to look at"
        parts.append(Text.assemble((counts, "bold red"), f"; {when}"))
    return Group(*parts)


def _first(lines: list[str]) -> list[str]:
    shown = [one_line(line) for line in lines[:LINES]]
    return shown if len(lines) <= LINES else [*shown, f"{len(lines) - LINES} more: ./inv status --json"]


def _grid(*columns: str, right: Iterable[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold", justify="right" if column in right else "left")
    return table


def _hosts(status: Status) -> Table:
    columns = ("host", "reached", "addresses", "services", "up", "drift", "clock", "disk", "last change")
    table = _grid(*columns, right=("up", "clock", "disk"))
    for host in _shown(status.hosts):
        if host.error:
            why = f"behind {host.behind}" if host.behind else "DOWN"
            table.add_row(host.name, Text(why, style="bold red"), *["-"] * 7)
            continue
        table.add_row(
            host.name,
            "?" if host.round_trip is None else f"{host.round_trip * 1000:.0f} ms",
            _verdict(host.addresses_missing, "right", f"{len(host.addresses_missing or ())} missing"),
            _verdict(host.services_wrong, "run", f"{len(host.services_wrong or ())} wrong"),
            "?" if host.uptime is None else duration(host.uptime),
            _verdict(host.drift, "no", f"yes ({host.drift})"),
            "?" if host.clock_offset is None else _offset(host.clock_offset),
            "?" if host.disk is None else f"{host.disk:.0%}",
            _change(host.last_change),
        )
    return table


def _shown(hosts: list[HostStatus]) -> list[HostStatus]:
    """Of many hosts those that somebody has to look at; the others of a role are one, with the worst of each value."""
    if len(hosts) <= MOST:
        return hosts
    well: dict[str, list[HostStatus]] = {}
    found = []
    for host in hosts:
        if host.error or host.unread or [*_of_hosts([host])]:
            found.append(host)
        else:
            well.setdefault(host.role, []).append(host)
    return found + [_together(role, some) for role, some in well.items()]


def _together(role: str, some: list[HostStatus]) -> HostStatus:
    if len(some) == 1:
        return some[0]
    return replace(
        some[0],
        name=f"{role} ({len(some)} hosts)",
        round_trip=max(each.round_trip or 0 for each in some),
        clock_offset=max((each.clock_offset or 0 for each in some), key=abs),
        uptime=min(each.uptime or 0 for each in some),
        disk=max(each.disk or 0 for each in some),
        last_change=max((each.last_change or {} for each in some), key=lambda change: str(change.get("time", ""))),
    )


def _verdict(wrong: object, good: str, bad: str) -> Text:
    """What is wrong, in a word: None is unknown, empty is nothing."""
    if wrong is None:
        return Text("?", style="red")
    return Text(bad, style="bold red") if wrong else Text(good, style="green")


def _change(change: dict[str, Any] | None) -> str:
    if change is None:
        return "?"
    if not change:
        return "none"
    return f"{change['time'][:16].replace('T', ' ')} {change['who']}"


def _table_line(conntrack: Conntrack) -> Text:
    words = {"drop": "dropped", "early_drop": "dropped early", "insert_failed": "not inserted"}
    lost = [f"{words[key]} {conntrack.statistics[key]}" for key in words if key in conntrack.statistics]
    used = f"{conntrack.count} of {conntrack.limit} used ({conntrack.share:.0%})"
    style = "bold red" if conntrack.share > FULL else ""
    return Text("; ".join([f"\ngateway's connection table: {used}", *([", ".join(lost)] if lost else [])]), style=style)


def _published(plan: Plan, tally: Tally) -> Table:
    table = _grid("address", "host", "flows", "NAT ports in use", right=("flows",))
    names = {str(host.published): host.name for host in plan.published}
    shown = sorted(outer_addresses(plan), key=lambda address: -tally.flows.get(address, 0))[:MOST]
    for address in outer_addresses(plan):
        if address not in shown:
            continue
        ports = tally.ports.get(address, {})
        used = ", ".join(f"{count} of {PORTS} {protocol}" for protocol, count in sorted(ports.items())) or "none"
        table.add_row(address, names.get(address, plan.gateway.name), str(tally.flows.get(address, 0)), used)
    more = len(outer_addresses(plan)) - len(shown)
    if more:
        table.add_row("", f"{more} more", "", "")
    return table


MOST = 12
"""Published addresses that are shown, those with the most flows; hosts that are: the page must fit a screen."""
LINES = 20
"""Of what is down, and of what needs attention."""


def _proxy(upstreams: Iterable[Upstream]) -> Table:
    table = _grid("proxy to", "server", "connects")
    for each in list(upstreams)[:MOST]:
        answer = Text(each.error, style="bold red") if each.error else f"{(each.seconds or 0) * 1000:.0f} ms"
        table.add_row(each.name, each.address, answer)
    return table


def duration(seconds: float) -> str:
    """In the two largest units, without fractions: `3 d 4 h`, `12 min`, `40 s`."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{int(seconds)} s"


def _offset(seconds: float) -> str:
    sign = "-" if seconds < 0 else "+"
    return f"{sign}{abs(seconds):.1f} s" if abs(seconds) < 120 else f"{sign}{duration(abs(seconds))}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
