"""Where a packet ended, and what took it: observations as planned, with one thing changed. No host is asked."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.conftest import Planned
from tests.unit.test_trace import Observations, as_planned, way
from underlay.plan import Plan
from underlay.trace.ended import Ended, ended
from underlay.trace.seen import Around, Chain, Comparison, Observation, Taken

MACS = {"eth0": "02:00:00:00:00:00", "eth1": "02:00:00:00:00:01", "eth2": "02:00:00:00:00:02"}
MASTER, LB = "100.64.0.2", "100.64.0.53"
Change = Callable[[Observation], dict[str, Any]]


def around(name: str, **parts: Any) -> Around:
    """A host with nothing around the packet: each has MACs of its own."""
    links = [(nic, f"{name}-{mac}", ["UP"], "") for nic, mac in MACS.items()]
    found: dict[str, Any] = {"links": links, "ports": [], "neighbours": [], "qdiscs": [], "filters": []}
    found |= {
        "policies": [],
        "counters": {},
        "arp": [],
        "chains": [],
        "translating": [],
        "nft": True,
        "legacy": [],
    } | parts
    made: Around = Around(**found)  # type: ignore[typeddict-item]  # it is made of the parts above
    return made


def gone(*ways: str, direction: str = "in", hooks: tuple[str, ...] = ()) -> Change:
    """No packet of these ways came in (or went out), nor got to hooks."""

    def change(old: Observation) -> dict[str, Any]:
        kept = tuple(each for each in old.packets if not (each[0] == direction and each[2] in ways))
        chains = tuple(each for each in old.chains if not (each.way in ways and (each.name in hooks or not hooks)))
        return {"packets": kept, "chains": chains}

    return change


def found(
    plan: Plan,
    ends: tuple[str, str],
    changes: dict[str, list[Change]],
    things: dict[str, dict[str, Any]] | None = None,
    unasked: tuple[str, ...] = (),
) -> Ended | None:
    """Where the packet between two hosts ended, with changed observations and these things around."""
    path = way(plan, *ends)
    seen = as_planned(plan, path)
    for name, each in changes.items():
        for change in each:
            seen = seen | {name: replace(seen[name], **change(seen[name]))}
    around_all = {name: replace(old, around=around(name, **(things or {}).get(name, {}))) for name, old in seen.items()}
    asked = {name: old for name, old in around_all.items() if name not in unasked}
    rows = Comparison(path, asked, {}, 80, "no answer", own=False).rows()
    return ended(plan, path, rows, asked, frozenset(), dict.fromkeys(unasked, "it is off"), "no answer", 80)


LOST: dict[str, list[Change]] = {
    "master-1": [gone("request", "answer"), gone("answer", direction="out")],
    "lb": [gone("answer")],
}
"""What lb sends to master-1 does not arrive."""


def hop(old: Observation) -> dict[str, Any]:
    """lb's routing, as the kernel says it: straight there."""
    return {"routes": {("request", False): {"dst": MASTER, "dev": "eth0"}}}


def silent(old: Observation) -> dict[str, Any]:
    """lb hears no answer to its ARP, and sends nothing."""
    return gone("request", direction="out", hooks=("none",))(old) | {"neighbours": frozenset({MASTER})}


def entry(mac: str, *states: str) -> dict[str, dict[str, Any]]:
    return {"lb": {"neighbours": [(MASTER, "eth0", mac, list(states))]}}


TRUE = f"master-1-{MACS['eth0']}"


def link(*flags: str, program: str = "") -> dict[str, dict[str, Any]]:
    return {"master-1": {"links": [("eth0", TRUE, list(flags), program)]}}


@pytest.mark.parametrize(
    ("things", "id", "host", "words", "undo"),
    [
        (entry("02:99", "PERMANENT"), "neighbour-wrong", "lb", "02:99", f"ip neigh del {MASTER} dev eth0"),
        (entry(TRUE, "PERMANENT"), "packet-lost", "lb", "left lb eth0 and did not arrive at master-1 eth0", ""),
        (entry("02:99", "REACHABLE"), "address-duplicate", "master-1", "02:99", ""),
        (link("UP", program="xdpgeneric prog 7"), "xdp-program", "master-1", "prog 7", ""),
    ],
    ids=["a wrong entry", "a right one", "a stranger", "xdp"],
)
def test_on_the_wire(
    planned: Planned, things: dict[str, dict[str, Any]], id: str, host: str, words: str, undo: str
) -> None:
    """It left here and did not arrive there."""
    end = found(planned(), ("lb", "master-1"), LOST | {"lb": [*LOST["lb"], hop]}, things)
    assert end is not None
    assert (end.id, end.host) == (id, host)
    assert words in end.what
    assert end.undo.startswith(undo) if undo else not end.undo


