"""Real connections: each gets through, and its receiver sees the source address that it should."""

import pytest

from underlay.desired.traffic import Flow, why
from underlay.observe.evidence import Evidence
from underlay.observe.exchange import judge
from underlay.plan import Plan
from underlay.verify.checks import wrong


def test_flow(plan: Plan, evidence: Evidence, flow: Flow) -> None:
    """The traffic looks like the plan says."""
    outcome = evidence.outcome(flow)
    if found := judge(flow, outcome):
        if reason := evidence.bystander(flow) or (outcome.unproven(flow) and outcome.error):
            pytest.skip(reason)
        expected, seen = found
        wrong(expected, seen, why(plan, flow))
