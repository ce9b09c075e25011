"""The planned way of a packet, held against what the traffic must look like, which was written down without it."""

import pytest
from netaddr import IPAddress

from tests.unit.conftest import Planned
from underlay.desired.nginx import API_PORT
from underlay.desired.traffic import expected
from underlay.plan import Plan
from underlay.trace.planned import Packet, Path, Protocol, TraceError, ends, lookup, path, proxied

OUTSIDE = IPAddress("203.0.113.1")


def way(plan: Plan, source: str, destination: str, protocol: Protocol = "tcp") -> Path:
    """The path that a person asked for."""
    return path(plan, protocol, *ends(plan, source, destination, OUTSIDE), OUTSIDE)


def stages(found: Path, host: str, direction: str) -> list[str]:
    """What happens to the packet on one host."""
    return [f"{step.stage}: {step.expected}" for step in found.steps if (step.host, step.way) == (host, direction)]


@pytest.mark.parametrize(
    "edits",
    [
        (),
        (
            (
                '    "storage": {"cidr": "100.64.64.0/21"},\n',
                '    "storage": {"cidr": "100.64.64.0/21"},\n    "backup": {"cidr": "100.64.96.0/21"},\n',
            ),
            ('"storage": "100.64.64.1",', '"storage": "100.64.64.1", "backup": "100.64.96.1",'),
            ('"storage": "100.64.64.2"}', '"storage": "100.64.64.2", "backup": "100.64.96.2"}'),
        ),
        (('"default_route": "traffic",\n', '"default_route": "traffic",\n        "published": "192.168.0.54",\n'),),
        (
            (
                '    "master-1": {\n',
                '    "master-2": {"role": "master", "addresses": {"mgmt": "100.64.0.3", "storage": "100.64.64.3"}},\n'
                '    "monitor": {"role": "server", "addresses": {"mgmt": "100.64.0.9"}},\n    "master-1": {\n',
            ),
        ),
        (
            ('site = "lab-site"\n', 'site = "lab-site"\nforwarding = "planned"\n'),
            (
                '"published": "192.168.0.53"',
                '"published": {"address": "192.168.0.53", "ports": ["tcp/80", "tcp/6443"]}',
            ),
        ),
    ],
    ids=["the site", "a fourth network", "a published node", "more hosts", "planned forwarding"],
)
def test_every_flow_of_the_traffic_table(planned: Planned, edits: tuple[tuple[str, str], ...]) -> None:
    """Each connection that must work gets to its receiver, seen as it must be, and its answer comes back as one."""
    plan = planned(*edits)
    for flow in expected(plan, OUTSIDE):
        found = path(plan, "tcp", flow.source, Packet(flow.source_address, flow.destination), OUTSIDE, flow.port)
        receiver = flow.through[0] if flow.through else flow.receivers[0]
        assert found.receiver == receiver, flow
        assert found.arrival is not None
        if not flow.through:
            assert found.arrival.source == flow.seen_as, flow
        assert found.steps[-1].host == flow.source, flow
        assert found.translated_answer is None, flow
        assert not found.end, flow
        if flow.tracked is not None and flow.source != plan.gateway.name:
            raw = [step for step in found.steps if step.stage == "raw PREROUTING"]
            assert bool(raw) is not flow.tracked, flow


def test_an_answer_leaves_by_the_nic_that_was_asked(planned: Planned) -> None:
    """The open problem of a node with a NIC in every network: the rule that decides is named."""
    assert stages(way(planned(), "lb", "master-1:storage"), "master-1", "answer") == [
        "policy rule: 30100: from 100.64.64.2 to 100.64.0.0/21 table 1004",
        "route: via 100.64.64.1 dev eth2 table 1004",
        "leaves: eth2 100.64.64.2 -> 100.64.0.53",
    ]


