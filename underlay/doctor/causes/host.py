"""What is not as planned on a host that was reached: network, rules, connection table, services, disks."""

from collections.abc import Iterator

from underlay.compare import network
from underlay.compare.difference import File, Leg, Nic, NodePart, Sysctl
from underlay.desired import routing
from underlay.desired.routing import IP_FORWARD, Address, PolicyRule, Route
from underlay.desired.ruleset import Rule
from underlay.desired.units import Unit
from underlay.doctor.cause import Cause
from underlay.doctor.investigation import Investigation, first
from underlay.doctor.survey import CROWDED
from underlay.observe.state import HostState
from underlay.plan import OUTSIDE, Host
from underlay.remote.guard.paths import COPY
from underlay.text import command

CLOCK_SECONDS = 60
JOURNAL, LOGS = "/var/log/journal/", "/var/log/"


def host(case: Investigation, planned: Host) -> Iterator[Cause]:
    """All of a host's own causes, in the order in which a packet meets them."""
    state = case.state(planned)
    if state is None:
        return
    yield from _network(case, planned, state)
    if planned == case.gateway:
        yield from firewalld(case, planned, state, now=True)
        yield from _rules(case, planned, state)
        yield from _connection_table(case, planned, state)
    yield from _guard(case, planned, state)
    yield from _services(case, planned, state)
    yield from _disks(case, planned)


# --- network --------------------------------------------------------------------------------------------------------


def _network(case: Investigation, planned: Host, state: HostState) -> Iterator[Cause]:
    """`nic-down`, `no-carrier`, `address-missing`, `route-missing`, `route-wrong`, `policy-rule-missing`,
    `sysctl-wrong`, `network-differs`; what goes with a NIC or an address is not told by itself."""
    found = network.differences(routing.host_network(case.plan, planned), state.network)
    down = {each.thing.name: each for each in found if isinstance(each.thing, Nic)}
    before = len(case.found)
    gone = set()
    for nic in planned.interfaces:
        if nic.nic in down:
            how = "is switched off" if down[nic.nic].kind == "down" else "is not there"
            fix, advice = case.fix_network(planned, state), ""
        elif nic.nic in state.nics and not state.nics[nic.nic].carrier:
            how = "has no signal"
            fix, _, advice = case.replug(planned.name, nic.nic)
        else:
            continue
        gone.add(nic.nic)
        yield Cause(
            id="no-carrier" if advice else "nic-down",
            host=planned.name,
            cause=f"{planned.name}: its NIC {nic.nic} ({nic.network}) {how}",
            evidence=(f"ip link show {nic.nic}: {'up, with no carrier' if advice else 'not up'}",),
            fix=fix,
            advice=advice,
            plan=case.line(planned, nic.address),
            hosts=case.who_needs(planned, nic),
            cuts=True,
        )
    yield from _legs(case, planned, state, [each.thing for each in found if isinstance(each.thing, Leg)])
    missing = [each for each in found if each.kind == "missing" and not each.shaken]
    addresses = [each.thing for each in missing if isinstance(each.thing, Address) and each.thing.nic not in gone]
    if addresses:
        hosts = frozenset(name for each in addresses for name in _need(case, planned, each))
        things = [f"address {each.cidr} on {each.nic}" for each in addresses]
        yield _missing(case, planned, state, "address-missing", things, hosts, addresses[0].ip)
    lost = {each.ip for each in addresses}
    routes = {
        each.thing: each.found
        for each in missing
        if isinstance(each.thing, Route) and not (each.thing.nic in gone or each.thing.source in lost)
    }
    if routes:
        others = dict.fromkeys(each for there in routes.values() if isinstance(there, tuple) for each in there)
        instead = [f"there is {each.selector} instead" for each in others]
        hosts = frozenset({OUTSIDE}) if planned == case.gateway else case.behind(planned)
        things = [f"route {each.arguments}" for each in routes]
        kind = "route-wrong" if instead else "route-missing"
        yield _missing(case, planned, state, kind, things, hosts, next(iter(routes)).source, instead)
    rules = [f"policy rule {each.thing.arguments}" for each in missing if isinstance(each.thing, PolicyRule)]
    if rules and not gone:  # networkd of Debian 12 takes them away with the NIC in whose file they are
        yield _missing(case, planned, state, "policy-rule-missing", rules, case.behind(planned))
    sysctls = [each.what for each in found if isinstance(each.thing, Sysctl)]
    if sysctls:
        router = any(each.thing.key == IP_FORWARD for each in found if isinstance(each.thing, Sysctl))
        yield Cause(
            id="sysctl-wrong",
            host=planned.name,
            cause=f"{planned.name}: {'it does not forward: ' if router else ''}{sysctls[0]}",
            evidence=first([f"sysctl: {each}" for each in sysctls]),
            fix=case.fix_network(planned, state),
            plan=case.line(planned),
            hosts=case.everybody - {planned.name} if router else case.behind(planned),
            cuts=True,
        )
    if len(case.found) == before and (rest := [each.what for each in found]):
        yield Cause(
            id="network-differs",
            host=planned.name,
            cause=f"{planned.name}: {rest[0]}",
            evidence=first(rest),
            fix=case.fix_network(planned, state),
            plan=case.line(planned),
            hosts=case.behind(planned),
            cuts=True,
        )


