"""What only packets tell: large ones that are lost, rules of others that ours can't see, what nothing explains."""

from collections.abc import Iterable, Iterator, Sequence

from netaddr import IPAddress

from underlay.access.answers import UnreadableError
from underlay.compare.filters import ARPTABLES
from underlay.compare.firewall import canonical
from underlay.desired import nat, routing, traffic
from underlay.desired.traffic import Flow
from underlay.doctor.cause import Cause
from underlay.doctor.causes.between import packets
from underlay.doctor.causes.between.choice import trouble
from underlay.doctor.investigation import Investigation, first, some
from underlay.doctor.policy import may_be_blamed
from underlay.doctor.suspects import IPTABLES, HostRules, Suspect
from underlay.plan import Host, Network
from underlay.text import command


def large_packets(case: Investigation) -> Iterator[Cause]:
    """`mtu-differs`, `mtu-black-hole`."""
    for network in case.plan.networks:
        paths = {
            host: case.look(host).echo[nic.nic]
            for host in case.deployed
            if (nic := host.interface(network.name)) and nic.nic in case.look(host).echo
        }
        if not paths:
            continue
        mtus = {host: limit for host, (limit, _) in paths.items() if limit}
        router, near = case.state(case.gateway), case.gateway.interface(network.name)
        if router and near and near.nic in router.nics:
            mtus[case.gateway] = router.nics[near.nic].mtu
        usual = max(mtus.values(), key=lambda mtu: (list(mtus.values()).count(mtu), mtu), default=0)
        odd = [host for host, mtu in mtus.items() if mtu != usual]
        lossy = {host: best for host, (limit, best) in paths.items() if 0 < best < limit and not _is_slow(case, host)}
        if odd:
            for host in odd:
                yield _other_mtu(case, network, host, mtus[host], usual)
        elif len(lossy) == len(paths) > 1:
            yield _black_hole(case, network, case.gateway, lossy, usual)
        else:
            for host, best in lossy.items():
                yield _black_hole(case, network, host, {host: best}, usual)


def _is_slow(case: Investigation, host: Host) -> bool:
    """Whether packets of a host that are not the largest come late, or get lost in part: then size is not it."""
    return any(measured[1] and trouble(measured) for measured in case.look(host).paths.values())


def _other_mtu(case: Investigation, network: Network, host: Host, mtu: int, usual: int) -> Cause:
    nic = host.interface(network.name)
    assert nic is not None  # it is one of the hosts of this network
    return Cause(
        id="mtu-differs",
        host=host.name,
        cause=f"{host.name}: the MTU of {nic.nic} is {mtu}, that of others in {network.name} is {usual}",
        evidence=(f"ip link show {nic.nic}: mtu {mtu}",),
        fix=case.change(host.name, command("ip", "link", "set", nic.nic, "mtu", usual)),
        plan=case.line(host, nic.address),
        hosts=case.who_needs(host, nic),
    )


def _black_hole(case: Investigation, network: Network, host: Host, lossy: dict[Host, int], mtu: int) -> Cause:
    nic = host.interface(network.name)
    assert nic is not None  # it is one of the hosts of this network
    fix = case.replug(host.name, nic.nic)
    router = case.plan.gateway_address(network.name)
    return Cause(
        id="mtu-black-hole",
        host=host.name,
        cause=f"{host.name}: large packets to and from {nic.nic} ({network.name}) are lost without a word",
        evidence=tuple(f"{each.name} pings {router}: {size} bytes pass, {mtu} do not" for each, size in lossy.items()),
        fix=fix.command,
        advice=f"{fix.advice}: it must pass {mtu} bytes",
        plan=case.line(host, nic.address),
        hosts=case.who_needs(host, nic),
    )


