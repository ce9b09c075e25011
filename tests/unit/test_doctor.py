"""The doctor's walk: from what was seen, made up here, to causes and fixes. No host is asked."""

import hashlib
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from netaddr import IPAddress
from rich.console import Console

from tests.unit import site
from underlay.access import hostkeys
from underlay.access.endpoints import Endpoint
from underlay.access.target import Target
from underlay.compare.difference import Difference, NodePart, UnitState
from underlay.compare.filters import Filters
from underlay.compare.network import LiveNetwork
from underlay.compare.sshd import CONFIG
from underlay.compare.systemd import next_boot
from underlay.compare.systemd.next_boot import NextBoot, Start, Systemd
from underlay.compare.tables import Table
from underlay.console import screen
from underlay.desired import checkout, nat, nginx, routing, traffic, units
from underlay.desired.files import SSHD, authorized_keys, firewall_unit, network_files, sshd_file
from underlay.desired.routing import Route
from underlay.desired.traffic import Flow
from underlay.desired.units import PACKAGES
from underlay.doctor import policy
from underlay.doctor import run as doctor
from underlay.doctor.cause import Cause, Diagnosis
from underlay.doctor.causes.between import choice
from underlay.doctor.diagnosis import diagnose, unexplained
from underlay.doctor.policy import Packet
from underlay.doctor.survey import Failure, Followed, Hop, HostSurvey, Survey, Way, Workstation
from underlay.doctor.ways import failure_of
from underlay.observe import drift
from underlay.observe.exchange import Outcome
from underlay.observe.health import Clock, Conntrack, GuardStatus, Link, RuleCounter, Upstream
from underlay.observe.state import NO_SUCH_NAME, HostState
from underlay.plan import OUTSIDE, REPO, Host, Plan, load, roles
from underlay.remote.guard.paths import COPY
from underlay.remote.survey.connections import OUR_PROBE
from underlay.trace.ended import Ended
from underlay.trace.seen import Taken

PLAN = load(REPO / "group_data/all.py")
DEPLOYED = [host for host in PLAN.hosts if host.role not in ("workstation", "images")]
NO_LISTENER = "Connection refused"
NAMED = Path("/known_hosts")


def mac(host: str, network: str) -> str:
    return f"{host}-{network}"


def target(name: Literal["lab", "ssh"] = "lab", plan: Plan = PLAN) -> Target:
    ways = {host.name: Endpoint(host.name, host.published or host.primary.address) for host in plan.hosts}
    for host in plan.hosts_of("master"):
        ways[host.name] = Endpoint(host.name, host.primary.address, "jumphost")
    endpoints = (*ways.values(), Endpoint(OUTSIDE, IPAddress("192.168.0.1")))
    return Target(plan, name, plan.host("dev"), endpoints, NAMED, NAMED, IPAddress("203.0.113.1"))


def state(host: Host, **parts: object) -> HostState:
    """A host as planned, but for some of the parts of its state."""
    wanted = routing.host_network(PLAN, host)
    files = {nginx.PATH: nginx.configuration(PLAN)} if host.role == "lb_nginx" else {}
    if host in DEPLOYED:
        files[SSHD] = sshd_file(PLAN, host)
        files[authorized_keys(host)] = f"{hostkeys.machine_key(PLAN, MACHINE)}\n"
    if host.role == "gateway":
        files[units.FIREWALL_FILE] = firewall_unit(COPY)
    found: dict[str, object] = {
        "network": LiveNetwork(
            links={nic.nic: True for nic in host.interfaces},
            addresses=wanted.addresses,
            routes=wanted.routes,
            rules=wanted.rules,
            sysctls=wanted.sysctls,
            files=network_files(wanted, {}),
        ),
        "filters": Filters(),
        "next_boot": NextBoot(),
        "sshd": site.sshd(PLAN, host),
        "firewall": site.firewall(PLAN),
        "units": {
            f"{unit}.service": UnitState("active", "enabled")
            for unit in ("systemd-networkd", "underlay-firewall", "ssh", "nginx")
        },
        "files": files,
        "nics": {nic.nic: Link(True, True, 1500, mac(host.name, nic.network)) for nic in host.interfaces},
        "guard": GuardStatus(None, None),
        "failed_units": (),
        "conntrack": Conntrack(10, 1000, {}),
        "counters": (),
        "clock": Clock(0.0, 0.01),
        "upstreams": tuple(Upstream(*each, "", 0.001) for each in UPSTREAMS),
        **checked(host),
    }
    made = HostState(host.name, {"nginx": (0, [])})
    vars(made).update(found | parts)  # they are cached properties: nothing is read any more
    return made


def checked(host: Host) -> dict[str, object]:
    """What `verify` looks at beside the network, as planned."""
    return {
        "packages": {*PACKAGES.get(host.role, ())},
        "listening": {22, nginx.HTTP_PORT, nginx.API_PORT},
        "on_call": {},
        "machine_public": MACHINE,
        "rotation_due": [],
        "tree": {path: hashlib.sha256(content).hexdigest() for path, content in TREE.items()},
        "python_packages": checkout.pinned_packages(),
        "answers": {f"{NO_SUCH_NAME}/": (404, ""), f"{NO_SUCH_NAME}/healthz": (200, "ok\n")}
        | {f"{name}/": (502, "") for name in roles.lb_nginx(PLAN).web_services},
    }


MACHINE = f"ssh-ed25519 {'A' * 68}"
TREE = checkout.files(PLAN)
UPSTREAMS = [("kubernetes_api", "100.64.0.2:6443"), ("grafana", "100.64.0.2:3000"), ("prometheus", "100.64.0.2:9090")]


def look(host: Host, **parts: Any) -> HostSurvey:
    """What a host of a healthy site sees around it."""
    arp: dict[str, dict[str, list[str]]] = {}
    for nic in host.interfaces:
        near = [(other, its) for other in PLAN.hosts if other != host if (its := other.interface(nic.network))]
        arp[nic.nic] = {str(its.address): [mac(other.name, its.network)] for other, its in near}
        arp[nic.nic][str(nic.address)] = []
    if host == PLAN.gateway:
        arp["eth0"] |= {"192.168.0.1": ["upstream"], "192.168.0.52": [], "192.168.0.53": []}
    echo = {} if host == PLAN.gateway else {nic.nic: [1500, 1500] for nic in host.interfaces}
    return replace(HostSurvey(arp=arp, echo=echo), **parts)


def good(flow: Flow) -> Outcome:
    return Outcome(receiver=flow.receivers[0], seen_as=str(flow.seen_as), tracked=flow.tracked)


def healthy(name: Literal["lab", "ssh"] = "lab") -> Survey:
    hosts = [host for host in PLAN.hosts if host.name != "dev"]
    hops = {str(each.address): Hop("eth0", "", "192.168.0.105") for each in target().endpoints if not each.jump}
    return Survey(
        target=target(name),
        workstation=Workstation("dev", {"eth0": (True, True)}, hops),
        states={host.name: state(host) for host in hosts},
        looks={host.name: look(host) for host in DEPLOYED},
        outcomes={flow: good(flow) for flow in traffic.expected(PLAN, IPAddress("203.0.113.1"))},
    )


