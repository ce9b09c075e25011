"""iptables rules as values: parse what `iptables-save` prints, and print it. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from netaddr import IPNetwork

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
_CIDR = re.compile(r"\d+(?:\.\d+){3}(?:/\d+)?")
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

    def __str__(self) -> str:
        return f"-t {self.table} -A {self.chain} {self.spec}"

    @property
    def place(self) -> tuple[str, str, str]:
        """Table, chain and spec: what makes it this rule, whoever it is from."""
        return self.table, self.chain, self.spec

    @property
    def networks(self) -> list[IPNetwork]:
        """The addresses and networks that its spec names."""
        return [IPNetwork(word) for word in _CIDR.findall(self.spec)]


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
