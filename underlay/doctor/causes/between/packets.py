"""Where packets of connections that fail really ended, as the hosts on their way saw it."""

from collections.abc import Iterable, Iterator

from underlay.compare.filters import FIREWALLD
from underlay.desired.traffic import Flow
from underlay.doctor.cause import Cause
from underlay.doctor.causes.between.choice import trouble
from underlay.doctor.investigation import Fix, Investigation, first, some
from underlay.doctor.survey import Followed
from underlay.doctor.suspects import IPTABLES
from underlay.plan import OUTSIDE
from underlay.text import command
from underlay.trace.ended import Ended

DELIVERED = "not-answered"
UNTRACKED = (
    "the plan exempts what the gateway itself sends to its networks from connection tracking: a filter that drops what "
    "it has no connection for has to accept the answers. Put that where its own rules are (with ufw, in "
    "/etc/ufw/before.rules before all others), or it is gone after a boot"
)


def taken(case: Investigation) -> Iterator[Cause]:
    """What took packets, where that is a thing by itself: `neighbour-wrong`, `address-duplicate`, `route-unmanaged`,
    `policy-rule-unmanaged`, `rule-unmanaged`, `filter-unmanaged`, `traffic-control`, `xdp-program`, `ipsec-policy`,
    `sysctl-wrong`, `nic-no-arp`."""
    groups: dict[tuple[str, str, str], list[Followed]] = {}
    for each in case.seen.followed:
        if each.ended and each.ended.named and not _is_explained(case, each):
            groups.setdefault((each.ended.id, each.ended.host, each.ended.undo or each.ended.what), []).append(each)
    for group in sorted(groups.values(), key=len, reverse=True):
        yield _cause(case, group)


def located(case: Investigation, *, delivered: bool) -> Iterator[Cause]:
    """Where the packets ended that nothing takes that is known: `packet-lost`, or with `delivered` `not-answered`."""
    groups: dict[tuple[str, str], list[Followed]] = {}
    for each in case.seen.followed:
        # A server that is not ours is looked at by itself.
        ours = each.flow is not None or case.is_deployed(each.to)
        if ours and each.ended and (each.ended.id == DELIVERED) == delivered and not _is_explained(case, each):
            groups.setdefault((each.ended.id, each.ended.host), []).append(each)
    for group in sorted(groups.values(), key=len, reverse=True):
        if not all(_is_explained(case, each) for each in group):
            yield _cause(case, group)


def _is_explained(case: Investigation, each: Followed) -> bool:
    if each.flow is not None:
        return case.is_explained(each.flow)
    if each.to in case.seen.failures:
        return case.is_cut(each.to)
    return any(not found.latent and found.hosts & each.about for found in case.found)


def _cause(case: Investigation, group: list[Followed]) -> Cause:
    found = group[0].ended
    assert found is not None  # those without are in no group
    flows = [each.flow for each in group if each.flow is not None]
    others = [each for each in group if each.flow is None]
    lost = [each.to for each in others if each.to in case.seen.failures]
    host = next((each for each in case.plan.hosts if each.name == found.host), None)
    concerned = _concerned(case, flows)
    accept = "" if others else accept_answers(case, found.host, found.hook, IPTABLES, [*flows, *concerned])
    fix = Fix(case.change(found.host, accept)) if accept else _fix(case, found)
    ways = [*(str(flow) for flow in concerned or flows), *(each.said for each in others)]
    advice = [fix.advice, found.advice]
    if accept:
        advice = [UNTRACKED]
    elif found.named and fix.command:
        advice.append("somebody made it: find out what for, or it comes back")
    return Cause(
        id=found.id,
        host=found.host,
        cause=f"{found.host}: {found.what}",
        evidence=(f"packets were followed, and end there: {some(ways)}", *first(found.evidence)),
        fix=fix.command,
        at=fix.at,
        advice="; ".join(filter(None, advice)) or _where_to_look(group[0]),
        plan=case.line(host) if host else "",
        hosts=_victims(case, flows) | _behind(case, lost) | {name for each in others for name in each.about},
        flows=frozenset(concerned),
        cuts=True,
    )


