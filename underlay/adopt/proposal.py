"""The plan that is proposed, as text: a whole file for a new site, or further lines for one that is there. Pure.

And what a deploy of it would change on the hosts, and what it would leave: as `drift` would see them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from underlay.access.answers import UnreadableError
from underlay.adopt import guess, nat
from underlay.adopt.guess import Guess, Site
from underlay.adopt.seen import Seen
from underlay.compare import filters, network, sshd
from underlay.compare.difference import Difference, SshdSetting, Sysctl
from underlay.desired import routing
from underlay.desired.files import sshd_settings
from underlay.desired.nat import gateway_rules
from underlay.desired.routing import PolicyRule, Route
from underlay.plan import ROLES, Host, Plan, PlanError, edit, load_text
from underlay.plan.edit import with_hosts
from underlay.plan.model import Operator

WIDTH = 120
COUNTED: dict[type, str] = {
    Route: "routes, in tables of the plan's own",
    PolicyRule: "policy rules, with priorities of the plan's own",
    Sysctl: "sysctls",
    SshdSetting: "settings of sshd",
}
HEAD = '''\
"""THE PLAN of the site, as `./inv adopt` found it. Names and roles are guesses; docs/plan.md has the keys."""

'''


@dataclass(frozen=True)
class Proposal:
    """What is proposed.

    text: a whole plan, or the difference that adds lines to one; empty if there is nothing to add
    plan: it, loaded; None if it does not load
    errors: why it does not
    """

    text: str
    plan: Plan | None
    errors: str = ""


def whole(site: Site, title: str, target: str, operator: Operator, path: Path) -> Proposal:
    """A plan of a new site, that is to be at that path."""
    text = HEAD + f"site = {_value(title)}\ntarget = {_value(target)}\n"
    text += f"operator = {_value(operator.model_dump(exclude_none=True))}\n\n"
    text += _block("networks", {each.name: _network(each) for each in site.networks}, {})
    text += "\n" + _block("hosts", {each.name: _host(each, operator) for each in site.hosts}, _reasons(site.hosts))
    plan, errors = _loaded(text, path)
    return Proposal(text, plan, errors)


def further(site: Site, plan: Plan) -> Proposal:
    """The lines that a plan lacks."""
    if not site.hosts:
        return Proposal("", plan)
    old = plan.source.read_text()
    lines = [
        line
        for each in site.hosts
        for line in _entry(each.name, _host(each, plan.operator), _reasons([each])[each.name])
    ]
    new = with_hosts(old, lines)
    loaded, errors = _loaded(new, plan.source)
    return Proposal(edit.difference(plan.source, new), loaded, errors)


def _loaded(text: str, path: Path) -> tuple[Plan | None, str]:
    """The text as a plan, read by the same code as every plan; or what that has against it."""
    try:
        return load_text(text, path), ""
    except PlanError as error:
        return None, str(error)


# --- as text ---------------------------------------------------------------------------------------------------------


def _network(network: Any) -> dict[str, Any]:
    return {"cidr": str(network.cidr), **({"upstream": str(network.upstream)} if network.upstream else {})}


def _host(host: Guess, operator: Operator) -> dict[str, Any]:
    found: dict[str, Any] = {"role": host.role, "addresses": {net: str(each) for net, each in host.addresses.items()}}
    named = {net: nic for number, (net, nic) in enumerate(host.nics.items()) if nic != f"eth{number}"}
    if named:
        found["nics"] = named
    if host.published:
        found["published"] = str(host.published)
    if host.default_route:
        found["default_route"] = host.default_route
    return found | _login(host, operator)


def _login(host: Guess, operator: Operator) -> dict[str, Any]:
    """How one came in, where the plan's operator would not."""
    login = host.seen.part(lambda each: each.login) if host.seen else None
    if login is None:
        return {}
    found: dict[str, Any] = {"user": login.account} if login.account != operator.user else {}
    found |= {"port": login.port} if login.port != operator.port else {}
    by_password = "password is required" in login.sudo and operator.sudo != "password"
    return found | ({"sudo": "password"} if by_password else {})