def with_state(seen: Survey, name: str, **parts: object) -> Survey:
    return replace(seen, states=seen.states | {name: state(PLAN.host(name), **parts)})


def with_look(seen: Survey, name: str, **parts: Any) -> Survey:
    return replace(seen, looks=seen.looks | {name: look(PLAN.host(name), **parts)})


def failing(seen: Survey, which: Callable[[Flow], bool]) -> Survey:
    error = Outcome(error="no answer within 3 s")
    return replace(seen, outcomes={flow: error if which(flow) else each for flow, each in seen.outcomes.items()})


def without(seen: Survey, why: Any, *names: str) -> Survey:
    """Some hosts can't be reached, and what needs them fails."""
    seen = failing(seen, lambda flow: bool(flow.hosts & set(names)))
    return replace(
        seen,
        failures={name: Failure(why, "no answer") for name in names},
        states={name: each for name, each in seen.states.items() if name not in names},
        looks={name: each for name, each in seen.looks.items() if name not in names},
    )


def only(diagnosis: Diagnosis) -> Cause:
    assert len(diagnosis.findings) == 1, [each.cause for each in diagnosis.findings]
    return diagnosis.findings[0]


def network(name: str, **parts: object) -> LiveNetwork:
    return replace(state(PLAN.host(name)).network, **parts)  # type: ignore[arg-type]


def test_healthy() -> None:
    """Nothing is found where all is well, and the walk tells each of its steps."""
    steps: list[str] = []
    assert diagnose(healthy(), steps.append) == Diagnosis(())
    assert [step for step in steps if not step.endswith(": ok")] == []
    assert steps[0].startswith("this machine")
    assert any(step.startswith("gateway") for step in steps)


def test_gateway_dead() -> None:
    """One finding, not one for each host behind it."""
    names = [host.name for host in DEPLOYED]
    seen = without(healthy(), "silent", *names)
    seen = replace(seen, outcomes={flow: Outcome(error="dead") for flow in seen.outcomes})
    found = only(diagnose(seen))
    assert (found.id, found.host) == ("silent", "gateway")
    assert found.fix == './inv lab.up && ./inv lab.run gateway "ip link set eth0 up" && ./inv deploy gateway'
    follows = "what follows: jumphost, lb, master-1 can't be reached the plan's way; 53 of 53 connections fail"
    assert follows in found.evidence


def test_gateway_dead_for_real() -> None:
    """A real machine has a console, and no command switches it on."""
    seen = without(healthy("ssh"), "no ARP answer", *(host.name for host in DEPLOYED))
    found = only(diagnose(seen))
    assert found.fix == "ip link set eth0 up"
    assert found.at == "at the console of gateway, as root"
    assert "switch gateway on" in found.advice
    assert found.advice.endswith("then here: ./inv deploy gateway")


def test_gateway_takes_no_connection() -> None:
    """One that answers ARP is not off."""
    seen = without(healthy(), "silent", *(host.name for host in DEPLOYED))
    seen = replace(seen, workstation=replace(seen.workstation, neighbours={"192.168.0.51": "02:00"}))
    assert only(diagnose(seen)).id == "no-connection"


@pytest.mark.parametrize(
    ("links", "hop", "id", "fix"),
    [
        ((False, False), Hop(""), "nic-down", './inv lab.run dev "ip link set eth0 up"'),
        ((True, False), Hop("eth0"), "no-carrier", "./inv lab.heal"),
        ((True, True), Hop(""), "route-missing", ""),
        (
            (True, True),
            Hop("eth0", "192.168.0.50"),
            "route-wrong",
            './inv lab.run dev "ip route del 192.168.0.51 via',
        ),
    ],
)
def test_this_machine(links: tuple[bool, bool], hop: Hop, id: str, fix: str) -> None:
    """What is wrong here explains everything: nothing else is told."""
    seen = without(healthy(), "no route", *(host.name for host in PLAN.hosts if host.name != "dev"))
    here = Workstation("dev", {"eth0": links}, {"192.168.0.51": hop})
    found = only(diagnose(replace(seen, workstation=here)))
    assert (found.id, found.host) == (id, "dev")
    assert found.fix.startswith(fix)


def test_a_nic_explains_its_routes() -> None:
    """Of a NIC that is down only the NIC is told, not the addresses and routes that went with it."""
    live = network("master-1", links={"eth0": True, "eth1": False, "eth2": True})
    live = replace(
        live,
        addresses=tuple(each for each in live.addresses if each.nic != "eth1"),
        routes=tuple(each for each in live.routes if each.nic != "eth1"),
    )
    seen = failing(with_state(healthy(), "master-1", network=live), lambda flow: flow.source == "master-1")
    found = only(diagnose(seen))
    assert (found.id, found.fix) == ("nic-down", "./inv deploy master")


def test_an_address_explains_its_routes() -> None:
    """The kernel drops the routes that prefer an address together with it."""
    live = network("master-1")
    live = replace(
        live,
        addresses=tuple(each for each in live.addresses if each.nic != "eth2"),
        routes=tuple(each for each in live.routes if each.source != "100.64.64.2"),
    )
    found = only(diagnose(with_state(healthy(), "master-1", network=live)))
    assert found.cause == "master-1: address 100.64.64.2/21 on eth2 is missing"
    assert found.plan.endswith("hosts.master-1.addresses.storage")


def test_a_route_elsewhere() -> None:
    """A wrong next hop is told with the one that is there; the fix takes the way that is left."""
    live = network("jumphost", routes=(Route(1000, "default", "100.64.0.53", "eth0"),))
    seen = with_state(healthy(), "jumphost", network=live)
    seen = replace(
        seen,
        failures={"jumphost": Failure("silent", "no answer")},
        other_ways={"jumphost": Way("gateway", "100.64.0.52")},
    )
    found = only(diagnose(seen))
    assert found.id == "route-wrong"
    assert any("via 100.64.0.53" in line for line in found.evidence)
    way = "./inv change jumphost --via gateway "
    assert found.fix.startswith(f'{way}"ip route replace default via 100.64.0.1 dev eth0')
    assert found.fix.endswith('" && ./inv deploy jumphost')


def test_another_address_by_another_way() -> None:
    """A node is reached in another network, and the fix says so."""
    live = network("master-1", links={"eth0": False, "eth1": True, "eth2": True})
    seen = with_state(healthy(), "master-1", network=live)
    seen = replace(
        seen,
        failures={"master-1": Failure("silent", "no answer")},
        other_ways={"master-1": Way("gateway", "100.64.32.2")},
    )
    assert only(diagnose(seen)).fix.startswith("./inv change master-1 --via gateway --address 100.64.32.2 ")
    # On Debian 12 the policy rules go with the NIC, and its fix brings them back.
    gone = with_state(seen, "master-1", network=replace(live, rules=()))
    found = only(diagnose(gone))
    assert found.id == "nic-down"
    assert "ip rule" not in found.fix


