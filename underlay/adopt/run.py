"""`invoke adopt`: look, propose, check, and show it."""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from json import dumps
from pathlib import Path
from typing import Any

from netaddr import IPAddress
from rich.console import Console
from rich.table import Table

from underlay.access.target import Target
from underlay.adopt import guess, keys, proposal, ready
from underlay.adopt import look as looking
from underlay.adopt.guess import Site
from underlay.adopt.keys import NewKey
from underlay.adopt.look import Look, Ways
from underlay.adopt.proposal import Beside, Proposal
from underlay.adopt.ready import Check
from underlay.adopt.seen import Seen
from underlay.console import PAGE, screen
from underlay.errors import OperatorError, exit_code
from underlay.plan import REPO, ROLES, Plan
from underlay.text import command, raw

NEW_SITE = "new-site"
SHOWN = 12
"""Lines of a kind that are shown of a host; --json has all."""


@dataclass(frozen=True)
class Found:
    """What came of it.

    hosts: host of the plan that is proposed → what it says, of those that were looked at
    beside: how they are beside that plan
    """

    site: Site
    proposal: Proposal
    keys: Sequence[NewKey]
    questions: Sequence[str]
    hosts: Mapping[str, Seen] = field(default_factory=dict)
    beside: Mapping[str, Beside] = field(default_factory=dict)


def look(target: Target, asked: Sequence[str], ways: Ways, *, new: bool) -> list[Look]:
    """Look at hosts. Those in networks of the plan in force are reached through its jump host, if nothing else is said.

    new: they are of a new site, whatever the plan in force is of
    """
    inner = [network.cidr for network in target.plan.internal]
    behind = [each for each in asked if looking.is_address(each) and any(IPAddress(each) in cidr for cidr in inner)]
    if not ways.via and not ways.config and behind and is_of(target.plan, target) and not new:
        ways = replace(ways, via=str(target.endpoint(target.plan.jumphost.name).address))
    return looking.look(target, asked, ways)


def is_of(plan: Plan, target: Target) -> bool:
    """Whether the plan in force is of the hosts that commands go to: not so where only UNDERLAY_TARGET says that."""
    return plan.target == target.name


def adopt(
    target: Target,
    looks: Sequence[Look],
    title: str,
    path: Path | None,
    ask: Callable[[str], None] | None,
    *,
    json: bool,
) -> int:
    """Propose, take the keys, write, and show it; the exit code. Raises OperatorError, if a key is not to be taken.

    title: of a new site; empty for one without a name, where the plan in force is not of these hosts
    path: of the file to write
    ask: the question whether keys are to be taken; None: they are
    """
    if changed := [f"{each.asked}: {why}" for each in looks for why in ready.changed_key(target, each)]:
        raise OperatorError("\n".join([*changed, "nothing was written"]))
    if not any(each.seen for each in looks):
        raise OperatorError("\n".join(["no host could be looked at", *(each.error for each in looks)]))
    found = propose(target, looks, title, path)
    if found.keys:
        show_keys(target, found)
        if ask:
            ask(f"Take these keys into {target.known_hosts}?")
        keys.write(target.known_hosts, found.keys)
    if path and found.proposal.text:
        save(path, found.proposal.text)
    if json:
        print(dumps(document(target, looks, found), indent=2))
    else:
        show(target, looks, found, path)
        if not path:
            print(found.proposal.text, end="", flush=True, file=raw(sys.stdout))
    return exit_code(wrong=found.questions, unread=[each for each in looks if each.seen is None])


def check(target: Target, looks: Sequence[Look], ways: Ways, *, json: bool) -> int:
    """Show whether the hosts are ready; the exit code."""
    found = {each.asked: ready.checks(target, ways, each) for each in looks}
    if json:
        print(dumps(check_document(looks, found), indent=2))
    else:
        show_checks(looks, found)
    reached = [each for each in looks if each.seen is not None]
    wrong = [each for each in reached if not ready.is_ready(found[each.asked])]
    return exit_code(wrong=wrong, unread=len(reached) < len(looks))


