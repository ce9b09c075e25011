"""A chain as a list of rules: the edits that bring ours into order, or take a change back, and leave the rest. Pure.

It goes to hosts, too: Python's own library is all that it needs. A rule is its text, as this host's iptables prints it.
"""

from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from difflib import SequenceMatcher
from typing import NamedTuple


class Step(NamedTuple):
    """Delete the rule at a position (counted from 1, when the steps before it are done), or insert one there."""

    position: int
    spec: str
    insert: bool


def ordered(live: Sequence[str], wanted: Sequence[tuple[str, bool]], mine: Collection[str]) -> Iterator[Step]:
    """The fewest steps that bring our rules into the wanted order and leave everybody else's as and where they are.

    wanted: our rules, none twice, and whether each belongs to the head of the chain; those of the head come first
    mine: rules that are ours to delete where they are not wanted
    """
    place = {spec: index for index, (spec, _) in enumerate(wanted)}
    # Of equal rules the first one works, and those behind it never see a packet.
    keep = _longest_increasing([(place[spec], live.index(spec)) for spec in dict.fromkeys(live) if spec in place])
    for index in reversed(range(len(live))):
        if index not in keep and (live[index] in place or live[index] in mine):
            yield Step(index + 1, live[index], insert=False)
    rest = [spec for index, spec in enumerate(live) if index in keep or not (spec in place or spec in mine)]
    # Walk the wanted rules with a cursor: an absent one goes right behind its predecessor. The first of the head goes
    # on top, the first of the tail before the next one of the tail that is there, or to the end.
    present = {spec: index for index, spec in enumerate(rest) if spec in place}
    cursor, shift = 0, 0
    for index, (spec, head) in enumerate(wanted):
        if not head and (index == 0 or wanted[index - 1][1]):
            following = (present[later] for later, _ in wanted[index:] if later in present)
            cursor = next(following, len(rest)) + shift
        if spec in present:
            cursor = present[spec] + shift + 1
            continue
        if head and cursor == 0:
            following = (present[later] for later, in_head in wanted[index:] if in_head and later in present)
            cursor = next(following, 0) + shift
        cursor += 1
        shift += 1
        yield Step(cursor, spec, insert=True)


def touched(before: Sequence[str], after: Sequence[str], ours: Collection[str]) -> set[str]:
    """The rules that a change inserted, deleted or moved, as far as that can be told: first of all those of `ours`."""
    if before == after:
        return set()
    found = set(ours)
    one, other = ([spec for spec in each if spec not in ours] for each in (before, after))
    for tag, start, end, begin, stop in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if tag != "equal":
            found |= {*one[start:end], *other[begin:stop]}
    return found


def undone(live: Sequence[str], before: Sequence[str], changed: Collection[str]) -> list[str]:
    """A chain without the change of some rules, which was `before` it; what others did to it since stays.

    Each of these rules that was there before stands again behind the one that it stood behind. Once more makes no
    difference.
    """
    found = [spec for spec in live if spec not in changed]
    anchors = [spec for spec in before if spec not in changed]
    at: dict[int, int] = {}
    for one, other, size in SequenceMatcher(None, anchors, found, autojunk=False).get_matching_blocks():
        at |= {one + step: other + step for step in range(size)}
    place, passed, inserted = min(at.values(), default=0), 0, 0
    for spec in before:
        if spec in changed:
            found.insert(place + inserted, spec)
            inserted += 1
        else:
            place = at[passed] + 1 if passed in at else place
            passed += 1
    return found


def steps(live: Sequence[str], wanted: Sequence[str], changed: Collection[str]) -> Iterator[Step]:
    """The steps from one list to another one that differs in the rules `changed` alone: no other one is touched."""
    old, new = _gaps(live, changed), _gaps(wanted, changed)
    inserts: list[Step] = []
    deletes: list[Step] = []
    for (start, gone), (begin, come) in zip(old, new, strict=True):
        for tag, one, end, other, stop in SequenceMatcher(None, gone, come, autojunk=False).get_opcodes():
            if tag != "equal":
                deletes += (Step(start + index + 1, gone[index], insert=False) for index in range(one, end))
                inserts += (Step(begin + index + 1, come[index], insert=True) for index in range(other, stop))
    return iter([*reversed(deletes), *inserts])


def _gaps(chain: Sequence[str], changed: Collection[str]) -> list[tuple[int, list[str]]]:
    """What of some rules stands before, between and behind the others: the place where it begins, and the rules."""
    found: list[tuple[int, list[str]]] = [(0, [])]
    for index, spec in enumerate(chain):
        if spec in changed:
            found[-1][1].append(spec)
        else:
            found.append((index + 1, []))
    return found


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
