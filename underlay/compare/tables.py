"""iptables tables as values: what `iptables-save` prints, and the file of our own rules. Pure.

It goes to hosts, too: Python's own library is all that it needs.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

TABLES = ("raw", "filter", "nat")
"""The tables that the plan uses, in the order in which they are written."""
BUILTIN_CHAINS = {
    "raw": ("PREROUTING", "OUTPUT"),
    "mangle": ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"),
    "filter": ("INPUT", "FORWARD", "OUTPUT"),
    "nat": ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"),
    "security": ("INPUT", "FORWARD", "OUTPUT"),
}
NATIVE = "  # a native nftables rule: iptables prints a part of it"
"""Behind the text of a rule that is not what iptables prints of it."""
HEADER = """\
# Written by the repo's deploy: the plan's rules, and no others. At boot underlay-firewall.service puts them in place,
# each once: -I at the head of its chain, -A behind that. A rule with -D goes, should something else bring it back.
"""

_CHAIN = re.compile(r":(?P<name>\S+) (?P<policy>\S+)( \[\d+:\d+\])?")
_RULE = re.compile(r"(\[\d+:\d+\] )?-A (?P<chain>\S+) ?(?P<spec>.*)", re.DOTALL)
_QUOTE = re.compile(r'\\.|"')
_INCOMPATIBLE = re.compile(r"# Table .(?P<name>\w+)' is incompatible, .*")
_OWN = re.compile(r"-(?:(?P<head>I) (?P<top>\S+) \d+|(?P<action>[AD]) (?P<chain>\S+)) (?P<spec>.+)")


class RulesetError(Exception):
    """Text that is not what `iptables-save` prints, or a table that it can't print."""


@dataclass
class Table:
    """A table as `iptables-save` prints it: each chain's policy (`-` for a user's chain) and its rules in order.

    readable: False for one that holds what iptables can't print; nothing is known of it
    """

    policies: dict[str, str] = field(default_factory=dict)
    rules: dict[str, list[str]] = field(default_factory=dict)
    readable: bool = True

    def chain(self, name: str) -> list[str]:
        """The specs of a chain's rules, in order; empty if there is no such chain."""
        return self.rules.get(name, [])


Ruleset = dict[str, Table]


class Own(NamedTuple):
    """A rule of the plan.

    head: it belongs before the rules that others put into the chain, else behind them
    gone: it was one, and must not be there
    """

    table: str
    chain: str
    spec: str
    head: bool = False
    gone: bool = False


def parse(text: str) -> Ruleset:
    """Read `iptables-save` output (comments and counters are left out). Raises RulesetError with the line."""
    found: Ruleset = {}
    table: Table | None = None
    chain: list[str] = []
    for line in _lines(text):
        if table is None:
            if known := _INCOMPATIBLE.fullmatch(line):
                found[known["name"]] = Table(readable=False)
            elif line.startswith("*"):
                table, chain = found.setdefault(line[1:], Table()), []
            elif line and not line.startswith("#"):
                raise RulesetError(f"this is not what iptables-save prints: {line!r}")
        elif line == "COMMIT":
            table = None
        elif part := _CHAIN.fullmatch(line):
            table.policies[part["name"]] = part["policy"]
            table.rules.setdefault(part["name"], [])
        elif rule := _RULE.fullmatch(line):
            chain = table.rules.setdefault(rule["chain"], [])
            chain.append(rule["spec"])
        elif chain:
            chain[-1] += f"\n{line}"  # whatever an odd rule of others has in it, it is one rule
        elif line and not line.startswith("#"):
            raise RulesetError(f"this is not what iptables-save prints: {line!r}")
    if table is not None:
        raise RulesetError("the end is missing: a table has no COMMIT")
    return found


def _lines(text: str) -> Iterator[str]:
    """The lines of a text; a quoted word that goes over several of them is in one."""
    whole: list[str] = []
    quoted = False
    # Only \n ends a line: a comment may hold any of the others.
    for line in text.split("\n"):
        whole.append(line)
        if whole[0].startswith(("-A", "[")):
            quoted ^= _QUOTE.findall(line).count('"') % 2 == 1
        if not quoted:
            yield "\n".join(whole).strip()
            whole = []
    yield from map(str.strip, whole)


def render(ruleset: Mapping[str, Table]) -> str:
    """What `iptables-restore` loads: the same text as `iptables-save` without comments and counters."""
    lines = []
    for name, table in ruleset.items():
        lines.append(f"*{name}")
        lines += [f":{chain} {policy} [0:0]" for chain, policy in table.policies.items()]
        lines += [f"-A {chain} {spec}".rstrip() for chain, specs in table.rules.items() for spec in specs]
        lines.append("COMMIT")
    return "".join(f"{line}\n" for line in lines)


def alone(rules: Iterable[Own]) -> Ruleset:
    """Rules of ours as a ruleset of their own: every built-in chain of the plan's tables, policies ACCEPT."""
    found = {
        name: Table(dict.fromkeys(BUILTIN_CHAINS[name], "ACCEPT"), {chain: [] for chain in BUILTIN_CHAINS[name]})
        for name in TABLES
    }
    for rule in rules:
        table = found.setdefault(rule.table, Table())
        table.rules.setdefault(rule.chain, []).append(rule.spec)
    return found


def write(rules: Iterable[Own]) -> str:
    """The file of our own rules. `iptables-restore --noflush` takes it, too, where none of them is there yet."""
    by_table: dict[str, list[Own]] = {}
    for rule in rules:
        by_table.setdefault(rule.table, []).append(rule)
    text = HEADER
    for table, each in by_table.items():
        text += f"*{table}\n"
        heads: dict[str, int] = {}
        for _, chain, spec, head, gone in each:
            if gone:
                text += f"-D {chain} {spec}\n"
            elif head:
                heads[chain] = heads.get(chain, 0) + 1
                text += f"-I {chain} {heads[chain]} {spec}\n"
            else:
                text += f"-A {chain} {spec}\n"
        text += "COMMIT\n"
    return text


def read(text: str) -> list[Own]:
    """The rules of a file that `write` made; lines that it did not make are left out."""
    found = []
    table = ""
    for line in map(str.strip, text.split("\n")):
        if line.startswith("*"):
            table = line[1:]
        elif table in BUILTIN_CHAINS and (rule := _OWN.fullmatch(line)):
            chain = rule["top"] or rule["chain"]
            if chain in BUILTIN_CHAINS[table]:
                found.append(Own(table, chain, rule["spec"], head=bool(rule["head"]), gone=rule["action"] == "D"))
    return found


def words(spec: str) -> list[str]:
    """The words of a rule as `iptables-save` prints it: quoted with `"` only, and with backslashes within that."""
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|(\S+)', spec, re.DOTALL)
    return [plain or re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL) for quoted, plain in found]
