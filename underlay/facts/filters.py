"""What filters packets on a host beside its iptables: firewalld, native nftables, the other kind of iptables."""

from collections.abc import Iterable

from pyinfra.api import FactBase
from typing_extensions import TypedDict

from underlay.access import answers
from underlay.compare.difference import NativeChain, UnitState
from underlay.compare.filters import Filters
from underlay.compare.tables import Ruleset, Table
from underlay.facts import fact
from underlay.remote import send
from underlay.remote.trace import filters


class _Found(TypedDict):
    """See `remote.trace.filters`."""

    tables: list[tuple[str, str, str | dict[str, tuple[str, list[str]]]]]
    chains: list[NativeChain]
    policies: list[tuple[str, str]]
    units: dict[str, tuple[str, str]]
    nft: bool


def command() -> str:
    """The shell command whose output `parse` reads; it needs root."""
    return send.command(filters)


def parse(lines: Iterable[str]) -> Filters:
    """Read the output of `command`. Raises ValueError for anything else."""
    found: _Found = answers.parsed(_Found, "".join(lines))
    tables: dict[str, Ruleset] = {}
    unread = []
    for program, name, content in found["tables"]:
        if isinstance(content, str):
            unread.append((program, name, content))
        else:
            policies = {chain: policy for chain, (policy, _) in content.items()}
            rules = {chain: specs for chain, (_, specs) in content.items()}
            tables.setdefault(program, {})[name] = Table(policies, rules)
    return Filters(
        tables=tables,
        unread=tuple(unread),
        chains=tuple(found["chains"]),
        policies=tuple(found["policies"]),
        units={name: UnitState(*state) for name, state in found["units"].items()},
        nft=found["nft"],
    )


class OtherFilters(FactBase[Filters]):
    """What filters packets beside the host's iptables, as `Filters`."""

    def command(self) -> str:
        return command()

    @fact("the packet filters")
    def process(self, output: list[str]) -> Filters:
        return parse(output)
