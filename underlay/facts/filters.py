"""What filters packets on a host beside its iptables: firewalld, native nftables, the other kind of iptables."""

import json
from collections.abc import Iterable

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from underlay.compare.difference import NativeChain, UnitState
from underlay.compare.filters import Filters
from underlay.compare.tables import Ruleset, Table
from underlay.remote import send
from underlay.remote.trace import filters


def command() -> str:
    """The shell command whose output `parse` reads; it needs root."""
    return send.command(filters)


def parse(lines: Iterable[str]) -> Filters:
    """Read the output of `command`. Raises ValueError, KeyError or TypeError for anything else."""
    found = json.loads("".join(lines))
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
        chains=tuple(NativeChain(**each | {"does": tuple(each["does"])}) for each in found["chains"]),
        policies=tuple((table, chain) for table, chain in found["policies"]),
        units={name: UnitState(*state) for name, state in found["units"].items()},
        nft=found["nft"],
    )


class OtherFilters(FactBase[Filters]):
    """What filters packets beside the host's iptables, as `Filters`."""

    def command(self) -> str:
        return command()

    def process(self, output: list[str]) -> Filters:
        try:
            return parse(output)
        except (ValueError, KeyError, TypeError) as error:
            raise FactProcessError(f"can't read the packet filters of this host: {error!r}") from error