def test_hairpin_is_translated_both_ways(planned: Planned) -> None:
    """DNAT, then routing, then SNAT; and back, the destination before the routing."""
    found = way(planned(), "master-1:storage", "192.168.0.53")
    assert stages(found, "gateway", "request") == [
        "arrives: eth3 100.64.64.2 -> 192.168.0.53",
        "nat PREROUTING: -d 192.168.0.53/32 -j DNAT --to-destination 100.64.0.53",
        "route: on link dev eth1",
        "filter FORWARD: -d 100.64.0.0/21 -j ACCEPT",
        "nat POSTROUTING: -s 100.64.64.0/21 -j SNAT --to-source 192.168.0.51",
        "leaves: eth1 192.168.0.51 -> 100.64.0.53",
    ]
    assert stages(found, "gateway", "answer") == [
        "arrives: eth1 100.64.0.53 -> 192.168.0.51",
        "conntrack: back to 192.168.0.53 -> 100.64.64.2",
        "route: on link dev eth3",
        "filter FORWARD: -d 100.64.64.0/21 -j ACCEPT",
        "leaves: eth3 192.168.0.53 -> 100.64.64.2",
    ]


def test_one_network_needs_no_gateway(planned: Planned) -> None:
    """Neighbours talk to each other directly."""
    assert way(planned(), "jumphost", "lb").hosts == ("jumphost", "lb")
    assert way(planned(), "dev", "images").hosts == ("dev", "images")


def test_nics_of_hosts_without_a_deploy_are_not_known(planned: Planned) -> None:
    """What a workstation calls its NIC is its own business."""
    found = way(planned(), "dev", "lb")
    assert stages(found, "dev", "request") == ["route: on link", "leaves: 192.168.0.105 -> 192.168.0.53"]


def test_answers_over_udp_to_what_was_left_untracked(planned: Planned) -> None:
    """Of a request without an entry, an answer over UDP begins a connection: the gateway's own is translated."""
    answer = way(planned(), "master-1:traffic", "100.64.0.1", "udp").translated_answer
    assert str(answer) == "192.168.0.51 -> 100.64.32.2"
    assert way(planned(), "master-1:traffic", "100.64.0.1").translated_answer is None


def test_no_way(planned: Planned) -> None:
    """From outside only published addresses can be reached; the trace then watches that nothing comes in."""
    found = way(planned(), "dev", "100.64.64.2")
    assert found.arrival is None
    assert "no way from enterprise into storage" in found.end
    assert stages(found, "gateway", "request") == ["arrives: nothing"]


@pytest.mark.parametrize(
    ("source", "destination", "packet"),
    [
        ("lb", "master-1", "100.64.0.53 -> 100.64.0.2"),
        ("lb", "master-1:storage", "100.64.0.53 -> 100.64.64.2"),
        ("master-1", "lb", "100.64.0.2 -> 100.64.0.53"),
        ("master-1", "8.8.8.8", "100.64.32.2 -> 8.8.8.8"),
        ("master-1:storage", "images", "100.64.64.2 -> 192.168.0.50"),
        ("100.64.64.2", "jumphost", "100.64.64.2 -> 100.64.0.52"),
        ("gateway", "master-1:traffic", "100.64.32.1 -> 100.64.32.2"),
        ("gateway", "8.8.8.8", "192.168.0.51 -> 8.8.8.8"),
        ("dev", "lb", "192.168.0.105 -> 192.168.0.53"),
        ("dev", "master-1", "192.168.0.105 -> 100.64.0.2"),
        ("internet", "jumphost", "203.0.113.1 -> 192.168.0.52"),
        ("lb", "internet", "100.64.0.53 -> 203.0.113.1"),
        ("192.168.0.52", "dev", "100.64.0.52 -> 192.168.0.105"),
    ],
)
def test_what_a_person_means(planned: Planned, source: str, destination: str, packet: str) -> None:
    """Addresses that were not named are those that the hosts would use themselves."""
    assert str(ends(planned(), source, destination, OUTSIDE)[1]) == packet


