"""From what hosts say to the parts of a plan: networks, names, roles, each guess with its reason. Pure.

What can't be told is a question, and no guess; what a plan has no words for is a note.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from netaddr import IPAddress, IPNetwork

from underlay.adopt import nat
from underlay.adopt.nat import Facts
from underlay.adopt.seen import Nic, Seen
from underlay.compare.network import LiveNetwork
from underlay.desired.routing import DEFAULT, IP_FORWARD, MAIN, Route
from underlay.facts.firewall import Firewall
from underlay.plan import OUTSIDE, SSH_PORT, Network, Plan

PHYSICAL = ("", "vlan", "bond", "team", "bridge", "veth", "macvlan")
"""Kinds of NICs that a site's network may be on; all others are tunnels and what programs make for themselves."""
ENTERPRISE, MANAGEMENT = "enterprise", "mgmt"
NAMES = {
    "gateway": r"(gw|gate|gateway|router|fw|firewall)",
    "jumphost": r"(jump|jumphost|bastion|jh)",
    "lb_nginx": r"(lb|loadbalancer|haproxy|nginx|proxy)",
    "master": r"(master|cp|control|controlplane|controller)",
    "worker": r"(worker|wk)",
    "images": r"(images?|repo|mirror|pxe)",
}
"""Role → how such hosts are called, before a number or another word."""
API_SERVERS = ("kube-apiserver", "k3s-server", "k3s", "rke2")
MANIFEST = "/etc/kubernetes/manifests/kube-apiserver.yaml"


@dataclass(frozen=True)
class Guess:
    """A host of the proposal. addresses: network → address, the primary one first; nics: network → NIC

    why: what its role follows from
    seen: None for one that only the gateway's rules name
    """

    name: str
    role: str
    why: str
    addresses: Mapping[str, IPAddress]
    nics: Mapping[str, str] = field(default_factory=dict)
    published: IPAddress | None = None
    default_route: str = ""
    seen: Seen | None = None


@dataclass(frozen=True)
class Site:
    """What is proposed.

    networks: those that no plan has yet
    questions: what has to be answered before it can be a plan
    notes: what a plan has no words for
    """

    networks: tuple[Network, ...] = ()
    hosts: tuple[Guess, ...] = ()
    questions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Facts = field(default_factory=Facts)


def new_site(found: Sequence[Seen], here: Callable[[str], bool]) -> Site:
    """A whole site; `here`: whether an address is this machine's own."""
    gateway, why, questions = _gateway(found)
    facts = nat.facts(live_rules(gateway)) if gateway else Facts()
    notes: list[str] = []
    networks, more = _networks(found, gateway, facts, notes)
    there = [_host(seen, networks, facts, seen is gateway, notes) for seen in found]
    hosts = _named([each for each in there if each], notes)
    hosts = [*hosts, *_only_in_rules(hosts, networks, facts)]
    hosts = _roles(hosts, gateway, why, networks, here)
    hosts, lacking = _one_jump_host(hosts, networks)
    notes += _of_rules(facts, networks, hosts)
    return Site(tuple(networks), tuple(_in_order(hosts, facts)), (*questions, *more, *lacking), tuple(notes), facts)


def more_hosts(plan: Plan, found: Sequence[Seen], here: Callable[[str], bool]) -> Site:
    """Those hosts that a plan does not have, in its networks; and networks of its gateway that it does not have."""
    notes: list[str] = []
    known = {str(nic.address): host.name for host in plan.hosts for nic in host.interfaces}
    gateway = next((each for each in found if plan.gateway.name in map(known.get, own_addresses(each))), None)
    facts = nat.facts(live_rules(gateway)) if gateway else Facts()
    new = [each for each in found if not any(address in known for address in own_addresses(each))]
    there = [_host(seen, plan.networks, facts, False, notes) for seen in new]
    named = _named([each for each in there if each], notes, [host.name for host in plan.hosts])
    guessed = _roles(named, None, "", plan.networks, here)
    # A site has one of these, and this one has it.
    guessed = [
        replace(each, role="server", why=f"{each.why}; the site has its {each.role}")
        if each.role == "jumphost"
        else each
        for each in guessed
    ]
    return Site((), tuple(guessed), (), tuple(notes), facts)


