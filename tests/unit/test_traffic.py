"""What the traffic must look like, for this site and for others."""

from netaddr import IPAddress

from tests.unit.conftest import Planned
from underlay.desired.traffic import Flow, expected, forbidden, sample, why
from underlay.plan import REPO, Plan, load

OUTSIDE = IPAddress("203.0.113.1")


def short(flow: Flow) -> str:
    """`source from -> destination[:port] = receivers sees address [tracked]`."""
    table = {True: " tracked", False: " untracked", None: ""}[flow.tracked]
    return f"{flow} = {','.join(flow.receivers)} sees {flow.seen_as}{table}"


def flows(plan: Plan, row: str, outside: IPAddress | None = OUTSIDE) -> list[str]:
    """The flows of one row of the table, in order."""
    return [short(flow) for flow in expected(plan, outside) if flow.row == row]


def test_internal_hosts_to_the_world(planned: Planned) -> None:
    """Published hosts leave as their published address, a node from each address as the gateway's."""
    assert flows(planned(), "internal hosts to the world") == [
        "jumphost 100.64.0.52 -> 192.168.0.105 = dev sees 192.168.0.52 tracked",
        "jumphost 100.64.0.52 -> 192.168.0.50 = images sees 192.168.0.52 tracked",
        "jumphost 100.64.0.52 -> 203.0.113.1 = internet sees 192.168.0.52 tracked",
        "lb 100.64.0.53 -> 192.168.0.105 = dev sees 192.168.0.53 tracked",
        "lb 100.64.0.53 -> 192.168.0.50 = images sees 192.168.0.53 tracked",
        "lb 100.64.0.53 -> 203.0.113.1 = internet sees 192.168.0.53 tracked",
        *(
            f"master-1 {address} -> {other} sees 192.168.0.51 tracked"
            for address in ("100.64.0.2", "100.64.32.2", "100.64.64.2")
            for other in ("192.168.0.105 = dev", "192.168.0.50 = images", "203.0.113.1 = internet")
        ),
    ]


def test_workstation(planned: Planned) -> None:
    """The workstation reaches the gateway, and behind each published address the host's service and any other port."""
    assert flows(planned(), "workstation to the gateway") == [
        "dev 192.168.0.105 -> 192.168.0.51:22 = gateway sees 192.168.0.105"
    ]
    assert flows(planned(), "workstation to published hosts") == [
        "dev 192.168.0.105 -> 192.168.0.52:22 = jumphost sees 192.168.0.105 tracked",
        "dev 192.168.0.105 -> 192.168.0.52 = jumphost sees 192.168.0.105 tracked",
        "dev 192.168.0.105 -> 192.168.0.53:80 = lb sees 192.168.0.105 tracked",
        "dev 192.168.0.105 -> 192.168.0.53 = lb sees 192.168.0.105 tracked",
    ]
    assert flows(planned(), "the API behind the load balancer") == [
        "dev 192.168.0.105 -> 192.168.0.53:6443 = master-1 sees 100.64.0.53 tracked"
    ]


def test_between_internal_hosts(planned: Planned) -> None:
    """Inside, nothing is translated, and what crosses from one network to another leaves no entry on the gateway."""
    assert flows(planned(), "published hosts to internal ones") == [
        "jumphost 100.64.0.52 -> 100.64.0.53 = lb sees 100.64.0.52",
        "jumphost 100.64.0.52 -> 100.64.0.2 = master-1 sees 100.64.0.52",
        "jumphost 100.64.0.52 -> 100.64.32.2 = master-1 sees 100.64.0.52 untracked",
        "jumphost 100.64.0.52 -> 100.64.64.2 = master-1 sees 100.64.0.52 untracked",
        "lb 100.64.0.53 -> 100.64.0.52 = jumphost sees 100.64.0.53",
        "lb 100.64.0.53 -> 100.64.0.2 = master-1 sees 100.64.0.53",
        "lb 100.64.0.53 -> 100.64.32.2 = master-1 sees 100.64.0.53 untracked",
        "lb 100.64.0.53 -> 100.64.64.2 = master-1 sees 100.64.0.53 untracked",
    ]
    assert flows(planned(), "nodes to published hosts") == [
        "master-1 100.64.0.2 -> 100.64.0.52 = jumphost sees 100.64.0.2",
        "master-1 100.64.0.2 -> 100.64.0.53 = lb sees 100.64.0.2",
        "master-1 100.64.32.2 -> 100.64.0.52 = jumphost sees 100.64.32.2 untracked",
        "master-1 100.64.32.2 -> 100.64.0.53 = lb sees 100.64.32.2 untracked",
        "master-1 100.64.64.2 -> 100.64.0.52 = jumphost sees 100.64.64.2 untracked",
        "master-1 100.64.64.2 -> 100.64.0.53 = lb sees 100.64.64.2 untracked",
    ]


