"""Real connections: each gets through, and its receiver sees the source address that it should."""

import pytest

from underlay.plan import Plan
from underlay.traffic import Flow, why
from underlay.verify.checks import wrong
from underlay.verify.evidence import Evidence
from underlay.verify.exchange import judge


def test_flow(plan: Plan, evidence: Evidence, flow: Flow) -> None:
    """The traffic looks like the plan says."""
    if found := judge(flow, evidence.outcome(flow)):
        if reason := evidence.bystander(flow):
            pytest.skip(reason)
        expected, seen = found
        wrong(expected, seen, why(plan, flow))
