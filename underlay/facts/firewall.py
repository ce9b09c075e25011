"""The iptables rules of a host: live, persisted, recorded as ours, and the wanted ones in this host's own form."""

from collections.abc import Iterable
from dataclasses import dataclass

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from underlay.desired.ruleset import Ruleset, RulesetError, parse
from underlay.facts import good, script

PERSISTED = "/etc/iptables/rules.v4"
RECORD = "/var/lib/underlay/rules.v4"
"""What the last deploy applied: so a later one knows which rules are ours."""
SAVE = "saved=$(iptables-save) && printf '%s\\n' \"$saved\" | sed -e '/^#/d' -e 's/\\[[0-9]*:[0-9]*\\]/[0:0]/'"
"""The live rules without what changes by itself: comments and counters. Not a plain pipe: a failure must be seen."""


@dataclass(frozen=True)
class Firewall:
    """installed: False where there is no iptables yet: nothing else is known then, and the host has no rules."""

    installed: bool
    live: Ruleset
    live_text: str
    wanted: Ruleset
    persisted: Ruleset
    recorded: Ruleset


def command() -> str:
    """The shell command whose output `process` reads; it takes the wanted rules on stdin and needs root."""
    sections = {
        "live": SAVE,
        # The kernel's form of the wanted rules differs between versions of iptables: a throw-away network namespace on
        # the same host gives it.
        "wanted": "unshare --net sh -c 'iptables-restore && iptables-save'",
        "persisted": f"cat {PERSISTED} 2>/dev/null || true",
        "record": f"cat {RECORD} 2>/dev/null || true",
    }
    there = "command -v iptables-save >/dev/null"
    return f"if {there}; then\n{script(sections)}\nelse\n{script({'missing': ':'})}\nfi"


def process(output: Iterable[str]) -> Firewall:
    """Read the output of `command`. Raises RulesetError, ValueError or KeyError for anything else."""
    found = good(output)
    if "missing" in found:
        return Firewall(False, {}, "", {}, {}, {})
    texts = {name: "".join(f"{line}\n" for line in lines) for name, lines in found.items()}
    return Firewall(
        installed=True,
        live=parse(texts["live"]),
        live_text=texts["live"],
        wanted=parse(texts["wanted"]),
        persisted=parse(texts["persisted"]),
        recorded=parse(texts["record"]),
    )


class Rules(FactBase[Firewall]):
    """The rules of a host, as `Firewall`. Give the wanted rules (`ruleset.render`) as `_stdin`."""

    def command(self) -> str:
        return command()

    def process(self, output: list[str]) -> Firewall:
        try:
            return process(output)
        except (RulesetError, ValueError, KeyError) as error:
            raise FactProcessError(f"can't read the firewall of this host: {error}") from error
