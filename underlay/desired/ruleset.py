"""iptables rules as values: parse what `iptables-save` prints, compare, and the edits from one state to another. Pure.

Rules are compared as text in the kernel's own form. Who compares must canonicalise wanted rules on the host first
(`facts.firewall` does): only its iptables knows how it prints them.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

TABLES = ("raw", "filter", "nat")
"""The tables that the plan uses, in the order in which they are written."""

BUILTIN_CHAINS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}


_CHAIN = re.compile(r":(?P<name>\S+) (?P<policy>\S+)( \[\d+:\d+\])?")
_RULE = re.compile(r"(\[\d+:\d+\] )?-A (?P<chain>\S+) ?(?P<spec>.*)", re.DOTALL)


class RulesetError(Exception):
    """Text that is not what `iptables-save` prints."""


@dataclass(frozen=True)
class Rule:
    """One wanted rule.

    spec: the rule without its `-A CHAIN`, e.g. `-s 100.64.0.0/21 -j ACCEPT`
    head: whether it belongs before the rules that others put into the chain, or after them
    origin: the line of the plan that it comes from, for people
    """

    table: str
    chain: str
    spec: str
    head: bool = False
    origin: str = ""


@dataclass
class Table:
    """A table as `iptables-save` prints it: each chain's policy (`-` for a user's chain) and its rules in order."""

    policies: dict[str, str] = field(default_factory=dict)
    rules: dict[str, list[str]] = field(default_factory=dict)

    def chain(self, name: str) -> list[str]:
        """The specs of a chain's rules, in order; empty if there is no such chain."""
        return self.rules.get(name, [])


Ruleset = dict[str, Table]


