"""Our rules, put in place beside those of others."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from underlay.compare.chains import Step, ordered
from underlay.compare.tables import Own, Ruleset, alone, read, render, write
from underlay.remote.guard.programs import Refused, run
from underlay.remote.rules.kernel import ATTEMPTS, Form, Signature, apart, look, marked


def unreadable(names: Iterable[str]) -> str:
    """What is wrong with tables that iptables can't show."""
    which = ", ".join(names)
    return f"iptables can't show table {which}: it holds native nftables rules (nft list table ip {which})"


def forms(rules: Sequence[Own]) -> tuple[list[Own], dict[Form, Signature]]:
    """Rules of ours as this host's iptables prints them, in the same order, and what the kernel makes of them."""

    def load() -> Any:
        run(["iptables-restore", "--wait", "5"], render(alone(rules)))
        tables, signatures = look()
        return [
            [table, chain, specs, [sorted((name, data.hex()) for name, data in each) for each in there]]
            for table, content in tables.items()
            for chain, specs in content.rules.items()
            for there in [signatures.get((table, chain), [])]
        ]

    printed: dict[tuple[str, str], list[str]] = {}
    found: dict[Form, Signature] = {}
    for table, chain, specs, signatures in apart(load):
        printed[table, chain] = specs
        for spec, each in zip(specs, signatures, strict=False):
            found[table, chain, spec] = frozenset((name, bytes.fromhex(data)) for name, data in each)
    following = {place: iter(specs) for place, specs in printed.items()}
    canonical = [rule._replace(spec=next(following[rule.table, rule.chain])) for rule in rules]
    return canonical, found


def put(rules: Sequence[Own]) -> None:
    """Bring the live rules to what ours must be. Refused for what can't be; all else is done then.

    It looks again afterwards: others may change the same chains in the same moment.
    """
    wanted, ours = forms(rules)
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
            run(["iptables-restore", "--noflush", "--wait", "5"], script)
        except Refused as error:
            problem = str(error)
    raise Refused(problem or "others change the same chains all the time")


def put_file(path: str) -> dict[str, Any]:
    """Put the rules of a file in place. Refused if it is not what a deploy wrote; what rules it has are live then."""
    text = Path(path).read_text()
    rules = read(text)
    put(rules)
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
        if lines:
            script += f"*{table}\n" + "".join(f"{line}\n" for line in lines) + "COMMIT\n"
    return script


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