def _legs(case: Investigation, planned: Host, state: HostState, lost: list[Leg]) -> Iterator[Cause]:
    """`bond-leg`: the bond goes on by the others, until they are gone, too."""
    for nic, bond in routing.host_network(case.plan, planned).legs.items():
        link = state.nics.get(nic)
        if link is None or Leg(nic, bond) in lost:
            how, fix, advice = "is not in it", case.fix_network(planned, state), ""
        elif not link.carrier:
            how, (fix, _, advice) = "has no signal", case.replug(planned.name, nic)
        else:
            continue
        yield case.cause(
            "bond-leg",
            planned,
            f"{nic}, a leg of {bond}, {how}: the bond goes by the others alone",
            [f"ip link show {nic}: {'not there' if link is None else 'no carrier or no master'}"],
            fix,
            advice,
        )


def _missing(
    case: Investigation,
    planned: Host,
    state: HostState,
    id: str,
    things: list[str],
    hosts: frozenset[str],
    address: str = "",
    instead: list[str] | None = None,
) -> Cause:
    more = f", and {len(things) - 1} more like it" if len(things) > 1 else ""
    return Cause(
        id=id,
        host=planned.name,
        cause=f"{planned.name}: {things[0]} is missing{more}",
        evidence=(*first([f"{each} is not there" for each in things]), *(instead or ())),
        fix=case.fix_network(planned, state),
        plan=case.line(planned, address),
        hosts=hosts,
        cuts=True,
    )


def _need(case: Investigation, planned: Host, address: Address) -> frozenset[str]:
    """Whose connections need an address of a host."""
    if planned != case.gateway:
        return case.behind(planned)
    for other in case.plan.published:
        if str(other.published) == address.ip:
            return case.behind(other)
    nic = next(nic for nic in planned.interfaces if str(nic.address) == address.ip)
    if nic.network == case.plan.enterprise.name:
        return frozenset({planned.name, OUTSIDE, *(each.name for each in case.plan.hosts if not each.published)})
    return case.who_needs(planned, nic)


# --- the gateway ----------------------------------------------------------------------------------------------------


def firewalld(case: Investigation, planned: Host, state: HostState, *, now: bool) -> Iterator[Cause]:
    """`firewalld`; it is latent where it only runs after a boot."""
    found = state.filters.firewalld
    if found is None or now != (found.active != "inactive"):
        return
    yield Cause(
        id="firewalld",
        host=planned.name,
        cause=f"{planned.name}: firewalld {'runs' if now else 'will run after its next boot'}: it rejects what its "
        "zones do not allow, whatever the rules of the plan accept",
        evidence=(f"systemctl status firewalld: it is {found.active} and {found.enabled}",),
        fix=f"{case.change(planned.name, 'systemctl disable --now firewalld')} && {case.deploy(planned)}",
        advice="its zones protect what is behind it from nobody then: move what it is there for to ufw, say",
        plan=case.line(planned),
        latent=not now,
        hosts=case.everybody if now else frozenset(),
        cuts=now,
    )


def _rules(case: Investigation, planned: Host, state: HostState) -> Iterator[Cause]:
    """`rule-missing`, `rule-order`, `rule-extra`: one for all rules that are not as planned."""
    live = [
        each
        for each in case.differences(planned, state)
        if isinstance(each.thing, Rule) and not each.at_boot and each.kind != "unmanaged"
    ]
    ids = {"missing": "rule-missing", "order": "rule-order", "extra": "rule-extra"}
    words = {"missing": "is missing", "order": "comes too late: another one wins", "extra": "is not in the plan"}
    for kind, id in ids.items():
        main = [each for each in live if each.kind == kind]
        if main:
            more = f", and {len(main) - 1} more like it" if len(main) > 1 else ""
            others = [each for each in live if each not in main]
            # One that names no address is for all.
            everywhere = [network.cidr for network in case.plan.networks]
            rules = [each.thing for each in live if isinstance(each.thing, Rule)]
            yield Cause(
                id=id,
                host=planned.name,
                cause=f"{planned.name}: {main[0].what} {words[kind]}{more}",
                evidence=first([f"{each.what} {words[each.kind]}" for each in main + others]),
                fix=case.deploy(planned),
                plan=main[0].origin(case.plan, planned),
                hosts=case.about([end for rule in rules for end in rule.networks or everywhere]),
                cuts=True,
            )
            return