ASKED = ("out", "eth0", "request", LB, MASTER, "lb")
HEARD = ("in", "eth0", "request", LB, MASTER, "lb")
ANSWERED = ("out", "eth0", "reply", MASTER, LB, TRUE)
ARP_CHAIN = ("arp", "a", "c", "input", [("4", "arp saddr ip 100.64.0.53 drop")])


@pytest.mark.parametrize(
    ("here", "there", "id", "host", "words"),
    [
        ([], {}, "packet-lost", "lb", "does not even ask"),
        ([ASKED], link("UP", "NOARP")["master-1"], "nic-no-arp", "master-1", "eth0"),
        ([ASKED], {}, "packet-lost", "lb", "left eth0 and did not arrive at master-1 eth0"),
        ([ASKED], {"arp": [HEARD]}, "packet-lost", "master-1", "hears ARP for 100.64.0.2 on eth0 and does not answer"),
        ([ASKED], {"arp": [HEARD], "chains": [ARP_CHAIN]}, "filter-unmanaged", "master-1", "arp a c"),
        ([ASKED], {"arp": [HEARD, ANSWERED]}, "packet-lost", "master-1", "left eth0 and did not arrive at lb"),
    ],
    ids=["not asked", "a NIC without it", "not heard", "deaf", "filtered", "no answer back"],
)
def test_arp(
    planned: Planned, here: list[tuple[str, ...]], there: dict[str, Any], id: str, host: str, words: str
) -> None:
    """Who does not answer, or does not hear it, as both ends saw it."""
    changes = LOST | {"lb": [*LOST["lb"], hop, silent]}
    end = found(planned(), ("lb", "master-1"), changes, {"lb": {"arp": here}, "master-1": there})
    assert end is not None
    assert (end.id, end.host) == (id, host)
    assert words in end.what


def test_behind_a_host_that_can_t_be_asked(planned: Planned) -> None:
    """The last place that was seen, and who could not be asked."""
    end = found(planned(), ("lb", "master-1"), {"lb": [gone("answer")]}, unasked=("master-1",))
    assert end is not None
    assert (end.id, end.host, end.named) == ("packet-lost", "lb", False)
    assert "master-1, which can't be asked" in end.what


@pytest.mark.parametrize("leaves", [True, False])
def test_behind_the_site(planned: Planned, leaves: bool) -> None:
    """What goes to an address that is in no plan: the router that answers ARP there is no stranger."""

    def to_the_router(old: Observation) -> dict[str, Any]:
        changed = gone("answer")(old) | {
            "routes": {("request", True): {"gateway": "192.168.0.1", "dev": "eth0", "table": 1000}}
        }
        lost = gone("request", direction="out", hooks=("none",))(old)["packets"] if not leaves else changed["packets"]
        return changed | {"heard": {"eth0": {"192.168.0.1": ["02:77"]}}, "packets": lost}

    things = {"gateway": {"neighbours": [("192.168.0.1", "eth0", "02:77", ["REACHABLE"])]}}
    end = found(planned(), ("lb", "10.9.9.9"), {"gateway": [to_the_router], "lb": [gone("answer")]}, things)
    assert end is not None
    assert (end.id, end.host) == ("packet-lost", "internet" if leaves else "gateway")
    assert ("no answer came back" if leaves else "did not leave by eth0") in end.what


def test_behind_a_host_that_answers_arp_only(planned: Planned) -> None:
    """It is there: what is sent to it ends there, not on the way."""

    def heard(old: Observation) -> dict[str, Any]:
        return hop(old) | {"heard": {"eth0": {MASTER: [TRUE]}}}

    end = found(planned(), ("lb", "master-1"), {"lb": [gone("answer"), heard]}, unasked=("master-1",))
    assert end is not None
    assert (end.id, end.host, end.named) == ("packet-lost", "master-1", False)
    assert "it answers ARP" in end.what
    assert end.evidence == ("it is off",)