@pytest.mark.parametrize(
    ("source", "destination", "outside", "error"),
    [
        ("lbb", "dev", OUTSIDE, "'lbb' is neither HOST, HOST:NETWORK nor an IPv4 address: did you mean 'lb'?"),
        ("lb", "10.0.0.300", OUTSIDE, "'10.0.0.300' is neither"),
        ("lb:storage", "dev", OUTSIDE, "lb has no address in 'storage': it has one in mgmt"),
        ("8.8.8.8", "dev", OUTSIDE, "8.8.8.8 is no address of the plan's hosts"),
        ("internet", "dev", None, "'internet' is neither"),
        ("internet:mgmt", "dev", OUTSIDE, "'internet:mgmt' is neither"),
    ],
)
def test_mistakes(planned: Planned, source: str, destination: str, outside: IPAddress | None, error: str) -> None:
    """One line says what is wrong and how to fix it."""
    with pytest.raises(TraceError) as raised:
        ends(planned(), source, destination, outside)
    assert str(raised.value).startswith(error)


def test_connections_of_the_proxy(planned: Planned) -> None:
    """Behind the API's port there is one connection for each master; behind others none."""
    plan = planned()
    found = way(plan, "dev", "lb")
    [(host, packet)] = proxied(plan, found, API_PORT)
    assert (host, str(packet)) == ("lb", "100.64.0.53 -> 100.64.0.2")
    assert not list(proxied(plan, found, 80))
    assert not list(proxied(plan, way(plan, "dev", "jumphost"), API_PORT))


def test_no_route(planned: Planned) -> None:
    """An address without a source, as of a packet that is being made, meets no rule about sources."""
    hop = lookup(planned(), planned().host("master-1"), None, IPAddress("100.64.64.9"))
    assert str(hop) == "on link dev eth2"


FORWARDING = """site = "lab-site"
forwarding = "planned"
exceptions = {"admin": {"from": "192.168.0.105/32", "to": "192.168.0.53/32", "ports": ["tcp/22"]}}
"""


def test_planned_forwarding(planned: Planned) -> None:
    """What is asked of a published address is let in by its port, or ends; answers are known by their connection."""
    web = ('"published": "192.168.0.53"', '"published": {"address": "192.168.0.53", "ports": ["tcp/80-90", "icmp"]}')
    plan = planned(('site = "lab-site"\n', FORWARDING), web)

    def ends_at(source: str, protocol: Protocol, port: int | None) -> str:
        found = path(plan, protocol, *ends(plan, source, "192.168.0.53", OUTSIDE), OUTSIDE, port)
        assert (found.receiver is None) == bool(found.end)
        return found.end

    let_in: list[tuple[str, Protocol, int | None]]
    let_in = [("images", "tcp", 80), ("images", "tcp", 90), ("images", "icmp", None), ("dev", "tcp", 22)]
    assert [each for each in let_in if ends_at(*each)] == []
    refused: list[tuple[str, Protocol, int | None]]
    refused = [("images", "tcp", 22), ("images", "udp", 80), ("dev", "tcp", None), ("dev", "tcp", 91)]
    for each in refused:
        assert ends_at(*each) == f"the plan does not let this in from enterprise ({plan.line('networks', 'mgmt')})"
    assert not ends_at("master-1", "tcp", 22)  # from inside
    answer = path(plan, "udp", *ends(plan, "lb", "images", OUTSIDE), OUTSIDE)
    established = "-i eth0 -m conntrack --ctstate RELATED,ESTABLISHED --ctdir REPLY -j ACCEPT"
    assert f"filter FORWARD: {established}" in stages(answer, "gateway", "answer")


def test_answers_over_udp_are_left_alone_where_forwarding_is_planned(planned: Planned) -> None:
    plan = planned(('site = "lab-site"\n', FORWARDING))
    assert way(plan, "master-1:traffic", "100.64.0.1", "udp").translated_answer is None