def test_gateway(planned: Planned) -> None:
    """The gateway reaches the hosts of each network from its address there; inside, without an entry."""
    assert flows(planned(), "the gateway to its networks") == [
        "gateway 192.168.0.51 -> 192.168.0.105 = dev sees 192.168.0.51",
        "gateway 192.168.0.51 -> 192.168.0.50 = images sees 192.168.0.51",
        "gateway 192.168.0.51 -> 203.0.113.1 = internet sees 192.168.0.51",
        "gateway 100.64.0.1 -> 100.64.0.52 = jumphost sees 100.64.0.1 untracked",
        "gateway 100.64.0.1 -> 100.64.0.53 = lb sees 100.64.0.1 untracked",
        "gateway 100.64.0.1 -> 100.64.0.2 = master-1 sees 100.64.0.1 untracked",
        "gateway 100.64.32.1 -> 100.64.32.2 = master-1 sees 100.64.32.1 untracked",
        "gateway 100.64.64.1 -> 100.64.64.2 = master-1 sees 100.64.64.1 untracked",
    ]


def test_hairpin(planned: Planned) -> None:
    """From inside a published address works too, one's own included: both ends are translated."""
    assert flows(planned(), "published addresses from inside") == [
        "jumphost 100.64.0.52 -> 192.168.0.52 = jumphost sees 192.168.0.52 tracked",
        "jumphost 100.64.0.52 -> 192.168.0.53 = lb sees 192.168.0.52 tracked",
        "lb 100.64.0.53 -> 192.168.0.52 = jumphost sees 192.168.0.53 tracked",
        "lb 100.64.0.53 -> 192.168.0.53 = lb sees 192.168.0.53 tracked",
        *(
            f"master-1 {address} -> {other} sees 192.168.0.51 tracked"
            for address in ("100.64.0.2", "100.64.32.2", "100.64.64.2")
            for other in ("192.168.0.52 = jumphost", "192.168.0.53 = lb")
        ),
    ]


def test_without_an_outside_address(planned: Planned) -> None:
    """On the real site nothing beyond the upstream router is tried."""
    assert not [flow for flow in expected(planned(), None) if "internet" in flow.hosts]


def test_from_outside(planned: Planned) -> None:
    """Whoever is outside must not reach any internal address; one with a NIC inside is not outside."""
    outer = ("dev 192.168.0.105", "images 192.168.0.50", "internet 203.0.113.1")
    inner = ("100.64.0.52", "100.64.0.53", "100.64.0.2", "100.64.32.2", "100.64.64.2")
    found = forbidden(planned(), OUTSIDE)
    assert [str(flow) for flow in found] == [f"{one} -> {other}" for one in outer for other in inner]
    assert all(flow.must_not for flow in found)
    both = '    "both": {"role": "server", "addresses": {"enterprise": "192.168.0.9", "mgmt": "100.64.0.9"}},\n'
    assert {flow.source for flow in forbidden(planned((MASTER, both + MASTER)), None)} == {"dev", "images"}


MASTER = '    "master-1": {\n'


