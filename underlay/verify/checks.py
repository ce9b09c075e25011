"""The checks that every deployed host has to pass, and the words in which a check fails."""

from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

from underlay.access import hostkeys
from underlay.access.target import MACHINE_KEY
from underlay.compare import network, sshd
from underlay.compare.difference import File, SshdSetting
from underlay.compare.managers import boot
from underlay.compare.systemd.units import state_of
from underlay.desired import routing
from underlay.desired.files import authorized_keys, sshd_settings
from underlay.desired.routing import Address, HostNetwork, PolicyRule, Route
from underlay.desired.units import PACKAGES, Unit
from underlay.nodes import difference
from underlay.nodes.wanted import Preparation, preparation
from underlay.observe import boot as observed
from underlay.observe.evidence import Evidence
from underlay.observe.state import HostState
from underlay.plan import Host, Plan

Test = TypeVar("Test", bound=Callable[..., None])


class WrongError(AssertionError):
    """A check that failed; `str()` is what a person reads."""


def expect(seen: object, expected: object, look_at: str | Iterable[str]) -> None:
    """Fail unless both are equal, with where to look."""
    if seen != expected:
        wrong(expected, seen, look_at)


def wrong(expected: object, seen: object, look_at: str | Iterable[str]) -> NoReturn:
    """Fail."""
    raise WrongError("\n".join([*_block("expected", expected), *_block("seen", seen), *_block("look at", look_at)]))


def _block(title: str, value: object) -> list[str]:
    lines = [str(value)] if isinstance(value, str) or not isinstance(value, Iterable) else [*map(str, value)]
    titles = [title, *[""] * len(lines)]
    return [f"{word:<10}{line}" for word, line in zip(titles, lines or ["nothing"], strict=False)]


def each(items: Callable[[Plan, Host], Iterable[Any]]) -> Callable[[Test], Test]:
    """A test for each of these items of a host."""

    def decorate(test: Test) -> Test:
        test.items = items  # type: ignore[attr-defined]
        return test

    return decorate


def addresses(plan: Plan, host: Host) -> Iterable[Address]:
    return routing.host_network(plan, host).addresses


def routes(plan: Plan, host: Host) -> Iterable[Route]:
    return routing.host_network(plan, host).routes


def policy_rules(plan: Plan, host: Host) -> Iterable[PolicyRule]:
    return routing.host_network(plan, host).rules


def sysctls(plan: Plan, host: Host) -> Iterable[str]:
    return routing.host_network(plan, host).sysctls


def nics(plan: Plan, host: Host) -> Iterable[str]:
    return routing.host_network(plan, host).nics


def legs(plan: Plan, host: Host) -> Iterable[str]:
    return routing.host_network(plan, host).legs


def sshd_keywords(plan: Plan, host: Host) -> Iterable[str]:
    return sshd_settings(plan, host)


def preparations(plan: Plan, host: Host) -> Iterable[Preparation]:
    found = preparation(plan, host)
    return [found] if found else []


