"""What the hosts hear in their networks: addresses that two machines have, cables in the wrong network, silence."""

from collections.abc import Iterator
from contextlib import suppress

from netaddr import IPAddress

from underlay.access.answers import UnreadableError
from underlay.doctor.cause import Cause
from underlay.doctor.investigation import Investigation, some
from underlay.plan import OUTSIDE, Host, Interface
from underlay.text import command


def duplicates(case: Investigation) -> Iterator[Cause]:
    """Addresses of the plan that another machine has, too: it says so, or answers for them. `address-duplicate`."""
    told = set()
    for name, state in case.seen.states.items():
        for address in state.network.addresses:
            ip = IPAddress(address.ip)
            owner = next((each for each in case.deployed if each.name != name and ip in case.addresses(each)), None)
            if owner:
                told.add(ip)
                evidence = f"ip address on {name}: {address.cidr} on {address.nic}"
                forget = command("ip", "neighbour", "flush", "to", ip)
                drop = command("ip", "address", "del", address.cidr, "dev", address.nic)
                near = ip not in case.plan.enterprise.cidr
                then = case.ssh(case.gateway.name, forget) if near else case.local(forget).command
                fix = f"{case.change(name, drop)} && {then}"
                yield _duplicate(case, owner, ip, name, evidence, fix=fix)
    for host in case.deployed:
        for nic, answers in case.look(host).arp.items():
            for asked, macs in answers.items():
                ip = IPAddress(asked)
                # A host answers for all of its addresses on each of its NICs: those that are known are other faults.
                strangers = [mac for mac in macs if mac not in case.macs]
                if strangers and ip in case.addresses(host) and ip not in told:
                    told.add(ip)
                    evidence = f"{host.name} asks on {nic} who else has {ip}: {some(strangers)} answers"
                    advice = f"find {some(strangers)} in the MAC tables of the switches: it has no right to it"
                    yield _duplicate(case, host, ip, "", evidence, advice=advice)


def same_mac(case: Investigation) -> Iterator[Cause]:
    """Hosts with the same MAC in one network: the switch sends what is for both to one of them. `mac-duplicate`."""
    found: dict[tuple[str, str], list[tuple[Host, Interface]]] = {}
    for name, state in case.seen.states.items():
        with suppress(UnreadableError):
            for nic in case.plan.host(name).interfaces:
                if nic.nic in state.nics:
                    found.setdefault((nic.network, state.nics[nic.nic].mac), []).append((case.plan.host(name), nic))
    for host, nic, mac in _answers(case):
        found.setdefault((nic.network, mac), []).append((host, nic))
    for (network, mac), ends in found.items():
        if len(ends) < 2:
            continue
        names = [f"{host.name} {nic.nic}" for host, nic in ends]
        look = [case.ssh(host.name, command("ip", "-d", "link", "show", nic.nic)) for host, nic in ends]
        yield Cause(
            id="mac-duplicate",
            host=ends[-1][0].name,
            cause=f"{' and '.join(names)} have the same MAC {mac} in {network}: one gets what is for both",
            evidence=tuple(f"{name}: {mac}" for name in names),
            advice=f"one of them was cloned, or its MAC set by hand: {'; '.join(look)}",
            plan=case.line(*ends[-1][:1]),
            hosts=frozenset(name for host, _ in ends for name in case.behind(host)),
            cuts=True,
        )


def _answers(case: Investigation) -> Iterator[tuple[Host, Interface, str]]:
    """Of hosts that can't be asked, who answers the gateway for them; not one that says it has their address."""
    taken = set[str]()
    for state in case.seen.states.values():
        with suppress(UnreadableError):
            taken |= {address.ip for address in state.network.addresses}
    for host in case.deployed:
        for nic in host.interfaces if host.name not in case.seen.states else ():
            near = case.gateway.interface(nic.network)
            macs = case.look(case.gateway).arp.get(near.nic, {}).get(str(nic.address), []) if near else []
            if len(macs) == 1 and str(nic.address) not in taken:
                yield host, nic, macs[0]