def test_three_masters(planned: Planned) -> None:
    """Nodes form a ring: each one connects to one other from each address to each address."""
    more = "".join(
        f'    "master-{n}": {{"role": "master", "default_route": "traffic", "addresses": '
        f'{{"mgmt": "100.64.0.{n + 1}", "traffic": "100.64.32.{n + 1}", "storage": "100.64.64.{n + 1}"}}}},\n'
        for n in (2, 3)
    )
    plan = planned((MASTER, more + MASTER))
    found = [flow for flow in expected(plan, None) if flow.row == "nodes to nodes"]
    assert len(found) == 3 * 9
    pairs = {(flow.source, *flow.receivers) for flow in found}
    assert pairs == {("master-2", "master-3"), ("master-3", "master-1"), ("master-1", "master-2")}
    assert "master-1 100.64.64.2 -> 100.64.0.3 = master-2 sees 100.64.64.2 untracked" in map(short, found)
    assert "master-1 100.64.0.2 -> 100.64.0.3 = master-2 sees 100.64.0.2" in map(short, found)
    [api] = [flow for flow in expected(plan, None) if flow.port == 6443]
    assert set(api.receivers) == {"master-1", "master-2", "master-3"}


def test_fourth_network(planned: Planned) -> None:
    """A network that is added gets its flows without a line of code."""
    plan = planned(
        (
            '    "storage": {"cidr": "100.64.64.0/21"},\n',
            '    "storage": {"cidr": "100.64.64.0/21"},\n    "backup": {"cidr": "100.64.96.0/21"},\n',
        ),
        ('"storage": "100.64.64.1",', '"storage": "100.64.64.1", "backup": "100.64.96.1",'),
        ('"storage": "100.64.64.2"}', '"storage": "100.64.64.2", "backup": "100.64.96.2"}'),
    )
    found = {short(flow) for flow in expected(plan, OUTSIDE)}
    assert found >= {
        "master-1 100.64.96.2 -> 203.0.113.1 = internet sees 192.168.0.51 tracked",
        "lb 100.64.0.53 -> 100.64.96.2 = master-1 sees 100.64.0.53 untracked",
        "gateway 100.64.96.1 -> 100.64.96.2 = master-1 sees 100.64.96.1 untracked",
    }


def test_third_published_host(planned: Planned) -> None:
    """A published node leaves as its published address from its first address, from the others as the gateway's."""
    plan = planned(
        ('"default_route": "traffic",\n', '"default_route": "traffic",\n        "published": "192.168.0.54",\n')
    )
    found = {short(flow) for flow in expected(plan, OUTSIDE)}
    assert found >= {
        "master-1 100.64.0.2 -> 203.0.113.1 = internet sees 192.168.0.54 tracked",
        "master-1 100.64.32.2 -> 203.0.113.1 = internet sees 192.168.0.51 tracked",
        "dev 192.168.0.105 -> 192.168.0.54 = master-1 sees 192.168.0.105 tracked",
        "lb 100.64.0.53 -> 192.168.0.54 = master-1 sees 192.168.0.53 tracked",
    }


def test_role_is_the_one_deployed_last(planned: Planned) -> None:
    """After the deploy of a role its checks can all be good, whatever is still to be deployed."""
    by_flow = {str(flow): flow.role for flow in expected(planned(), OUTSIDE)}
    assert by_flow["dev 192.168.0.105 -> 192.168.0.51:22"] == "gateway"
    assert by_flow["jumphost 100.64.0.52 -> 203.0.113.1"] == "jumphost"
    assert by_flow["jumphost 100.64.0.52 -> 100.64.0.53"] == "lb_nginx"
    assert by_flow["gateway 100.64.32.1 -> 100.64.32.2"] == "master"
    # Through to a node, but about the load balancer: the node's first address was there before its deploy.
    assert by_flow["dev 192.168.0.105 -> 192.168.0.53:6443"] == "lb_nginx"


def test_host_without_a_deploy(planned: Planned) -> None:
    """An internal host that no role deploys is tried too; the gateway answers for it."""
    more = '    "monitor": {"role": "server", "addresses": {"mgmt": "100.64.0.9"}},\n'
    found = {short(flow): flow.role for flow in expected(planned((MASTER, more + MASTER)), None)}
    assert found["monitor 100.64.0.9 -> 192.168.0.50 = images sees 192.168.0.51 tracked"] == "gateway"


def look_at(plan: Plan, flow: str) -> list[str]:
    """Where to look for a flow, without the lines of the plan."""
    [found] = [each for each in expected(plan, OUTSIDE) if str(each) == flow]
    return [line.rpartition(" (")[0] or line for line in why(plan, found)]


