"""A rule of the plan as a value. Pure."""

import re
from dataclasses import dataclass

from netaddr import IPNetwork

_CIDR = re.compile(r"\d+(?:\.\d+){3}(?:/\d+)?")


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