def taken(line: str | None, rule: dict[str, Any] | None = None, arguments: str | None = None) -> Taken:
    return {"route": None, "rule": rule, "arguments": arguments, "line": line}


ROUTES = {
    "blackhole": (taken("blackhole 100.64.0.2 table 254"), "route-unmanaged", "ip route del blackhole 100.64.0.2"),
    "more specific": (taken("100.64.0.0/25 via 100.64.32.9 dev eth2 table 254"), "route-unmanaged", "ip route del 100"),
    "in a table of ours": (taken("100.64.0.2 dev eth2 table 1002"), "route-unmanaged", "ip route del 100.64.0.2 dev"),
    "one's own by hand": (taken("local 100.64.0.2 dev lo table 255"), "route-unmanaged", "ip route del local"),
    "one's own": (taken("local 100.64.0.2 dev eth1 proto kernel scope host table 255"), "packet-lost", ""),
    "of the kernel": (taken("100.64.0.0/21 dev eth1 proto kernel src 100.64.0.1 table 254"), "packet-lost", ""),
    "a rule of others": (
        taken("default dev eth2 table 99", {"priority": 50, "table": "99"}, "priority 50 from all lookup 99"),
        "policy-rule-unmanaged",
        "ip rule del priority 50 from all lookup 99",
    ),
    "a rule that says no": (
        taken(None, {"priority": 50, "action": "blackhole"}, "priority 50 from all blackhole"),
        "policy-rule-unmanaged",
        "ip rule del priority 50 from all blackhole",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ROUTES)
def test_routes(planned: Planned, case: str) -> None:
    """The route lookup of the gateway sent it elsewhere: by which route or rule, and whether it is the plan's."""
    answer, id, undo = ROUTES[case]

    def refused(old: Observation) -> dict[str, Any]:
        chains = tuple(each for each in old.chains if each.name not in ("forward", "FORWARD", "POSTROUTING"))
        packets = tuple(each for each in old.packets if each[0] == "in" and each[2] == "request")
        routes = {("request", True): {"error": "Invalid argument"}}
        return {"chains": chains, "packets": packets, "routes": routes, "taken": {("request", "came"): answer}}

    changes: dict[str, list[Change]] = {"gateway": [refused], **LOST}
    end = found(planned(), ("lb", "master-1:storage"), changes)
    assert end is not None
    assert (end.id, end.host) == (id, "gateway")
    assert end.undo.startswith(undo) if undo else not end.undo
    assert (id == "packet-lost") == ("source address" in end.what)


PORTS = {
    "bridge": (("eth1", "bridge", "br9"), "ip link set eth1 nomaster"),
    "macvlan": (("eth1", "macvlan", "mv0"), "ip link del mv0"),
    "of another NIC": (("eth2", "bridge", "br9"), ""),
}


@pytest.mark.parametrize("case", PORTS)
def test_a_nic_that_another_device_has(planned: Planned, case: str) -> None:
    """What comes in goes to that device, and not to the hooks of this NIC."""
    port, undo = PORTS[case]

    def came_in(old: Observation) -> dict[str, Any]:
        return {
            "chains": (),
            "packets": tuple(each for each in old.packets if each[0] == "in" and each[2] == "request"),
        }

    changes: dict[str, list[Change]] = {"gateway": [came_in], **LOST}
    end = found(planned(), ("lb", "master-1:storage"), changes, {"gateway": {"ports": [port]}})
    assert end is not None
    assert (end.id, end.host, end.undo) == ("nic-taken" if undo else "packet-lost", "gateway", undo)


RULES = [
    (("mangle", "PREROUTING", "-j TTL --ttl-set 1", "continue"), "rule-unmanaged", "few hops"),
    (("raw", "PREROUTING", "-j DROP", "drop"), "rule-unmanaged", "drops packets"),
    (("mangle", "PREROUTING", "-j NFQUEUE --queue-num 5", "queue"), "rule-unmanaged", "gives none back"),
]


@pytest.mark.parametrize(("rule", "id", "words"), RULES)
def test_rules(planned: Planned, rule: tuple[str, str, str, str], id: str, words: str) -> None:
    """A rule of others on the gateway that the packet met, in any table."""
    table, chain, text, verdict = rule

    def met(old: Observation) -> dict[str, Any]:
        kept = tuple(each for each in old.chains if each.name == "prerouting" and each.way == "request")
        packet = kept[0].packet
        packets = tuple(each for each in old.packets if each[0] == "in" and each[2] == "request")
        chains = (*kept, Chain("request", table, chain, packet, "", ((chain, text, verdict),), ""))
        return {"chains": chains, "packets": packets}

    changes: dict[str, list[Change]] = {"gateway": [met], "master-1": LOST["master-1"], "lb": LOST["lb"]}
    end = found(planned(), ("lb", "master-1:storage"), changes)
    assert end is not None
    assert (end.id, end.host) == (id, "gateway")
    assert words in end.what
    assert end.undo == f"iptables -t {table} -D {chain} {text}"


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("pref 9 u32 action mirred (Egress Redirect to device lo)", "traffic-control"),
        ("pref 9 bpf drop", "packet-lost"),
    ],
)
def test_what_traffic_control_leads_aside(planned: Planned, text: str, id: str) -> None:
    """A packet leaves as it never should, and a filter stands where it came in; a CNI's program is not suspected."""

    def astray(old: Observation) -> dict[str, Any]:
        packets = [("out", "eth2", *each[2:]) if each[0] == "out" else each for each in old.packets]
        return {"packets": tuple(packets)}

    things = {"gateway": {"filters": [("eth1", "ingress", 9, text)]}}
    end = found(planned(), ("lb", "master-1:storage"), {"gateway": [astray], **LOST}, things)
    assert end is not None
    assert (end.id, end.host) == (id, "gateway")


