"""The lab as a target: this process steps into its workstation's network, and does from there what it does for real."""

import ctypes
import os
import subprocess
from dataclasses import replace
from pathlib import Path

from netaddr import IPAddress

from lab import control, state
from lab.process import LabError
from underlay.access import target
from underlay.access.endpoints import Endpoint, endpoints_from, vantage_of
from underlay.access.ssh_config import TargetError
from underlay.access.target import Target
from underlay.plan import OUTSIDE, REPO, Plan

CLONE_NEWNET = 0x40000000
WORKSTATION = "dev"
"""The lab's host from which commands are run."""


def enter(plan: Plan) -> Target:
    """Step into the running lab. Raises TargetError if this checkout has none running."""
    running = state.load()
    if running is None or not running.complete:
        raise TargetError("target lab, but no lab is running: start it with `./inv lab.up`")
    if running.checkout != REPO:
        raise TargetError(f"target lab, but the running lab belongs to the checkout {running.checkout}")
    if os.geteuid() != 0:
        raise TargetError("target lab needs root, to step into the lab's network: run it with sudo")
    if WORKSTATION not in running.hosts:
        raise TargetError(f"target lab, but the lab has no host {WORKSTATION!r} to work from: add it to the plan")
    _step_into(running.hosts[WORKSTATION].netns)
    vantage = vantage_of(plan)
    assert plan.enterprise.upstream is not None  # it is what makes it the enterprise network
    made = target.make(
        plan,
        "lab",
        vantage,
        [*endpoints_from(plan, vantage), Endpoint(OUTSIDE, plan.enterprise.upstream)],
        running.key,
        running.known_hosts,
        IPAddress(running.outside),
        # Of each lab its own: the same addresses are other hosts there.
        site=state.NAME,
        workstation=WORKSTATION,
    )
    return replace(made, console=_console)


def _console(host: str, command: str, stdin: bytes, seconds: float) -> bytes:
    try:
        return control.run(host, command, stdin=stdin.decode(), timeout=seconds).stdout.encode()
    except subprocess.TimeoutExpired:
        raise LabError(f"the console of {host} gave no answer within {seconds:.0f} s") from None


def _step_into(netns: Path) -> None:
    try:
        with netns.open() as namespace:
            # os.setns came with Python 3.12.
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    except OSError as error:
        raise TargetError(
            f"can't step into the lab ({netns}: {error.strerror}): fix it with `./inv lab.reset`"
        ) from error
