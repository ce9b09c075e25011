"""Bring the iptables rules of a host into their planned state, live and on disk."""

import base64
import hashlib
from collections.abc import Generator, Sequence
from dataclasses import replace

from pyinfra import host
from pyinfra.api import StringCommand, operation

from underlay import ruleset
from underlay.facts.firewall import PERSISTED, RECORD, SAVE, Firewall, Rules
from underlay.operations import write_file
from underlay.ruleset import Rule


def canonical(wanted: Sequence[Rule], form: ruleset.Ruleset) -> list[Rule]:
    """The wanted rules in the form in which the host's own iptables printed them, chain by chain in the same order."""
    printed = {(table, chain): iter(specs) for table, content in form.items() for chain, specs in content.rules.items()}
    return [replace(rule, spec=next(printed[rule.table, rule.chain])) for rule in wanted]


@operation()
def rules(wanted: list[Rule]) -> Generator[StringCommand, None, None]:
    """
    Exactly these rules of ours, in this order, in the live tables and in what is loaded at boot.

    + wanted: the rules, in the order of their chains (`nat.gateway_rules`)

    Rules and chains of others stay byte for byte and in place; ours from an earlier plan go (the record on the host
    tells which they are). Each table changes in one atomic commit. If the live rules changed since they were read,
    nothing is done and the operation fails.
    """
    found = host.get_fact(Rules, _stdin=ruleset.render(ruleset.from_rules(wanted)))
    if found is None:
        return
    if found.installed:
        wanted = canonical(wanted, found.wanted)
    script = change_script(wanted, found)
    if script is None:
        host.noop("the firewall is as planned")
        return
    yield StringCommand(script)


def change_script(wanted: Sequence[Rule], found: Firewall) -> str | None:
    """The script that brings a host from what was found to the wanted rules; None if nothing differs."""
    ours = ruleset.from_rules(wanted)
    live_edits = ruleset.edits(found.live, wanted, found.recorded)
    persisted_edits = ruleset.edits(found.persisted, wanted, found.recorded)
    record_differs = ruleset.render(found.recorded) != ruleset.render(ours)
    if not (live_edits or persisted_edits or record_differs):
        return None
    script = "set -e\n"
    if live_edits:
        digest = hashlib.sha256(found.live_text.encode()).hexdigest()
        if found.installed:
            script += (
                f'[ "$({SAVE} | sha256sum)" = "{digest}  -" ] || '
                "{ echo 'the live rules changed while they were compared: run the deploy again' >&2; exit 1; }\n"
            )
        encoded = base64.b64encode(ruleset.restore_script(live_edits).encode()).decode()
        script += f"echo {encoded} | base64 -d | iptables-restore --noflush --wait 5\n"
    # The record last: should the power go in between, what was not recorded is repaired as if made by hand.
    if persisted_edits:
        script += write_file(PERSISTED, ruleset.render(ruleset.apply(found.persisted, persisted_edits)), "640")
    if record_differs:
        script += write_file(RECORD, ruleset.render(ours))
    return script
