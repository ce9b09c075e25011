"""Plan → the gateway's rules (`tests/golden` has those of whole plans)."""

import re
from itertools import permutations

from tests.unit.conftest import Planned
from tests.unit.namespaces import namespace
from underlay.compare import tables
from underlay.compare.firewall import own
from underlay.desired import nat
from underlay.plan import REPO, Plan

LB = '"192.168.0.53"},\n'
MONITOR = '"monitor": {"role": "server", "addresses": {"mgmt": "100.64.0.54"}, "published": "192.168.0.54"},\n'
BACKUP = (
    (
        '    "storage": {"cidr": "100.64.64.0/21"},\n',
        '    "storage": {"cidr": "100.64.64.0/21"},\n    "backup": {"cidr": "100.64.96.0/21"},\n',
    ),
    ('"storage": "100.64.64.1",\n', '"storage": "100.64.64.1",\n            "backup": "100.64.96.1",\n'),
)


def chain(plan: Plan, table: str, name: str) -> list[str]:
    return [rule.spec for rule in nat.gateway_rules(plan) if (rule.table, rule.chain) == (table, name)]


def test_the_kernel_gets_the_same_rules_from_the_notes_commands(planned: Planned) -> None:
    """Each of the 22 commands, run one after the other on a clean host, makes the rules that follow from the plan."""
    commands = (REPO / "tests/lab/gateway-rules.sh").read_text()
    with namespace("iptables") as host, namespace("iptables-restore") as form:
        host("sh", "-e", text=commands)
        form("iptables-restore", text=tables.render(tables.alone(own(nat.gateway_rules(planned())))))
        noted, made = tables.parse(host("iptables-save")), tables.parse(form("iptables-save"))
    for table in tables.TABLES:
        for name in tables.BUILTIN_CHAINS[table]:
            assert made[table].chain(name) == noted[table].chain(name)
    assert sum(len(specs) for table in made.values() for specs in table.rules.values()) == 22


def test_a_published_host_is_mapped_both_ways_before_its_network(planned: Planned) -> None:
    before, after = planned(), planned((LB, LB + MONITOR))
    assert chain(after, "nat", "PREROUTING") == [
        "-d 192.168.0.54/32 -j DNAT --to-destination 100.64.0.54",
        *chain(before, "nat", "PREROUTING"),
    ]
    assert chain(after, "nat", "POSTROUTING") == [
        "-s 100.64.0.54/32 -j SNAT --to-source 192.168.0.54",
        *chain(before, "nat", "POSTROUTING"),
    ]
    assert chain(after, "filter", "FORWARD") == chain(before, "filter", "FORWARD")
    assert chain(after, "raw", "PREROUTING") == chain(before, "raw", "PREROUTING")


def test_a_network_is_exempt_from_every_other_in_both_directions(planned: Planned) -> None:
    plan = planned(*BACKUP)
    exempt = [re.findall(r"[\d.]+/\d+", spec) for spec in chain(plan, "raw", "PREROUTING")]
    networks = [str(network.cidr) for network in plan.internal]
    assert len(networks) == 4
    assert sorted(map(tuple, exempt)) == sorted(permutations(networks, 2))
    assert "-s 100.64.96.1/32 -d 100.64.96.0/21 -j NOTRACK" in chain(plan, "raw", "OUTPUT")
    assert chain(plan, "nat", "POSTROUTING")[-1] == "-s 100.64.96.0/21 -j SNAT --to-source 192.168.0.51"
    assert {"-s 100.64.96.0/21 -j ACCEPT", "-d 100.64.96.0/21 -j ACCEPT"} <= set(chain(plan, "filter", "FORWARD"))


def test_what_comes_from_networks_stands_behind_the_rules_of_others(planned: Planned) -> None:
    """A chain's head comes first, as `compare.firewall.edits` asks; networks' SNAT and the exemptions are no head."""
    tails = {rule.chain for rule in nat.gateway_rules(planned()) if not rule.head}
    assert tails == {"PREROUTING", "OUTPUT", "POSTROUTING"}
    for table in tables.TABLES:
        for name in tables.BUILTIN_CHAINS[table]:
            heads = [rule.head for rule in nat.gateway_rules(planned()) if (rule.table, rule.chain) == (table, name)]
            assert heads == sorted(heads, reverse=True)


def test_every_rule_names_its_line_of_the_plan(planned: Planned) -> None:
    plan = planned()
    lines = plan.source.read_text().splitlines()
    for rule in nat.gateway_rules(plan):
        where, keys = rule.origin.split(" ", 1)
        line = lines[int(where.rpartition(":")[2]) - 1]
        assert f'"{keys.split(".")[-1]}"' in line, rule


TWICE = """site = "lab-site"
forwarding = "planned"
exceptions = {
    "one": {"from": "192.168.0.60/32", "to": "100.64.0.2/32", "ports": ["tcp/22"]},
    "two": {"from": "192.168.0.60/32", "to": "100.64.0.2/32", "ports": ["tcp/22-22", "icmp"]},
}
"""


def test_planned_forwarding_adds_to_the_notes_rules(planned: Planned) -> None:
    """In front of them where packets are forwarded, behind them elsewhere; each once, and as the record has them."""
    before, after = planned(), planned(('site = "lab-site"\n', TWICE))
    rules = nat.gateway_rules(after)
    for table in tables.TABLES:
        for name in tables.BUILTIN_CHAINS[table]:
            old, new = chain(before, table, name), chain(after, table, name)
            assert new[-len(old) :] == old if (table, name) == ("filter", "FORWARD") else new[: len(old)] == old
    assert len({rule.place for rule in rules}) == len(rules) == 22 + 6 + 1 + 2 + 2 + 3
    assert tables.read(tables.write(own(rules))) == own(rules)


def test_the_kernel_takes_planned_forwarding_as_it_is_written(planned: Planned) -> None:
    """No two of its rules are one to the kernel, and it prints each in the place where it was put."""
    rules = nat.gateway_rules(planned(('site = "lab-site"\n', TWICE)))
    with namespace("iptables-restore") as form:
        form("iptables-restore", text=tables.render(tables.alone(own(rules))))
        printed = tables.parse(form("iptables-save"))
    specs = printed["filter"].chain("FORWARD")
    assert len(set(specs)) == len(specs) == sum(rule.chain == "FORWARD" for rule in rules)

    def short(specs: list[str]) -> list[tuple[list[str], str]]:
        return [(re.findall(r"--ctorigdstport (\S+)|--ctorigdst ([\d.]+)", spec), spec.split()[-1]) for spec in specs]

    assert short(specs) == short([rule.spec for rule in rules if rule.chain == "FORWARD"])


def test_no_published_host(planned: Planned) -> None:
    plan = planned(
        (
            '"addresses": {"mgmt": "100.64.0.52"}, "published": "192.168.0.52"',
            '"addresses": {"enterprise": "192.168.0.52", "mgmt": "100.64.0.52"}',
        ),
        (', "published": "192.168.0.53"', ""),
    )
    assert chain(plan, "nat", "PREROUTING") == []
    assert all(spec.endswith("--to-source 192.168.0.51") for spec in chain(plan, "nat", "POSTROUTING"))