# --- what hosts say --------------------------------------------------------------------------------------------------


def site_nics(seen: Seen) -> Iterator[Nic]:
    """The NICs that a network of a site may be on."""
    nics = seen.part(lambda each: each.nics) or ()
    for nic in nics:
        # A bridge that nothing leads out of is a program's own: Docker's, libvirt's, a CNI's.
        inner = nic.kind == "bridge" and not any(_leads_out(each) for each in nics if each.master == nic.name)
        if nic.kind in PHYSICAL and not nic.master and not inner:
            yield nic


def _leads_out(nic: Nic) -> bool:
    return nic.kind in ("", "bond", "team", "vlan") or (nic.kind == "veth" and bool(re.match(r"(eth|en)", nic.name)))


def site_addresses(seen: Seen) -> Iterator[tuple[Nic, IPNetwork]]:
    """Addresses with the networks that they are in: a network has room for hosts."""
    for nic in site_nics(seen):
        for text in nic.addresses:
            network = IPNetwork(text)
            if 8 <= network.prefixlen <= 30:
                yield nic, network


def own_addresses(seen: Seen) -> list[str]:
    """All its addresses, without their lengths."""
    return [text.partition("/")[0] for nic in (seen.part(lambda each: each.nics) or ()) for text in nic.addresses]


def live(seen: Seen) -> LiveNetwork:
    """Its network; an empty one where that can't be read."""
    return seen.part(lambda each: each.network) or LiveNetwork({}, (), (), ())


def live_rules(seen: Seen) -> nat.Tables:
    """The rules of its iptables; none where they can't be read."""
    return (seen.part(lambda each: each.firewall) or Firewall()).live


def default_of(seen: Seen) -> Route | None:
    """The default route that is taken: that of a deploy before, else of `main`, the one with the smallest metric."""
    return next(iter(defaults(seen)), None)


def defaults(seen: Seen) -> list[Route]:
    """The default routes by a router, the one that is taken first."""
    routes = [each for each in live(seen).routes if each.destination == "default" and each.via]
    by_metric = sorted(routes, key=lambda route: route.metric)
    return [each for table in (DEFAULT, MAIN) for each in by_metric if each.table == table]


# --- the gateway and its networks ------------------------------------------------------------------------------------


def _gateway(found: Sequence[Seen]) -> tuple[Seen | None, str, list[str]]:
    """The gateway, why it is one, and the question that is open without one."""
    routers = Counter(route.via for each in found if (route := default_of(each)))
    rated = []
    for seen in found:
        own = own_addresses(seen)
        networks = {network.cidr for _, network in site_addresses(seen)}
        served = sum(routers[address] for address in own)
        translates = bool(nat.facts(live_rules(seen)).outer or nat.facts(live_rules(seen)).published)
        forwards = live(seen).sysctls.get(IP_FORWARD) == "1"
        reasons = [f"it is the router of {served} of these hosts"] if served else []
        reasons += ["its rules translate addresses"] if translates else []
        reasons += ["it forwards"] if forwards and not _is_node(seen) else []
        reasons += [f"it has addresses in {len(networks)} networks"]
        if len(networks) > 1 and len(reasons) > 1:
            rated.append(((bool(served), translates, len(networks)), seen, ", ".join(reasons)))
    rated.sort(key=lambda each: each[0], reverse=True)
    names = [name(seen) for _, seen, _ in rated]
    if not rated:
        why = "none has addresses in several networks and is others' router, translates, or forwards"
        return None, "", [f"which host is the gateway? Of these {len(found)} {why}"]
    if len(rated) > 1 and rated[0][0] == rated[1][0]:
        return None, "", [f"which host is the gateway, {names[0]} or {names[1]}? A plan has one"]
    return rated[0][1], rated[0][2], []


def _is_node(seen: Seen) -> bool:
    """Whether it forwards for containers: that makes no gateway of it."""
    return runs(seen, "docker", "kubelet", "k3s", "k3s-agent", "containerd")


