"""Bring the iptables rules of a host into their planned state, live and on disk."""

import base64
import hashlib
import re
from collections.abc import Generator, Sequence

from pyinfra import host
from pyinfra.api import FunctionCommand, operation

from underlay.compare import firewall
from underlay.compare.firewall import Edit, canonical
from underlay.desired import ruleset
from underlay.desired.ruleset import Rule
from underlay.facts.firewall import PERSISTED, RECORD, SAVE, Firewall, Rules
from underlay.guard.change import Change, NewFile
from underlay.operations import guarded, tell


@operation()
def rules(wanted: list[Rule]) -> Generator[FunctionCommand, None, None]:
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
    change = firewall_change(canonical(wanted, found.wanted) if found.installed else wanted, found)
    if change is None:
        host.noop("the firewall is as planned")
        return
    tell(change.what)
    yield guarded(change)


def firewall_change(wanted: Sequence[Rule], found: Firewall) -> Change | None:
    """What brings a host from what was found to the wanted rules; None if nothing differs."""
    ours = ruleset.from_rules(wanted)
    live_edits = firewall.edits(found.live, wanted, found.recorded)
    persisted_edits = firewall.edits(found.persisted, wanted, found.recorded)
    record_differs = ruleset.render(found.recorded) != ruleset.render(ours)
    if not (live_edits or persisted_edits or record_differs):
        return None
    live = ""
    if live_edits:
        digest = hashlib.sha256(found.live_text.encode()).hexdigest()
        encoded = base64.b64encode(firewall.restore_script(live_edits).encode()).decode()
        live = (
            f'[ "$({SAVE} | sha256sum)" = "{digest}  -" ] || '
            "{ echo 'the live rules changed while they were compared: run the deploy again' >&2; exit 1; }\n"
            f"echo {encoded} | base64 -d | iptables-restore --noflush --wait 5\n"
        )
    files: dict[str, NewFile | None] = {}
    if persisted_edits:
        persisted = firewall.apply(found.persisted, persisted_edits)
        files[PERSISTED] = NewFile(ruleset.render(persisted), "640")
    if record_differs:
        files[RECORD] = NewFile(ruleset.render(ours))
    what = [f"live: {edit}" for edit in live_edits] + [f"at boot: {edit}" for edit in persisted_edits]
    if record_differs:
        what.append("the record of our rules on the host is out of date")
    return Change(what=tuple(what), live=live, files=files, settle=_forget_connections(live_edits))


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
