"""Publish a host, or end that: the line of the plan that it takes, then the deploy and the proof.

The plan is never edited here: people do that.
"""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from netaddr import IPAddress

from underlay.access import answers
from underlay.access.answers import UnreadableError, reading
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target, announce
from underlay.desired import nat, traffic
from underlay.desired.traffic import Flow
from underlay.errors import COULD_NOT, GOOD, INTERRUPTED, WRONG, OperatorError
from underlay.guard import history as histories
from underlay.guard import runner
from underlay.guard.change import Change
from underlay.observe import exchange
from underlay.oncall.flows import Gateway as Table
from underlay.plan import REPO, Host, Interface, Plan, PlanError, edit, load_text
from underlay.plan.edit import published_in, unpublished_in
from underlay.plan.model import shown_path
from underlay.remote import arp, send
from underlay.remote.conntrack import Connection
from underlay.text import raw

SECONDS = 15
"""For one command on a host."""
TRIED = 16
"""Free addresses of the plan of which the gateway asks whether another machine has them."""
CONNECTIONS = 1000
"""Of the connection table, how many are looked at or told at most."""
PATIENCE = 5
"""Seconds after which an address that is no longer published must be silent."""


class PublishError(OperatorError):
    """What a person has to fix before a host can be published, or be no longer published."""


# --- the line of the plan -------------------------------------------------------------------------------------------


def _diff(plan: Plan, new: str) -> str:
    """The change of the plan file as `git apply` takes it. Raises PublishError if the new plan has errors."""
    try:
        load_text(new, plan.source)
    except PlanError as error:
        raise PublishError(str(error).replace(shown_path(plan.source), "the plan with this line", 1)) from None
    return edit.difference(plan.source, new)


def _free(plan: Plan) -> Iterator[IPAddress]:
    """Addresses of the enterprise network that the plan does not use, those behind its last published one first."""
    used = {nic.address for host in plan.hosts for nic in host.interfaces} | {host.published for host in plan.published}
    used |= {plan.enterprise.upstream}
    first, last = plan.enterprise.cidr.first + 1, plan.enterprise.cidr.last - 1
    start = max((int(host.published) for host in plan.published if host.published), default=first - 1) + 1
    for number in (*range(start, last + 1), *range(first, start)):
        if IPAddress(number) not in used:
            yield IPAddress(number)


def _proposed(target: Target) -> IPAddress:
    """A free address that no machine answers for, as far as the gateway can be asked."""
    candidates = list(islice(_free(target.plan), TRIED))
    if not candidates:
        raise PublishError(f"network {target.plan.enterprise.name!r} has no free address in the plan")
    try:
        taken = _Gateway(target).others(candidates)
    except UnreachableError as error:
        _say(f"not checked whether another machine has the address: {error}")
        taken = {}
    for address in candidates:
        if str(address) not in taken:
            return address
    raise PublishError(f"{candidates[0]} to {candidates[-1]} are free in the plan, but other machines have them")


# --- the gateway ----------------------------------------------------------------------------------------------------


