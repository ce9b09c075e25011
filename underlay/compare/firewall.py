"""The iptables rules of a host beside those of the plan: the edits from one state to another, what differs. Pure.

Rules are compared as text in the kernel's own form. Who compares must canonicalise wanted rules on the host first
(`facts.firewall` does): only its iptables knows how it prints them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from underlay.compare.chains import ordered
from underlay.compare.difference import Difference, Kind
from underlay.compare.tables import BUILTIN_CHAINS, TABLES, Own, Ruleset, Table, write
from underlay.desired.ruleset import Rule


def own(rules: Iterable[Rule]) -> list[Own]:
    """The rules of the plan as they go to a host."""
    return [Own(rule.table, rule.chain, rule.spec, rule.head) for rule in rules]


def canonical(wanted: Sequence[Rule], form: Ruleset) -> list[Rule]:
    """The wanted rules in the form in which the host's own iptables printed them, chain by chain in the same order."""
    printed = {(table, chain): iter(specs) for table, content in form.items() for chain, specs in content.rules.items()}
    return [replace(rule, spec=next(printed[rule.table, rule.chain])) for rule in wanted]


@dataclass(frozen=True)
class Edit:
    """One step of a change of a table: delete the rule at a position (counted from 1), or insert one there."""

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


def edits(live: Mapping[str, Table], wanted: Iterable[Rule], ours: Mapping[str, Table]) -> list[Edit]:
    """The fewest edits that bring our rules into the wanted order and leave everybody else's as and where they are.

    live: what is there
    wanted: our rules, in the kernel's form, none twice; within a chain those with `head` come first
    ours: what we applied last time (the record): such a rule is ours to delete when it is no longer wanted
    """
    by_chain: dict[tuple[str, str], list[Rule]] = {}
    for name in (*TABLES, *(name for name in ours if name not in TABLES)):
        for chain in BUILTIN_CHAINS[name]:
            by_chain[name, chain] = []
    for rule in wanted:
        by_chain[rule.table, rule.chain].append(rule)
    found: list[Edit] = []
    for (table, chain), rules in by_chain.items():
        there = live[table].chain(chain) if table in live else []
        recorded = ours[table].chain(chain) if table in ours else []
        mine = {*recorded, *_changed_by_hand(there, rules, recorded)}
        steps = ordered(there, [(rule.spec, rule.head) for rule in rules], mine)
        found += [Edit(table, chain, *step) for step in steps]
    return found


def _changed_by_hand(live: Sequence[str], wanted: Sequence[Rule], recorded: Sequence[str]) -> Iterator[str]:
    """The same translation to another address, in the place of one of ours that we once made and that is gone."""
    lost = {_without_address(rule.spec) for rule in wanted if rule.spec in recorded and rule.spec not in live} - {""}
    return (spec for spec in live if _without_address(spec) in lost)


def _without_address(spec: str) -> str:
    """A rule that translates, without the address that it translates to; empty for other rules."""
    match, option, _ = spec.partition(" --to-")
    return match if option else ""


def record(
    wanted: Sequence[Rule], recorded: Mapping[str, Table], others: Mapping[str, Table], found: Iterable[Edit]
) -> str:
    """The file of our own rules: those of the plan, and the withdrawn ones that others bring back at a boot.

    others: what a boot makes before ours are put in place
    found: the edits of what is live
    """
    back = (each for each in gone(found, wanted, recorded) if each.table in others)
    return write([*own(wanted), *(each for each in back if each.spec in others[each.table].chain(each.chain))])


def gone(found: Iterable[Edit], wanted: Iterable[Rule], recorded: Mapping[str, Table]) -> list[Own]:
    """What must not be there: what edits delete, and what we once made; none of it is wanted."""
    stay = {rule.place for rule in wanted}
    places = [
        (table, chain, spec)
        for table, content in recorded.items()
        for chain, specs in content.rules.items()
        for spec in specs
    ]
    places += [edit.rule.place for edit in found if not edit.insert]
    return [Own(*place, gone=True) for place in dict.fromkeys(places) if place not in stay]


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