@pytest.mark.parametrize(
    ("change", "id"),
    [
        (lambda live: live["nat"].rules["PREROUTING"].pop(0), "rule-missing"),
        (lambda live: live["nat"].rules["POSTROUTING"].reverse(), "rule-order"),
        (lambda live: live["raw"].rules["PREROUTING"].clear(), "rule-missing"),
    ],
)
def test_rules(change: Callable[[Any], object], id: str) -> None:
    """One finding for all rules that are not as planned, with the plan's line of the first."""
    live = site.ruleset(nat.gateway_rules(PLAN))
    change(live)
    seen = with_state(healthy(), "gateway", firewall=site.firewall(PLAN, live=live))
    found = only(diagnose(failing(seen, lambda flow: "lb" in flow.hosts and flow.tracked is True)))
    assert (found.id, found.host, found.fix) == (id, "gateway", "./inv deploy gateway")
    assert "group_data/all.py" in found.plan


def test_a_sysctl_that_holds_up_nothing() -> None:
    """A gateway whose filter is loose forwards all the same."""
    loose = {**routing.host_network(PLAN, PLAN.gateway).sysctls, "net.ipv4.conf.eth1.rp_filter": "0"}
    found = only(diagnose(with_state(healthy(), "gateway", network=network("gateway", sysctls=loose))))
    assert found.cause == "gateway: net.ipv4.conf.eth1.rp_filter is 0, not 1"


def test_forwarding_explains_all() -> None:
    """Hosts that can't be reached and connections that fail follow from it."""
    seen = with_state(healthy(), "gateway", network=network("gateway", sysctls={"net.ipv4.ip_forward": "0"}))
    seen = replace(seen, failures={name: Failure("silent", "no answer") for name in ("jumphost", "lb", "master-1")})
    found = only(diagnose(failing(seen, lambda flow: flow.tracked is True)))
    assert found.cause == "gateway: it does not forward: net.ipv4.ip_forward is 0, not 1"


FOREIGN = [
    ("filter", "FORWARD", '-s 100.64.0.53/32 -p tcp -m comment --comment "by security" -j DROP', "drops packets"),
    ("nat", "POSTROUTING", "-s 100.64.0.53/32 -j ACCEPT", "is taken before ours"),
    ("raw", "PREROUTING", "-s 100.64.0.53/32 -j CT --notrack", "is taken before ours"),
    ("mangle", "FORWARD", "-s 100.64.0.53/32 -m tcp --tcp-flags SYN SYN -j REJECT", "drops packets"),
]


@pytest.mark.parametrize(("table", "chain", "spec", "how"), FOREIGN, ids=[each[0] for each in FOREIGN])
def test_rule_of_others(table: str, chain: str, spec: str, how: str) -> None:
    """The rule that all that fails meets, and nothing that works; the fix deletes it, as one argument of a shell."""
    live = site.ruleset(nat.gateway_rules(PLAN))
    live.setdefault(table, type(live["nat"])({chain: "ACCEPT"}, {chain: []})).rules[chain].insert(0, spec)
    innocent = "-s 192.0.2.0/24 -j DROP"
    live["filter"].rules["FORWARD"].insert(0, innocent)
    seen = with_state(
        healthy(),
        "gateway",
        firewall=site.firewall(PLAN, live=live),
        counters=(RuleCounter(table, chain, spec, 17, 900),),
    )
    found = only(diagnose(failing(seen, lambda flow: "lb" in flow.hosts and flow.tracked is not None)))
    assert (found.id, found.host) == ("rule-unmanaged", "gateway")
    assert how in found.cause
    assert "17 packets have met it so far" in found.evidence
    assert found.odd == (f"unmanaged rule: -t filter -A FORWARD {innocent}",)
    command = shlex.split(found.fix)
    assert command[:3] == ["./inv", "change", "gateway"]
    assert shlex.split(command[3]) == ["iptables", "-t", table, "-D", chain, *shlex.split(spec)]


def test_policies_count_too() -> None:
    """A chain that lets nothing through but what its rules accept; the fix can only open it."""
    live = site.ruleset(nat.gateway_rules(PLAN))
    live["filter"].policies["INPUT"] = live["filter"].policies["FORWARD"] = "DROP"
    live["filter"].rules["INPUT"] = [
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-m conntrack --ctstate INVALID,UNTRACKED -j ACCEPT",
        "-i eth0 -p tcp -m tcp --dport 2222 -j ACCEPT",
    ]
    seen = with_state(healthy(), "gateway", firewall=site.firewall(PLAN, live=live))
    to_gateway = {nic.address for nic in PLAN.gateway.interfaces}
    found = only(diagnose(failing(seen, lambda flow: flow.destination in to_gateway)))
    assert found.cause == "gateway: an unmanaged policy drops packets: -t filter -P INPUT DROP"
    assert shlex.split(shlex.split(found.fix)[3]) == ["iptables", "-t", "filter", "-P", "INPUT", "ACCEPT"]


def forwarded(flow: Flow) -> bool:
    """Whether the gateway forwards the packets of a connection."""
    ends = (flow.source_address, flow.destination)
    published = any(host.published == flow.destination for host in PLAN.hosts)
    own = any(nic.address in ends for nic in PLAN.gateway.interfaces)
    near = any(all(end in network.cidr for end in ends) for network in PLAN.networks)
    return not own and (published or not near)


LEGACY = [
    ("gateway", "FORWARD", "DROP", [], "-P FORWARD ACCEPT"),
    ("gateway", "FORWARD", "ACCEPT", ['-m comment --comment "a `b` c" -j DROP'], "-D FORWARD -m comment --comment"),
    ("master-1", "INPUT", "DROP", ["-m conntrack --ctstate ESTABLISHED -j ACCEPT"], "-P INPUT ACCEPT"),
    ("lb", "INPUT", "ACCEPT", ["-m state --state NEW -j REJECT"], "-D INPUT -m state --state NEW -j REJECT"),
]


@pytest.mark.parametrize(("host", "chain", "policy", "specs", "undo"), LEGACY)
def test_parallel_iptables(host: str, chain: str, policy: str, specs: list[str], undo: str) -> None:
    """The iptables that the host's own is not: as certain as the host's own, on every host, and before services."""
    table = Table({"INPUT": "ACCEPT", "FORWARD": "ACCEPT"} | {chain: policy}, {"INPUT": [], "FORWARD": []})
    table.rules[chain] = specs
    filters = Filters({"iptables-legacy": {"filter": table}})
    seen = with_state(healthy(), host, filters=filters)
    assert diagnose(seen).findings == ()
    its = {nic.address for nic in PLAN.host(host).interfaces} | {PLAN.host(host).published}
    found = only(diagnose(failing(seen, forwarded if host == "gateway" else lambda flow: flow.destination in its)))
    assert (found.id, found.host) == ("filter-unmanaged", host)
    assert f"iptables-legacy filters beside the iptables of {host}" in found.evidence
    command = shlex.split(shlex.split(found.fix)[3])
    assert shlex.join(command).startswith(f"iptables-legacy -t filter {undo}")
    assert not specs or policy == "DROP" or command[5:] == shlex.split(specs[0])