def _networks(
    found: Sequence[Seen], gateway: Seen | None, facts: Facts, notes: list[str]
) -> tuple[list[Network], list[str]]:
    """The networks, the enterprise one first, then in the order of the rules, then of the gateway's NICs.

    Without a gateway those of all hosts; the way out is the router that is none of them.
    """
    routers = [gateway] if gateway else found
    here = list(dict.fromkeys(network.cidr for each in routers for _, network in site_addresses(each)))
    own = {address for each in found for address in own_addresses(each)}
    ways_out = [route.via for each in routers if (route := default_of(each)) and route.via not in own]
    upstream = ways_out[0] if ways_out else ""
    outer = next((each for each in here if upstream and IPAddress(upstream) in each), None)
    if outer is None:
        which = f"{name(gateway)} has no default route by a NIC of its own" if gateway else "no host has a way out"
        return [], [f"which is the enterprise network, and its router? {which}"]
    inner = []
    for each in here:
        others = [route.via for route in defaults(gateway) if IPAddress(route.via) in each] if gateway else []
        if each != outer and others:
            notes.append(f"{each} leads out as well, by {others[0]}: a plan has one upstream router; it stays as it is")
        elif each != outer:
            inner.append(each)
    inner.sort(key=lambda each: facts.networks.index(each) if each in facts.networks else len(facts.networks))
    first = Counter(primary for seen in found if seen is not gateway and (primary := _primary(seen, inner)) is not None)
    reached = first.most_common(1)[0][0] if first else (inner[0] if inner else None)
    names = {each: MANAGEMENT if each == reached else f"net-{number}" for number, each in enumerate(inner, 1)}
    networks = [Network(name=ENTERPRISE, cidr=str(outer), upstream=upstream)]
    return networks + [Network(name=names[each], cidr=str(each)) for each in inner], []


def _primary(seen: Seen, networks: Sequence[IPNetwork]) -> IPNetwork | None:
    """The network in which a host is reached."""
    at = seen.login.address if seen.part(lambda each: each.login) else None
    return next((each for each in networks if at is not None and at in each), None)


# --- hosts -----------------------------------------------------------------------------------------------------------


def name(seen: Seen) -> str:
    """What a host calls itself, fit for a plan; else its address."""
    system = seen.part(lambda each: each.system)
    found = re.sub(r"[^a-z0-9-]+", "-", (system.name if system else "").lower()).strip("-")[:40].strip("-")
    if found in ("", "localhost", OUTSIDE):
        found = "host-" + re.sub(r"[^a-z0-9]+", "-", seen.asked.lower()).strip("-")
    return found


def _host(seen: Seen, networks: Sequence[Network], facts: Facts, is_gateway: bool, notes: list[str]) -> Guess | None:
    """A host without its role; None if it has no address in a network of the plan."""
    at, who = _arrival(seen), name(seen)
    addresses, nics = dict[str, IPAddress](), dict[str, str]()
    translated = {*facts.published, *(outer for outer, _ in facts.halves)} if is_gateway else set[IPAddress]()
    for nic, found in site_addresses(seen):
        network = next((each for each in networks if found.ip in each.cidr), None)
        if network is None:
            notes.append(f"{who}: {found} on {nic.name} is in no network of the plan: it stays as it is")
        elif network.name not in addresses or (found.ip in (at, *facts.published.values()) and not is_gateway):
            addresses[network.name], nics[network.name] = found.ip, nic.name
            notes += _of_nic(who, nic, found, network)
        elif found.ip not in translated:
            notes.append(f"{who}: {found} on {nic.name}: a plan has one address a network; it stays as it is")
    if not addresses:
        notes.append(f"{who}: it has no address in a network of the plan, and is not in it")
        return None
    enterprise = next((each.name for each in networks if each.upstream), "")
    outer = next((each for each, inner in facts.published.items() if inner in addresses.values()), None)
    asked = IPAddress(seen.asked) if re.fullmatch(r"[0-9.]+", seen.asked) else None
    if outer is None and asked and asked not in map(IPAddress, own_addresses(seen)) and enterprise not in addresses:
        # It was asked at an address that is none of its own: somebody in between translates it.
        outer = asked if any(each.upstream and asked in each.cidr for each in networks) else None
    inner = facts.published.get(outer) if outer else None
    first = [enterprise] if is_gateway else [net for net, each in addresses.items() if each in (inner or at, at)]
    order = [*dict.fromkeys(net for net in (*first, *addresses) if net in addresses)]
    notes += _of_host(who, seen)
    default = "" if is_gateway else _default_network(seen, addresses, order, networks)
    # Its own policy rules may see to it, or those of a deploy.
    if default and not any(rule.source for rule in live(seen).rules):
        notes.append(
            f"{who}: what it sends from {addresses[order[0]]} leaves by the router of {default}: a deployed gateway "
            "drops that (rp_filter), so a deploy of the gateway undoes itself while something needs it"
        )
    return Guess(
        who,
        "server",
        "",
        {net: addresses[net] for net in order},
        {net: nics[net] for net in order},
        None if is_gateway or enterprise in addresses else outer,
        default,
        seen,
    )


