"""A host's health: how it is, beside what the plan says of it. The commands that read them, and what they print.

Parsers raise ValueError, KeyError or IndexError for anything else than the output of their command.
"""

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from underlay.access import answers
from underlay.access.answers import Finite
from underlay.desired import nginx
from underlay.plan import Host, Plan, roles
from underlay.remote import conntrack, send
from underlay.remote.checks import connect
from underlay.remote.guard.paths import COPY

HEALTH = frozenset(
    {
        *("uptime", "disks", "failed units", "nics", "guard"),
        *("conntrack", "tally", "counters", "upstreams"),
    }
)
"""The sections of health; the last four are of some roles only."""
UPSTREAM_SECONDS = 1
SECONDS = {"tally": 8, "firewall": 8, "node": 8}
"""What a section may take that takes long where all is well: a table of millions, rules that are loaded to see them,
programs that are asked what they are."""
LONGEST = 1e10
"""Seconds that a host can be up."""
NOTHING_KEPT = '{"pending": null, "last": null}'


@dataclass(frozen=True)
class Clock:
    """offset: seconds that the host's clock is ahead of the operator's, give or take half the round trip.

    round_trip: seconds that a command needs to get there and back, without the time that it runs
    """

    offset: float
    round_trip: float


@dataclass(frozen=True)
class Disk:
    """A file system, in bytes; `inodes` is 0 where it has no fixed number of them."""

    size: int
    used: int
    inodes: int
    inodes_used: int

    @property
    def share(self) -> float:
        """How much is used, of bytes or inodes, whichever is worse: 0 to 1."""
        shares = [used / size for used, size in ((self.used, self.size), (self.inodes_used, self.inodes)) if size]
        return max(shares, default=0.0)


@dataclass(frozen=True)
class Link:
    """up: it was switched on; carrier: the cable has a signal."""

    up: bool
    carrier: bool
    mtu: int
    mac: str


@dataclass(frozen=True)
class GuardStatus:
    """What the guard of changes says: each is one change, as `remote.guard` describes it, or None."""

    pending: dict[str, Any] | None
    last: dict[str, Any] | None


@dataclass(frozen=True)
class Conntrack:
    """The connection table: entries in it, its limit, and its statistics since boot, summed over all processors.

    statistics: `conntrack -S`: insert_failed, drop, early_drop, error, …
    """

    count: int
    limit: int
    statistics: dict[str, int]

    @property
    def share(self) -> float:
        """How full it is: 0 to 1."""
        return self.count / self.limit if self.limit else 0.0


@dataclass(frozen=True)
class Tally:
    """One pass over the connection table; see `conntrack.tally`."""

    entries: int
    protocols: dict[str, int] = field(default_factory=dict)
    flows: dict[str, int] = field(default_factory=dict)
    ports: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class RuleCounter:
    """What a rule has matched since it was loaded; `spec` None is what came to the end of a built-in chain."""

    table: str
    chain: str
    spec: str | None
    packets: int
    bytes: int


@dataclass(frozen=True)
class Upstream:
    """A server behind the proxy, as seen from it.

    name: what is served: a web system's name, or "kubernetes_api"
    address: `ADDRESS:PORT`
    error: why it takes no connection; empty if it does
    seconds: how long that took; None without one
    """

    name: str
    address: str
    error: str
    seconds: float | None


class _Nic(TypedDict):
    ifname: str
    flags: list[str]
    mtu: int
    address: NotRequired[str]


@with_config(ConfigDict(extra="allow"))
class _Last(TypedDict):
    number: int
    time: str
    who: str
    commit: str


@with_config(ConfigDict(extra="allow"))
class _Pending(TypedDict):
    token: str
    who: str
    what: list[str]
    since: str
    deadline: str
    left: Finite


class _Guard(TypedDict):
    """See `remote.guard.commands.status`."""

    pending: _Pending | None
    last: _Last | None


_Timed = list[tuple[str, str, Finite | None, str]]


def commands(plan: Plan, host: Host) -> dict[str, str]:
    """Section → the shell command that reads it, as root."""
    found = {
        "uptime": "cat /proc/uptime",
        "disks": "df --block-size=1 --output=target,size,used,itotal,iused / /var",
        "failed units": "systemctl list-units --state=failed --plain --no-legend --full",
        "nics": "ip -j link show",
        "guard": f"if [ -e {COPY} ]; then python3 {COPY} status; else echo {shlex.quote(NOTHING_KEPT)}; fi",
    }
    match host.role:
        case "gateway":
            keys = "net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max"
            found |= {
                "conntrack": f"sysctl -n {keys} && conntrack -S",
                "counters": "iptables-save -c",
                "tally": send.command(conntrack, "tally", json.dumps(outer_addresses(plan))),
            }
        case "lb_nginx":
            ends = json.dumps(upstreams_of(plan))
            found["upstreams"] = send.command(connect, str(UPSTREAM_SECONDS), ends)
    return found