def _concerned(case: Investigation, flows: list[Flow]) -> list[Flow]:
    """The failing connections that have the same ends as those that were followed."""
    ends = {(flow.source, receiver) for flow in flows for receiver in flow.receivers}
    ends |= {each[::-1] for each in ends}
    return [flow for flow in case.unexplained() if any((flow.source, each) in ends for each in flow.receivers)]


def _victims(case: Investigation, flows: list[Flow]) -> frozenset[str]:
    """Whose connections they are: the hosts, but the gateway, that all of them need; else all that they need."""
    sets = [flow.hosts - {case.gateway.name} for flow in flows]
    shared = frozenset.intersection(*map(frozenset, sets)) if sets else frozenset()
    return shared or frozenset(name for each in sets for name in each) - {OUTSIDE}


def _behind(case: Investigation, lost: list[str]) -> frozenset[str]:
    """The hosts that can't be reached, and those behind them."""
    if case.gateway.name in lost:
        return case.everybody
    return frozenset(name for each in lost for name in case.behind(case.plan.host(each)))


def _fix(case: Investigation, found: Ended) -> Fix:
    """The command that takes away what took the packets."""
    host = next((each for each in case.plan.hosts if each.name == found.host), None)
    if not found.undo or host is None:
        return Fix("")
    if not case.is_deployed(host.name):
        return case.local(found.undo) if host.name == case.here else case.console(host.name, found.undo)
    state = case.state(host)
    if state is None:
        return case.console(host.name, found.undo)
    undo = found.undo
    if f" {FIREWALLD} " in found.what and host != case.gateway:
        zone = ["firewall-cmd", "--permanent", "--zone=trusted"]
        zone += [f"--add-source={network.cidr}" for network in case.plan.networks]
        undo = f"{command(*zone)} && firewall-cmd --reload"
    return Fix(case.change(host.name, undo))


def accept_answers(case: Investigation, host: str, hook: str, program: str, flows: Iterable[Flow]) -> str:
    """The command that lets answers to the gateway itself in, if it is them that a rule drops; else empty.

    hook: the built-in chain from which the rule is met; empty for one that drops nothing

    They can't be told from an attempt to connect by connection tracking: the plan exempts these connections.
    """
    if host != case.gateway.name or hook != "INPUT" or not all(flow.source == host for flow in flows):
        return ""
    ends = [(case.plan.gateway_address(network.name), network.cidr) for network in case.plan.internal]
    own = [end for end in ends if any(flow.source_address == end[0] for flow in flows)]
    accept = [f"{program} -I INPUT -s {cidr} -d {address}/32 -p tcp ! --syn -j ACCEPT" for address, cidr in own]
    return " && ".join(accept)


def rates(case: Investigation) -> Iterator[Cause]:
    """Packets that are late or lost in part, where nothing is known that does it: `path-slow`."""
    owners = {str(nic.address): host.name for host in case.plan.hosts for nic in host.interfaces}
    bad: dict[frozenset[str], list[str]] = {}
    for name, look in case.seen.looks.items():
        for ends, measured in look.paths.items():
            source, _, destination = ends.partition(" ")
            to = owners.get(destination, "")
            if to and measured[1] and (words := trouble(measured)):
                bad.setdefault(frozenset({name, to}), []).append(f"{name} {source} -> {destination}: {words}")
    blamed = {name for each in case.found if not each.latent for name in each.hosts}
    bad = {ends: words for ends, words in bad.items() if not ends & blamed}
    if not bad:
        return
    common = frozenset.intersection(*bad) or next(iter(bad))
    host = sorted(common, key=lambda name: name == case.gateway.name)[0]
    yield Cause(
        id="path-slow",
        host=host,
        cause=f"{host}: packets to and from it are lost in part, or late",
        evidence=first([each for words in bad.values() for each in words]),
        advice=f"look at its cable and its port of the switch (errors, duplex): {case.ssh(host, 'ip -s link')}",
        plan=case.line(case.plan.host(host)),
        hosts=frozenset(name for ends in bad for name in ends) - {case.gateway.name} | {host},
    )


def _where_to_look(each: Followed) -> str:
    return f"look closer: {each.again}"
