"""All that the doctor looks at before it says anything: what was seen, as values."""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from annotated_types import Len
from typing_extensions import TypedDict

from underlay.access.answers import Finite, IPv4
from underlay.access.target import Target
from underlay.desired.traffic import Flow
from underlay.doctor.policy import Packet
from underlay.doctor.suspects import IPTABLES, words
from underlay.observe.exchange import Outcome
from underlay.observe.state import HostState
from underlay.plan import Plan
from underlay.remote.trace.filters import is_iptables

CROWDED = 0.9
"""Of the connection table, the share from which on it counts as full: new connections are lost in bursts then."""

Why = Literal["no route", "no ARP answer", "silent", "refused", "key refused", "host key", "the jump host", "other"]


@dataclass(frozen=True)
class Failure:
    """Why a host could not be reached the plan's way: as a kind, and in ssh's own words."""

    why: Why
    said: str


@dataclass(frozen=True)
class Hop:
    """The first hop to an address, from the workstation, and the source address; `nic` is empty without a route."""

    nic: str
    via: str = ""
    source: str = ""


@dataclass(frozen=True)
class Workstation:
    """The machine that the doctor runs on.

    name: its name in the plan, or empty
    links: NIC → whether it is switched on, and whether its cable has a signal
    hops: address → how packets to it leave, for the addresses at which hosts are reached from here
    neighbours: address → MAC, empty where nobody answered; asked only if the gateway can't be reached, and by root only
    public_key: the operator's; empty if it is not known
    """

    name: str
    links: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    hops: dict[str, Hop] = field(default_factory=dict)
    neighbours: dict[str, str] = field(default_factory=dict)
    public_key: str = ""


class Taken(TypedDict):
    """What a kernel does with a packet, see `remote.trace.policy.taken`."""

    route: dict[str, Any] | None
    rule: dict[str, Any] | None
    arguments: str | None


@dataclass(frozen=True)
class HostSurvey:
    """What a host sees around it; see `remote.survey`, whose keys these are."""

    arp: dict[str, dict[IPv4, list[str]]] = field(default_factory=dict)
    echo: dict[str, Annotated[list[int], Len(2, 2)]] = field(default_factory=dict)
    connect: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    services: list[str] = field(default_factory=list)
    owners: dict[str, str] = field(default_factory=dict)
    full: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    talkers: list[tuple[IPv4, Finite]] = field(default_factory=list)
    policy: list[Taken] = field(default_factory=list)


@dataclass(frozen=True)
class Way:
    """The way by which a host was reached that the plan's way does not lead to."""

    via: str
    address: str


@dataclass(frozen=True)
class Drop:
    """Where the packet of a connection, or its answer, ended on a host: in a chain that is not the plan's.

    chain: the base chain
    rule: the chain that has the rule, and its handle; or its text, if it is one of iptables. None: it was the policy
    """

    host: str
    flow: str
    family: str
    table: str
    chain: str
    rule: tuple[str, str] | None

    @property
    def is_iptables(self) -> bool:
        """Whether the chain is one of iptables."""
        return is_iptables(self.family, self.table, self.chain)

    def __str__(self) -> str:
        if self.is_iptables:
            return f"-t {self.table} " + (f"-A {' '.join(self.rule)}" if self.rule else f"-P {self.chain} DROP")
        how = f"the rule with handle {self.rule[1]} in chain {self.rule[0]}" if self.rule else "its policy"
        return f"nftables chain {self.family} {self.table} {self.chain}, by {how}"

    @property
    def undo(self) -> list[str]:
        """The command that takes it away."""
        if self.is_iptables:
            what = ["-D", self.rule[0], *words(self.rule[1])] if self.rule else ["-P", self.chain, "ACCEPT"]
            return [IPTABLES, "-t", self.table, *what]
        if self.rule:
            return ["nft", "delete", "rule", self.family, self.table, self.rule[0], "handle", self.rule[1]]
        return ["nft", "chain", self.family, self.table, self.chain, "{ policy accept; }"]


@dataclass(frozen=True)
class Survey:
    """Everything that was seen.

    failures: the hosts that the plan's way does not lead to; `other_ways`: those of them that were reached another way
    states, looks: of the hosts that were reached; `unread`: what could not be read of them, in words
    outcomes: of the connections that were tried
    drops: where those end that were traced; of the gateway's own iptables nothing: what is in it was read
    taken: host → of packets that don't arrive, what its kernel does with each, see `remote.trace.policy.taken`
    """

    target: Target
    workstation: Workstation
    failures: dict[str, Failure] = field(default_factory=dict)
    other_ways: dict[str, Way] = field(default_factory=dict)
    states: dict[str, HostState] = field(default_factory=dict)
    looks: dict[str, HostSurvey] = field(default_factory=dict)
    outcomes: dict[Flow, Outcome] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    drops: tuple[Drop, ...] = ()
    taken: dict[str, list[tuple[Packet, Taken]]] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """The plan of the site."""
        return self.target.plan