def _arrival(seen: Seen) -> IPAddress | None:
    login = seen.part(lambda each: each.login)
    return login.address if login else None


def _default_network(
    seen: Seen, addresses: Mapping[str, IPAddress], order: Sequence[str], networks: Sequence[Network]
) -> str:
    """The network through whose router it leaves, where that is not its first one."""
    route = default_of(seen)
    if route is None:
        return ""
    found = next((each.name for each in networks if each.name in addresses and IPAddress(route.via) in each.cidr), "")
    return found if found != order[0] else ""


def _of_nic(who: str, nic: Nic, found: IPNetwork, network: Network) -> Iterator[str]:
    if str(found) in nic.dynamic:
        yield f"{who}: {found} on {nic.name} is of DHCP: in a plan it is a fixed one, so take it out of the range there"
    if nic.vlan or nic.kind in ("bond", "team", "bridge"):
        what = f"VLAN {nic.vlan} on {nic.link}" if nic.vlan else f"a {nic.kind}"
        yield f"{who}: {nic.name} is {what}: a plan names it, and makes it not"
    if found.prefixlen != network.cidr.prefixlen:
        yield f"{who}: {found} on {nic.name}: others have a length of {network.cidr.prefixlen}; a deploy adds that"


def _of_host(who: str, seen: Seen) -> Iterator[str]:
    login = seen.part(lambda each: each.login)
    if login and login.port != SSH_PORT:
        yield f'{who}: its sshd took the connection at port {login.port}: say "port": {login.port} at the host'
    six = sorted(address for nic in site_nics(seen) for address in nic.ipv6)
    if six:
        yield f"{who}: {', '.join(six)}: a plan has no IPv6; it stays as it is"


def _named(hosts: Iterable[Guess], notes: list[str], taken: Iterable[str] = ()) -> list[Guess]:
    """Each with a name of its own."""
    found: list[Guess] = []
    names = {*taken}
    for each in hosts:
        new = each.name
        if new in names:
            new = f"{each.name[:20]}-{'-'.join(str(next(iter(each.addresses.values()))).split('.'))}"
            notes.append(
                f"{each.name}: two hosts call themselves so: the one at {each.seen.asked if each.seen else ''} is {new}"
            )
        names.add(new)
        found.append(replace(each, name=new))
    return found


def _only_in_rules(hosts: Sequence[Guess], networks: Sequence[Network], facts: Facts) -> Iterator[Guess]:
    """The published hosts that were not looked at."""
    there = {address for each in hosts for address in each.addresses.values()}
    for outer, inner in facts.published.items():
        network = next((each for each in networks if inner in each.cidr and not each.upstream), None)
        if inner not in there and network:
            label = "host-" + str(inner).replace(".", "-")
            yield Guess(label, "server", "only the gateway's rules name it", {network.name: inner}, {}, outer)


def _in_order(hosts: Sequence[Guess], facts: Facts) -> list[Guess]:
    """Published hosts in the order in which the rules have them, in their own places."""
    ranks: dict[IPAddress | None, int] = {outer: rank for rank, outer in enumerate(facts.published)}
    sorted_ones = iter(
        sorted((each for each in hosts if each.published in ranks), key=lambda each: ranks[each.published])
    )
    return [next(sorted_ones) if each.published in ranks else each for each in hosts]