def propose(target: Target, looks: Sequence[Look], title: str, path: Path | None) -> Found:
    """What plan the hosts would have: lines for the one in force, if that is of these hosts, or a whole one."""
    seen = _once(looks)
    if title or not is_of(target.plan, target):
        site = guess.new_site(seen, looking.is_here)
        name = title or NEW_SITE
        file = path or REPO / "group_data" / f"{re.sub(r'[^a-z0-9]+', '_', name.lower()).strip('_') or 'site'}.py"
        # The account that one came in as, whoever's configuration named it.
        accounts = Counter(login.account for each in seen if (login := each.part(lambda one: one.login)))
        user = accounts.most_common(1)[0][0] if accounts else target.plan.operator.user
        operator = target.plan.operator.model_copy(update={"user": user})
        proposed = proposal.whole(site, name, target.name, operator, Path(file).absolute())
    else:
        site = guess.more_hosts(target.plan, seen, looking.is_here)
        proposed = proposal.further(site, target.plan)
    questions = [*site.questions, *([proposed.errors] if proposed.errors and not site.questions else [])]
    hosts, beside = dict[str, Seen](), dict[str, Beside]()
    if proposed.plan:
        hosts = proposal.hosts_of(proposed.plan, seen)
        beside = {name: proposal.beside(proposed.plan, proposed.plan.host(name), each) for name, each in hosts.items()}
    return Found(site, proposed, keys.new_keys(looks, proposed.plan), questions, hosts, beside)


def _once(looks: Iterable[Look]) -> list[Seen]:
    """Each host once, by the addresses of its NICs, however often it was asked."""
    found: dict[object, Seen] = {}
    for each in looks:
        if each.seen is not None:
            macs = frozenset(nic.mac for nic in guess.site_nics(each.seen) if nic.mac)
            found.setdefault(macs or each.asked, each.seen)
    return [*found.values()]


def save(path: Path, text: str) -> None:
    """Write a new file. Raises OperatorError."""
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError:
        raise OperatorError(f"{path} is there already: name another file with --output") from None
    except OSError as error:
        raise OperatorError(f"{path} can't be written: {error.strerror}") from error


# --- whether they are ready -------------------------------------------------------------------------------------------


def check_document(looks: Sequence[Look], found: Mapping[str, list[Check]]) -> dict[str, Any]:
    """For programs."""
    return {
        each.asked: {
            "name": guess.name(each.seen) if each.seen else "",
            "ready": ready.is_ready(found[each.asked]),
            "checks": [asdict(check) for check in found[each.asked]],
        }
        for each in looks
    }


def show_checks(looks: Sequence[Look], found: Mapping[str, list[Check]]) -> None:
    """One screen: what keeps a host from being deployed, and what mends it; of a host that is ready, one line."""
    page = _page(stderr=False)
    for each in looks:
        checks = found[each.asked]
        good = ready.is_ready(checks)
        who = f"{each.asked} ({guess.name(each.seen)})" if each.seen else each.asked
        said = "ready: " + ", ".join(f"{one.what} {one.why}".strip() for one in checks if one.state == "ready")
        page.print(f"{who}: {said if good else 'not ready'}", style="green" if good else "bold red")
        for one in checks:
            if one.state == "ready":
                continue
            page.print(f"  {one.what}: {one.state}: {one.why}", style="" if one.state == "note" else "red")
            if one.fix:
                page.print(f"    fix{f' ({one.where})' if one.where else ''}: {one.fix}")
            if one.advice:
                page.print(f"    {one.advice}")
    number = sum(ready.is_ready(each) for each in found.values())
    page.print(f"{number} of {len(found)} ready; whether packages can be had, `./inv deploy --dry` tells")


# --- shown ------------------------------------------------------------------------------------------------------------


def _page(*, stderr: bool) -> Console:
    found = screen(stderr=stderr, highlight=False, markup=False, soft_wrap=True)
    return (
        found if found.is_terminal else screen(stderr=stderr, highlight=False, markup=False, width=PAGE, soft_wrap=True)
    )


def show_keys(target: Target, found: Found) -> None:
    """The keys that are not known, and how to compare them."""
    page = _page(stderr=True)
    page.print(f"Host keys that are not in {target.known_hosts} yet:")
    for each in found.keys:
        page.print(f"  {each.asked}: {each.kind} {each.fingerprint}")
    ways = dict.fromkeys(each.console for each in found.keys)
    page.print(f"Compare each with what the host's own console says: {' or '.join(ways)}")


def show(target: Target, looks: Sequence[Look], found: Found, path: Path | None) -> None:
    """What was seen, what a deploy would change and leave, what is open; the proposal itself is for stdout."""
    page = _page(stderr=True)
    _show_hosts(page, looks, found)
    for name, each in found.beside.items():
        _show_beside(page, name, each, found)
    _list(page, "What a plan has no words for, and what stays as it is:", found.site.notes)
    for one, other in keys.twice(looks):
        page.print(f"{one} and {other} show the same host key: one is a copy of the other, give it a key of its own")
    for look in looks:
        if look.error:
            page.print(f"not looked at: {look.error}", style="bold red")
        for why in look.seen.unread if look.seen else ():
            page.print(f"not read: {why}", style="red")
    _list(page, "Open questions:", found.questions, style="bold red")
    page.print()
    page.print(_end(target, found, path))