@pytest.mark.parametrize("followed", [True, False])
@pytest.mark.parametrize("translates", [True, False])
def test_a_native_rule_that_translates(planned: Planned, translates: bool, followed: bool) -> None:
    """The packet came to the host, and by its rule to a port where nobody listens: maybe it is not followed there."""

    def met(old: Observation) -> dict[str, Any]:
        rules = (("pre", "3", "accept"),)
        chain = Chain(
            "request", "portmap", "pre", old.chains[0].packet, "", rules, "", "ip", {"3": "redirect to :8181"}
        )
        chains = [
            each for each in gone("answer")(old)["chains"] if followed or each.name in ("prerouting", "PREROUTING")
        ]
        return gone("answer", direction="out")(old) | {"chains": (*chains, chain)}

    things = {"master-1": {"translating": [("ip", "portmap", "pre")] if translates else []}}
    end = found(planned(), ("lb", "master-1"), {"master-1": [met], "lb": [gone("answer")]}, things)
    assert end is not None
    otherwise = "not-answered" if followed else "packet-lost"
    assert (end.id, end.host) == ("filter-unmanaged" if translates else otherwise, "master-1")
    assert ("redirect to :8181" in end.what) == translates


def test_a_rule_of_the_plan(planned: Planned) -> None:
    """What the plan's own rule drops is told, and no command is printed that deletes it."""
    plan = planned()
    path = way(plan, "lb", "master-1:storage")
    seen = as_planned(plan, path)
    kept = tuple(each for each in seen["gateway"].chains if (each.way, each.name) == ("request", "prerouting"))
    chain = Chain("request", "filter", "FORWARD", kept[0].packet, "", (("FORWARD", "-j DROP", "drop"),), "")
    packets = tuple(each for each in seen["gateway"].packets if each[0] == "in" and each[2] == "request")
    seen |= {"gateway": replace(seen["gateway"], chains=(*kept, chain), packets=packets, around=around("gateway"))}
    rows = Comparison(path, seen, {}, 80, "no answer", own=False).rows()
    end = ended(plan, path, rows, seen, frozenset({"-j DROP"}), {}, "no answer", 80)
    assert end is not None
    assert (end.host, end.named, end.undo) == ("gateway", False, "")
    end = ended(plan, path, rows, seen, frozenset(), {}, "no answer", 80)
    assert end is not None
    assert (end.host, end.named, end.undo) == ("gateway", True, "iptables -t filter -D FORWARD -j DROP")


def test_no_way_but_all_as_planned(planned: Planned) -> None:
    """Nothing is blamed."""
    plan = planned()
    path = way(plan, "lb", "master-1")
    seen: Observations = as_planned(plan, path)
    rows = Comparison(path, seen, {}, 80, None, own=False).rows()
    assert ended(plan, path, rows, seen, frozenset(), {}, None, 80) is None
