"""What differs from the plan on the hosts, live and on disk. Reads only."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from underlay.access.sessions import UnreachableError
from underlay.access.target import Target
from underlay.desired import nat, nginx, routing
from underlay.desired.files import SSHD, sshd_settings
from underlay.desired.ruleset import BUILTIN_CHAINS, TABLES, Edit, Rule, Ruleset, edits
from underlay.observe.evidence import Evidence
from underlay.observe.state import DRIFT, HostState, UnreadableError
from underlay.operations.firewall import canonical
from underlay.operations.network import network_change
from underlay.plan import Host, Plan

Kind = Literal["missing", "extra", "out of order", "differs", "stopped", "unmanaged"]


@dataclass(frozen=True)
class Difference:
    """One thing on a host that is not as planned.

    kind: "extra" is ours from an earlier plan; "unmanaged" is somebody else's, which is left alone and is no drift
    where: live, at boot, or a path
    plan: the line of the plan it comes from; empty for what is in no plan
    """

    host: str
    kind: Kind
    where: str
    what: str
    plan: str = ""


def read(target: Target, hosts: Iterable[Host]) -> dict[str, list[Difference] | str]:
    """For each host its differences, or why it could not be read; the hosts at the same time."""
    hosts = list(hosts)
    evidence = Evidence(target)
    evidence.gather(hosts, [], DRIFT)
    found: dict[str, list[Difference] | str] = {}
    for host in hosts:
        try:
            found[host.name] = list(of_host(target.plan, host, evidence.state(host.name)))
        except (UnreachableError, UnreadableError) as error:
            found[host.name] = str(error)
    return found


def of_host(plan: Plan, host: Host, state: HostState) -> Iterator[Difference]:
    """The differences of a host. Raises UnreadableError."""
    yield from _network(plan, host, state)
    units = {"systemd-networkd.service"}
    match host.role:
        case "gateway":
            yield from _firewall(plan, host, state)
            if state.units["netfilter-persistent.service"].enabled != "enabled":
                yield Difference(host.name, "stopped", "at boot", "netfilter-persistent.service is not enabled")
        case "jumphost":
            units.add("ssh.service")
            wanted = sshd_settings(plan)
            yield from _file(host, state, SSHD, wanted)
        case "lb_nginx":
            units.add("nginx.service")
            yield from _file(host, state, nginx.PATH, nginx.configuration(plan))
    for name in sorted(units):
        unit = state.units[name]
        if unit.active != "active" or unit.enabled != "enabled":
            yield Difference(host.name, "stopped", "live", f"{name} is {unit.active} and {unit.enabled or 'unknown'}")


def _network(plan: Plan, host: Host, state: HostState) -> Iterator[Difference]:
    wanted = routing.host_network(plan, host)
    for change in routing.changes(wanted, state.network):
        kind: Kind = "extra" if "not in the plan" in change.what else "missing"
        if "out of order" in change.what:
            kind = "out of order"
        yield Difference(host.name, kind, "live", change.what, _line(plan, host, change.what))
    whole = network_change(wanted, state.network)
    for path in whole.files if whole else ():
        yield Difference(host.name, "differs", path, "the file is not as planned", plan.line("hosts", host.name))


def _line(plan: Plan, host: Host, what: str) -> str:
    """The plan line of the first address of the plan that a text names, or of the host."""
    words = {word.partition("/")[0] for word in what.split()}
    for other in plan.hosts:
        if str(other.published) in words:
            return plan.line("hosts", other.name, "published")
    for nic in host.interfaces:
        if str(nic.address) in words or nic.nic in words:
            return plan.line("hosts", host.name, "addresses", nic.network)
    return plan.line("hosts", host.name)


def _firewall(plan: Plan, host: Host, state: HostState) -> Iterator[Difference]:
    found = state.firewall
    wanted = canonical(nat.gateway_rules(plan), found.wanted)
    for where, present in (("live", found.live), ("at boot", found.persisted)):
        steps = edits(present, wanted, found.recorded)
        for step in steps:
            if kind := _kind(step, steps):
                yield Difference(
                    host.name, kind, where, _rule(step.table, step.chain, step.spec), _origin(wanted, step)
                )
    yield from _unmanaged(host, wanted, found.live, found.recorded)


def _kind(step: Edit, steps: list[Edit]) -> Kind | None:
    """A rule that is deleted and inserted again is out of order: told once, where it is inserted."""
    others = {(other.table, other.chain, other.spec) for other in steps if other.insert != step.insert}
    moved = (step.table, step.chain, step.spec) in others
    if step.insert:
        return "out of order" if moved else "missing"
    return None if moved else "extra"


def _unmanaged(host: Host, wanted: list[Rule], live: Ruleset, recorded: Ruleset) -> Iterator[Difference]:
    ours = {(rule.table, rule.chain, rule.spec) for rule in wanted}
    for table in TABLES:
        for chain in BUILTIN_CHAINS[table]:
            old = recorded[table].chain(chain) if table in recorded else []
            for spec in live[table].chain(chain) if table in live else []:
                if (table, chain, spec) not in ours and spec not in old:
                    yield Difference(host.name, "unmanaged", "live", _rule(table, chain, spec))


def _rule(table: str, chain: str, spec: str) -> str:
    return f"rule -t {table} -A {chain} {spec}"


def _origin(wanted: list[Rule], step: Edit) -> str:
    key = (step.table, step.chain, step.spec)
    return next((rule.origin for rule in wanted if (rule.table, rule.chain, rule.spec) == key), "")


def _file(host: Host, state: HostState, path: str, wanted: str) -> Iterator[Difference]:
    if state.files.get(path) != wanted:
        yield Difference(host.name, "differs" if path in state.files else "missing", path, "the file is not as planned")