def _end(target: Target, found: Found, path: Path | None) -> str:
    if not found.proposal.text:
        return "the plan in force has all of these hosts" if found.hosts else "no plan can be proposed of this"
    whole = found.proposal.text.startswith('"""')
    if not whole:
        return f"lines for {target.plan.source}: read them, then `git apply` them" + (f": {path}" if path else "")
    if found.questions:
        return f"a beginning of a plan, with open questions{f': {path}' if path else ''}"
    use = f"UNDERLAY_PLAN={command(path) if path else 'FILE'}"
    return f"a plan{f': {path}' if path else ''}. Read it; then {use} ./inv plan, and {use} ./inv deploy --dry"


def _show_hosts(page: Console, looks: Sequence[Look], found: Found) -> None:
    roles = {each.seen: each for each in found.site.hosts if each.seen}
    names = {seen: name for name, seen in found.hosts.items()}
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("host", "asked", "system", "role", "NICs: address, who manages it"):
        table.add_column(column, overflow="fold")
    for seen in [each.seen for each in looks if each.seen]:
        system = seen.part(lambda each: each.system)
        guessed = roles.get(seen)
        name = guessed.name if guessed else names.get(seen, guess.name(seen))
        role = f"{guessed.role}: {guessed.why}" if guessed else _planned_role(found.proposal.plan, name)
        table.add_row(name, seen.asked, system.os if system else "?", role, "\n".join(_nics(seen)))
    page.print(table)


def _planned_role(plan: Plan | None, name: str) -> str:
    host = next((each for each in plan.hosts if each.name == name), None) if plan else None
    return f"{host.role}, in the plan" if host else "-"


def _nics(seen: Seen) -> Iterable[str]:
    known = seen.part(lambda each: each.network) is not None
    for nic in guess.site_nics(seen):
        by = " and ".join(map(str, nic.managers)) or ("nobody" if known else "not read")
        yield f"{nic.name} {', '.join(nic.addresses) or 'no address'}, {by}"


def _show_beside(page: Console, name: str, beside: Beside, found: Found) -> None:
    host = found.proposal.plan.host(name) if found.proposal.plan else None
    if host is None or host.role not in ROLES:
        return
    _list(page, f"{name}: rules that a deploy would add:", beside.lacking)
    _list(page, f"{name}: what else a deploy would change:", beside.summary)
    _list(page, f"{name}: no plan makes these rules, they stay:", beside.unexplained)
    _list(page, f"{name}: stays:", beside.kept)
    _list(page, f"{name}: not compared:", beside.unread, style="red")
    if not (beside.changes or beside.lacking or beside.unread):
        page.print(f"{name}: its network and rules are as a deploy would make them")


def _list(page: Console, title: str, lines: Sequence[str], style: str = "") -> None:
    if lines:
        page.print(title, style=style)
        for line in lines[:SHOWN]:
            page.print(f"  {line}")
        if len(lines) > SHOWN:
            page.print(f"  and {len(lines) - SHOWN} more: see --json")


def document(target: Target, looks: Sequence[Look], found: Found) -> dict[str, Any]:
    """All of it, for programs."""
    return {
        "proposal": found.proposal.text,
        "loads": found.proposal.plan is not None,
        "questions": [*found.questions],
        "notes": [*found.site.notes],
        "keys": keys.document(found.keys),
        "hosts": [_host_document(each, found) for each in looks],
        "target": target.name,
    }


def _host_document(look: Look, found: Found) -> dict[str, Any]:
    if look.seen is None:
        return {"asked": look.asked, "error": look.error}
    seen = look.seen
    guessed = next((each for each in found.site.hosts if each.seen is seen), None)
    name = next((name for name, each in found.hosts.items() if each is seen), guessed.name if guessed else "")
    system, login = seen.part(lambda each: each.system), seen.part(lambda each: each.login)
    units = seen.part(lambda each: each.units) or {}
    return {
        "asked": look.asked,
        "name": name or guess.name(seen),
        "role": guessed.role if guessed else "",
        "why": guessed.why if guessed else "",
        "system": asdict(system) if system else None,
        "login": {"account": login.account, "port": login.port, "root": login.root, "sudo": login.sudo}
        if login
        else None,
        "nics": [asdict(nic) | {"dynamic": sorted(nic.dynamic)} for nic in seen.part(lambda each: each.nics) or ()],
        "services": [unit for unit in units if guess.runs(seen, unit)],
        "containers": seen.part(lambda each: each.containers),
        "node_ip": seen.part(lambda each: each.node_ip),
        "swap": seen.part(lambda each: each.swap),
        "synchronized": seen.part(lambda each: each.synchronized),
        "unread": seen.unread,
        **(asdict(found.beside[name]) if name in found.beside else {}),
    }