def followed(ended: Ended, which: Callable[[Flow], bool]) -> Survey:
    """What fails of a healthy site, and where a packet of each ends."""
    seen = failing(healthy(), which)
    failed = [flow for flow, outcome in seen.outcomes.items() if outcome.error]
    return replace(
        seen, followed=tuple(Followed(flow.receivers[0], "./inv trace", flow, ended=ended) for flow in failed)
    )


TAKEN = Ended("filter-unmanaged", "lb", "nftables chain inet block in", True, "nft delete rule inet block in handle 8")


def test_followed() -> None:
    """What took packets, before services are blamed for what does not answer; what follows from it is no cause."""
    found = only(diagnose(followed(TAKEN, lambda flow: "lb" in flow.hosts)))
    assert (found.id, found.host) == ("filter-unmanaged", "lb")
    assert found.fix == './inv change lb "nft delete rule inet block in handle 8"'
    found = only(diagnose(followed(replace(TAKEN, undo="", advice="look"), lambda flow: "lb" in flow.receivers)))
    assert (found.fix, found.advice) == ("", "look")


@pytest.mark.parametrize(
    ("hook", "ends", "accepts"),
    [("INPUT", {"source"}, True), ("OUTPUT", {"source"}, False), ("INPUT", {"source", "receivers"}, False)],
)
def test_answers_to_the_gateway_itself(hook: str, ends: set[str], accepts: bool) -> None:
    """They have no connection by the plan: a filter that drops those is mended, any other rule goes."""
    what = "an unmanaged packet filter drops packets: -t filter -A INPUT -m conntrack --ctstate INVALID -j DROP"
    undo = "iptables -t filter -D INPUT -m conntrack --ctstate INVALID -j DROP"
    ended = Ended("rule-unmanaged", "gateway", what, True, undo, hook=hook)

    def concerned(flow: Flow) -> bool:
        to_it = "receivers" in ends and "gateway" in flow.receivers and not flow.must_not
        return flow.source == "gateway" or to_it

    found = only(diagnose(followed(ended, concerned)))
    assert ("--syn -j ACCEPT" in found.fix, undo in found.fix) == (accepts, not accepts)


def test_followed_to_two_ends() -> None:
    """Two faults are both found; that a packet of a third connection is lost follows from them."""
    lb = followed(TAKEN, lambda flow: "lb" in flow.receivers)
    master = followed(TAKEN, lambda flow: "master-1" in flow.receivers)
    other = Ended("neighbour-wrong", "jumphost", "a neighbour entry", True, "ip neigh del 100.64.0.2 dev eth0")
    lost = Ended("packet-lost", "gateway", "it did not arrive")
    both = [*lb.followed, *(replace(each, ended=other) for each in master.followed)]
    outcomes = {flow: each for seen in (lb, master) for flow, each in seen.outcomes.items() if each.error}
    seen = replace(healthy(), outcomes=healthy().outcomes | outcomes, followed=tuple(both))
    assert {each.id for each in diagnose(seen).findings} == {"filter-unmanaged", "neighbour-wrong"}
    seen = replace(seen, followed=(*both, replace(both[0], ended=lost)))
    assert {each.id for each in diagnose(seen).findings} == {"filter-unmanaged", "neighbour-wrong"}


def test_followed_and_lost() -> None:
    """Where nothing is known that took it, the place is told, and how to look closer."""
    lost = Ended("packet-lost", "gateway", "the packet left gateway eth1 and did not arrive at lb eth0")
    found = only(diagnose(followed(lost, lambda flow: "lb" in flow.receivers)))
    assert (found.id, found.host, found.fix) == ("packet-lost", "gateway", "")
    assert found.cause == "gateway: the packet left gateway eth1 and did not arrive at lb eth0"
    assert found.advice == "look closer: ./inv trace"


def test_followed_to_a_host_that_is_lost() -> None:
    """ssh's own packets are followed, too; what is wrong with a machine that is not ours is fixed there."""
    wrong = Ended("neighbour-wrong", "dev", "a neighbour entry", True, "ip neigh del 192.168.0.51 dev eth0")
    seen = without(healthy(), "silent", *(host.name for host in DEPLOYED))
    seen = replace(seen, workstation=replace(seen.workstation, neighbours={"192.168.0.51": "02:00"}))
    found = only(diagnose(replace(seen, followed=(Followed("gateway", "./inv trace", ended=wrong),))))
    assert (found.id, found.fix) == ("neighbour-wrong", './inv lab.run dev "ip neigh del 192.168.0.51 dev eth0"')


def test_what_is_to_be_followed() -> None:
    """What nothing on the hosts explains, and those between neighbours first."""
    flows, lost = unexplained(failing(healthy(), lambda flow: "lb" in flow.hosts))
    assert (lost, {"lb" in flow.hosts for flow in flows}) == ([], {True})
    chosen = choice.few(PLAN, flows, 4)
    assert len(chosen) == 4
    assert len({(flow.source, flow.receivers) for flow in chosen}) == 4
    assert [host.name for host in unexplained(without(healthy(), "silent", "lb"))[1]] == ["lb"]


def test_firewalld() -> None:
    """On the gateway it is a cause by itself, at once or after a boot; elsewhere by what it does."""
    on = Filters(units={"firewalld.service": UnitState("active", "disabled")})
    found = only(diagnose(with_state(healthy(), "gateway", filters=on)))
    assert (found.id, found.latent) == ("firewalld", False)
    later = Filters(units={"firewalld.service": UnitState("inactive", "enabled")})
    found = only(diagnose(with_state(healthy(), "gateway", filters=later)))
    assert (found.id, found.latent) == ("firewalld", True)
    assert found.fix == './inv change gateway "systemctl disable --now firewalld" && ./inv deploy gateway'
    assert diagnose(with_state(healthy(), "lb", filters=on)).findings == ()


STORAGE = IPAddress("100.64.64.2")
ELSEWHERE = {"dst": "default", "gateway": "100.64.32.1", "dev": "eth1", "table": "254"}
OTHERS_RULE = {"priority": 90, "src": "100.64.64.2", "table": "254"}


def with_taken(seen: Survey, rule: dict[str, Any] | None, route: dict[str, Any] | None = ELSEWHERE) -> Survey:
    """What fails to the storage address, and what the kernel of its host does with what goes back there."""
    seen = failing(seen, lambda flow: flow.destination == STORAGE)
    failed = [flow for flow, outcome in seen.outcomes.items() if outcome.error]
    arguments = f"priority {rule['priority']} from x; lookup 254" if rule else None
    answer: Taken = {"rule": rule, "route": route, "arguments": arguments, "line": None}
    packets = [each for each in policy.packets(PLAN.host("master-1"), failed) if not each.nic]
    return replace(seen, taken={"master-1": [(packet, answer) for packet in packets]})


