"""The iptables tables without a change: its own rules go, those that it took away come back, all others stay.

Nothing is written that the change did not touch: `iptables-save` prints some native nftables rules as half of what they
are, and such a text loaded again can be a DROP for everybody.
"""

from collections.abc import Iterable, Mapping

from underlay.compare.chains import steps, touched, undone
from underlay.compare.tables import BUILTIN_CHAINS, read
from underlay.remote.guard.programs import Command, Refused
from underlay.remote.rules.kernel import ADD, Chain, Tables
from underlay.remote.rules.place import commands, commit, unreadable

Ours = Mapping[str, Mapping[str, list[str]]]
"""Table → chain → the rules that a change is known to edit."""
Change = tuple[Tables, Tables, Ours, Ours]
"""The tables before a change and after it, its own rules, and the native ones of others that no text can bring back."""
NOTHING: Chain = ["ACCEPT", []]


def ours(text: str) -> dict[str, dict[str, list[str]]]:
    """The rules of a change, see `underlay.compare.tables.write`, by table and chain."""
    found: dict[str, dict[str, list[str]]] = {}
    for rule in read(text):
        found.setdefault(rule.table, {}).setdefault(rule.chain, []).append(rule.spec)
    return found


def with_edits(before: Tables, own: Ours) -> Tables:
    """The tables after edits of these rules and of nothing else, whichever of them were made."""
    found = dict(before)
    for name, chains in own.items():
        old = before.get(name, {})
        if old is not None:
            rules = {chain: old.get(chain, NOTHING) for chain in chains}
            found[name] = old | {
                chain: [policy, [*(spec for spec in there if spec not in chains[chain]), *chains[chain]]]
                for chain, (policy, there) in rules.items()
            }
    return found


def plan_tables(live: Tables, changes: Iterable[Change], _: set[str]) -> list[Command]:
    """What takes changes back, the latest one first: one commit for each table."""
    wanted, mine = live, dict[tuple[str, str], set[str]]()
    for change in changes:
        wanted = reverted(wanted, change, mine)
    found: list[Command] = []
    for name in wanted:
        lines = table_lines(name, live.get(name) or {}, wanted[name] or {}, mine)
        if lines:
            found.append((ADD, commit(name, lines)))
    gone = [name for name in live if name not in wanted]
    # Without a rule and with all policies ACCEPT: a flush takes nothing away but the table.
    return found + [(["iptables-restore", "--wait", "5"], commit(name, [])) for name in gone]


def reverted(live: Tables, change: Change, edited: dict[tuple[str, str], set[str]]) -> Tables:
    """The tables without a change; adds the rules that this touches. Refused if one can't be read any more."""
    before, after, own, native = change
    wanted = dict(live)
    for name in {**before, **after}:
        old, new = before.get(name, {}), after.get(name, {})
        if old is None or new is None or old == new:
            continue
        there = live.get(name, {})
        if there is None:
            raise Refused(unreadable([name]))
        result = dict(there)
        for chain in {**old, **new}:
            if old.get(chain) != new.get(chain):
                one = _without(chain in BUILTIN_CHAINS[name], there.get(chain), old.get(chain), new.get(chain))
                known = own.get(name, {}).get(chain, [])
                mine = touched((old.get(chain) or NOTHING)[1], (new.get(chain) or NOTHING)[1], known)
                mine -= set(native.get(name, {}).get(chain, []))
                edited.setdefault((name, chain), set()).update(mine)
                if one is None:
                    result.pop(chain, None)
                else:
                    result[chain] = [one[0], undone(one[1], (old.get(chain) or NOTHING)[1], mine)]
        if name not in before and all(each == NOTHING for each in result.values()):
            wanted.pop(name, None)
        else:
            wanted[name] = result
    return wanted


def _without(builtin: bool, there: Chain | None, old: Chain | None, new: Chain | None) -> Chain | None:
    """A chain with the policy that it must have, and the rules that it has; None if it goes."""
    if builtin:
        there, old, new = there or NOTHING, old or NOTHING, new or NOTHING
    if there is None:
        return old and [old[0], []]
    if old is None and new is not None:
        # Made by the change; one in which others have put rules since stays.
        return there if set(there[1]) - set(new[1]) else None
    return [old[0] if old and new and old[0] != new[0] else there[0], there[1]]


def lost(live: Tables, before: Tables, native: Ours) -> list[str]:
    """The native rules of others that were there before a change and are not any more, in words."""
    found: list[str] = []
    for name, chains in native.items():
        for chain, specs in chains.items():
            there = ((live.get(name) or {}).get(chain) or NOTHING)[1]
            then = ((before.get(name) or {}).get(chain) or NOTHING)[1]
            gone = [spec for spec in dict.fromkeys(specs) if there.count(spec) < then.count(spec)]
            found += (
                f"table {name}, chain {chain}: a native nftables rule is gone, printed as {spec}" for spec in gone
            )
    return found


def table_lines(
    name: str, live: Mapping[str, Chain], wanted: Mapping[str, Chain], edited: Mapping[tuple[str, str], set[str]]
) -> list[str]:
    """The lines of an `iptables-restore --noflush` file that make one table of another."""
    lines = []
    for chain, (policy, _) in wanted.items():
        if chain not in live and chain not in BUILTIN_CHAINS[name]:
            lines.append(f":{chain} - [0:0]")
        elif live.get(chain, NOTHING)[0] != policy:
            lines.append(f":{chain} {policy} [0:0]")
    for chain, (_, rules) in wanted.items():
        present = live.get(chain, NOTHING)[1]
        if present != rules:
            lines += commands(chain, present, steps(present, rules, edited[name, chain]))
    gone = [chain for chain in live if chain not in wanted]
    return [*lines, *(f"-F {chain}" for chain in gone), *(f"-X {chain}" for chain in gone)]
