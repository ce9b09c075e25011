"""Bring the iptables rules of a host into their planned state, live and at boot."""

import re
from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FunctionCommand, operation

from underlay.compare import firewall, tables
from underlay.compare.firewall import Edit, canonical
from underlay.desired.files import RULES
from underlay.desired.ruleset import Rule
from underlay.facts.firewall import Firewall, Planned, Rules
from underlay.guard.change import Change, NewFile
from underlay.operations import guarded, tell


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
    if not live and record == found.record:
        return None
    what = [f"live: {edit}" for edit in live] + [f"at boot: {edit}" for edit in at_boot]
    return Change(
        what=(*what, "the record of our rules on the host is out of date") if record != found.record else tuple(what),
        rules=tables.write([*firewall.own(wanted), *firewall.gone(live, wanted, found.recorded)]) if live else "",
        files={RULES: NewFile(record)} if record != found.record else {},
        settle=_forget_connections(live),
    )


def _forget_connections(edits: Sequence[Edit]) -> str:
    """Commands that end the translated connections of hosts that are no longer published.

    They would live on with the old translation until they are silent for long enough.
    """
    kept = {edit.spec for edit in edits if edit.insert}
    gone = [edit.spec for edit in edits if edit.table == "nat" and not edit.insert and edit.spec not in kept]
    published = [match[1] for spec in gone if (match := re.match(r"-d (\S+)/32 -j DNAT", spec))]
    commands = [
        f'case "$seen" in *"={address} "*) '
        f"conntrack -D --orig-dst {address}; conntrack -D --reply-dst {address};; esac\n"
        for address in published
    ]
    # Each deletion reads the whole table: a thousand of them take a minute.
    return "".join(["seen=$(conntrack -L 2>/dev/null)\n", *commands]) if commands else ""