def test_where_to_look(planned: Planned) -> None:
    """A failure names the rules that the flow meets and the routes of both ends."""
    assert look_at(planned(), "lb 100.64.0.53 -> 100.64.64.2") == [
        "rule raw PREROUTING -s 100.64.0.0/21 -d 100.64.64.0/21 -j NOTRACK",
        "rule raw PREROUTING -s 100.64.64.0/21 -d 100.64.0.0/21 -j NOTRACK",
        "rule filter FORWARD -d 100.64.64.0/21 -j ACCEPT",
        "rule filter FORWARD -s 100.64.0.0/21 -j ACCEPT",
        "lb: route default via 100.64.0.1 dev eth0 src 100.64.0.53 table 1000 proto static",
        "master-1: route default via 100.64.64.1 dev eth2 src 100.64.64.2 table 1004 proto static",
    ]
    assert look_at(planned(), "lb 100.64.0.53 -> 192.168.0.52") == [
        "rule filter FORWARD -d 100.64.0.0/21 -j ACCEPT",
        "rule filter FORWARD -s 100.64.0.0/21 -j ACCEPT",
        "rule nat PREROUTING -d 192.168.0.52/32 -j DNAT --to-destination 100.64.0.52",
        "rule nat POSTROUTING -s 100.64.0.53/32 -j SNAT --to-source 192.168.0.53",
        "lb: route default via 100.64.0.1 dev eth0 src 100.64.0.53 table 1000 proto static",
        "jumphost: route default via 100.64.0.1 dev eth0 src 100.64.0.52 table 1000 proto static",
    ]
    assert look_at(planned(), "gateway 100.64.0.1 -> 100.64.0.53")[0] == (
        "rule raw OUTPUT -s 100.64.0.1/32 -d 100.64.0.0/21 -j NOTRACK"
    )
    assert look_at(planned(), "dev 192.168.0.105 -> 192.168.0.53:6443") == [
        "rule filter FORWARD -d 100.64.0.0/21 -j ACCEPT",
        "rule nat PREROUTING -d 192.168.0.53/32 -j DNAT --to-destination 100.64.0.53",
        "lb: route default via 100.64.0.1 dev eth0 src 100.64.0.53 table 1000 proto static",
        "lb: the proxy in between, for master-1",
    ]


def test_where_to_look_names_the_line_of_the_plan(planned: Planned) -> None:
    """Each place to look at has its line of the plan."""
    plan = planned()
    [flow] = [each for each in expected(plan, OUTSIDE) if str(each) == "lb 100.64.0.53 -> 203.0.113.1"]
    assert all(str(plan.source) in line for line in why(plan, flow))


def test_where_to_look_for_what_must_not(planned: Planned) -> None:
    """What leads inside is a route outside: no rule of the gateway stops it, and that is said."""
    [flow] = [each for each in forbidden(planned(), None) if str(each) == "dev 192.168.0.105 -> 100.64.64.2"]
    assert [line.rpartition(" (")[0] or line for line in why(planned(), flow)] == [
        "dev: no route to 100.64.64.0/21 but the default one; ip route get 100.64.64.2",
        "the upstream router 192.168.0.1: no route to 100.64.64.0/21",
        "no rule stops what is sent to the gateway: filter FORWARD -d 100.64.64.0/21 -j ACCEPT",
    ]


def test_sample(planned: Planned) -> None:
    """Of many hosts of a role some are kept, and those that are named."""
    more = "".join(f'    "m{n}": {{"role": "master", "addresses": {{"mgmt": "100.64.1.{n}"}}}},\n' for n in range(1, 5))
    kept = sample(planned((MASTER, more + MASTER)), 2, "m4")
    assert [host.name for host in kept.hosts_of("master")] == ["m1", "m2", "m4"]
    assert len(kept.hosts_of("lb_nginx")) == 1