# --- roles -----------------------------------------------------------------------------------------------------------


def _roles(
    hosts: Sequence[Guess],
    gateway: Seen | None,
    why: str,
    networks: Sequence[Network],
    here: Callable[[str], bool],
) -> list[Guess]:
    inner = [each.name for each in networks if not each.upstream]
    found = []
    for each in hosts:
        if gateway is not None and each.seen is gateway:
            found.append(replace(each, role="gateway", why=why))
        else:
            role, reason = _role(each, inner, here)
            found.append(replace(each, role=role, why=each.why or reason))
    return found


def _role(host: Guess, inner: Sequence[str], here: Callable[[str], bool]) -> tuple[str, str]:
    """The role, and what it follows from: what is on a host says more than its name, and that more than its NICs."""
    return next(_told(host, inner, here), ("server", host.why or "nothing on it says more"))


def _told(host: Guess, inner: Sequence[str], here: Callable[[str], bool]) -> Iterator[tuple[str, str]]:
    seen = host.seen
    if seen is None:
        return
    programs = seen.part(lambda each: each.listening) or {}
    names = seen.part(lambda each: each.names) or ()
    if any(here(address) for address in own_addresses(seen)):
        yield "workstation", "this command runs on it"
    if MANIFEST in names or any(program in API_SERVERS for program in programs.values()):
        yield "master", "the API server of Kubernetes is on it"
    if ports := [str(port) for port, program in sorted(programs.items()) if program == "nginx"]:
        yield "lb_nginx", f"nginx listens there, on {', '.join(ports)}"
    if "/opt/underlay" in names:
        yield "jumphost", "this repo is in /opt/underlay there"
    if runs(seen, "kubelet"):
        yield "worker", "a kubelet runs on it, and no API server"
    for role, words in NAMES.items():
        if role != "gateway" and re.match(rf"{words}(-|\d|$)", host.name):
            yield role, "its name"
    if len(inner) > 1 and set(inner) <= set(host.addresses):
        yield "master", "it has an address in every internal network"


def runs(seen: Seen, *services: str) -> bool:
    """Whether one of these services runs, or will after a boot."""
    return any(seen.part(lambda each: each.is_on(service)) for service in services)  # noqa: B023 (asked at once)


def _one_jump_host(hosts: Sequence[Guess], networks: Sequence[Network]) -> tuple[list[Guess], list[str]]:
    """The hosts with one jump host among them, or the question that is open."""
    if not networks:
        return [*hosts], []
    inner = {each.name for each in networks if not each.upstream}
    able = [each for each in hosts if (each.published or ENTERPRISE in each.addresses) and inner & set(each.addresses)]
    chosen = [each for each in able if each.role == "jumphost"]
    free = [each for each in able if each.role == "server"]
    if not chosen and len(free) == 1:
        chosen = free
        reason = "it is the only host without another role that is reached from outside and is inside"
        hosts = [replace(each, role="jumphost", why=reason) if each is free[0] else each for each in hosts]
    elif chosen:
        hosts = [
            replace(each, role="server", why=f"{each.why}; {chosen[0].name} is the jump host")
            if each.role == "jumphost" and each is not chosen[0]
            else each
            for each in hosts
        ]
    if chosen:
        return [*hosts], []
    which = f": {', '.join(each.name for each in free)}?" if free else "? None is reached from outside and is inside"
    return [*hosts], [f"which host is the jump host{which} A plan has one: give it the role 'jumphost'"]


def _of_rules(facts: Facts, networks: Sequence[Network], hosts: Sequence[Guess]) -> Iterator[str]:
    published = {each.published for each in hosts}
    for outer, inner in facts.halves:
        if outer in published:
            continue  # at that address it was asked: what is lacking is told, as a rule
        yield f"the rules map {outer} and {inner} in one direction only: a plan maps both; they stay as they are"
    for network in facts.networks:
        if not any(each.cidr == network for each in networks):
            yield f"the rules name the network {network}, in which the gateway has no address: no plan has it"
