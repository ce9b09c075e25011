"""Plan → the files of a host, as text, and where they are. Pure."""

from collections.abc import Mapping

from underlay.desired import links, routing
from underlay.desired.links import Base
from underlay.desired.routing import HostNetwork
from underlay.desired.templates import render
from underlay.plan import Plan

SSHD = "/etc/ssh/sshd_config.d/05-underlay.conf"


def network_files(wanted: HostNetwork, bases: Mapping[str, Base]) -> dict[str, str]:
    """Path → content of every file that makes the network come back after a boot.

    bases: for each NIC what the host's own files make of it (`compare.networkd.bases`)
    """
    found = links.link_files(wanted, bases)
    found[routing.NETWORKD_CONF] = render("network/networkd.conf.j2")
    if wanted.sysctls:
        found[routing.SYSCTL_CONF] = render("network/sysctl.conf.j2", sysctls=wanted.sysctls)
    return found


def sshd_settings(plan: Plan) -> str:
    """The jump host's settings of sshd, the file SSHD."""
    return render("jumphost/sshd.conf.j2", operator=plan.operator.user)


def authorized_keys(plan: Plan) -> str:
    """The operator's authorized_keys on every host."""
    user = plan.operator.user
    return f"{'/root' if user == 'root' else f'/home/{user}'}/.ssh/authorized_keys"
