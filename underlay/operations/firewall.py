"""Bring the iptables rules of a host into their planned state, live and at boot."""

import json
import shlex
from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FunctionCommand, operation

from underlay.compare import firewall, tables
from underlay.compare.firewall import Edit, canonical
from underlay.desired import nat
from underlay.desired.files import RULES
from underlay.desired.ruleset import Rule
from underlay.facts.firewall import Firewall, Planned, Rules
from underlay.guard.change import Change, NewFile
from underlay.operations import guarded, tell
from underlay.remote import conntrack, send
from underlay.remote.guard.paths import COPY


@operation()
def rules(wanted: list[Rule]) -> Generator[FunctionCommand, None, None]:
    """
    Exactly these rules of ours, in this order, live and in the file of ours that is put in place at boot.

    + wanted: the rules, in the order of their chains (`nat.gateway_rules`)

    Rules and chains of others stay as they are and in place, also those that change meanwhile; ours from an earlier
    plan go (the record on the host tells which they are).
    """
    found = host.get_fact(Rules, wanted=Planned(wanted))
    if found is None:
        return
    change = firewall_change(canonical(wanted, found.wanted) if found.installed else wanted, found)
    if change is None:
        host.noop("the firewall is as planned")
        return
    tell(change.what)
    yield guarded(change)


def firewall_change(wanted: Sequence[Rule], found: Firewall) -> Change | None:
    """What brings a host from what was found to the wanted rules; None if nothing differs."""
    live = firewall.edits(found.live, wanted, found.recorded)
    at_boot = firewall.edits(found.at_boot, wanted, found.recorded)
    record = firewall.record(wanted, found.recorded, found.others, live)
    # Every change leaves the guard's program on the host, which is what puts the rules in place at boot.
    gone = [why for _, file, why in found.failed if file == str(COPY)]
    if not live and record == found.record and not gone:
        return None
    what = [f"live: {edit}" for edit in live] + [f"at boot: {edit}" for edit in at_boot] + gone
    return Change(
        what=(*what, "the record of our rules on the host is out of date") if record != found.record else tuple(what),
        rules=tables.write([*firewall.own(wanted), *firewall.gone(live, wanted, found.recorded)]) if live else "",
        files={RULES: NewFile(record)} if record != found.record else {},
        settle=_forget_connections(live, wanted),
    )


def _forget_connections(edits: Sequence[Edit], wanted: Sequence[Rule]) -> str:
    """Commands that end the connections whose translation changed: published hosts, and those no longer published.

    They would live on with the old translation for as long as packets come.
    """
    translating = [edit for edit in edits if edit.table == "nat"]
    # One that only moves leads where it led. Of those that choose a source the first one counts.
    moved = {edit.spec for edit in translating if edit.insert} & {edit.spec for edit in translating if not edit.insert}
    edited = [edit.spec for edit in translating if edit.spec not in moved or edit.chain == "POSTROUTING"]
    found = nat.outdated(edited, [rule.spec for rule in wanted if rule.table == "nat"])
    if found is None:
        return ""
    # On stdin: one argument of a program is 128 KiB at most.
    argv = shlex.join(send.argv("told", "-"))
    return f"{argv} <<'END'\n{send.line(conntrack).decode()}{json.dumps(found)}\nEND\n"