def parse(text: str) -> Ruleset:
    """Read `iptables-save` output (comments and counters are left out). Raises RulesetError with the line."""
    found: Ruleset = {}
    table: Table | None = None
    # Only \n ends a line: a comment may hold any of the others.
    for number, line in enumerate(map(str.strip, text.split("\n")), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("*") and table is None:
            table = found.setdefault(line[1:], Table())
        elif line == "COMMIT" and table is not None:
            table = None
        elif table is not None and (chain := _CHAIN.fullmatch(line)):
            table.policies[chain["name"]] = chain["policy"]
            table.rules.setdefault(chain["name"], [])
        elif table is not None and (rule := _RULE.fullmatch(line)):
            table.rules.setdefault(rule["chain"], []).append(rule["spec"])
        else:
            raise RulesetError(f"line {number} is not what iptables-save prints: {line!r}")
    if table is not None:
        raise RulesetError("the end is missing: a table has no COMMIT")
    return found


def render(ruleset: Mapping[str, Table]) -> str:
    """What `iptables-restore` loads: the same text as `iptables-save` without comments and counters."""
    lines = []
    for name, table in ruleset.items():
        lines.append(f"*{name}")
        lines += [f":{chain} {policy} [0:0]" for chain, policy in table.policies.items()]
        lines += [f"-A {chain} {spec}".rstrip() for chain, specs in table.rules.items() for spec in specs]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def from_rules(rules: Iterable[Rule]) -> Ruleset:
    """The wanted rules as a ruleset of their own: every table and built-in chain, policies ACCEPT."""
    found = {
        name: Table(dict.fromkeys(BUILTIN_CHAINS[name], "ACCEPT"), {chain: [] for chain in BUILTIN_CHAINS[name]})
        for name in TABLES
    }
    for rule in rules:
        found[rule.table].rules[rule.chain].append(rule.spec)
    return found


@dataclass(frozen=True)
class Edit:
    """One step of an atomic change of a table: delete the rule at a position (counted from 1), or insert one there."""

    table: str
    chain: str
    position: int
    spec: str
    insert: bool

    def __str__(self) -> str:
        sign = "+" if self.insert else "-"
        return f"{sign} {self.table} {self.chain} {self.position}: {self.spec}"

    @property
    def command(self) -> str:
        """The line of an `iptables-restore --noflush` file."""
        if self.insert:
            return f"-I {self.chain} {self.position} {self.spec}"
        return f"-D {self.chain} {self.position}"


def edits(live: Mapping[str, Table], wanted: Iterable[Rule], ours: Mapping[str, Table]) -> list[Edit]:
    """The fewest edits that bring our rules into the wanted order and leave everybody else's as and where they are.

    live: what is there
    wanted: our rules, in the kernel's form, none twice; within a chain those with `head` come first
    ours: what we applied last time (the record): such a rule is ours to delete when it is no longer wanted
    """
    by_chain: dict[tuple[str, str], list[Rule]] = {}
    for name in (*TABLES, *(name for name in ours if name not in TABLES)):
        for chain in (*BUILTIN_CHAINS[name],):
            by_chain[name, chain] = []
    for rule in wanted:
        by_chain[rule.table, rule.chain].append(rule)
    found: list[Edit] = []
    for (table, chain), rules in by_chain.items():
        recorded = ours[table].chain(chain) if table in ours else []
        found += _chain_edits(table, chain, live[table].chain(chain) if table in live else [], rules, recorded)
    return found


def _chain_edits(table: str, chain: str, live: list[str], wanted: list[Rule], recorded: list[str]) -> Iterator[Edit]:
    place = {rule.spec: index for index, rule in enumerate(wanted)}
    keep = _longest_increasing([(place[spec], index) for index, spec in enumerate(live) if spec in place])
    mine = set(place) | set(recorded)
    # The same translation to another address is ours, changed by hand: before ours it would win.
    translated = {_without_address(spec) for spec in place} - {""}
    mine |= {spec for spec in live if _without_address(spec) in translated}
    for index in reversed(range(len(live))):
        if index not in keep and live[index] in mine:
            yield Edit(table, chain, index + 1, live[index], insert=False)
    rest = [spec for index, spec in enumerate(live) if index in keep or spec not in mine]
    # Walk the wanted rules with a cursor: an absent one goes right behind its predecessor. The first of the head goes
    # on top, the first of the tail before the next one of the tail that is there, or to the end.
    present = {spec: index for index, spec in enumerate(rest) if spec in place}
    cursor, shift = 0, 0
    for index, rule in enumerate(wanted):
        if not rule.head and (index == 0 or wanted[index - 1].head):
            following = (present[later.spec] for later in wanted[index:] if later.spec in present)
            cursor = next(following, len(rest)) + shift
        if rule.spec in present:
            cursor = present[rule.spec] + shift + 1
            continue
        if rule.head and cursor == 0:
            following = (present[later.spec] for later in wanted[index:] if later.head and later.spec in present)
            cursor = next(following, 0) + shift
        cursor += 1
        shift += 1
        yield Edit(table, chain, cursor, rule.spec, insert=True)


def _without_address(spec: str) -> str:
    """A rule that translates, without the address that it translates to; empty for other rules."""
    match, option, _ = spec.partition(" --to-")
    return match if option else ""


def _longest_increasing(pairs: list[tuple[int, int]]) -> set[int]:
    """Of (wanted place, live index) in live order: the live indexes of a longest run whose places increase."""
    tails: list[int] = []
    ends: list[int] = []
    before: list[int | None] = []
    for number, (position, _) in enumerate(pairs):
        at = bisect_left(tails, position)
        tails[at:] = [position, *tails[at + 1 :]]
        ends[at:] = [number, *ends[at + 1 :]]
        before.append(ends[at - 1] if at else None)
    found = set()
    number_or_none = ends[-1] if ends else None
    while number_or_none is not None:
        found.add(pairs[number_or_none][1])
        number_or_none = before[number_or_none]
    return found


def apply(live: Mapping[str, Table], changes: Iterable[Edit]) -> Ruleset:
    """The ruleset after the edits, as the kernel would have it."""
    found = {
        name: Table(dict(table.policies), {c: list(r) for c, r in table.rules.items()}) for name, table in live.items()
    }
    for edit in changes:
        table = found.setdefault(edit.table, Table())
        for chain in BUILTIN_CHAINS[edit.table]:
            table.policies.setdefault(chain, "ACCEPT")
            table.rules.setdefault(chain, [])
        if edit.insert:
            table.rules[edit.chain].insert(edit.position - 1, edit.spec)
        else:
            del table.rules[edit.chain][edit.position - 1]
    return found


def restore_script(changes: Iterable[Edit]) -> str:
    """The edits as an `iptables-restore --noflush` file: each table is one atomic commit."""
    by_table: dict[str, list[str]] = {}
    for edit in changes:
        by_table.setdefault(edit.table, []).append(edit.command)
    return "".join(
        f"*{table}\n" + "".join(f"{line}\n" for line in lines) + "COMMIT\n" for table, lines in by_table.items()
    )