def _connection_table(case: Investigation, planned: Host, state: HostState) -> Iterator[Cause]:
    """`conntrack-full`."""
    table = state.conntrack
    if table.share < CROWDED:
        return
    talkers = case.look(planned).talkers
    loud = next((address for address, share in talkers if share > 0.5), None)
    lost = {key: table.statistics.get(key, 0) for key in ("drop", "early_drop", "insert_failed")}
    numbers = ", ".join(f"{key} {count}" for key, count in lost.items())
    limit = f"net.netfilter.nf_conntrack_max={2 * table.limit}"
    fix = command("conntrack", "-D", "-s", loud) if loud else command("sysctl", "-w", limit)
    yield Cause(
        id="conntrack-full",
        host=planned.name,
        cause=f"{planned.name}: its connection table is full" + (f", with what {loud} opened" if loud else ""),
        evidence=(
            f"{table.count} of {table.limit} entries; since boot: {numbers}",
            *(f"{share:.0%} were opened by {address}" for address, share in talkers),
        ),
        fix=case.ssh(planned.name, fix),
        advice=f"stop {loud}, or it fills the table again" if loud else "find out who opens them: ./inv flows",
        plan=case.line(planned),
        hosts=case.everybody,
        cuts=True,
    )


# --- every host -----------------------------------------------------------------------------------------------------


def _guard(case: Investigation, planned: Host, state: HostState) -> Iterator[Cause]:
    """`guard-stale`; a change that is being made is a note."""
    pending = state.guard.pending
    if not pending:
        return
    what = f"by {pending['who']} since {pending['since']}: {'; '.join(first(pending['what']))}"
    if pending["left"] > 0:
        case.notes.append(f"{planned.name}: a change is being made right now, {what}")
        return
    yield Cause(
        id="guard-stale",
        host=planned.name,
        cause=f"{planned.name}: a change was never confirmed, and its timer did not undo it",
        evidence=(what, f"it was to be undone at {pending['deadline']}"),
        fix=case.ssh(planned.name, command("python3", COPY, "rollback", pending["token"], "doctor")),
        advice="this brings back the state before that change; tell whoever made it",
        plan=case.line(planned),
        hosts=case.behind(planned),
    )


def _services(case: Investigation, planned: Host, state: HostState) -> Iterator[Cause]:
    """`service-down`, `file-differs`, `node-differs`."""
    if parts := [each.what for each in case.differences(planned, state) if isinstance(each.thing, NodePart)]:
        yield Cause(
            id="node-differs",
            host=planned.name,
            cause=f"{planned.name}: as a node of the cluster it is not as kubeadm needs it: {parts[0]}",
            evidence=first(parts),
            fix=case.deploy(planned),
            plan=case.plan.line("kubernetes"),
            hosts=case.behind(planned),
        )
    starts = {each.about: each for each in case.next_boot(planned, state)}
    for each in case.differences(planned, state):
        if isinstance(each.thing, Unit) and (planned.name, each.thing.name) in case.told:
            continue
        fix, about = case.deploy(planned), ""
        if each.kind == "stopped" and isinstance(each.thing, Unit):
            id, cause, evidence = "service-down", each.what, f"systemctl status {each.thing.name}"
            about = each.thing.name
            # What keeps it from being started at a boot keeps a deploy from starting it.
            if about in starts and (first_step := case.mend(planned, starts[about])):
                fix, cause = f"{first_step} && {fix}", f"{cause}: {starts[about].what}"
        elif isinstance(each.thing, File) and not each.thing.boot:
            id, cause = "file-differs", f"{each.where} is not as planned"
            evidence = f"./inv deploy {planned.role} --dry shows the lines"
        else:
            continue
        yield Cause(
            id=id,
            host=planned.name,
            cause=f"{planned.name}: {cause}",
            evidence=(evidence,),
            fix=fix,
            about=about,
            plan=each.origin(case.plan, planned) or case.line(planned),
            hosts=case.behind(planned),
        )


def _disks(case: Investigation, planned: Host) -> Iterator[Cause]:
    """`disk-full`."""
    for mount, largest in case.look(planned).full.items():
        path = largest[0][1] if largest else ""
        look = command("sh", "-c", f"{command('du', '-xh', mount)} | sort -h | tail -20")
        fix, advice = "", f"find out what can go: {case.ssh(planned.name, look)}"
        if path.startswith(JOURNAL):
            fix, advice = command("journalctl", "--vacuum-size=100M"), "this removes the oldest entries of the journal"
        elif path.startswith(LOGS):
            fix, advice = command("truncate", "-s", 0, path), "this empties that log: copy it first"
        yield Cause(
            id="disk-full",
            host=planned.name,
            cause=f"{planned.name}: the file system of {mount} is full",
            evidence=tuple(f"{path}: {size / 2**20:.0f} MiB" for size, path in largest) or (f"df {mount}",),
            fix=case.ssh(planned.name, fix) if fix else "",
            advice=advice,
            plan=case.line(planned),
            hosts=case.behind(planned),
        )