class _Gateway:
    """The gateway of the site. Each method raises UnreachableError if it can't be asked."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.plan = target.plan
        self.name = target.plan.gateway.name
        self.links = Links(target)
        self.links.open([self.name])

    def run(self, command: str, stdin: bytes = b"") -> str:
        """The output of a command that must succeed."""
        done = self.links.run(self.name, command, seconds=SECONDS, stdin=stdin)
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise UnreachableError(f"{self.name}: {said or f'exit code {done.returncode}'}")
        return done.stdout.decode(errors="replace")

    def others(self, addresses: Iterable[IPAddress]) -> dict[str, str]:
        """Address → MAC of those that another machine of the enterprise network has."""
        told = self._arp("probe", self.plan.gateway.primary, addresses)
        with reading(f"what answers {self.name}"):
            found: dict[str, str] = answers.parsed(dict[str, str], told)
        return found

    def announce(self, nic: Interface, addresses: Iterable[IPAddress]) -> None:
        """Tell a network that these addresses are at this NIC of the gateway now."""
        self._arp("announce", nic, addresses)

    def _arp(self, what: str, nic: Interface, addresses: Iterable[IPAddress]) -> str:
        return self.run(shlex.join(send.argv(what, nic.nic, *map(str, addresses))), send.line(arp))

    def mapped_to(self, host: Host) -> list[str]:
        """The addresses outside the plan that are translated to a host."""
        planned = {str(each.published) for each in self.plan.published}
        inner = {str(nic.address) for nic in host.interfaces}
        rules = self.run("iptables -t nat -S PREROUTING")
        found = re.findall(r"-d (\S+)/32 -j DNAT --to-destination (\S+)$", rules, re.MULTILINE)
        return [outer for outer, to in found if to in inner and outer not in planned]

    def left(self, address: str, host: Host) -> list[str]:
        """What there still is of an address that was published for a host."""
        here = re.compile(rf"(?<![\d.]){re.escape(address)}(?![\d.])")
        shown = self.run("ip -4 -o address show && iptables-save -t nat")
        found = [line.strip() for line in shown.splitlines() if here.search(line)]
        # A connection that is not translated is of one who still tries.
        return found + [f"{each.name} {each.translated}" for each in self.connections(address, host=host)]

    def connections(self, address: str, *, host: Host | None = None, protocol: str = "") -> tuple[Connection, ...]:
        """Those that were opened to a published address or leave as it, of a host, and of a protocol."""
        try:
            found = Table(self.target).find(published=address, host=host, protocol=protocol, limit=CONNECTIONS)
        except UnreadableError as error:
            raise UnreachableError(str(error)) from error
        return found.connections

    def renew(self, host: Host, addresses: Iterable[object]) -> dict[str, int]:
        """End the connections of a host, and to these published addresses, whose translation is not that of the rules.

        See `remote.conntrack.renew`: a look that finds nothing to end is one at each of them.
        """
        inner = host.primary.address
        changed = [f"-d {each}/32 -j DNAT --to-destination {inner}" for each in addresses]
        changed += [f"-s {inner}/32 -j SNAT --to-source {each}" for each in addresses]
        rules = self.run("iptables -t nat -S")
        live = re.findall(r"^-A (?:PREROUTING|POSTROUTING) (.*)$", rules, re.MULTILINE)
        found = nat.outdated(changed, live)
        assert found is not None  # there are addresses
        try:
            return Table(self.target).renew(found)
        except UnreadableError as error:
            raise UnreachableError(str(error)) from error

    def changes(self) -> int:
        """The number of the last confirmed change; 0 if there is none."""
        [entries] = histories.read(self.target, [self.plan.gateway]).values()
        if isinstance(entries, UnreachableError):
            raise entries
        return int(entries[0]["number"]) if entries else 0


def announce_all(target: Target) -> int:
    """Tell all networks that the gateway's addresses are there; the exit code. Raises UnreachableError."""
    gateway, plan = _Gateway(target), target.plan
    for nic in plan.gateway.interfaces:
        addresses = [nic.address]
        if nic.network == plan.enterprise.name:
            addresses += [host.published for host in plan.published if host.published]
        gateway.announce(nic, addresses)
        print(f"{nic.network}: {nic.nic} has {', '.join(map(str, addresses))}")
    return GOOD


def _deploy(*options: str) -> int:
    """The exit code of a deploy of the gateway."""
    argv = [sys.executable, "-m", "invoke", "deploy", "gateway", *options]
    return subprocess.run(argv, cwd=REPO, check=False).returncode


# --- publish --------------------------------------------------------------------------------------------------------


