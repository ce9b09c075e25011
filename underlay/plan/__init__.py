"""The plan of a site, which people write: its model, its checks, its loader. Pure: no pyinfra, no network.

A plan file is plain data in Python syntax. `load` reads it without running it, collects everything that is wrong with
it, and either raises one `PlanError` with the whole report or returns a frozen `Plan` that the rest of the code trusts.
"""

from underlay.plan.datafile import PlanError
from underlay.plan.loader import load, load_text, plan_file
from underlay.plan.model import (
    MOST_NETWORKS,
    MTU,
    NODES,
    OUTSIDE,
    REPO,
    ROLES,
    SSH_PORT,
    Bond,
    Host,
    Interface,
    Kubernetes,
    Login,
    Network,
    Plan,
    Vlan,
    Zone,
)
from underlay.plan.values import MistakeError, ipv4

__all__ = [
    "MOST_NETWORKS",
    "MTU",
    "NODES",
    "OUTSIDE",
    "REPO",
    "ROLES",
    "SSH_PORT",
    "Bond",
    "Host",
    "Interface",
    "Kubernetes",
    "Login",
    "MistakeError",
    "Network",
    "Plan",
    "PlanError",
    "Vlan",
    "Zone",
    "ipv4",
    "load",
    "load_text",
    "plan_file",
]
