"""The arguments of tasks, checked: a wrong one is one line that says how to fix it, and exit code 1."""

import difflib
from collections.abc import Collection

from invoke import Exit
from netaddr import IPAddress

from underlay.plan import ROLES, Host, MistakeError, Plan, ipv4

ROLE_HELP = f"one of {', '.join(ROLES)}; without it, all of them in this order"


def roles(role: str | None) -> tuple[str, ...]:
    """The role of that name, or all of them in the order of their deploys. Raises Exit."""
    return (one_of("role", role, ROLES),) if role else ROLES


def host(plan: Plan, name: str) -> Host:
    """The host of the plan with that name. Raises Exit."""
    return plan.host(one_of("host", name, [each.name for each in plan.hosts]))


def outer_address(plan: Plan, text: str) -> str:
    """A published address, or the gateway's own; a host's name stands for its own. Raises Exit."""
    published = {host.name: str(host.published) for host in plan.published}
    known = {plan.gateway.name: str(plan.gateway.primary.address), **published}
    return known.get(text) or one_of("address", text, list(known.values()))


def whole(text: str) -> int:
    """A whole number. Raises Exit."""
    if not text.isdecimal():
        raise Exit(f"error: {text!r} is not a number", code=1)
    return int(text)


def address(text: str) -> IPAddress:
    """An IPv4 address. Raises Exit."""
    try:
        return ipv4(text)
    except MistakeError as error:
        raise Exit(f"error: {error}: {error.fix}", code=1) from None


def one_of(what: str, name: str, names: Collection[str]) -> str:
    """One of these names; `what` says what it is the name of. Raises Exit."""
    if name not in names:
        plural = f"{what}es" if what.endswith("s") else f"{what}s"
        close = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"the {plural} are {', '.join(names)}"
        raise Exit(f"error: unknown {what} {name!r}: {hint}", code=1)
    return name
