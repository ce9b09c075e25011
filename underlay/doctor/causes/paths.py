"""What only packets tell: large ones that are lost, rules of others that ours can't see, what nothing explains."""

from collections.abc import Iterator, Sequence

from netaddr import IPAddress, IPNetwork

from underlay.compare.firewall import canonical
from underlay.desired import nat, routing, traffic
from underlay.desired.traffic import SSH_PORT, Flow
from underlay.doctor.cause import Cause
from underlay.doctor.investigation import Investigation, some
from underlay.doctor.suspects import GatewayRules, Suspect
from underlay.plan import Host, Network

KERNEL_RULES = (0, 32766, 32767)
"""The priorities of the policy rules that every host has."""


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
        lossy = {host: best for host, (limit, best) in paths.items() if 0 < best < limit}
        if odd:
            for host in odd:
                yield _other_mtu(case, network, host, mtus[host], usual)
        elif len(lossy) == len(paths) > 1:
            yield _black_hole(case, network, case.gateway, lossy, usual)
        else:
            for host, best in lossy.items():
                yield _black_hole(case, network, host, {host: best}, usual)


def _other_mtu(case: Investigation, network: Network, host: Host, mtu: int, usual: int) -> Cause:
    nic = host.interface(network.name)
    assert nic is not None  # it is one of the hosts of this network
    return Cause(
        id="mtu-differs",
        host=host.name,
        cause=f"{host.name}: the MTU of {nic.nic} is {mtu}, that of others in {network.name} is {usual}",
        evidence=(f"ip link show {nic.nic}: mtu {mtu}",),
        fix=case.ssh(host.name, f"ip link set {nic.nic} mtu {usual}"),
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
    """What explains the connections that fail and that nothing else explains, if anything does:
    `policy-rule-unmanaged`, `rule-unmanaged`, `unexplained`."""
    yield from _unmanaged_policy_rules(case)
    yield from _unmanaged_rules(case)
    left = case.unexplained()
    if left:
        flow, (expected, seen) = next(iter(left.items()))
        yield Cause(
            id="unexplained",
            host=flow.source,
            cause=f"{len(left)} connections fail, for no reason that was found: {flow}",
            evidence=(f"expected: {expected}", f"seen: {seen}", *traffic.why(case.plan, flow)),
            fix=f"./inv trace {flow.source} {flow.destination}" + (f" --port {flow.port}" if flow.port else ""),
            hosts=frozenset(name for each in left for name in each.hosts),
        )
    for host in _lost(case, case.deployed):
        yield Cause(
            id="unexplained",
            host=host.name,
            cause=f"{host.name}: it can't be reached, for no reason that was found",
            evidence=(case.seen.failures[host.name].said,),
            fix=f"./inv trace {case.here} {host.name} --port {SSH_PORT}",
            plan=case.line(host),
            hosts=case.behind(host),
            cuts=True,
        )


def _lost(case: Investigation, hosts: Sequence[Host]) -> list[Host]:
    return [host for host in hosts if host.name in case.seen.failures and not case.is_cut(host.name)]


def _unmanaged_policy_rules(case: Investigation) -> Iterator[Cause]:
    for name, state in case.seen.states.items():
        host = case.plan.host(name)
        ours = routing.host_network(case.plan, host).rules
        for rule in state.network.rules:
            if rule.priority in (*KERNEL_RULES, *routing.PRIORITIES) or rule in ours:
                continue
            met = [
                (flow, words)
                for flow, words in case.unexplained().items()
                for address in (flow.source_address, flow.destination)
                if any(nic.address == address for nic in host.interfaces)
                and (not rule.source or address in IPNetwork(rule.source))
            ]
            if met:
                expected, seen = met[0][1]
                yield Cause(
                    id="policy-rule-unmanaged",
                    host=name,
                    cause=f"{name}: an unmanaged policy rule takes its answers another way: {rule.arguments}",
                    evidence=(f"{len(met)} of its connections fail", f"expected: {expected}", f"seen: {seen}"),
                    fix=case.ssh(name, f"ip rule del {rule.arguments}"),
                    advice="somebody made it: find out what for",
                    plan=case.line(host),
                    hosts=frozenset({name}),
                )


def _unmanaged_rules(case: Investigation) -> Iterator[Cause]:
    """Rules of others on the gateway that what fails meets before ours, and what works does not."""
    state = case.state(case.gateway)
    left = case.unexplained()
    lost = _lost(case, [case.gateway, *case.plan.published])
    if state is None or not (left or lost):
        return
    wanted = canonical(nat.gateway_rules(case.plan), state.firewall.wanted)
    firewall = GatewayRules(case.plan, state.firewall.live, (rule.place for rule in wanted))

    def met(flow: Flow) -> list[Suspect]:
        return firewall.met(flow.source_address, flow.destination, flow.port)

    ways = {str(flow): met(flow) for flow in left}
    for host in lost:
        address = case.seen.target.endpoint(host.name).address
        hop = case.seen.workstation.hops.get(str(address))
        if hop and hop.source:
            source = IPAddress(hop.source)
            ways[f"{case.here} {source} -> {address}:{SSH_PORT}"] = firewall.met(source, address, SSH_PORT)
    good = [flow for flow in case.seen.outcomes if flow not in case.failing]
    innocent = {suspect for flow in good for suspect in met(flow) if suspect.certain and suspect.drops}
    counts: dict[Suspect, list[str]] = {}
    for way, suspects in ways.items():
        for suspect in suspects:
            if suspect not in innocent:
                counts.setdefault(suspect, []).append(way)
    if not counts:
        return
    worst = max(counts, key=lambda each: (len(counts[each]), each.certain))
    hit = {(each.table, each.chain, each.spec): each.packets for each in state.counters}
    packets = hit.get((worst.table, worst.chain, worst.spec))
    how = "drops packets" if worst.drops else "is taken before ours"
    yield Cause(
        id="rule-unmanaged",
        host=case.gateway.name,
        cause=f"{case.gateway.name}: an unmanaged rule {how}: -t {worst.table} -A {worst.chain} {worst.spec}",
        evidence=(
            f"what fails meets it: {some(counts[worst])}",
            *((f"{packets} packets have met it so far",) if packets is not None else ()),
        ),
        fix=case.ssh(case.gateway.name, f"iptables -t {worst.table} -D {worst.chain} {worst.spec}"),
        advice="somebody made it: find out what for, or it comes back",
        plan=case.line(case.gateway),
        hosts=frozenset(name for flow in left if worst in met(flow) for name in flow.hosts)
        | frozenset(name for host in lost for name in case.behind(host)),
        cuts=True,
    )
