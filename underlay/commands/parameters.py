"""The arguments of tasks, checked: a wrong one is one line that says how to fix it (OperatorError)."""

import difflib
import re
import sys
from collections.abc import Collection

from netaddr import IPAddress

from underlay.errors import OperatorError
from underlay.plan import ROLES, Host, MistakeError, Plan, ipv4
from underlay.plan.literals import shown
from underlay.plan.values import is_unicast

ROLE_HELP = f"one of {', '.join(ROLES)}; without it, all of them in this order"


def roles(role: str | None) -> tuple[str, ...]:
    """The role of that name, or all of them in the order of their deploys."""
    return (one_of("role", role, ROLES),) if role else ROLES


def host(plan: Plan, name: str) -> Host:
    """The host of the plan with that name."""
    return plan.host(one_of("host", name, [each.name for each in plan.hosts]))


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


def address(text: str) -> IPAddress:
    """An IPv4 address that a host can have."""
    try:
        found = ipv4(text)
    except MistakeError as error:
        raise OperatorError(f"{error}: {error.fix}") from None
    if not is_unicast(found):
        raise OperatorError(f"no host can have the address {found}: give that of one")
    return found


def one_of(what: str, name: str, names: Collection[str]) -> str:
    """One of these names; `what` says what it is the name of."""
    if name not in names:
        plural = f"{what}es" if what.endswith("s") else f"{what}s"
        close = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"the {plural} are {', '.join(names)}"
        raise OperatorError(f"unknown {what} {shown(name)}: {hint}")
    return name


def confirmed(question: str) -> None:
    """Go on only if a person at the terminal says so."""
    if not sys.stdin.isatty():
        raise OperatorError("there is no terminal to ask at: say --yes, nothing was changed")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise OperatorError("not confirmed: nothing was changed")
