"""All that the doctor looks at before it says anything: what was seen, as values."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from annotated_types import Len
from typing_extensions import TypedDict

from underlay.access.answers import Finite, IPv4
from underlay.access.target import Target
from underlay.compare.systemd.next_boot import NextBoot
from underlay.desired.traffic import Flow
from underlay.doctor.policy import Packet
from underlay.observe.exchange import Outcome
from underlay.observe.state import HostState
from underlay.plan import Plan
from underlay.trace.ended import Ended
from underlay.trace.seen import Taken

CROWDED = 0.9
"""Of the connection table, the share from which on it counts as full: new connections are lost in bursts then."""

Why = Literal[
    "no route",
    "no ARP answer",
    "silent",
    "host key",
    "own key",
    "refused",
    "key refused",
    "more than a key",
    "account",
    "session",
    "sudo",
    "mute",
    "closed",
    "penalty",
    "startups",
    "nothing in common",
    "forwarding",
    "the jump host",
    "other",
]
"""How far a login got: see `ways.KINDS`."""


@dataclass(frozen=True)
class Failure:
    """Why a host could not be reached the plan's way: as a kind, and in ssh's own words; `more`: in those of sshd.

    shown: the fingerprint of the host key that whoever answered has
    """

    why: Why
    said: str
    more: tuple[str, ...] = ()
    shown: str = ""


@dataclass(frozen=True)
class Hop:
    """The first hop to an address, from the workstation, and the source address; `nic` is empty without a route.

    line: the route that is taken, as `ip route del` takes it; also one that leads nowhere
    """

    nic: str
    via: str = ""
    source: str = ""
    line: str = ""


@dataclass(frozen=True)
class Workstation:
    """The machine that the doctor runs on.

    name: its name in the plan, or empty
    links: NIC → whether it is switched on, and whether its cable has a signal
    hops: address → how packets to it leave, for the addresses at which hosts are reached from here
    neighbours: address → MAC, empty where nobody answered; asked only if the gateway can't be reached, and by root only
    public_key: the operator's; empty if it is not known
    host_keys: those of the hosts, as `hostkeys.known_hosts` has them
    """

    name: str
    links: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    hops: dict[str, Hop] = field(default_factory=dict)
    neighbours: dict[str, str] = field(default_factory=dict)
    public_key: str = ""
    host_keys: str = ""


class Reason(TypedDict):
    """Why an account does not get into a host, see `remote.survey.logins.refused`."""

    what: Annotated[str, Len(1, 500)]
    fix: Annotated[str, Len(0, 2000)]
    then: Literal["", "deploy"]


@dataclass(frozen=True)
class Login:
    """What a host says of a login of the operator's that fails.

    reasons: in the order of what comes first; None if it could not be asked, `unread` says why
    how: the way on which it was asked: "the console", "an open connection", or "ssh"
    """

    reasons: tuple[Reason, ...] | None
    how: str = ""
    unread: str = ""


class Accounts(TypedDict):
    """Who may get into a host, see `remote.survey`."""

    accounts: Annotated[list[tuple[str, int, bool, bool]], Len(0, 100)]
    keys: Annotated[list[tuple[str, str, int, str, str, bool]], Len(0, 500)]
    rights: Annotated[list[tuple[str, int, str]], Len(0, 500)]
    admins: Annotated[list[str], Len(0, 200)]
    writable: Annotated[list[tuple[str, str]], Len(0, 500)]
    asks_nothing: Annotated[list[tuple[str, int, str]], Len(0, 100)]
    recorded: Annotated[list[str], Len(0, 200)]


class Odd(TypedDict):
    """What differs from a plain host; since when, in seconds of the epoch, or 0 if that is not known."""

    what: str
    text: str
    since: Finite


class Listener(TypedDict):
    """Who listens on TCP, see `remote.survey`; `address` is 0.0.0.0 for all."""

    port: int
    address: str
    queue: int
    room: int
    program: str
    pid: int
    unit: str


class Stuck(TypedDict):
    """A process that can't go on, see `remote.survey`."""

    unit: str
    pid: int
    program: str
    how: Literal["stopped", "traced", "frozen", "disk"]
    at: str