def publish(target: Target, host: Host, address: IPAddress | None, ports: tuple[str, ...], dry: bool) -> int:
    """Publish a host as its line of the plan says, or show the line that it takes; the exit code.

    Raises PublishError, UnreachableError, HistoryError.
    """
    plan = target.plan
    if host.published is None:
        address = address or _proposed(target)
        diff = _diff(plan, published_in(plan.source.read_text(), host.name, str(address), ports))
        return _plan_first(f"{host.name} is not published. Change the plan like this, then run this again:", diff)
    if address not in (None, host.published):
        where = plan.line("hosts", host.name, "published")
        raise PublishError(f"{host.name} is published as {host.published}, not {address}: change {where}")
    if ports and set(ports) != set(host.ports or ()):
        where = plan.line("hosts", host.name, "published")
        has = ", ".join(host.ports or ("all ports",))
        raise PublishError(f"{host.name} is published with {has}, not {', '.join(ports)}: change {where}")
    announce(target)
    gateway = _Gateway(target)
    for taken, mac in gateway.others([host.published]).items():
        raise PublishError(
            f"another machine of network {plan.enterprise.name!r} has {taken}: MAC {mac} answers for it. "
            "Nothing was changed: take the address from it, or choose another"
        )
    if dry:
        return _deploy("--dry")
    before = gateway.changes()
    if _deploy() != GOOD:
        return COULD_NOT
    code = WRONG
    try:
        gateway.announce(plan.gateway.primary, [host.published])
        wrong = _renewed(gateway, host, [host.published]) + _verify(target, gateway, host)
    except UnreachableError as error:
        code, wrong = COULD_NOT, [str(error)]
    except KeyboardInterrupt:
        code, wrong = INTERRUPTED, ["interrupted"]
    if not wrong:
        return GOOD
    for line in wrong:
        print(f"{'WRONG' if code == WRONG else 'NOT TRIED'} {line}")
    _roll_back(gateway, before, host)
    return code


def _renewed(gateway: _Gateway, host: Host, addresses: Sequence[object]) -> list[str]:
    """What is wrong with the connections that there were before; prints how many were looked at."""
    found = gateway.renew(host, addresses)
    if found["left"]:
        return [f"{found['left']} of {found['looked']} connections of {host.name} keep an old translation"]
    ended = f", after {found['ended']} were ended" if found["ended"] else ""
    print(f"good: none of the {found['looked']} connections of {host.name} has an old translation{ended}")
    return []


def _plan_first(what: str, diff: str) -> int:
    _say(what)
    # `git apply` takes it as it is, with the tabs and line ends of the plan.
    print(diff, end="", flush=True, file=raw(sys.stdout))
    return WRONG


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _roll_back(gateway: _Gateway, before: int, host: Host) -> None:
    if gateway.changes() == before:
        print("nothing to roll back: the deploy had nothing to change")
        return
    change = Change(what=(f"back to the state before change {before + 1}",), restore=before + 1)
    if runner.run(gateway.target, gateway.name, change, print):
        print(f"{gateway.name} is as before. The plan still has the line: delete it, or fix what is wrong")
        # What began meanwhile has the translation that is gone again.
        for line in _renewed(gateway, host, [host.published]):
            print(f"WRONG {line}")
    else:
        print(f"NOT rolled back: look at `./inv history {gateway.name}`")


def _verify(target: Target, gateway: _Gateway, host: Host) -> list[str]:
    """What is wrong with a published host, from outside and inside; empty if nothing is. Prints what was checked."""
    flows = _flows(target, host)
    links = Links(target)
    links.open({name for flow in flows for name in flow.hosts} | {gateway.name})
    deployed = {each.name for each in target.plan.deployed}
    try:
        links.check(host.name)
    except UnreachableError as error:
        if host.name in deployed:
            return [str(error)]
        # Nobody's login is needed for a host that has no deploy.
        return _answers(target, links, host)
    asked = [flow for flow in flows if not _closed(links, flow.hosts - deployed)]
    outcomes = exchange.run(asked, links, gateway.name)
    judged = [exchange.judge(flow, outcome) for flow, outcome in outcomes.items()]
    wrong = [f"expected {expected}; seen: {seen}" for expected, seen in filter(None, judged)]
    if not asked:
        raise UnreachableError("no host can be asked to try it")
    if not wrong:
        sources = ", ".join(dict.fromkeys(flow.source for flow in asked))
        print(f"good: {len(asked)} connections to and from {host.published}, made by {sources}")
    return wrong


