"""What the tests with faults require of the site."""

from lab import fault
from lab.fault import Fault
from lab.process import wait_until
from tests.lab.commands import Runner
from underlay.plan import ROLES, Plan

PROOF_SECONDS = 10
"""What is remembered of how it was (neighbours, lookups) may be for a moment."""


def require_broken(each: Fault, plan: Plan, broken: bool) -> None:
    """The fault's proof holds, or does not, in a moment at most."""
    if each.proof:
        seen = wait_until(lambda: fault.is_broken(each, plan) == broken, seconds=PROOF_SECONDS)
        assert seen, f"{each.name}: {broken=} was not seen: {each.proof}"


def require_good(runner: Runner, plan: Plan, *faults: Fault) -> None:
    """The site is as planned, and the proofs of the faults do not hold any more."""
    for each in faults:
        require_broken(each, plan, False)
    code, output = runner("verify", *ROLES)
    assert code == 0, output