def outer_addresses(plan: Plan) -> list[str]:
    """The enterprise addresses of the gateway: its own, and the published ones."""
    return [str(plan.gateway.primary.address), *(str(host.published) for host in plan.published)]


def upstreams_of(plan: Plan) -> list[tuple[str, str]]:
    """What the proxy serves, and `ADDRESS:PORT` of each server behind it."""
    api = [("kubernetes_api", f"{plan.api_address(master)}:{nginx.API_PORT}") for master in plan.hosts_of("master")]
    services = roles.lb_nginx(plan).web_services
    return api + [(name, end) for name, service in services.items() for end in service.upstreams]


def clock(sent: float, first: float, last: float, received: float) -> Clock:
    """From the operator's clock around a command and the host's at its begin and end, all in seconds since 1970.

    As NTP does it (RFC 5905, section 8): the time that the command itself takes does not count.
    """
    offset = ((first - sent) + (last - received)) / 2
    return Clock(offset, max(0.0, (received - sent) - (last - first)))


def uptime(lines: Sequence[str]) -> float:
    """Read the section of that name: seconds since boot."""
    found = float(lines[0].split()[0])
    if not 0 <= found < LONGEST:
        raise ValueError(lines[0])
    return found


def disks(lines: Sequence[str]) -> dict[str, Disk]:
    """Read the section of that name: mount point → its use."""
    rows = [line.rsplit(maxsplit=4) for line in lines[1:]]
    if not rows:
        raise ValueError(lines)
    return {path: Disk(*(0 if each == "-" else int(each) for each in numbers)) for path, *numbers in rows}


def failed_units(lines: Iterable[str]) -> tuple[str, ...]:
    """Read the section of that name."""
    found = []
    for line in lines:
        if not (unit := re.match(r"([\w:.\\@-]+\.[a-z]+) +[a-z-]+ +failed ", line, re.ASCII)):
            raise ValueError(f"each line has to be a unit that has failed: {line.strip()[:80]}")
        found.append(unit[1])
    return tuple(found)


def nics(lines: Iterable[str]) -> dict[str, Link]:
    """Read the section of that name: NIC → its state; the loopback is left out."""
    return {
        link["ifname"]: Link(
            up="UP" in link["flags"],
            carrier="LOWER_UP" in link["flags"],
            mtu=link["mtu"],
            mac=link.get("address", ""),
        )
        for link in answers.parsed(list[_Nic], "".join(lines))
        if "LOOPBACK" not in link["flags"]
    }


def guard(lines: Iterable[str]) -> GuardStatus:
    """Read the section of that name."""
    found: _Guard = answers.parsed(_Guard, "".join(lines))
    return GuardStatus(found["pending"], found["last"])  # type: ignore[arg-type]


def connections(lines: Sequence[str]) -> Conntrack:
    """Read the section `conntrack`."""
    count, limit, *processors = lines
    sums: Counter[str] = Counter()
    for line in processors:
        sums.update({key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line) if key != "cpu"})
    return Conntrack(int(count), int(limit), dict(sums))


def tally(lines: Iterable[str]) -> Tally:
    """Read the section of that name."""
    found: Tally = answers.parsed(Tally, "".join(lines))
    return found


_COUNTED_CHAIN = re.compile(r":(\S+) (?!-)\S+ \[(\d+):(\d+)\]")
_COUNTED_RULE = re.compile(r"\[(\d+):(\d+)\] -A (\S+) ?(.*)")


def counters(lines: Iterable[str]) -> tuple[RuleCounter, ...]:
    """Read the section of that name: what `iptables-save -c` prints, in its order."""
    found, table = [], ""
    for line in lines:
        if line.startswith("*"):
            table = line[1:]
        elif match := _COUNTED_CHAIN.fullmatch(line):
            found.append(RuleCounter(table, match[1], None, int(match[2]), int(match[3])))
        elif match := _COUNTED_RULE.fullmatch(line):
            found.append(RuleCounter(table, match[3], match[4].strip(), int(match[1]), int(match[2])))
        elif line and not line.startswith("#") and line != "COMMIT" and not line.startswith(":"):
            raise ValueError(line)
    return tuple(found)


def upstreams(lines: Iterable[str]) -> tuple[Upstream, ...]:
    """Read the section of that name."""
    rows: list[tuple[str, str, Finite | None, str]] = answers.parsed(_Timed, "".join(lines))
    return tuple(Upstream(name, end, error, seconds) for name, end, seconds, error in rows)