def _flows(target: Target, host: Host) -> list[Flow]:
    """The flows by which a published host is tried: those to its address, and those that leave with it.

    Also those to its address that must not get through.
    """
    plan = target.plan
    sample = traffic.sample(plan, 1, host.name)
    return [
        flow
        for find in (traffic.expected, traffic.forbidden)
        for flow in find(sample, target.outside)
        if flow.destination == host.published or (flow.source == host.name and flow.seen_as == host.published)
    ]


def _closed(links: Links, names: Iterable[str]) -> bool:
    for name in names:
        try:
            links.check(name)
        except UnreachableError:
            return True
    return False


def _answers(target: Target, links: Links, host: Host) -> list[str]:
    """What is wrong with a published host that nobody can log in to: it must answer a ping, and not the gateway.

    From outside only where that is let in.
    """
    address, inner = str(host.published), str(host.primary.address)
    wrong = []
    ping = ["ping", "-n", "-c", "2", "-W", "2", address]
    inside = target.plan.jumphost.name
    outside = host.admits("icmp", None)
    if outside and subprocess.run(ping, capture_output=True, timeout=SECONDS, check=False).returncode:
        wrong.append(f"{address} does not answer a ping from here")
    if links.run(inside, " ".join(ping), seconds=SECONDS).returncode:
        wrong.append(f"{address} does not answer a ping from {inside}")
    pings = _Gateway(target).connections(address, protocol="icmp")
    if not any(
        (each.destination, each.answered_by) == (address, inner) and "UNREPLIED" not in each.state for each in pings
    ):
        wrong.append(f"no ping to {address} was translated to {inner} and answered")
    if not wrong:
        where = f"from here and from {inside}" if outside else f"from {inside}"
        print(f"good: {host.name} answers a ping to {address}, {where} (no login there)")
    return wrong


# --- unpublish ------------------------------------------------------------------------------------------------------


def unpublish(target: Target, host: Host, address: IPAddress | None, dry: bool) -> int:
    """End the publication of a host whose line of the plan says so no more, or show what to delete; the exit code.

    address: one to look for on the gateway even if it translates it no longer
    Raises UnreachableError, PublishError.
    """
    plan = target.plan
    if host.published is not None:
        diff = _diff(plan, unpublished_in(plan.source.read_text(), host.name))
        return _plan_first(f"{host.name} is published. Change the plan like this, then run this again:", diff)
    if any(each.published == address for each in plan.published):
        raise PublishError(f"{address} is published in the plan, for another host")
    announce(target)
    gateway = _Gateway(target)
    gone = list(dict.fromkeys([*gateway.mapped_to(host), *([str(address)] if address else [])]))
    if dry:
        return _deploy("--dry")
    if not gone:
        print(f"{host.name} is not published, on {gateway.name} neither: nothing to do")
        return GOOD
    if _deploy() != GOOD:
        return COULD_NOT
    wrong = _renewed(gateway, host, gone)
    wrong += [f"{gateway.name} still has: {line}" for each in gone for line in gateway.left(each, host)]
    end = time.monotonic() + PATIENCE
    for each in gone:
        while answers := _pings(each):
            if time.monotonic() > end:
                break
        if answers:
            wrong.append(f"{each} still answers a ping from here: does another machine have it?")
    for line in wrong:
        print(f"WRONG {line}")
    if not wrong:
        print(f"good: {', '.join(gone)} is no longer published: no answer, no rule, no connection")
    return WRONG if wrong else GOOD


def _pings(address: str) -> bool:
    argv = ["ping", "-n", "-c", "1", "-W", "1", address]
    return subprocess.run(argv, capture_output=True, timeout=SECONDS, check=False).returncode == 0