def connections(case: Investigation) -> Iterator[Cause]:
    """The connections that fail and that nothing else explains: `not-answered`, `unexplained`.

    Raises UnreadableError at the end for those that were not even tried.
    """
    yield from packets.located(case, delivered=True)
    left = case.unexplained()
    untried = {flow: seen for flow, (_, seen) in left.items() if case.seen.outcomes[flow].unasked}
    left = {flow: words for flow, words in left.items() if flow not in untried}
    if left:
        flow, (expected, seen) = next(iter(left.items()))
        why_not = [each.why_not for each in case.seen.followed if each.why_not]
        if any(each.flow in left and not (each.ended or each.why_not) for each in case.seen.followed):
            why_not = ["a packet of it that was sent again got there, and back: it comes and goes"]
        yield Cause(
            id="unexplained",
            host=flow.source,
            cause=f"{len(left)} connections fail, and no packet of them could be followed to its end: {flow}",
            evidence=(f"expected: {expected}", f"seen: {seen}", *first(why_not), *traffic.why(case.plan, flow)),
            fix=command("./inv", "trace", flow.source, flow.destination, *(["--port", flow.port] if flow.port else [])),
            hosts=frozenset(name for each in left for name in each.hosts),
        )
    for host in _lost(case, case.deployed):
        there = [each for each in case.seen.followed if each.flow is None and each.to == host.name]
        why_not = [each.why_not for each in there if each.why_not]
        if any(not (each.ended or each.why_not) for each in there):
            why_not = ["a packet that was sent again got there, and back: it comes and goes, or the host is busy"]
        yield Cause(
            id="unexplained",
            host=host.name,
            cause=f"{host.name}: it can't be reached, and no packet to it could be followed to its end",
            evidence=(case.seen.failures[host.name].said, *first(why_not)),
            fix=command("./inv", "trace", case.here, host.name, "--port", host.login.port),
            plan=case.line(host),
            hosts=case.behind(host),
            cuts=True,
        )
    if untried:
        flow, why = next(iter(untried.items()))
        raise UnreadableError(f"{len(untried)} connections were not tried ({flow}): {why}")


def followed(case: Investigation) -> Iterator[Cause]:
    """What took packets that were followed, else where they ended: see `packets`; and rules that may be met."""
    yield from packets.taken(case)
    yield from _unmanaged_rules(case, _rules(case), certain=False)
    yield from packets.located(case, delivered=False)
    yield from packets.rates(case)


def _lost(case: Investigation, hosts: Sequence[Host]) -> list[Host]:
    return [host for host in hosts if host.name in case.seen.failures and not case.is_cut(host.name)]


def _unmanaged_policy_rules(case: Investigation) -> Iterator[Cause]:
    """Unmanaged rules by which, as the host's kernel says, packets go another way than the plan's."""
    for name, taken in case.seen.taken.items():
        host = case.plan.host(name)
        ours = routing.host_network(case.plan, host).rules
        blamed: dict[str, list[Flow]] = {}
        arguments: dict[str, str | None] = {}
        for packet, answer in taken:
            rule = answer["rule"]
            if (
                rule is None
                or not may_be_blamed(rule, ours)
                or packet.goes_as_planned(case.plan, host, answer["route"])
            ):
                continue
            text = answer["arguments"] or " ".join(f"{key} {value}" for key, value in rule.items())
            blamed.setdefault(text, []).append(packet.flow)
            arguments[text] = answer["arguments"]
        for text, flows in blamed.items():
            left = case.unexplained()
            met = [left[flow] for flow in dict.fromkeys(flows) if flow in left]
            if not met:
                continue
            expected, seen = met[0]
            words = arguments[text]
            yield Cause(
                id="policy-rule-unmanaged",
                host=name,
                cause=f"{name}: an unmanaged policy rule takes its packets another way: {text}",
                evidence=(
                    f"its kernel says so (ip route get fibmatch) of {len(met)} connections that fail",
                    f"expected: {expected}",
                    f"seen: {seen}",
                ),
                fix=case.change(name, command("ip", "rule", "del", *words.split())) if words else "",
                advice="somebody made it (a VPN, a CNI?): find out what for, or it comes back",
                plan=case.line(host),
                hosts=frozenset({name}),
            )


def filters(case: Investigation) -> Iterator[Cause]:
    """What takes packets for certain: `policy-rule-unmanaged`; `filter-unmanaged`, a packet filter beside the gateway's
    iptables."""
    yield from _unmanaged_policy_rules(case)
    beside = [(host, rules) for host, rules in _rules(case) if rules.program != IPTABLES]
    yield from _unmanaged_rules(case, beside, certain=True)


