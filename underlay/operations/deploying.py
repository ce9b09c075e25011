"""What the deploy files have in common: who they are for, and the steps that every role takes."""

from collections.abc import Iterator, Sequence

from pyinfra import host
from pyinfra.api.exceptions import PyinfraError
from pyinfra.facts.systemd import SystemdEnabled, SystemdStatus
from pyinfra.operations import systemd

from underlay.access.target import Target, current
from underlay.compare.network import unfit
from underlay.desired import routing, units
from underlay.desired.files import authorized_keys, sshd_file, sshd_settings
from underlay.desired.units import PACKAGES
from underlay.facts.access import AuthorizedKeys
from underlay.facts.filters import OtherFilters
from underlay.facts.network import Network
from underlay.facts.packages import PATIENCE, Packages
from underlay.facts.sshd import SshdConfiguration
from underlay.facts.system import System
from underlay.nodes import difference
from underlay.nodes.state import Node
from underlay.nodes.wanted import preparation
from underlay.operations import access, connection, network, nodes, sshd, tell
from underlay.operations.packages import SECONDS, installed
from underlay.plan import Host

INSTALL = 300
"""Seconds that the installation of Python packages may take."""


def planned() -> tuple[Target, Host]:
    """The target, and the host of the plan that this deploy file runs for."""
    target = current()
    return target, target.plan.host(host.name)


def runs_for(role: str) -> bool:
    """Whether the current host has a role: pyinfra runs every deploy file of a command for every host of it."""
    return role in host.groups


def require_supported_system() -> None:
    """Stop the whole run, before anything changes, if a host is not one that these deploys know."""
    connection.read_ahead(host, _asked_by_every_role(), SECONDS)
    system = host.get_fact(System)
    if system is not None and not system.supported:
        raise PyinfraError(
            f"{host.name}: {system.name} is not supported, nothing was changed: these deploys know Debian and Ubuntu"
        )
    target, planned_host = planned()
    wanted = routing.host_network(target.plan, planned_host)
    live = host.get_fact(Network, sysctls=list(wanted.sysctls))
    if live is not None and (problem := unfit(wanted, live)):
        raise PyinfraError(f"{host.name}: {problem}, nothing was changed: see docs/hosts.md")


def require_no_firewalld() -> None:
    """Stop, before anything changes, if firewalld filters on a host that has to forward, or will after a boot."""
    found = host.get_fact(OtherFilters)
    if found is not None and (state := found.firewalld):
        raise PyinfraError(
            f"{host.name}: firewalld is {state.active} and {state.enabled or 'not installed'}, nothing was changed: "
            "it rejects what its zones do not allow, whatever the rules of the plan accept. Move what it is there for "
            "to another filter (ufw, iptables, nftables), switch it off there (sudo systemctl disable --now "
            "firewalld), and deploy again"
        )


def _asked_by_every_role() -> Iterator[connection.Fact]:
    """What the steps of this file ask of a host: on a large site most of a deploy would be these round trips."""
    target, planned_host = planned()
    networkd = {"services": [units.NETWORKD.name]}
    yield System, {}
    yield SystemdStatus, networkd
    yield SystemdEnabled, networkd
    yield Network, {"sysctls": list(routing.host_network(target.plan, planned_host).sysctls)}
    yield AuthorizedKeys, {"path": authorized_keys(planned_host)}
    yield Packages, {"names": PACKAGES[planned_host.role], "_timeout": SECONDS}
    yield SshdConfiguration, {"port": planned_host.login.port}
    if planned_host in target.plan.nodes:
        yield Node, {}


def packages(role: str) -> None:
    """Packages of a role, installed where they are missing; what is installed stays as it is.

    Stops the whole run, before anything changes, if they can't be installed, or not without removing another one.
    """
    _packages(PACKAGES[role])


def _packages(names: Sequence[str]) -> None:
    needed = host.get_fact(Packages, names=names, _timeout=SECONDS)
    if needed is None:
        return
    if needed.problem:
        lacking = ", ".join(needed.names)
        raise PyinfraError(f"{host.name}: {lacking} can't be installed, nothing was changed: {needed.problem}")
    installed(name=f"Packages: {', '.join(names)}", needed=needed, _timeout=SECONDS + PATIENCE)


def kubernetes_node() -> None:
    """What kubeadm needs of a node, where the plan has a cluster.

    Stops the whole run, before anything changes, if it can't be done beside what is there; for a kernel that can't do
    it, too, but in the lab: there it is told, and done without.
    """
    target, planned_host = planned()
    wanted = preparation(target.plan, planned_host)
    state = host.get_fact(Node) if wanted else None
    if wanted is None or state is None:
        return
    lacking = difference.lacking(state)
    refused = difference.obstacles(wanted, state) + ([] if target.name == "lab" else lacking)
    if refused:
        raise PyinfraError(f"{host.name}: {'; '.join(refused)}. Nothing was changed: see docs/kubernetes.md")
    tell(f"left out: {each}" for each in lacking)
    if names := difference.packages(state):
        _packages(names)
    nodes.prepared(
        name=f"Node: as kubeadm {wanted.cluster.version} needs it, now and at boot",
        wanted=wanted,
        _timeout=SECONDS + PATIENCE,
    )


def planned_network() -> None:
    """Addresses, routes and policy rules of the plan, kept over a boot by what brings the NICs up."""
    target, planned_host = planned()
    wanted = routing.host_network(target.plan, planned_host)
    live = host.get_fact(Network, sysctls=list(wanted.sysctls))
    for unit in live.managing(wanted.every) if live is not None else ():
        name = unit.name.removesuffix(".service")
        systemd.service(name=f"Network: {name} runs, now and at boot", service=unit.name, running=True, enabled=True)
    network.configured(
        name="Network: addresses, routes, policy rules and sysctls of the plan",
        wanted=wanted,
    )


def keys_only() -> None:
    """No password lets anybody in over ssh, and only what the site needs is forwarded."""
    target, planned_host = planned()
    sshd.configured(
        name="sshd: keys only, and no forwarding but what the site needs",
        settings=sshd_settings(target.plan, planned_host),
        content=sshd_file(target.plan, planned_host),
        login=planned_host.login,
    )


def network_holds_at_boot() -> None:
    """The last step: all else is in place, whatever it finds."""
    network.holds_at_boot(name="Network: nothing undoes it at the next boot")


def deploy_machine_access() -> None:
    """The deploy machine (the jump host) may log in as the operator, with its own key and from its own address.

    On the gateway the jump host's deploy sees to it: the gateway's own contacts no other host.
    """
    target, planned_host = planned()
    names = [planned_host.name]
    if planned_host.role == "jumphost":
        names.append(target.plan.gateway.name)
    access.deploy_machine(name="Access: the deploy machine may log in", names=names)