def test_policy_rule_of_others() -> None:
    """The rule that the kernel takes for packets that then go another way than the plan's, and its removal."""
    assert diagnose(replace(with_taken(healthy(), OTHERS_RULE), outcomes=healthy().outcomes)).findings == ()
    found = only(diagnose(with_taken(healthy(), OTHERS_RULE)))
    assert found.id == "policy-rule-unmanaged"
    assert found.fix == """./inv change master-1 "ip rule del priority 90 from 'x;' lookup 254\""""


@pytest.mark.parametrize(
    ("rule", "route"),
    [
        (None, ELSEWHERE),
        ({"priority": 100, "src": "all", "table": "255"}, ELSEWHERE),
        ({"priority": 3, "src": "100.64.64.2", "iif": "eth2", "table": "255"}, ELSEWHERE),
        ({"priority": 32000, "src": "all", "table": "254"}, ELSEWHERE),
        ({"priority": 32764, "src": "all", "table": "254", "suppress_prefixlen": 0}, ELSEWHERE),
        ({"priority": 50, "src": "all", "table": "253"}, ELSEWHERE),
        ({"priority": 30100, "src": "100.64.64.2", "dst": "10.0.0.0", "dstlen": 8, "table": "1004"}, ELSEWHERE),
        (OTHERS_RULE, {"dst": "default", "gateway": "100.64.64.1", "dev": "eth2", "table": "1004"}),
    ],
    ids=["none", "local, moved", "local, of some", "main", "main of a VPN", "default", "ours", "as planned"],
)
def test_policy_rules_that_are_not_to_blame(rule: dict[str, Any] | None, route: dict[str, Any]) -> None:
    """What the host can't be without, what is ours, and what takes its packets the planned way."""
    seen = with_taken(healthy(), rule, route)
    taken = {"master-1": [each for each in seen.taken["master-1"] if each[0].peer not in each[0].own.cidr]}
    assert [each.id for each in diagnose(replace(seen, taken=taken)).findings] == ["unexplained"]


def test_a_policy_rule_that_can_t_be_named_alone() -> None:
    """It is told, and nothing is printed that would delete another one."""
    seen = with_taken(healthy(), OTHERS_RULE)
    taken: list[tuple[Packet, Taken]] = [
        (packet, {**answer, "arguments": None}) for packet, answer in seen.taken["master-1"]
    ]
    found = only(diagnose(replace(seen, taken={"master-1": taken})))
    assert (found.id, found.fix) == ("policy-rule-unmanaged", "")
    assert "priority 90 src 100.64.64.2" in found.cause


def test_unexplained() -> None:
    """What nothing explains is told, with where to look."""
    found = only(diagnose(failing(healthy(), lambda flow: flow.destination == IPAddress("203.0.113.1"))))
    assert found.id == "unexplained"
    assert found.fix.startswith("./inv trace ")


def test_what_was_not_tried_has_not_failed() -> None:
    """A host that was too busy to make its connections says nothing of the network."""
    seen = healthy()
    busy = Outcome(error="dev: the probe does not work there: no answer in time", unasked=True)
    outcomes = {flow: busy if flow.source == "dev" else each for flow, each in seen.outcomes.items()}
    found = diagnose(replace(seen, outcomes=outcomes))
    assert found.findings == ()
    [unread] = found.unread
    assert re.fullmatch(r"\d+ connections were not tried \(dev .*\): dev: the probe does not work there: .*", unread)


def test_the_same_mac() -> None:
    """Two hosts of one network that have it are named, both."""
    nics = {"eth0": Link(True, True, 1500, mac("lb", "mgmt"))}
    found = only(diagnose(with_state(failing(healthy(), lambda flow: "jumphost" in flow.hosts), "jumphost", nics=nics)))
    assert (found.id, found.fix) == ("mac-duplicate", "")
    arp = look(PLAN.gateway).arp
    arp["eth1"]["100.64.0.53"] = [mac("jumphost", "mgmt")]
    seen = with_look(without(healthy(), "silent", "lb"), "gateway", arp=arp)
    found = only(diagnose(seen))
    assert (found.id, found.cause) == (
        "mac-duplicate",
        "jumphost eth0 and lb eth0 have the same MAC jumphost-mgmt in mgmt: one gets what is for both",
    )


def test_silent_host() -> None:
    """A host that nobody hears is off, for all that can be known; its neighbours are not blamed."""
    seen = without(healthy(), "silent", "lb")
    arp = look(PLAN.gateway).arp
    arp["eth1"]["100.64.0.53"] = []
    found = only(diagnose(with_look(seen, "gateway", arp=arp)))
    assert (found.id, found.host) == ("silent", "lb")
    assert "jumphost" in found.evidence[1]


def test_plugged_in_elsewhere() -> None:
    """A host that the gateway hears in another network has its cable there."""
    seen = without(healthy(), "silent", "jumphost", "master-1")
    arp = look(PLAN.gateway).arp
    arp["eth1"]["100.64.0.52"] = []
    arp["eth3"]["100.64.0.52"] = ["02:99"]
    found = only(diagnose(with_look(seen, "gateway", arp=arp)))
    assert found.cause == "jumphost: eth0 is plugged into storage, not mgmt"


def test_nic_in_the_wrong_network() -> None:
    """A NIC that hears another network only; one that hears its own, too, is the other one's fault."""
    arp = look(PLAN.gateway).arp
    arp["eth1"] = {"100.64.64.2": [mac("master-1", "storage")], "100.64.0.52": []}
    node = look(PLAN.host("master-1")).arp
    node["eth2"]["100.64.64.1"] = [mac("gateway", "storage"), mac("gateway", "mgmt")]
    seen = with_look(with_look(healthy(), "gateway", arp=arp), "master-1", arp=node)
    found = only(diagnose(seen))
    assert found.cause == "gateway: eth1 is plugged into storage, not mgmt"


def test_duplicate_of_a_known_machine() -> None:
    """A machine that can be asked says itself that it has the address; the fix takes it away there."""
    live = network("images")
    live = replace(live, addresses=(*live.addresses, routing.Address("eth0", "192.168.0.53/24")))
    found = only(diagnose(with_state(healthy(), "images", network=live)))
    assert (found.id, found.host) == ("address-duplicate", "images")
    take_away = './inv change images "ip address del 192.168.0.53/24 dev eth0"'
    assert found.fix == f'{take_away} && ./inv lab.run dev "ip neighbour flush to 192.168.0.53"'
    assert found.plan.endswith("hosts.lb.published")


def test_duplicate_of_a_stranger() -> None:
    """Of others the MAC is known."""
    arp = look(PLAN.gateway).arp
    arp["eth0"]["192.168.0.53"] = ["02:66"]
    found = only(diagnose(with_look(healthy(), "gateway", arp=arp)))
    assert (found.id, found.fix) == ("address-duplicate", "")
    assert "02:66" in found.advice