def _reasons(hosts: Iterable[Guess]) -> dict[str, str]:
    return {each.name: f"{each.role}: {each.why}" for each in hosts}


def _block(name: str, entries: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    lines = [line for key, value in entries.items() for line in _entry(key, value, comments.get(key, ""))]
    return "\n".join([f"{name} = {{", *lines, "}"]) + "\n"


def _entry(key: str, value: Mapping[str, Any], comment: str) -> list[str]:
    """An entry of the plan's dictionaries as lines: one, where it is not too long for that."""
    head = [f"    # {comment}"] if comment else []
    line = f"    {_value(key)}: {_value(value)},"
    if len(line) <= WIDTH:
        return [*head, line]
    return [
        *head,
        f"    {_value(key)}: {{",
        *(f"        {_value(k)}: {_value(v)}," for k, v in value.items()),
        "    },",
    ]


def _value(value: Any) -> str:
    """Plain data in Python's syntax, which JSON's is for what a plan holds."""
    return json.dumps(value)


# --- beside the hosts -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beside:
    """A host beside the plan.

    changes: what a deploy would change, as `drift` tells it; summary: the same in a few lines
    kept: what is in no plan, and stays
    lacking, unexplained: of the gateway, the rules that a deploy would add, and those that no plan makes
    unread: what could not be compared, and why
    """

    changes: tuple[str, ...] = ()
    summary: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()
    unexplained: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def beside(plan: Plan, host: Host, seen: Seen) -> Beside:
    """A host as it is beside what a deploy makes of it; hosts without a deploy keep all that they have."""
    if host.role not in ROLES:
        return Beside()
    changes, kept, unread = list[Difference](), list[str](), list[str]()
    for part in (_network_of, _sshd_of, lambda *_: filters.unmanaged(seen.filters)):
        try:
            for difference in part(plan, host, seen):
                if difference.kind == "unmanaged":
                    kept.append(difference.what)
                else:
                    changes.append(difference)
        except UnreadableError as error:
            unread.append(str(error))
    with suppress(UnreadableError):
        kept += _others(plan, host, seen)
    lacking, unexplained = list[str](), list[str]()
    if host.role == "gateway":
        try:
            live, wanted = seen.firewall.live, gateway_rules(plan)
            lacking = [str(each) for each in nat.lacking(live, wanted)]
            unexplained = [str(each) for each in nat.unexplained(live, wanted)]
        except UnreadableError as error:
            unread.append(str(error))
    return Beside(
        tuple(each.what for each in changes),
        tuple(_summary(changes)),
        tuple(kept),
        tuple(lacking),
        tuple(unexplained),
        tuple(unread),
    )


def _summary(changes: Sequence[Difference]) -> Iterator[str]:
    """Each change of a NIC or an address; of what every host gets at its first deploy, how many there are."""
    yield from (each.what for each in changes if not isinstance(each.thing, tuple(COUNTED)))
    for kind, words in COUNTED.items():
        number = sum(isinstance(each.thing, kind) for each in changes)
        if number:
            yield f"{words}: {number}"


def _network_of(plan: Plan, host: Host, seen: Seen) -> Iterable[Difference]:
    return network.differences(routing.host_network(plan, host), seen.network)


def _sshd_of(plan: Plan, host: Host, seen: Seen) -> Iterable[Difference]:
    return sshd.differences(sshd_settings(plan, host), plan.operator.user, seen.sshd)


def _others(plan: Plan, host: Host, seen: Seen) -> Iterable[str]:
    """Those of the NICs that a site's network may be on."""
    nics = [nic.name for nic in guess.site_nics(seen)]
    return network.unmanaged(routing.host_network(plan, host), seen.network, nics)


def hosts_of(plan: Plan, found: Sequence[Seen]) -> dict[str, Seen]:
    """Host of the plan → what it says, of those that have one of its addresses."""
    known = {str(nic.address): host.name for host in plan.hosts for nic in host.interfaces}
    pairs = ((known.get(address), seen) for seen in found for address in guess.own_addresses(seen))
    return {name: seen for name, seen in pairs if name}
