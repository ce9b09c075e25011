"""The gateway: its rules in all tables, live and at boot, its addresses, and that it forwards."""

from collections.abc import Iterable

from underlay.compare import firewall
from underlay.desired import nat, ruleset
from underlay.desired.ruleset import Rule, Ruleset
from underlay.desired.units import NETFILTER
from underlay.facts.firewall import PERSISTED, RECORD
from underlay.observe.state import HostState
from underlay.plan import Host, Plan
from underlay.verify.checks import EveryHost, each, expect, wrong


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
    def test_persisted_rule(self, plan: Plan, state: HostState, item: int) -> None:
        """File for boot has all rules, once."""
        expect_rule(the_rule(plan, state, item), state.firewall.persisted, PERSISTED)

    def test_order(self, plan: Plan, state: HostState) -> None:
        """Live rules in order, none stale."""
        expect_no_edits(plan, state, state.firewall.live, "iptables-save")

    def test_persisted_order(self, plan: Plan, state: HostState) -> None:
        """File's rules in order, none stale."""
        expect_no_edits(plan, state, state.firewall.persisted, PERSISTED)

    def test_record(self, state: HostState) -> None:
        """The record of our rules is right."""
        seen = ruleset.render(state.firewall.recorded).splitlines()
        wanted = ruleset.render(state.firewall.wanted).splitlines()
        missing = [line for line in wanted if line not in seen]
        if seen != wanted:
            wrong(missing or "no other rules, and in order", [line for line in seen if line not in wanted], RECORD)

    def test_no_firewalld(self, planned: Host, state: HostState) -> None:
        """No firewalld, which rejects on its own."""
        found = state.filters.firewalld
        seen = f"it is {found.active} and {found.enabled}" if found else "neither active nor enabled"
        expect(seen, "neither active nor enabled", f"systemctl disable --now firewalld on {planned.name}")

    def test_loaded_at_boot(self, planned: Host, state: HostState) -> None:
        """The file is loaded at boot."""
        seen = state.units[NETFILTER.name].enabled or "not there"
        expect(seen, "enabled", f"systemctl status netfilter-persistent on {planned.name}")


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
