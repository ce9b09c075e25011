"""The rules of a gateway read back: plan → rules → plan."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from netaddr import IPAddress, IPNetwork

from tests.unit.conftest import Planned
from tests.unit.site import ruleset
from underlay.adopt.nat import Facts, facts, form, lacking, unexplained
from underlay.compare.tables import Ruleset, Table
from underlay.desired.nat import gateway_rules
from underlay.desired.ruleset import Rule
from underlay.plan import Host, Interface, Network, Plan, load
from underlay.plan.model import Login, Operator

NOTES = Path(__file__).parents[1] / "lab" / "gateway-rules.sh"


def typed(commands: str) -> Ruleset:
    """The rules that iptables commands make, as text, one after the other."""
    found: Ruleset = {}
    for line in commands.splitlines():
        words = line.split()
        table = words[words.index("-t") + 1] if "-t" in words else "filter"
        at = next(index for index, word in enumerate(words) if word in ("-A", "-I"))
        chain = found.setdefault(table, Table()).rules.setdefault(words[at + 1], [])
        spec = " ".join(words[at + 2 :])
        if words[at] == "-I":
            chain.insert(0, spec)
        else:
            chain.append(spec)
    return found


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of a gateway, some networks, and hosts of which some are published."""
    prefixes = draw(st.lists(st.integers(16, 30), min_size=1, max_size=5))
    networks, gateway, hosts = [], [("eth0", "enterprise", "192.168.0.51", "192.168.0.0/24")], []
    for number, length in enumerate(prefixes):
        cidr = IPNetwork(f"10.{number}.0.0/{length}")
        networks.append(Network(name=f"n{number}", cidr=str(cidr)))
        gateway.append((f"eth{number + 1}", f"n{number}", str(cidr.network + 1), str(cidr)))
        if cidr.size > 3 and draw(st.booleans()):
            hosts.append((f"h{number}", f"n{number}", str(cidr.network + 2), str(cidr)))
    outer = draw(st.permutations([IPAddress(f"192.168.0.{100 + number}") for number in range(len(hosts))]))
    made = [_host("gateway", "gateway", gateway, None)]
    made += [
        _host(name, "server", [("eth0", net, address, cidr)], draw(st.sampled_from([None, outer[index]])))
        for index, (name, net, address, cidr) in enumerate(hosts)
    ]
    return Plan(
        source=Path("/plan.py"),
        site="x",
        target="ssh",
        operator=Operator(),
        forwarding="open",
        exceptions=(),
        networks=(Network(name="enterprise", cidr="192.168.0.0/24", upstream="192.168.0.1"), *networks),
        zones=(),
        hosts=tuple(draw(st.permutations(made))),
    )


def _host(name: str, role: str, nics: list[tuple[str, str, str, str]], published: IPAddress | None) -> Host:
    interfaces = tuple(
        Interface(network=net, nic=nic, address=IPAddress(address), cidr=IPNetwork(cidr))
        for nic, net, address, cidr in nics
    )
    return Host(
        name=name,
        role=role,
        interfaces=interfaces,
        published=published,
        ports=None,
        default_network=nics[0][1],
        login=Login(user="ops", port=22, sudo="nopasswd"),
    )


def of(plan: Plan) -> Facts:
    """What a plan's rules say."""
    return Facts(
        networks=tuple(network.cidr for network in plan.internal),
        published={host.published: host.primary.address for host in plan.published},  # type: ignore[misc]
        outer=(plan.gateway.primary.address,),
        own={network.cidr: plan.gateway_address(network.name) for network in plan.internal},
    )


@settings(max_examples=40, deadline=None)
@given(plans())
def test_plan_to_rules_to_plan(plan: Plan) -> None:
    """1. what rules say is what they were made of, in its order; 2. no rule is left over, and none is lacking."""
    live = ruleset(gateway_rules(plan))
    found = facts(live)
    assert found == of(plan)
    assert [*found.published] == [host.published for host in plan.published]
    assert (unexplained(live, gateway_rules(plan)), lacking(live, gateway_rules(plan))) == ([], [])


@settings(max_examples=30, deadline=None)
@given(plans(), st.randoms(use_true_random=False))
def test_rules_in_any_order_say_the_same(plan: Plan, random: object) -> None:
    live = ruleset(gateway_rules(plan))
    for table in live.values():
        for specs in table.rules.values():
            random.shuffle(specs)  # type: ignore[attr-defined]
    found, planned = facts(live), of(plan)
    assert (set(found.networks), found.published, found.outer) == (
        set(planned.networks),
        planned.published,
        planned.outer,
    )
    assert unexplained(live, gateway_rules(plan)) == []


def test_the_notes_rules() -> None:
    """As they were typed: with `--to`, host bits, and without lengths."""
    plan = load(Path(__file__).parents[2] / "group_data/all.py")
    live = typed(NOTES.read_text())
    assert facts(live) == of(plan)
    assert (unexplained(live, gateway_rules(plan)), lacking(live, gateway_rules(plan))) == ([], [])


MORE = """\
iptables -t nat -A POSTROUTING -s 10.8.0.0/24 -o eth0 -j MASQUERADE
iptables -t nat -A PREROUTING -d 192.168.0.51 -p tcp --dport 8080 -j DNAT --to-destination 100.64.0.9:80
iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A FORWARD ! -s 100.64.0.0/21 -d 100.64.0.0/21 -j DROP
iptables -t nat -A PREROUTING -d 192.168.0.60 -j DNAT --to-destination 100.64.0.60
"""


def test_what_no_plan_explains(planned: Planned) -> None:
    """Each is listed; a mapping in one direction is no published host, and is told as what it is."""
    live = typed(NOTES.read_text() + MORE)
    plan = planned()
    assert [str(rule).partition(" ")[2] for rule in unexplained(live, gateway_rules(plan))] == [
        line.replace("iptables -A", "filter -A").removeprefix("iptables -t ")
        for line in sorted(MORE.splitlines(), key=lambda line: ("-t nat" in line, "POSTROUTING" in line))
    ]
    assert facts(live) == replace(of(plan), halves=((IPAddress("192.168.0.60"), IPAddress("100.64.0.60")),))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-s 10.0.0.0/8 -j CT --notrack", "-s 10.0.0.0/8 -j NOTRACK"),
        ("-d 192.0.2.7/32 -j DNAT --to-destination 10.0.0.1", "-d 192.0.2.7 -j DNAT --to 10.0.0.1"),
        ("-s 10.0.0.1/24 -j ACCEPT", "-s 10.0.0.0/24 -j ACCEPT"),
    ],
)
def test_ways_to_write_one_rule(one: str, other: str) -> None:
    assert form(one) == form(other)


def test_rules_that_differ_do() -> None:
    assert form("-s 10.0.0.0/24 -j ACCEPT") != form("-d 10.0.0.0/24 -j ACCEPT")
    assert lacking({}, [Rule("nat", "POSTROUTING", "-s 10.0.0.0/24 -j SNAT --to-source 192.0.2.1")]) != []