class EveryHost:
    """Subclass it with the `role`: pytest collects it there."""

    role: str

    @each(addresses)
    def test_address(self, plan: Plan, planned: Host, state: HostState, item: Address) -> None:
        """Every address is on its NIC."""
        there = [address.cidr for address in state.network.addresses if address.nic == item.nic]
        if item.cidr not in there:
            line = plan.line_of(item.ip, planned)
            wrong(f"{item.cidr} on {item.nic}", there, f"{line}; ip address show {item.nic}")

    @each(routes)
    def test_route(self, plan: Plan, planned: Host, state: HostState, item: Route) -> None:
        """Every route is there."""
        if item not in state.network.routes:
            seen = [route.arguments for route in state.network.routes if route.table == item.table]
            wrong(item.arguments, seen, f"{plan.line_of(item.source, planned)}; ip route show table {item.table}")

    @each(policy_rules)
    def test_policy_rule(self, plan: Plan, planned: Host, state: HostState, item: PolicyRule) -> None:
        """Every policy rule is there."""
        if item not in state.network.rules:
            seen = [rule.arguments for rule in state.network.rules if rule.priority == item.priority]
            wrong(item.arguments, seen, f"{plan.line_of(item.source, planned)}; ip rule show")

    def test_network_as_planned(self, plan: Plan, planned: Host, state: HostState) -> None:
        """Nothing is stale or out of order."""
        found = network.differences(routing.host_network(plan, planned), state.network)
        if found:
            wrong("no difference from the plan", [each.what for each in found], map(network.command, found))

    @each(sysctls)
    def test_sysctl(self, plan: Plan, planned: Host, state: HostState, item: str) -> None:
        """Every sysctl is set."""
        value = routing.host_network(plan, planned).sysctls[item]
        seen = state.network.sysctls.get(item, "not set")
        expect(f"{item} = {seen}", f"{item} = {value}", f"sysctl {item}; {routing.SYSCTL_CONF}")

    @each(legs)
    def test_leg(self, plan: Plan, planned: Host, state: HostState, item: str) -> None:
        """Every leg of a bond has a signal."""
        there = state.nics.get(item)
        if not (there and there.carrier):
            bond = routing.host_network(plan, planned).legs[item]
            wrong(f"{item}, a leg of {bond}, with a signal", "none" if there else "not there", f"ip link show {item}")

    @each(nics)
    def test_boot_file(self, plan: Plan, planned: Host, state: HostState, item: str) -> None:
        """Each NIC's file for boot is right."""
        wanted = routing.host_network(plan, planned)
        for path in boot.files_of(item, boot.files(wanted, state.network)):
            _expect_file(planned, state, path, wanted)

    def test_other_boot_file(self, plan: Plan, planned: Host, state: HostState) -> None:
        """Other network files for boot are right."""
        wanted = routing.host_network(plan, planned)
        files = boot.files(wanted, state.network)
        for path in files.keys() - {path for nic in wanted.nics for path in boot.files_of(nic, files)}:
            _expect_file(planned, state, path, wanted)

    def test_boot(self, plan: Plan, planned: Host, state: HostState) -> None:
        """Nothing undoes these files at boot."""
        wanted = routing.host_network(plan, planned)
        found = boot.differences(wanted, state.network)
        stale = [each.where for each in found if isinstance(each.thing, File) and each.thing.content is None]
        undone = boot.obstacles(wanted, state.network)
        if stale or undone:
            seen = [*(f"{path}, of an earlier deploy" for path in stale), *(each.what for each in undone)]
            look_at = [*stale, *map(boot.advice, undone)]
            wrong("nothing that wins over our files at the next boot", seen, look_at)

    def test_next_boot(self, plan: Plan, planned: Host, state: HostState, evidence: Evidence) -> None:
        """The next boot starts what the host needs, as its parts say that make it."""
        found = state.boot
        if found.unread:
            wrong("every part of the next boot to say what it does", found.unread, f"./inv doctor; {planned.name}")
        known = hostkeys.of_host(planned, evidence.target.known_hosts)
        problems = observed.problems(plan, planned, state, found, known)
        if problems:
            look_at = [*(line for each in problems for line in each.evidence), "./inv doctor has the fixes"]
            wrong("a boot after which all is as planned", [each.what for each in problems], look_at)

    def test_packages(self, planned: Host, state: HostState) -> None:
        """The packages are installed."""
        missing = [name for name in PACKAGES[self.role] if name not in state.packages]
        expect(missing, [], f"dpkg -l on {planned.name}")

    @each(preparations)
    def test_prepared(self, planned: Host, state: HostState, item: Preparation) -> None:
        """It is prepared for kubeadm."""
        found = difference.differences(item, state.node)
        if found:
            where = [f"./inv deploy {planned.role} --dry shows what it takes", "docs/kubernetes.md"]
            wrong("a node as kubeadm needs it", [f"{each.where}: {each.what}" for each in found], where)

    def test_managers(self, plan: Plan, planned: Host, state: HostState) -> None:
        """What brings its NICs up runs, now and at boot."""
        for unit in state.network.managing(nics(plan, planned)):
            expect_unit(planned, state, unit)

    def test_ssh_port(self, planned: Host, state: HostState) -> None:
        """The ssh port is open."""
        expect_listening(planned, state, planned.login.port)

    @each(sshd_keywords)
    def test_sshd(self, plan: Plan, planned: Host, state: HostState, item: str) -> None:
        """The settings of sshd are in force."""
        wanted = sshd_settings(plan, planned)
        all_found = sshd.differences(wanted, planned.login.user, state.sshd)
        found = [each for each in all_found if isinstance(each.thing, SshdSetting) and each.thing.key == item]
        if found:
            seen = [each.what for each in found]
            wrong(f"{item} {wanted[item]}", seen, [f"sshd -T on {planned.name}", *sshd.advice(found)])

    def test_deploy_machine_access(self, plan: Plan, planned: Host, state: HostState, evidence: Evidence) -> None:
        """The deploy machine may log in."""
        path = authorized_keys(planned)
        lines = [line for line in state.files.get(path, "").splitlines() if not line.startswith("#")]
        seen = [line for line in lines if line.endswith(f" {hostkeys.MARK}")]
        if planned.role == "jumphost" and state.machine_public is None:
            wrong("a key of its own to log in with", "none", f"{MACHINE_KEY} on {planned.name}")
        words = seen[0].split() if seen else []
        # Where the jump host was not asked, any key may be its own, but for its host key, which others can read.
        public = evidence.machine_public or (" ".join(words[1:-1]) or "TYPE KEY")
        key = hostkeys.machine_key(plan, public)
        host_keys = hostkeys.known_hosts(plan, evidence.target.known_hosts)
        if seen != [key] or f"{public}\n" in host_keys:
            wrong(f"one line: {key}", seen or f"no such line in {path}", f"{path} on {planned.name}")


def _expect_file(planned: Host, state: HostState, path: str, network: HostNetwork) -> None:
    wanted = boot.files(network, state.network)[path].splitlines()
    seen = state.network.files.get(path, "").splitlines()
    if wanted != seen:
        missing = [f"{path}: {line}" for line in wanted if line not in seen]
        added = [f"{path}: {line}" for line in seen if line not in wanted]
        wrong(missing or f"no other lines in {path}", added or f"{path} without them", f"{path} on {planned.name}")


def expect_unit(planned: Host, state: HostState, unit: Unit) -> None:
    """Fail unless a unit is active and enabled."""
    name, found = unit.name, state_of(unit, state.units)
    seen = f"{name} is {found.active} and {found.enabled or 'not there'}"
    expect(seen, f"{name} is active and enabled", f"systemctl status {name} on {planned.name}")


def expect_listening(planned: Host, state: HostState, port: int) -> None:
    """Fail unless something listens on a port that other hosts can reach."""
    if port not in state.listening:
        seen = f"listeners on {', '.join(map(str, sorted(state.listening))) or 'no port'}"
        wrong(f"a listener on port {port}", seen, f"ss -ltnp on {planned.name}")