def _duplicate(
    case: Investigation, owner: Host, address: IPAddress, culprit: str, evidence: str, fix: str = "", advice: str = ""
) -> Cause:
    published = case.plan.published if owner == case.gateway else ()
    reached = next((host for host in published if host.published == address), owner)
    return Cause(
        id="address-duplicate",
        host=culprit or owner.name,
        cause=f"{culprit or 'another machine'} has {address}, too, which belongs to {reached.name}",
        evidence=(evidence, "who asks for it gets the one or the other; others forget the wrong one within a minute"),
        fix=fix,
        advice=advice,
        plan=case.line(owner, address),
        hosts=case.behind(reached),
        cuts=True,
    )


def cables(case: Investigation, host: Host) -> Iterator[Cause]:
    """NICs of a host that hear those of another network, and none of their own: `wrong-network`."""
    for nic in host.interfaces:
        answers = case.look(host).arp.get(nic.nic, {})
        heard = {case.macs[mac] for macs in answers.values() for mac in macs if mac in case.macs}
        others = sorted((network, name) for name, network in heard if name != host.name)
        if others and nic.network not in {network for network, _ in others}:
            network, _ = others[0]
            names = some(name for other, name in others if other == network)
            evidence = f"on {nic.nic} it hears {names} of {network}, and nobody of {nic.network}"
            yield _wrong_network(case, host, nic, network, evidence)


def _wrong_network(case: Investigation, host: Host, nic: Interface, network: str, evidence: str) -> Cause:
    fix = case.replug(host.name, nic.nic)
    return Cause(
        id="wrong-network",
        host=host.name,
        cause=f"{host.name}: {nic.nic} is plugged into {network}, not {nic.network}",
        evidence=(evidence,),
        fix=fix.command,
        advice=f"{fix.advice}: it belongs to {nic.network}",
        plan=case.line(host, nic.address),
        hosts=case.who_needs(host, nic),
        cuts=True,
    )


def silent(case: Investigation, host: Host, said: str) -> Iterator[Cause]:
    """A host behind the gateway that can't be reached, as the gateway hears it: `wrong-network`, `silent`."""
    if case.gateway.name not in case.seen.looks:
        return
    heard = case.look(case.gateway).arp
    network_of = {nic.nic: nic.network for nic in case.gateway.interfaces}
    places = [
        (nic, network_of[near])
        for nic in host.interfaces
        for near, answers in heard.items()
        if any(case.macs.get(mac, (host.name,))[0] == host.name for mac in answers.get(str(nic.address), []))
    ]
    if any(nic.network == network for nic, network in places):
        return  # it is there
    if places:
        nic, network = places[0]
        evidence = f"the gateway hears {nic.address} in {network}, and not in {nic.network}"
        yield _wrong_network(case, host, nic, network, evidence)
        return
    others = sorted(
        other.name
        for other in case.plan.hosts
        if other != host
        and any(answers.get(str(nic.address)) for answers in heard.values() for nic in other.interfaces)
    )
    addresses = some(nic.address for nic in host.interfaces)
    evidence = f"nobody answers the gateway's ARP for {addresses}" + (f"; {some(others)} do" if others else "")
    yield is_silent(case, host, (said, evidence), case.behind(host))


def is_silent(case: Investigation, host: Host, evidence: tuple[str, ...], hosts: frozenset[str]) -> Cause:
    """The finding about a host of which nothing is heard."""
    fix = case.switch_on(host)
    return Cause(
        id="silent",
        host=host.name,
        cause=f"{host.name}: it is silent: off, or its cable or NIC {host.primary.nic} is dead",
        evidence=evidence,
        fix=fix.command,
        at=fix.at,
        advice=fix.advice,
        plan=case.line(host),
        hosts=hosts,
        cuts=True,
    )


def upstream(case: Investigation) -> Iterator[Cause]:
    """The upstream router, as the gateway hears it: `silent`."""
    enterprise = case.plan.enterprise
    heard = case.look(case.gateway).arp.get(case.gateway.primary.nic, {})
    if heard.get(str(enterprise.upstream), ["not asked"]) or not any(heard.values()) or case.is_cut(OUTSIDE):
        return
    yield Cause(
        id="silent",
        host=OUTSIDE,
        cause=f"the upstream router {enterprise.upstream} is silent: nobody gets out of {enterprise.name}",
        evidence=(f"nobody answers the gateway's ARP for {enterprise.upstream}; others of {enterprise.name} do",),
        fix="./inv lab.up" if case.is_lab else "",
        advice="it is not ours: call the people who run the company network",
        plan=case.plan.line("networks", enterprise.name, "upstream"),
        hosts=frozenset({OUTSIDE}),
        cuts=True,
    )