FORWARDING = ('site = "lab-site"\n', 'site = "lab-site"\nforwarding = "planned"\n')
WEB = ('"published": "192.168.0.53"', '"published": {"address": "192.168.0.53", "ports": ["tcp/80", "udp/5000"]}')
LET_IN = (
    'site = "lab-site"\n',
    'site = "lab-site"\nforwarding = "planned"\nexceptions = {\n'
    '    "images": {"from": "192.168.0.50/32", "to": "100.64.64.0/21"},\n'
    '    "admin": {"from": "192.168.0.50/32", "to": "192.168.0.53/32", "ports": ["tcp/40000-50000"]},\n'
    '    "metrics": {"from": "192.168.0.0/24", "to": "100.64.0.2/32", "ports": ["tcp/9100", "udp/40000"]},\n}\n',
)


def test_from_outside_where_forwarding_is_planned(planned: Planned) -> None:
    """Hosts of the gateway's network try it as those with a route would; who is beyond can't."""
    found = forbidden(planned(FORWARDING), OUTSIDE)
    assert [str(flow) for flow in found] == [str(flow) for flow in forbidden(load(REPO / "group_data/all.py"), OUTSIDE)]
    by = {flow.source: str(flow.router) for flow in found}
    assert by == {"dev": "192.168.0.51", "images": "192.168.0.51", "internet": "None"}


def test_what_exceptions_let_in_is_not_tried(planned: Planned) -> None:
    """At a free port, which may be one of an exception's."""
    found = {str(flow) for flow in forbidden(planned(LET_IN, WEB), None)}
    assert "dev 192.168.0.105 -> 100.64.64.2" in found
    assert "images 192.168.0.50 -> 100.64.64.2" not in found
    assert "images 192.168.0.50 -> 100.64.0.2" in found
    assert "dev 192.168.0.105 -> 192.168.0.53" in found
    assert "images 192.168.0.50 -> 192.168.0.53" not in found


def test_ports_of_a_published_address(planned: Planned) -> None:
    """What is not published of it is not expected, and a free port must not be reached; from inside all are."""
    plan = planned(FORWARDING, WEB)
    assert flows(plan, "workstation to published hosts") == [
        "dev 192.168.0.105 -> 192.168.0.52:22 = jumphost sees 192.168.0.105 tracked",
        "dev 192.168.0.105 -> 192.168.0.52 = jumphost sees 192.168.0.105 tracked",
        "dev 192.168.0.105 -> 192.168.0.53:80 = lb sees 192.168.0.105 tracked",
    ]
    assert not flows(plan, "the API behind the load balancer")
    assert flows(plan, "published addresses from inside") == flows(
        planned(FORWARDING), "published addresses from inside"
    )
    row = [flow for flow in forbidden(plan, OUTSIDE) if flow.row == "ports that are not published, must not"]
    assert [str(flow) for flow in row] == [
        "dev 192.168.0.105 -> 192.168.0.53",
        "images 192.168.0.50 -> 192.168.0.53",
        "internet 203.0.113.1 -> 192.168.0.53",
    ]
    assert {flow.router for flow in row} == {None}
    assert not [flow for flow in forbidden(planned(FORWARDING), OUTSIDE) if flow.row == row[0].row]


def test_where_to_look_where_forwarding_is_planned(planned: Planned) -> None:
    plan = planned(FORWARDING, WEB)
    for flow in forbidden(plan, OUTSIDE):
        found = why(plan, flow)
        if flow.source == "internet" and flow.router is None and "100.64" in str(flow.destination):
            assert found[0].startswith("internet: no route to ")
            assert not any("no rule stops" in each for each in found)
        else:
            assert f"rule filter FORWARD -i eth0 -o eth2 -j DROP ({plan.line('networks', 'traffic')})" in found
    [flow] = [each for each in expected(plan, None) if str(each) == "dev 192.168.0.105 -> 192.168.0.53:80"]
    found = why(plan, flow)
    ports = "-m conntrack --ctproto tcp --ctorigdst 192.168.0.53 --ctorigdstport 80 -j ACCEPT"
    assert f"rule filter FORWARD -d 100.64.0.53/32 -i eth0 {ports} ({plan.line('hosts', 'lb', 'published')})" in found
    assert not any("DROP" in each or "--ctdir" in each or "192.168.0.52 -j" in each for each in found)
    [flow] = [each for each in expected(plan, None) if str(each) == "master-1 100.64.0.2 -> 192.168.0.50"]
    assert any("--ctdir REPLY" in each for each in why(plan, flow))
