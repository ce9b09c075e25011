"""What filters packets on a host beside its iptables. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from underlay.compare.difference import Difference, NativeChain, Parallel, UnitState
from underlay.compare.tables import BUILTIN_CHAINS, Ruleset
from underlay.desired.units import Unit

FIREWALLD = "firewalld"
"""Its table, and its unit."""
ARPTABLES = "arptables-legacy"


@dataclass(frozen=True)
class Filters:
    """tables: program → the tables of an iptables that the host's `iptables` is not, and of arptables-legacy
    unread: program, table, and why it can't be read
    chains: base chains of nftables that may hold IPv4 packets up, but for those of iptables
    policies: table and chain of the host's own iptables, if it is of the nftables kind: those with the policy DROP
    units: of firewalld and nftables
    nft: whether the host has the program to change nftables with
    """

    tables: Mapping[str, Ruleset] = field(default_factory=dict)
    unread: tuple[tuple[str, str, str], ...] = ()
    chains: tuple[NativeChain, ...] = ()
    policies: tuple[tuple[str, str], ...] = ()
    units: Mapping[str, UnitState] = field(default_factory=dict)
    nft: bool = False

    @property
    def firewalld(self) -> UnitState | None:
        """firewalld, if it runs or will after a boot."""
        found = self.units.get(f"{FIREWALLD}.service")
        return found if found and is_on(found) else None


def is_on(unit: UnitState) -> bool:
    """Whether a unit runs, or will after a boot."""
    return unit.active in ("active", "activating", "reloading") or unit.enabled in ("enabled", "enabled-runtime")


def unmanaged(found: Filters) -> Iterator[Difference]:
    """All of it that may decide about a packet."""
    for service, state in found.units.items():
        if is_on(state):
            yield Difference("unmanaged", Unit(service), state)
    for native in found.chains:
        yield Difference("unmanaged", native)
    for table, chain in found.policies:
        yield Difference("unmanaged", Parallel("iptables", table, f"-P {chain} DROP"))
    for program, name, why in found.unread:
        yield Difference("unmanaged", Parallel(program, name, f"can't be read: {why}"))
    for program, ruleset in found.tables.items():
        for name, content in ruleset.items():
            for chain, policy in content.policies.items():
                if policy not in ("ACCEPT", "-"):
                    yield Difference("unmanaged", Parallel(program, name, f"-P {chain} {policy}"))
                # What stands in a chain of its own is only met by way of a built-in one.
                if program == ARPTABLES or chain in BUILTIN_CHAINS.get(name, ()):
                    for spec in content.chain(chain):
                        yield Difference("unmanaged", Parallel(program, name, f"-A {chain} {spec}"))