@pytest.mark.parametrize(
    ("why", "id", "fix"),
    [
        ("refused", "sshd-down", './inv lab.run jumphost "if systemctl -q is-active ssh; then sed'),
        ("host key", "host-key", "key=$(./inv lab.run jumphost "),
    ],
)
def test_ssh(why: str, id: str, fix: str) -> None:
    """Why ssh does not get in, where the host itself is there."""
    seen = without(healthy(), why, "jumphost", "master-1")
    seen = replace(seen, failures=seen.failures | {"master-1": Failure("the jump host", "the jump host can't")})
    found = only(diagnose(seen))
    assert (found.id, found.host) == (id, "jumphost")
    assert found.fix.startswith(fix)
    real = only(diagnose(replace(seen, target=target("ssh"))))
    assert "lab" not in real.fix


def test_upstream() -> None:
    """The router beyond is not ours."""
    arp = look(PLAN.gateway).arp
    arp["eth0"]["192.168.0.1"] = []
    seen = with_look(healthy(), "gateway", arp=arp)
    found = only(diagnose(failing(seen, lambda flow: OUTSIDE in flow.hosts)))
    assert (found.id, found.host) == ("silent", OUTSIDE)


def test_mtu() -> None:
    """A node's own path, all paths of a network, a NIC that differs."""
    lossy = {"eth0": [1500, 1500], "eth1": [1500, 1500], "eth2": [1500, 1400]}
    found = only(diagnose(with_look(healthy(), "master-1", echo=lossy)))
    assert (found.id, found.host) == ("mtu-black-hole", "master-1")
    assert found.evidence[0] == "master-1 pings 100.64.64.1: 1400 bytes pass, 1500 do not"
    seen = healthy()
    for host in DEPLOYED[1:]:
        seen = with_look(seen, host.name, echo={**look(host).echo, "eth0": [1500, 1400]})
    assert only(diagnose(seen)).host == "gateway"
    odd = {**lossy, "eth2": [1400, 1400]}
    nics = state(PLAN.host("master-1")).nics
    seen = with_state(with_look(healthy(), "master-1", echo=odd), "master-1", nics=nics)
    assert only(diagnose(seen)).id == "mtu-differs"


def test_no_answer_is_no_mtu() -> None:
    """Where nobody answers a ping nothing is known."""
    assert diagnose(with_look(healthy(), "lb", echo={"eth0": [1500, 0]})).findings == ()


def test_connection_table() -> None:
    """Who filled it is named, and loses his entries; else the limit is raised."""
    full = Conntrack(950, 1000, {"drop": 3, "early_drop": 4})
    seen = with_state(healthy(), "gateway", conntrack=full)
    found = only(diagnose(seen))
    assert found.fix == './inv ssh gateway "sudo sysctl -w net.netfilter.nf_conntrack_max=2000"'
    found = only(diagnose(with_look(seen, "gateway", talkers=[["192.168.0.50", 0.9]])))
    assert found.fix == './inv ssh gateway "sudo conntrack -D -s 192.168.0.50"'


def servers(*errors: str) -> tuple[Upstream, ...]:
    return tuple(Upstream(*each, error, None) for each, error in zip(UPSTREAMS, errors, strict=True))


def test_what_is_not_installed_yet() -> None:
    """Nothing listens, and nothing ever ended: a note, no finding."""
    seen = with_state(healthy(), "lb", upstreams=servers(NO_LISTENER, NO_LISTENER, ""))
    found = diagnose(with_look(seen, "lb", connect={"100.64.0.2:6443": OUR_PROBE}))
    assert found.findings == ()
    assert found.notes == (
        "kubernetes_api: nothing listens on port 6443 of master-1",
        "grafana: nothing listens on port 3000 of master-1",
    )


def test_what_has_ended() -> None:
    """A service of the host has failed: one finding, whatever misses it."""
    seen = with_state(healthy(), "lb", upstreams=servers("", NO_LISTENER, NO_LISTENER))
    found = only(diagnose(with_state(seen, "master-1", failed_units=("grafana.service",))))
    assert found.fix == './inv ssh master-1 "sudo systemctl restart grafana.service"'
    stopped = only(diagnose(with_look(seen, "master-1", services=["grafana.service"])))
    assert stopped.cause == "master-1: grafana.service is enabled, and does not run"


def test_api_hangs() -> None:
    """It takes connections and does not answer: what listens there is restarted."""
    seen = with_look(healthy(), "lb", connect={"100.64.0.2:6443": "takes the connection, and does not answer"})
    seen = with_look(seen, "master-1", owners={"6443": "api.service"})
    found = only(diagnose(failing(seen, lambda flow: flow.port == 6443)))
    assert (found.id, found.fix) == ("api-down", './inv ssh master-1 "sudo systemctl restart api.service"')


def test_one_of_several_api_servers(tmp_path: Path) -> None:
    """One that refuses is down where others answer."""
    up = tuple(Upstream("kubernetes_api", f"100.64.0.{last}:6443", "", 0.001) for last in (3, 4))
    down = Upstream("kubernetes_api", "100.64.0.2:6443", NO_LISTENER, None)
    found = only(diagnose(with_state(healthy(), "lb", upstreams=(down, *up))))
    assert found.cause == "master-1: its API server (port 6443) does not listen"


def test_stale_change() -> None:
    """A change that is being made is a note; one that nobody undid is a finding."""
    pending = {"who": "ada@laptop", "since": "03:00", "what": ["a rule"], "left": 12.0, "deadline": "03:01"}
    pending["token"] = "t1"
    found = diagnose(with_state(healthy(), "gateway", guard=GuardStatus(pending, None)))
    assert found.findings == ()
    assert "being made right now, by ada@laptop" in found.notes[0]
    stale = only(diagnose(with_state(healthy(), "gateway", guard=GuardStatus({**pending, "left": 0.0}, None))))
    assert stale.fix.endswith('guard.pyz rollback t1 doctor"')


def test_services() -> None:
    """A service that does not run is fixed now; one that is just not enabled, before the next boot."""
    units = state(PLAN.host("lb")).units
    stopped = {**units, "nginx.service": UnitState("inactive", "enabled")}
    seen = failing(with_state(healthy(), "lb", units=stopped), lambda flow: flow.port == 80)
    assert only(diagnose(seen)).id == "service-down"
    disabled = {**units, "nginx.service": UnitState("active", "disabled")}
    found = only(diagnose(with_state(healthy(), "lb", units=disabled)))
    assert (found.id, found.latent) == ("boot-differs", True)


@pytest.mark.parametrize(
    ("path", "fix"),
    [
        ("/var/log/huge.log", "truncate -s 0 /var/log/huge.log"),
        ("/var/log/journal/x/system.journal", "journalctl --vacuum-size=100M"),
        ("/var/lib/database", ""),
    ],
)
def test_full_disk(path: str, fix: str) -> None:
    """Only what is a log is ever offered to be emptied."""
    found = only(diagnose(with_look(healthy(), "lb", full={"/var": [[2**20, path]]})))
    assert found.fix == (f'./inv ssh lb "sudo {fix}"' if fix else "")
    assert fix or "du -xh /var | sort -h | tail -20" in found.advice


def test_clock() -> None:
    """A clock that is a day off."""
    found = only(diagnose(with_state(healthy(), "lb", clock=Clock(-86400.0, 0.01))))
    assert (found.id, found.latent) == ("clock-off", True)
    assert "86400 s behind" in found.cause