def _unmanaged_rules(case: Investigation, among: Iterable[tuple[Host, HostRules]], *, certain: bool) -> Iterator[Cause]:
    """Rules and policies of others that what fails meets before ours, and what works does not."""
    left = case.unexplained()
    lost = _lost(case, [case.gateway, *case.plan.published])
    if not (left or lost):
        return
    good = [flow for flow in case.seen.outcomes if flow not in case.failing and not flow.must_not]
    counts: dict[tuple[Host, Suspect], list[str]] = {}
    for host, rules in among:
        ways = {str(flow): _met(host, rules, flow) for flow in left}
        for other in lost:
            address = case.seen.target.endpoint(other.name).address
            hop = case.seen.workstation.hops.get(str(address))
            if hop and hop.source:
                source = IPAddress(hop.source)
                port = other.login.port
                ways[f"{case.here} {source} -> {address}:{port}"] = rules.met(source, address, port)
        innocent = {each for flow in good for each in _met(host, rules, flow) if each.certain and each.drops}
        for way, suspects in ways.items():
            for suspect in suspects:
                if suspect not in innocent and (suspect.certain or not certain):
                    counts.setdefault((host, suspect), []).append(way)
    if not counts:
        return
    host, worst = max(counts, key=lambda each: (len(counts[each]), each[1].certain))
    met = counts[host, worst]
    hits = None
    if host == case.gateway and worst.program == IPTABLES:
        hit = {(each.table, each.chain, each.spec or ""): each.packets for each in case.seen.states[host.name].counters}
        hits = hit.get((worst.table, worst.chain, worst.spec))
    concerned = [flow for flow in left if str(flow) in met]
    accept = packets.accept_answers(case, host.name, worst.hook, worst.program, concerned) if worst.drops else ""
    kind = "rule" if worst.spec else "policy"
    how = "drops packets" if worst.drops else "is taken before ours"
    beside = () if worst.program == IPTABLES else (f"{worst.program} filters beside the iptables of {host.name}",)
    yield Cause(
        id="rule-unmanaged" if worst.program == IPTABLES else "filter-unmanaged",
        host=host.name,
        cause=f"{host.name}: an unmanaged {kind} {how}: {worst}",
        evidence=(
            f"what fails meets it: {some(met)}",
            *beside,
            *((f"{hits} packets have met it so far",) if hits is not None else ()),
        ),
        fix=case.change(host.name, accept or worst.undo) if accept or worst.undo else "",
        advice=packets.UNTRACKED
        if accept
        else f"somebody made it: find out what for, or it comes back{_by_handle(worst)}",
        plan=case.line(host),
        hosts=frozenset(name for flow in concerned for name in flow.hosts)
        | frozenset(name for each in lost for name in case.behind(each)),
        cuts=True,
    )


def _by_handle(suspect: Suspect) -> str:
    """How a rule is found that has no text, only a handle."""
    if suspect.undo:
        return ""
    return f"; nft -a list chain ip {command(suspect.table, suspect.chain)} shows it whole, with its handle"


def _rules(case: Investigation) -> Iterator[tuple[Host, HostRules]]:
    """The rules that decide about packets, as far as they were read."""
    for host in case.deployed:
        state = case.state(host)
        if state is None:
            continue
        ours: list[tuple[str, str, str]] = []
        if host == case.gateway:
            ours = [rule.place for rule in canonical(nat.gateway_rules(case.plan), state.firewall.wanted)]
            yield host, HostRules(case.plan, host, state.firewall.live, ours)
        for program, live in state.filters.tables.items():
            if program != ARPTABLES:
                yield host, HostRules(case.plan, host, live, ours, program)


def _met(host: Host, rules: HostRules, flow: Flow) -> list[Suspect]:
    source = flow.seen_as if host.name in flow.receivers and flow.seen_as else flow.source_address
    return rules.met(source, flow.destination, flow.port)