class Limit(TypedDict):
    """A limit that is met, see `remote.survey`."""

    unit: str
    what: str
    used: int
    limit: int
    at: str


class UnitSeen(TypedDict):
    """What systemd says of a unit, see `remote.survey`."""

    name: str
    load: str
    active: str
    sub: str
    result: str
    file: str
    path: str
    restarts: int
    unmet: bool
    log: list[str]
    sets: list[tuple[str, int, str]]


class Resolver(TypedDict):
    """How a host finds names, see `remote.survey`."""

    servers: list[str]
    linked: str
    mode: int
    order: list[str]
    hosts: list[tuple[int, list[str]]]


@dataclass(frozen=True)
class HostSurvey:
    """What a host sees around it; see `remote.survey`, whose keys these are."""

    arp: dict[str, dict[IPv4, list[str]]] = field(default_factory=dict)
    echo: dict[str, Annotated[list[int], Len(2, 2)]] = field(default_factory=dict)
    connect: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    services: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)
    full: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    talkers: list[tuple[IPv4, Finite]] = field(default_factory=list)
    policy: list[Taken] = field(default_factory=list)
    accounts: Accounts | None = None
    login: Annotated[list[Reason], Len(0, 20)] = field(default_factory=list)
    paths: dict[str, Annotated[list[Finite], Len(4, 4)]] = field(default_factory=dict)
    odd: list[Odd] = field(default_factory=list)
    changed: list[tuple[Finite, str, str]] | None = None
    listeners: list[Listener] | None = None
    stuck: list[Stuck] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    units: list[UnitSeen] | None = None
    lacking: dict[str, str] = field(default_factory=dict)
    resolver: Resolver | None = None
    mounts: list[tuple[str, str]] = field(default_factory=list)
    modes: Annotated[list[tuple[str, str, str]], Len(0, 40)] = field(default_factory=list)
    sysctls: dict[str, str] = field(default_factory=dict)
    boot: NextBoot | None = None


@dataclass(frozen=True)
class Way:
    """The way by which a host was reached that the plan's way does not lead to."""

    via: str
    address: str


@dataclass(frozen=True)
class Followed:
    """A packet that was really sent, and followed.

    to: the host that it is for
    again: the command that does it again
    flow: the connection that it is of, if it is of one that was tried
    about: the hosts that it is about, if it is not; `said`: what was seen of it before
    ended: where it ended; None if it did not, or that is not known
    why_not: why it could not be followed; empty if it was
    """

    to: str
    again: str
    flow: Flow | None = None
    about: frozenset[str] = frozenset()
    said: str = ""
    ended: Ended | None = None
    why_not: str = ""


@dataclass(frozen=True)
class Survey:
    """Everything that was seen.

    failures: the hosts that the plan's way does not lead to; `other_ways`: those of them that were reached another way
    states, looks: of the hosts that were reached; `unread`: what could not be read of them, in words; `blind`: the
        hosts from which nothing could be looked at, and why
    elsewhere: of the hosts whose sshd can't be reached: where else it answers, as `ADDRESS:PORT`
    outcomes: of the connections that were tried
    followed: packets of connections that fail for no reason on the hosts themselves
    host_keys: host → the keys by which it is known here, as TYPE and KEY
    taken: host → of packets that don't arrive, what its kernel does with each, see `remote.trace.policy.taken`
    confined: hosts that let the operator in, but run no command of his, or none as root
    logins: host → what it says itself of a login that fails
    """

    target: Target
    workstation: Workstation
    failures: dict[str, Failure] = field(default_factory=dict)
    other_ways: dict[str, Way] = field(default_factory=dict)
    states: dict[str, HostState] = field(default_factory=dict)
    looks: dict[str, HostSurvey] = field(default_factory=dict)
    outcomes: dict[Flow, Outcome] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    followed: tuple[Followed, ...] = ()
    elsewhere: dict[str, list[str]] = field(default_factory=dict)
    blind: dict[str, str] = field(default_factory=dict)
    taken: dict[str, list[tuple[Packet, Taken]]] = field(default_factory=dict)
    confined: dict[str, Failure] = field(default_factory=dict)
    logins: dict[str, Login] = field(default_factory=dict)
    host_keys: dict[str, list[str]] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The plan of the site."""
        return self.target.plan