def test_lines_that_win_over_ours_in_sshd() -> None:
    """Told as long as ours is there: else a deploy is the fix."""
    lb = PLAN.host("lb")
    there = site.sshd(PLAN, lb)
    files = {**there.files, CONFIG: "PasswordAuthentication yes\n"}
    found = replace(there, settings={**there.settings, "passwordauthentication": "yes"}, files=files)
    cause = only(diagnose(with_state(healthy(), "lb", sshd=found)))
    assert (cause.id, cause.latent) == ("sshd-open", True)
    assert "take line 1 out of /etc/ssh/sshd_config" in cause.advice
    assert CONFIG in cause.fix
    gone = {path: text for path, text in state(lb).files.items() if path != SSHD}
    assert only(diagnose(with_state(healthy(), "lb", sshd=found, files=gone))).id == "file-differs"


def test_latent_comes_last() -> None:
    """What works at present is told after what does not, whatever the host."""
    live = network("gateway", files={})
    seen = with_state(healthy(), "gateway", network=live)
    seen = with_state(
        seen, "lb", units={**state(PLAN.host("lb")).units, "nginx.service": UnitState("failed", "enabled")}
    )
    assert [each.id for each in diagnose(seen).findings] == ["service-down", "boot-differs"]


def test_packages() -> None:
    """The server of the packages is named, and what does not run there."""
    seen = with_look(healthy(), "gateway", sources={"http://192.168.0.50/debian": NO_LISTENER})
    seen = with_look(seen, "images", services=["packages.service"])
    found = only(diagnose(seen))
    assert (found.id, found.host, found.latent) == ("packages-unreachable", "images", True)
    assert found.fix == './inv ssh images "sudo systemctl start packages.service"'


def test_names() -> None:
    """The server of the names is named, and what does not run there; one of somebody else's has no fix from here."""
    seen = with_look(healthy(), "gateway", names={"192.168.0.50": "no answer within 1.5 s"})
    found = only(diagnose(with_look(seen, "images", services=["dns.service"])))
    assert (found.id, found.host, found.latent) == ("dns-silent", "images", False)
    assert found.evidence == ("gateway asks name server 192.168.0.50: no answer within 1.5 s",)
    assert found.fix == './inv ssh images "sudo systemctl start dns.service"'
    # What is on the same host follows, or is found when that is fixed.
    seen = with_look(seen, "lb", sources={"http://192.168.0.50/debian": NO_LISTENER})
    assert only(diagnose(seen)).id == "dns-silent"
    seen = with_look(healthy(), "lb", names={"192.0.2.53": "Connection refused", "192.168.0.50": ""})
    found = only(diagnose(seen))
    assert (found.host, found.fix, found.advice) == ("192.0.2.53", "", "look at the name server 192.0.2.53")


def test_unread() -> None:
    """What can't be looked at is no health."""
    broken = replace(healthy(), states=healthy().states | {"lb": HostState("lb", {})})
    found = diagnose(broken)
    assert found.findings == ()
    assert found.unread
    assert doctor.code(found) == 1


def test_codes_and_document() -> None:
    """0 healthy, 2 findings; the document has what programs need, and nothing of the walk's own."""
    assert doctor.code(diagnose(healthy())) == 0
    found = diagnose(with_state(healthy(), "lb", clock=Clock(90.0, 0.01)))
    assert doctor.code(found) == 2
    document = doctor.document(target(), found, 1.23)
    assert document["seconds"] == 1.2
    findings = document["findings"]
    assert isinstance(findings, list)
    assert list(findings[0]) == ["id", "host", "cause", "evidence", "fix", "at", "advice", "plan", "latent", "odd"]


def test_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Cause, evidence, plan, advice, fix, and where to type it; at the end how many there are, or what is missing."""
    seen = with_state(without(healthy("ssh"), "refused", "jumphost", "master-1"), "lb", clock=Clock(90.0, 0.01))
    console = Console(highlight=False, soft_wrap=True, color_system=None)
    doctor.show(diagnose(seen), 3.21, console)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        "1. jumphost: its sshd does not run, or listens elsewhere: nothing listens on port 22",
        "   evidence  ssh jumphost: no answer",
    ]
    [at] = [at for at, line in enumerate(lines) if line.startswith("   fix       if systemctl -q is-active ssh;")]
    assert lines[at + 1] == "             (at the console of jumphost, as root)"
    assert "2. lb: its clock is 90 s ahead" in lines
    assert lines[-1].startswith("1 to fix now, 1 to fix before it matters; in 3.2 s.")
    doctor.show(Diagnosis((), ("a note",), ("lb: why",)), 1.0, console)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "note: a note",
        "not looked at: lb: why",
        "nothing was found, but not everything was looked at; in 1.0 s",
    ]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("Host key verification failed.", "host key"),
        ("ops@192.168.0.52: Permission denied (publickey).", "key refused"),
        ("ssh: connect to host 192.168.0.52 port 22: Connection refused", "refused"),
        ("ssh: connect to host 192.168.0.52 port 22: Connection timed out", "silent"),
        ("no answer within 6 s", "silent"),
        ("Connection closed by UNKNOWN port 65535", "other"),
    ],
)
def test_why_ssh_fails(said: str, why: str) -> None:
    """From the last words of ssh."""
    assert failure_of([said], jump=False).why == why
    assert failure_of([said], jump=True).why == "the jump host"


def test_every_fix_is_one_line() -> None:
    """It can be pasted."""
    seen = without(healthy("ssh"), "refused", "jumphost", "master-1")
    for found in diagnose(seen).findings:
        assert re.fullmatch(r"[^\n]+", found.fix)


EVIL = "x$(touch hit)`touch hit`;touch hit '\" \\ !! &&touch hit"


def evil() -> dict[str, Survey]:
    """Sites where hosts name things so that a shell would run them."""
    word = EVIL.replace(" ", "")
    live = site.ruleset(nat.gateway_rules(PLAN))
    escaped = re.sub(r"([\"\\\\'])", r"\\\1", EVIL)
    live["filter"].rules["FORWARD"].insert(0, f'-s 100.64.0.53/32 -p tcp -m comment --comment "{escaped}" -j DROP')
    rules = with_state(healthy(), "gateway", firewall=site.firewall(PLAN, live=live))
    twice = network("images")
    twice = replace(twice, addresses=(*twice.addresses, routing.Address(word, "192.168.0.53/24")))
    routes = network(
        "jumphost", routes=(Route(254, "default", "100.64.0.53", "eth0"), Route(1050, "default", "", word))
    )
    lost = replace(
        with_state(healthy(), "jumphost", network=routes),
        failures={"jumphost": Failure("silent", "no answer")},
        other_ways={"jumphost": Way("gateway", "100.64.0.52")},
    )
    full = Conntrack(950, 1000, {"drop": 3})
    pending = {"who": EVIL, "since": "03:00", "what": [EVIL], "left": 0.0, "deadline": "03:01", "token": EVIL}
    return {
        "a comment": failing(rules, lambda flow: "lb" in flow.hosts and flow.tracked is not None),
        "a NIC": with_state(healthy(), "images", network=twice),
        "a NIC of a route": lost,
        "a file": with_look(healthy(), "lb", full={"/var": [[2**20, f"/var/log/{EVIL}"]]}),
        "a source": with_look(with_state(healthy(), "gateway", conntrack=full), "gateway", talkers=[[EVIL, 0.9]]),
        "a change": with_state(healthy(), "gateway", guard=GuardStatus(pending, None)),
        "a unit": with_state(healthy(), "lb", failed_units=(f"{word}.service",)),
        "a rule": with_taken(healthy(), OTHERS_RULE),
    }


@pytest.mark.parametrize("kind", evil())
def test_words_of_hosts_are_words_in_a_fix(kind: str, tmp_path: Path) -> None:
    """Pasted, and then run on the host by a shell there, nothing is run but what is meant."""
    inv, log = tmp_path / "inv", tmp_path / "log"
    inv.write_text(
        f'#!/bin/sh\n[ "$1" != deploy ] || exit 0\nfor each; do line=$each; done\nprintf "%s\\n" "$line" >> {log}\n'
    )
    inv.chmod(0o755)
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    for name in ("sudo", "ip", "iptables", "systemctl", "conntrack", "truncate", "python3"):
        (bin_ / name).write_text(f"#!/bin/sh\necho {name} >> {tmp_path}/ran\n")
        (bin_ / name).chmod(0o755)
    finding = diagnose(evil()[kind]).findings[0]
    commands = [finding.fix, *re.findall(r"\./inv ssh .*", finding.advice)]
    for each in filter(None, commands):
        subprocess.run(["bash", "-c", each], cwd=tmp_path, check=True)
    for line in log.read_text().splitlines() if log.exists() else ():
        environment = {"PATH": f"{bin_}:/usr/bin:/bin"}
        subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, check=True)
    assert not (tmp_path / "hit").exists()
    assert any(commands)
    if finding.fix:
        assert (tmp_path / "ran").exists() or "./inv deploy" in finding.fix


@pytest.mark.parametrize("character", ["\x1b[2J", "\n", "\r", "\x9b", "\u202e"])
def test_a_fix_that_can_t_be_shown(character: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is none: what is shown in its place is another command."""
    found = only(diagnose(with_look(healthy(), "lb", full={"/var": [[2**20, f"/var/log/a{character}b"]]})))
    assert (found.fix, found.at) == ("", "")
    assert found.advice.endswith("has characters that can't be pasted")
    doctor.show(Diagnosis((found,)), 1.0, screen(highlight=False, soft_wrap=True))
    assert capsys.readouterr().out.replace("\n", "").isprintable()


