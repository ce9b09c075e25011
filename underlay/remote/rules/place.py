"""Our rules, put in place beside those of others."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from underlay.compare.chains import Step, ordered
from underlay.compare.tables import Own, Ruleset, alone, read, write
from underlay.remote.guard.programs import Refused, run
from underlay.remote.rules.kernel import ADD, ATTEMPTS, Form, Signature, loaded, look, marked


def unreadable(names: Iterable[str]) -> str:
    """What is wrong with tables that iptables can't show."""
    which = ", ".join(names)
    return f"iptables can't show table {which}: it holds native nftables rules (nft list table ip {which})"


def canonical(rules: Sequence[Own]) -> tuple[list[Own], dict[Form, Signature]]:
    """Rules of ours as this host's iptables prints them, in the same order, and what the kernel makes of them."""
    printed = loaded(alone(rules))
    specs: dict[tuple[str, str], list[str]] = {}
    for (table, chain, spec), _ in printed:
        specs.setdefault((table, chain), []).append(spec)
    following = {place: iter(each) for place, each in specs.items()}
    return [rule._replace(spec=next(following[rule.table, rule.chain])) for rule in rules], dict(printed)


def put(rules: Sequence[Own]) -> None:
    """Bring the live rules to what ours must be. Refused for what can't be; all else is done then.

    It looks again afterwards: others may change the same chains in the same moment.
    """
    try:
        wanted, ours = canonical(rules)
    except Refused:
        # What a damaged file has is no rule, and so it is nowhere.
        left = [rule for rule in rules if not rule.gone or _loads(rule)]
        if len(left) == len(rules):
            raise
        wanted, ours = canonical(left)
    problem = ""
    for _ in range(ATTEMPTS):
        tables, signatures = look()
        blind = sorted({rule.table for rule in wanted if rule.table in tables and not tables[rule.table].readable})
        script = _script(wanted, marked(tables, signatures, ours), tables, blind)
        if not script:
            if blind:
                raise Refused(unreadable(blind))
            return
        try:
            run(ADD, script)
        except Refused as error:
            problem = str(error)
    raise Refused(problem or "others change the same chains all the time")


def put_all(rules: Sequence[Own]) -> None:
    """Like `put`; of rules that a damaged file has, those that iptables takes are put in place before it is refused."""
    try:
        put(rules)
    except Refused:
        good = [rule for rule in rules if _loads(rule)]
        if good != rules:
            put(good)
        raise


def _loads(rule: Own) -> bool:
    try:
        return bool(loaded(alone([rule])))
    except Refused:
        return False


def put_file(path: str) -> dict[str, Any]:
    """Put the rules of a file in place. Refused if it is not what a deploy wrote; what rules it has are live then."""
    text = Path(path).read_text()
    rules = read(text)
    put_all(rules)
    if text != write(rules):
        raise Refused(f"{path} was changed by hand, or is cut off: deploy the gateway again")
    return {"state": "in place"}


def _script(wanted: Sequence[Own], tables: Ruleset, printed: Ruleset, blind: Sequence[str]) -> str:
    chains: dict[str, dict[str, tuple[list[tuple[str, bool]], set[str]]]] = {}
    for rule in wanted:
        if rule.table not in blind:
            stay, gone = chains.setdefault(rule.table, {}).setdefault(rule.chain, ([], set()))
            if rule.gone:
                gone.add(rule.spec)
            else:
                stay.append((rule.spec, rule.head))
    script = ""
    for table, by_chain in chains.items():
        lines = []
        for chain, (stay, gone) in by_chain.items():
            live = tables[table].chain(chain) if table in tables else []
            lines += commands(
                chain,
                printed[table].chain(chain) if table in printed else [],
                ordered(live, sorted(stay, key=lambda rule: not rule[1]), gone),
            )
        script += commit(table, lines) if lines else ""
    return script


def commit(table: str, lines: Iterable[str]) -> str:
    """What `iptables-restore` does to a table at once."""
    return f"*{table}\n" + "".join(f"{line}\n" for line in lines) + "COMMIT\n"


def commands(chain: str, printed: Sequence[str], steps: Iterable[Step]) -> list[str]:
    """The lines of an `iptables-restore --noflush` file for the steps of a chain, which is printed so."""
    lines = []
    for position, spec, insert in steps:
        if insert:
            lines.append(f"-I {chain} {position} {spec}")
        elif printed.count(spec) == 1 and spec.isprintable():
            # By its text: a position may be another rule's by now.
            lines.append(f"-D {chain} {spec}")
        else:
            lines.append(f"-D {chain} {position}")
    return lines
