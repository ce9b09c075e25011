"""What differs from the plan on the hosts, live and on disk. Reads only."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from underlay.access.anew import anew
from underlay.access.answers import UnreadableError, reading
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target
from underlay.compare import filters, firewall, network, sshd
from underlay.compare.difference import Difference, NotLoaded, Word
from underlay.compare.files import boot_differences, file_difference
from underlay.compare.managers import boot
from underlay.compare.systemd import units as compared_units
from underlay.desired import nat, nginx, routing, units
from underlay.desired.files import RULES, SSHD, firewall_unit, sshd_file, sshd_settings
from underlay.nodes import difference as node
from underlay.nodes.wanted import preparation
from underlay.observe.evidence import Evidence
from underlay.observe.state import DRIFT, HostState
from underlay.plan import Host, Plan
from underlay.remote.guard.paths import COPY
from underlay.text import one_line


@dataclass(frozen=True)
class Line:
    """A difference as it is told, to people and to programs.

    where: live, at boot, or a path
    plan: the line of the plan it comes from; empty for what is in no plan
    """

    host: str
    kind: Word
    where: str
    what: str
    plan: str = ""


def line(plan: Plan, host: Host, difference: Difference) -> Line:
    """A difference of a host, in words."""
    return Line(host.name, difference.word, difference.where, one_line(difference.what), difference.origin(plan, host))


def read(target: Target, hosts: Iterable[Host]) -> dict[str, list[Line] | str]:
    """For each host its differences, or why it could not be read; the hosts at the same time, over new connections."""
    with anew(target) as own:
        return look(Links(own), hosts)


def look(links: Links, hosts: Iterable[Host]) -> dict[str, list[Line] | str]:
    """The same, over these connections."""
    hosts, plan = list(hosts), links.target.plan
    evidence = Evidence(links.target, links)
    evidence.gather(hosts, [], DRIFT)
    found: dict[str, list[Line] | str] = {}
    for host in hosts:
        try:
            with reading(f"what {host.name} says"):
                differences = list(of_host(plan, host, evidence.state(host.name)))
                found[host.name] = [line(plan, host, each) for each in differences]
        except (UnreachableError, UnreadableError) as error:
            found[host.name] = str(error)
    return found


def of_host(plan: Plan, host: Host, state: HostState) -> Iterator[Difference]:
    """The differences of a host. Raises UnreadableError."""
    wanted = routing.host_network(plan, host)
    yield from network.otherwise(wanted, state.network)
    yield from network.differences(wanted, state.network)
    yield from boot.differences(wanted, state.network)
    match host.role:
        case "gateway":
            yield from _firewall(plan, state)
            yield from _file(state, units.FIREWALL_FILE, firewall_unit(COPY))
        case "lb_nginx":
            yield from _file(state, nginx.PATH, nginx.configuration(plan))
    yield from _file(state, SSHD, sshd_file(plan, host))
    yield from sshd.differences(sshd_settings(plan, host), host.login.user, state.sshd)
    yield from compared_units.differences([*units.UNITS[host.role], *state.network.managing(wanted.every)], state.units)
    yield from filters.unmanaged(state.filters)
    if prepared := preparation(plan, host):
        yield from node.differences(prepared, state.node)


def _firewall(plan: Plan, state: HostState) -> Iterator[Difference]:
    found = state.firewall
    wanted = firewall.canonical(nat.gateway_rules(plan), found.wanted)
    yield from firewall.differences(found.live, wanted, found.recorded, at_boot=False)
    yield from firewall.differences(found.at_boot, wanted, found.recorded, at_boot=True)
    yield from firewall.unmanaged(found.live, wanted, found.recorded)
    record = firewall.record(wanted, found.recorded, found.others, firewall.edits(found.live, wanted, found.recorded))
    yield from boot_differences({RULES: record}, {} if found.record is None else {RULES: found.record})
    for failed in found.failed:
        ours = failed[0] == units.FIREWALL.name
        yield Difference("differs" if ours else "unmanaged", NotLoaded(*failed), at_boot=True)


def _file(state: HostState, path: str, wanted: str) -> Iterator[Difference]:
    if found := file_difference(path, wanted, state.files):
        yield found