@pytest.mark.parametrize(
    ("unit", "fix"),
    [
        ("grafana.service", './inv ssh lb "sudo systemctl restart grafana.service"'),
        ("wg-quick@wg0.service", './inv change lb "systemctl restart wg-quick@wg0.service"'),
        ("networking.service", './inv change lb "systemctl restart networking.service"'),
        ("ufw.service", './inv change lb "systemctl restart ufw.service"'),
        ("--force.service", ""),
        ("a b.service", ""),
    ],
)
def test_units(unit: str, fix: str) -> None:
    """One of the network goes as a confirmed change; what is no name of a unit goes nowhere."""
    assert only(diagnose(with_state(healthy(), "lb", failed_units=(unit,)))).fix == fix


# --- the next boot --------------------------------------------------------------------------------------------------

MASK = "/etc/systemd/system/nginx.service"


def masked() -> NextBoot:
    """Of the load balancer: nginx is masked."""
    lb = PLAN.host("lb")
    good = Start("loaded", True, wanted=["multi-user.target"])
    found = dict.fromkeys(next_boot.needed(lb, routing.host_network(PLAN, lb)), good)
    return NextBoot(systemd=Systemd("graphical.target", found | {"nginx.service": Start("masked", False, MASK)}))


def test_the_next_boot() -> None:
    """What its parts say is told last; the same of a unit that is down is part of that."""
    seen = with_state(healthy(), "lb", next_boot=masked())
    cause = only(diagnose(seen))
    assert (cause.id, cause.host, cause.latent) == ("boot-unit", "lb", True)
    mend = f"./inv ssh lb \"sudo sh -c 'rm {MASK} && systemctl daemon-reload && systemctl enable nginx.service'\""
    assert cause.fix == mend
    stopped = state(PLAN.host("lb")).units | {"nginx.service": UnitState("inactive", "masked")}
    cause = only(diagnose(with_state(seen, "lb", units=stopped, next_boot=masked())))
    assert (cause.id, cause.fix) == ("service-down", f"{mend} && ./inv deploy lb_nginx")


def test_a_next_boot_that_can_not_be_asked() -> None:
    """It is named, and what else is known is told."""
    half = NextBoot(dpkg=["tzdata (unpacked)"], unread=["systemd: no answer"])
    found = diagnose(with_state(healthy(), "lb", next_boot=half))
    assert [each.id for each in found.findings] == ["packages-broken"]
    assert found.unread == ("what the next boot of lb does can't be read: systemd: no answer",)
    found = diagnose(with_state(healthy(), "lb", next_boot="late"))
    assert (found.findings, doctor.code(found)) == ((), 1)


def test_a_file_of_ours_that_differs_is_one_cause() -> None:
    """What nginx says of it follows."""
    bad = NextBoot(nginx="nginx: [emerg] bad in /etc/nginx/nginx.conf:3")
    seen = with_state(healthy(), "lb", next_boot=bad)
    assert only(diagnose(seen)).id == "boot-program"
    files = state(PLAN.host("lb")).files | {nginx.PATH: "bad"}
    assert only(diagnose(with_state(seen, "lb", files=files, next_boot=bad))).id == "file-differs"


def test_rules_without_their_program_are_one_cause() -> None:
    gone = NextBoot(broken=[(str(COPY), "is not there")])
    firewall = replace(state(PLAN.gateway).firewall, at_boot={}, failed=(("underlay-firewall.service", "x", "gone"),))
    cause = only(diagnose(with_state(healthy(), "gateway", firewall=firewall, next_boot=gone)))
    assert (cause.id, cause.fix) == ("boot-unit", './inv change gateway "true"')


def test_a_node_that_kubeadm_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that it lacks is one cause."""
    planned = drift.of_host

    def of_host(plan: Plan, host: Host, state: HostState) -> Iterator[Difference]:
        yield from planned(plan, host, state)
        if host.name == "master-1":
            yield Difference("differs", NodePart("swap", "off"), "on /swapfile")
            yield Difference("missing", NodePart("module overlay"))

    monkeypatch.setattr(drift, "of_host", of_host)
    cause = only(diagnose(healthy()))
    assert (cause.id, cause.host) == ("node-differs", "master-1")
    assert cause.cause.endswith("swap is on /swapfile, not off")
    assert cause.evidence == ("swap is on /swapfile, not off", "module overlay is missing")
    assert cause.fix.endswith("deploy master")
