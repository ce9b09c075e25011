"""The iptables rules of a host: live, at the next boot, recorded as ours, and the plan's in the host's own form."""

import base64
import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyinfra.api import FactBase
from typing_extensions import TypedDict

from underlay.access import answers
from underlay.compare import tables
from underlay.compare.firewall import own
from underlay.compare.tables import TABLES, Ruleset, RulesetError, Table
from underlay.desired import files
from underlay.desired.ruleset import Rule
from underlay.facts import fact
from underlay.remote import rules, send
from underlay.remote.guard.paths import COPY


@dataclass(frozen=True)
class Firewall:
    """installed: False where there is no iptables yet: nothing else is known then, and the host has no rules

    live: what is there
    wanted: the plan's rules as this host prints them
    at_boot: what the next boot makes, loaded to see it
    others: that, before ours are put in place
    recorded: what the last deploy made, and the rules that it withdrew and others bring back at boot
    record: the text of the file of ours
    failed: what does not load at boot: its unit, its file, and why
    """

    installed: bool = True
    live: Ruleset = field(default_factory=dict)
    wanted: Ruleset = field(default_factory=dict)
    at_boot: Ruleset = field(default_factory=dict)
    others: Ruleset = field(default_factory=dict)
    recorded: Ruleset = field(default_factory=dict)
    record: str | None = None
    failed: tuple[tuple[str, str, str], ...] = ()


_Chains = dict[str, tuple[str, list[str]]]


class _Found(TypedDict, total=False):
    """See `remote.rules`."""

    missing: bool
    error: str
    live: dict[str, _Chains | None]
    wanted: dict[str, _Chains | None]
    boot: dict[str, _Chains | None]
    others: dict[str, _Chains | None]
    own: str | None
    failed: list[tuple[str, str, str]]


def command(wanted: Iterable[Rule]) -> str:
    """The shell command whose output `process` reads; needs root."""
    request = {
        "own": files.RULES,
        "program": str(COPY),
        "wanted": tables.write(own(wanted)),
        "boot": files.BOOT,
    }
    # Packed: a program's argument is 128 KiB at most, and a large site's rules are more.
    return send.command(rules, base64.b64encode(gzip.compress(json.dumps(request).encode(), mtime=0)).decode())


def process(output: Iterable[str]) -> Firewall:
    """Read the output of `command`. Raises RulesetError, ValueError or KeyError for anything else."""
    found: _Found = answers.parsed(_Found, "".join(output))
    if "missing" in found:
        return Firewall(installed=False)
    if "error" in found:
        raise RulesetError(found["error"])
    recorded = tables.read(found["own"] or "")
    return Firewall(
        live=_tables(found["live"]),
        wanted=_tables(found["wanted"]),
        at_boot=_tables(found["boot"]),
        others=_tables(found["others"]),
        recorded=tables.alone(recorded),
        record=found["own"],
        failed=tuple(found["failed"]),
    )


def _tables(found: Mapping[str, _Chains | None]) -> Ruleset:
    """Tables as values. Raises RulesetError for one of ours that could not be read: unknown is never empty."""
    unread = [name for name, table in found.items() if table is None and name in TABLES]
    if unread:
        raise RulesetError(
            f"iptables can't show table {', '.join(unread)}: it holds native nftables rules. Look at them with "
            f"`nft list table ip {unread[0]}`, and put them into a table of their own"
        )
    return {name: _table(table) for name, table in found.items() if table is not None}


def _table(chains: _Chains) -> Table:
    return Table(
        {chain: policy for chain, (policy, _) in chains.items()},
        {chain: [*specs] for chain, (_, specs) in chains.items()},
    )


class Planned(list[Rule]):
    """The rules of the plan; short where pyinfra names the fact that it could not read."""

    def __repr__(self) -> str:
        return f"{len(self)} rules"


class Rules(FactBase[Firewall]):
    """The rules of a host, as `Firewall`."""

    def command(self, wanted: Planned) -> str:
        """+ wanted: the rules of the plan"""
        return command(wanted)

    @fact("the firewall")
    def process(self, output: list[str]) -> Firewall:
        return process(output)
