"""The gateway: its rules in all tables, live and at boot, its addresses, and that it forwards."""

from collections.abc import Iterable

from underlay.compare import firewall, tables
from underlay.compare.tables import Ruleset
from underlay.desired import nat
from underlay.desired.files import RULES
from underlay.desired.ruleset import Rule
from underlay.desired.units import FIREWALL
from underlay.observe.state import HostState
from underlay.plan import Host, Plan
from underlay.verify.checks import EveryHost, each, expect_unit, wrong

AT_BOOT = f"{RULES} and the files of others, loaded into an empty namespace"


def numbers(plan: Plan, _: Host) -> Iterable[int]:
    """The rules are compared in the host's own form, which is known only there: here they are just counted."""
    return range(len(nat.gateway_rules(plan)))


def the_rule(plan: Plan, state: HostState, number: int) -> Rule:
    return firewall.canonical(nat.gateway_rules(plan), state.firewall.wanted)[number]


def expect_rule(rule: Rule, there: Ruleset, look_at: str) -> None:
    rules = there[rule.table].chain(rule.chain) if rule.table in there else []
    if rules.count(rule.spec) != 1:
        wrong(f"once: {rule.table} -A {rule.chain} {rule.spec}", rules, f"{rule.origin}; {look_at}")


class TestGateway(EveryHost):
    role = "gateway"

    @each(numbers)
    def test_rule(self, plan: Plan, state: HostState, item: int) -> None:
        """Every rule is live, once."""
        rule = the_rule(plan, state, item)
        expect_rule(rule, state.firewall.live, f"iptables -t {rule.table} -S {rule.chain}")

    @each(numbers)
    def test_rule_at_boot(self, plan: Plan, state: HostState, item: int) -> None:
        """Every rule is there after a boot, once."""
        expect_rule(the_rule(plan, state, item), state.firewall.at_boot, AT_BOOT)

    def test_order(self, plan: Plan, state: HostState) -> None:
        """Live rules in order, none stale."""
        expect_no_edits(plan, state, state.firewall.live, "iptables-save")

    def test_order_at_boot(self, plan: Plan, state: HostState) -> None:
        """Rules in order after a boot, none stale."""
        expect_no_edits(plan, state, state.firewall.at_boot, AT_BOOT)

    def test_record(self, plan: Plan, state: HostState) -> None:
        """The file of our rules has these and no others."""
        rules = firewall.canonical(nat.gateway_rules(plan), state.firewall.wanted)
        seen = [rule for rule in tables.read(state.firewall.record or "") if not rule.gone]
        wanted = firewall.own(rules)
        missing = [rule for rule in wanted if rule not in seen]
        if seen != wanted:
            wrong(missing or "no other rules, and in order", [rule for rule in seen if rule not in wanted], RULES)

    def test_put_in_place_at_boot(self, planned: Host, state: HostState) -> None:
        """Our rules were put in place at this boot, and will be at the next one."""
        expect_unit(planned, state, FIREWALL)


def expect_no_edits(plan: Plan, state: HostState, there: Ruleset, look_at: str) -> None:
    rules = firewall.canonical(nat.gateway_rules(plan), state.firewall.wanted)
    edits = firewall.edits(there, rules, state.firewall.recorded)
    if edits:
        origins = {
            f"{rule.table} {rule.chain} {rule.spec}: {rule.origin}"
            for rule in rules
            if any(rule.place == edit.rule.place for edit in edits)
        }
        wrong("nothing to change", ["it takes these steps:", *map(str, edits)], [look_at, *sorted(origins)])
