"""The arguments of tasks, checked: a wrong one is one line that says how to fix it (OperatorError)."""

import difflib
import re
import sys
from collections.abc import Collection
from datetime import datetime
from typing import Any

from netaddr import IPAddress
from pydantic import TypeAdapter, ValidationError

from underlay.errors import OperatorError
from underlay.plan import ROLES, Host, MistakeError, Plan, ipv4
from underlay.plan.literals import shown
from underlay.plan.values import Ports, SiteName, UserName, is_unicast
from underlay.text import is_blank

ROLE_HELP = f"one of {', '.join(ROLES)}; without it, all of them in this order"


def roles(role: str | None) -> tuple[str, ...]:
    """The role of that name, or all of them in the order of their deploys."""
    return (one_of("role", role, ROLES),) if role else ROLES


def host(plan: Plan, name: str) -> Host:
    """The host of the plan with that name."""
    return plan.host(one_of("host", name, [each.name for each in plan.hosts]))


def nodes(plan: Plan) -> tuple[Host, ...]:
    """The nodes of the plan's cluster, of which there are some."""
    if plan.kubernetes is None:
        raise OperatorError("the plan has no cluster: write 'kubernetes' there (docs/plan.md)")
    return plan.nodes


def node(plan: Plan, name: str) -> Host:
    """The node of the plan's cluster with that name."""
    return plan.host(one_of("node", name, [each.name for each in nodes(plan)]))


def outer_address(plan: Plan, text: str) -> str:
    """A published address, or the gateway's own; a host's name stands for its own."""
    published = {host.name: str(host.published) for host in plan.published}
    known = {plan.gateway.name: str(plan.gateway.primary.address), **published}
    return known.get(text) or one_of("address", text, list(known.values()))


def whole(text: str, least: int, most: int) -> int:
    """A whole number of that range."""
    if not re.fullmatch(r"-?\d+", text, re.ASCII):
        raise OperatorError(f"{shown(text)} is not a number")
    # Python reads no number of thousands of digits.
    if len(text) > len(str(most)) + 1 or not least <= int(text) <= most:
        raise OperatorError(f"{shown(text)} is out of range: give a number from {least} to {most}")
    return int(text)


def duration(text: str, most: int) -> int:
    """A time in whole seconds, `90`, `90s`, `5m` or `1h`, up to so many."""
    found = re.fullmatch(r"(\d{1,6})([smh]?)", text, re.ASCII)
    if not found:
        raise OperatorError(f"{shown(text)} is no time: give 90s, 5m or 1h")
    length = int(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]
    if not 1 <= length <= most:
        raise OperatorError(f"{shown(text)} is out of range: give a time from 1s to {most // 3600}h")
    return length


def address(text: str) -> IPAddress:
    """An IPv4 address that a host can have."""
    try:
        found = ipv4(text)
    except MistakeError as error:
        raise OperatorError(f"{error}: {error.fix}") from None
    if not is_unicast(found):
        raise OperatorError(f"no host can have the address {found}: give that of one")
    return found


def past(text: str, now: float) -> float:
    """A time that is past, as seconds of the epoch: so long ago, or a time of today or of a day, as the clock here."""
    if ago := re.fullmatch(r"(\d{1,6})([mhd])", text, re.ASCII):
        return now - int(ago[1]) * {"m": 60, "h": 3600, "d": 86400}[ago[2]]
    today = datetime.fromtimestamp(now).strftime("%Y-%m-%d")
    for words, shape in ((f"{today} {text}", "%Y-%m-%d %H:%M"), (text, "%Y-%m-%d %H:%M"), (text, "%Y-%m-%d")):
        try:
            found = datetime.strptime(words, shape).timestamp()
        except (ValueError, OverflowError):
            continue
        if found > now:
            raise OperatorError(f"{shown(text)} is not past: give a time before {datetime.fromtimestamp(now):%H:%M}")
        return found
    raise OperatorError(f"{shown(text)} is no time: give 30m, 2h, 3d, 14:02 or '{today} 14:02'")


def one_of(what: str, name: str, names: Collection[str]) -> str:
    """One of these names; `what` says what it is the name of."""
    if name not in names:
        plural = f"{what}es" if what.endswith("s") else f"{what}s"
        close = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"the {plural} are {', '.join(names)}"
        raise OperatorError(f"unknown {what} {shown(name)}: {hint}")
    return name


def several(text: str) -> tuple[str, ...]:
    """Words that commas separate, each once; none is empty. No text: no words."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(","))) if text else ()
    if any(map(is_blank, words)):
        raise OperatorError(f"a part of {shown(text)} is empty: say what is meant, or leave the comma out")
    return words


def only_with(option: str, given: object, other: str, there: object) -> None:
    """An option that would have no effect without another one."""
    if given and not there:
        raise OperatorError(f"{option} goes with {other}: give both, or leave it out")


def confirmed(question: str) -> None:
    """Go on only if a person at the terminal says so."""
    if not sys.stdin.isatty():
        raise OperatorError("there is no terminal to ask at: say --yes, nothing was changed")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise OperatorError("not confirmed: nothing was changed")


def ports(text: str) -> tuple[str, ...]:
    """Ports as in the plan, separated by commas; none for no text."""
    return tuple(_checked(Ports, several(text))) if text else ()


def user(text: str) -> str:
    """The name of an account; empty for none."""
    return str(_checked(UserName, text)) if text else ""


def site(text: str) -> str:
    """The name of a site; empty for none."""
    return str(_checked(SiteName, text)) if text else ""


def _checked(shape: Any, value: object) -> Any:
    try:
        found = TypeAdapter(shape).validate_python(value)
    except ValidationError as error:
        mistake = error.errors()[0]["ctx"]["error"]
        raise OperatorError(f"{mistake}: {mistake.fix}") from None
    return found
