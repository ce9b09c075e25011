"""The iptables rules of a host beside those of the plan: the edits from one state to another, what differs. Pure.

Rules are compared as text in the kernel's own form. Who compares must canonicalise wanted rules on the host first
(`facts.firewall` does): only its iptables knows how it prints them.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from underlay.compare.difference import Difference, Kind
from underlay.desired.ruleset import BUILTIN_CHAINS, TABLES, Rule, Ruleset, Table


def canonical(wanted: Sequence[Rule], form: Ruleset) -> list[Rule]:
    """The wanted rules in the form in which the host's own iptables printed them, chain by chain in the same order."""
    printed = {(table, chain): iter(specs) for table, content in form.items() for chain, specs in content.rules.items()}
    return [replace(rule, spec=next(printed[rule.table, rule.chain])) for rule in wanted]


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
    def rule(self) -> Rule:
        """The rule that it deletes or inserts."""
        return Rule(self.table, self.chain, self.spec)

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


def differences(
    present: Mapping[str, Table], wanted: Sequence[Rule], ours: Mapping[str, Table], *, at_boot: bool
) -> Iterator[Difference]:
    """What differs between rules that are there and the wanted ones; the arguments are those of `edits`."""
    steps = edits(present, wanted, ours)
    planned = {rule.place: rule for rule in wanted}
    inserted = {step.rule.place for step in steps if step.insert}
    deleted = {step.rule.place for step in steps if not step.insert}
    for step in steps:
        place = step.rule.place
        if not step.insert and place in inserted:
            continue  # told where it is inserted again
        kind: Kind = "extra" if not step.insert else "order" if place in deleted else "missing"
        yield Difference(kind, planned.get(place, step.rule), at_boot=at_boot)


def unmanaged(live: Mapping[str, Table], wanted: Iterable[Rule], ours: Mapping[str, Table]) -> Iterator[Difference]:
    """The live rules that are in no plan and were in none; the arguments are those of `edits`."""
    planned = {rule.place for rule in wanted}
    for table in TABLES:
        for chain in BUILTIN_CHAINS[table]:
            old = ours[table].chain(chain) if table in ours else []
            for spec in live[table].chain(chain) if table in live else []:
                rule = Rule(table, chain, spec)
                if rule.place not in planned and spec not in old:
                    yield Difference("unmanaged", rule)
