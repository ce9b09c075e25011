"""From what the doctor saw to what is wrong: causes, each with its evidence and the command that mends it. Pure.

It walks outwards from the workstation: this machine, then host by host its link, its neighbours, address, route, policy
rule, forwarding, rules, connection table, services, then the connections between the hosts. A cause says what follows
from it, and what follows from an earlier cause is not a finding of its own.
"""

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from netaddr import IPAddress, IPNetwork

from underlay import drift, nat, routing, traffic
from underlay.drift import Difference
from underlay.guard import agent
from underlay.oncall.examination import CROWDED, Examination, Look
from underlay.oncall.foreign import Firewall, Suspect
from underlay.operations.firewall import canonical
from underlay.plan import OUTSIDE, Host, Interface, Plan
from underlay.routing import PolicyRule
from underlay.target import WORKSTATION
from underlay.traffic import Flow
from underlay.verify import exchange
from underlay.verify.state import HostState, UnreadableError, authorized_keys
from underlay.verify.vitals import Nic

Say = Callable[[str], None]
CLOCK_SECONDS = 60
SHOWN = 4
"""Pieces of evidence of one kind that are told in full."""
KERNEL_RULES = (0, 32766, 32767)
"""The priorities of the policy rules that every host has."""


@dataclass(frozen=True)
class Finding:
    """A cause, its evidence and its mend.

    id: the kind of the cause, for programs and tests
    host: what is to be mended: a host of the plan, or the outside world (`plan.OUTSIDE`)
    mend: the command to paste, on this machine in this repo; or at `at`, where that is another place
    advice: what else a person should know before
    plan: the line of the plan that says how it should be
    latent: everything works at present, and will not after the next boot, deploy or so
    hosts: connections of these hosts may fail because of it; `cuts`: they can't be reached because of it, either
    """

    id: str
    host: str
    cause: str
    evidence: tuple[str, ...]
    mend: str
    at: str = ""
    advice: str = ""
    plan: str = ""
    latent: bool = False
    hosts: frozenset[str] = frozenset()
    cuts: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, in the order in which it is to be mended.

    notes: what is no fault of the site, but worth to know
    unread: what could not be looked at, and no finding says why
    """

    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def diagnose(seen: Examination, say: Say = lambda _: None) -> Diagnosis:
    """The walk. `say` is told each step and how it went."""
    return _Walk(seen, say).run()


class _Walk:
    def __init__(self, seen: Examination, say: Say) -> None:
        self.seen = seen
        self.plan: Plan = seen.plan
        self.say = say
        self.gateway = seen.plan.gateway
        self.jumphost = seen.plan.jumphost
        self.deployed = [self.gateway, self.jumphost]
        self.deployed += [host for role in ("lb_nginx", "master") for host in self.plan.hosts_of(role)]
        self.found: list[Finding] = []
        self.notes: list[str] = []
        self.unread: list[str] = []
        self.failing = {
            flow: words for flow, outcome in seen.outcomes.items() if (words := exchange.judge(flow, outcome))
        }
        # Connections of hosts that nobody has to let us in to are not known, and no fault.
        bystanders = {name for name in seen.failures if not any(host.name == name for host in self.deployed)}
        self.failing = {flow: words for flow, words in self.failing.items() if not flow.hosts & bystanders}
        self.macs = {
            nic.mac: (name, planned.network)
            for name, state in seen.states.items()
            for planned in self.plan.host(name).interfaces
            if (nic := self._nics(state).get(planned.nic)) is not None
        }

    def run(self) -> Diagnosis:
        self._step("this machine", self._workstation())
        if self.found:
            return self._diagnosis()
        self._step("addresses that two machines have", self._duplicates())
        for host in self.deployed:
            self._step(f"{host.name}: way to it, links, addresses, routes, rules, services", self._host(host))
        self._step("the upstream router", self._upstream())
        self._step("large packets", self._large_packets())
        self._step("what is behind the load balancer", self._behind_the_proxy())
        self._step(f"{len(self.seen.outcomes)} connections", self._connections())
        self._step("package sources", self._packages())
        self._step("what comes after a boot", (latent for host in self.deployed for latent in self._latent(host)))
        return self._diagnosis()

    def _step(self, name: str, findings: Iterable[Finding]) -> None:
        before = len(self.found)
        try:
            for finding in findings:
                self.found.append(finding)
        except UnreadableError as error:
            self.unread.append(str(error))
        new = self.found[before:]
        self.say(f"{name}: {'; '.join(each.cause for each in new) if new else 'ok'}")

    def _diagnosis(self) -> Diagnosis:
        self.unread += self.seen.unread
        live = [each for each in self.found if not each.latent]
        findings = [self._with_what_follows(each) for each in live] + [each for each in self.found if each.latent]
        unread = tuple(dict.fromkeys(self.unread))
        return Diagnosis(tuple(findings), tuple(dict.fromkeys(self.notes)), () if live else unread)

    def _with_what_follows(self, finding: Finding) -> Finding:
        if finding != next((each for each in self.found if not each.latent), None):
            return finding
        lost = [name for name in self.seen.failures if self._is_deployed(name) and name != finding.host]
        follows = []
        if lost:
            follows.append(f"{_list(lost)} can't be reached the plan's way")
        if self.failing:
            follows.append(f"{len(self.failing)} of {len(self.seen.outcomes)} connections fail")
        if not follows:
            return finding
        return replace(finding, evidence=(*finding.evidence, f"what follows: {'; '.join(follows)}"))

    # --- what is known already ---

    def _is_deployed(self, name: str) -> bool:
        return any(host.name == name for host in self.deployed)

    def _cut(self, name: str) -> bool:
        """Whether an earlier cause explains that a host can't be reached."""
        return any(each.cuts and name in each.hosts for each in self.found)

    def _explained(self, flow: Flow) -> bool:
        """Whether an earlier cause explains that a connection fails."""
        for each in self.found:
            if not each.latent and (
                flow.hosts & each.hosts or (self.gateway.name in each.hosts and self._crosses(flow))
            ):
                return True
        return False

    def _crosses(self, flow: Flow) -> bool:
        """Whether a connection goes through the gateway, or is looked up in its table."""
        nets = [network for network in self.plan.networks if flow.source_address in network.cidr]
        return flow.tracked is not None or not any(flow.destination in network.cidr for network in nets)

    def _behind(self, host: Host) -> frozenset[str]:
        """A host, and those that are reached through it."""
        through = {each.name for each in self.seen.target.endpoints if each.jump == host.name}
        return frozenset({host.name} | through)

    def _in_network(self, network: str) -> frozenset[str]:
        """The hosts that have a NIC in a network, and those that are reached through them."""
        return frozenset(
            name
            for host in self.plan.hosts
            if host.interface(network) and host != self.gateway
            for name in self._behind(host)
        )

    def _nics(self, state: HostState) -> dict[str, Nic]:
        try:
            return dict(state.nics)
        except UnreadableError:
            return {}

    # --- mends ---

    def _ssh(self, name: str, command: str) -> str:
        """A command as root on a host, as it can be pasted here."""
        way = self.seen.detours.get(name)
        if way:
            host = self.plan.host(name)
            primary = next(
                (nic.address for nic in host.interfaces if self.plan.host(way.via).interface(nic.network)), None
            )
            option = f" --via {way.via}" + ("" if str(primary) == way.address else f" --address {way.address}")
            return f"./inv ssh {name}{option} {_quoted(f'sudo {command}')}"
        return f"./inv ssh {name} {_quoted(f'sudo {command}')}"

    def _console(self, name: str, command: str) -> tuple[str, str]:
        """A command for a host that ssh does not lead to: what to paste, and where."""
        if self._is_lab:
            return f"./inv lab.run {name} {_quoted(command)}", ""
        return command, f"at the console of {name}, as root"

    @property
    def _is_lab(self) -> bool:
        return self.seen.target.name == "lab"

    def _recable(self, name: str, nic: str) -> tuple[str, str]:
        """What to do about a cable or its port of the switch: what to paste, and what a person does."""
        return ("./inv lab.heal" if self._is_lab else ""), f"look at the cable and the switch port of {name} {nic}"

    def _deploy(self, host: Host) -> str:
        return f"./inv deploy {host.role}"

    def _switch_on(self, host: Host) -> tuple[str, str, str]:
        """For a host that is silent, off or unplugged: what to paste, where, and what a person does."""
        nics = " && ".join(f"ip link set {nic.nic} up" for nic in host.interfaces[:1])
        advice = f"switch {host.name} on; if it is on, look at the cable of {host.primary.nic} and switch that NIC on"
        if self._is_lab:
            command, _ = self._console(host.name, nics)
            return f"./inv lab.up && {command} && {self._deploy(host)}", "", advice
        return nics, f"at the console of {host.name}, as root", f"{advice}; then here: {self._deploy(host)}"

    def _mend_network(self, host: Host, state: HostState) -> str:
        """The deploy of a host; after what makes the way to it, where there is none now."""
        if host.name not in self.seen.detours:
            return self._deploy(host)
        changes = routing.changes(routing.host_network(self.plan, host), state.network)
        commands = " && sudo ".join(change.command for change in changes)
        return f"{self._ssh(host.name, commands)} && {self._deploy(host)}" if commands else self._deploy(host)

    # --- this machine ---

    def _workstation(self) -> Iterator[Finding]:
        here = self.seen.workstation
        if self._is_deployed(here.name):
            return  # it is looked at like the others
        lost = [address for address, hop in here.hops.items() if not hop.nic]
        # What is not in the plan has NICs for other purposes, too.
        used = [nic.nic for nic in self.plan.host(here.name).interfaces] if here.name else list(here.links)
        for nic in used if here.name or lost else ():
            up, carrier = here.links.get(nic, (True, True))
            if not up:
                yield self._local("nic-down", f"its NIC {nic} is switched off", f"ip link set {nic} up")
                return
            if not carrier:
                mend, advice = self._recable(self._here, nic)
                yield replace(self._local("no-carrier", f"its NIC {nic} has no signal"), mend=mend, advice=advice)
                return
        for endpoint in self.seen.target.endpoints:
            hop = here.hops.get(str(endpoint.address))
            if hop is None:
                continue
            cidr = next((each.cidr for each in self.plan.networks if endpoint.address in each.cidr), None)
            if not hop.nic:
                cause = f"it has no route to {endpoint.address} ({endpoint.name})"
                advice = f"give this machine an address in {cidr}, or connect the VPN that leads there"
                yield replace(self._local("route-missing", cause), advice=advice)
                return
            near = self.plan.host(here.name).interfaces if here.name else ()
            if hop.via and any(endpoint.address in nic.cidr for nic in near):
                cause = f"it sends what is for {endpoint.name} ({endpoint.address}) to {hop.via}, not straight there"
                yield self._local("route-wrong", cause, f"ip route del {endpoint.address} via {hop.via}")

    @property
    def _here(self) -> str:
        """The machine that the doctor runs on, for people."""
        return self.seen.workstation.name or (WORKSTATION if self._is_lab else "this machine")

    def _local(self, id: str, cause: str, command: str = "") -> Finding:
        hops = list(self.seen.workstation.hops.items())[:SHOWN]
        return Finding(
            id,
            self._here,
            f"{self._here}: {cause}",
            tuple(f"ip route get {address}: {hop.nic or 'no route'} {hop.via}".rstrip() for address, hop in hops),
            (self._console(self._here, command)[0] if self._is_lab else f"sudo {command}") if command else "",
            plan=self.plan.line("hosts", self._here) if self._is_lab or self.seen.workstation.name else "",
            hosts=frozenset({each.name for each in self.plan.hosts} | {OUTSIDE}),
            cuts=True,
        )

    # --- neighbours ---

    def _duplicates(self) -> Iterator[Finding]:
        """Addresses of the plan that another machine has, too: as its state says, or as it answers for them."""
        told = set()
        for name, state in self.seen.states.items():
            for address in state.network.addresses:
                ip = IPAddress(address.cidr.partition("/")[0])
                owner = next(
                    (each for each in self.deployed if each.name != name and ip in self._addresses(each)), None
                )
                if owner:
                    told.add(str(ip))
                    yield self._duplicate(
                        owner,
                        name,
                        str(ip),
                        f"ip address on {name}: {address.cidr} on {address.nic}",
                        self._ssh(name, f"ip address del {address.cidr} dev {address.nic}"),
                    )
        for host in self.deployed:
            for nic, answers in self._look(host).arp.items():
                for asked, macs in answers.items():
                    if IPAddress(asked) not in self._addresses(host) or asked in told:
                        continue
                    others = [
                        mac
                        for mac in macs
                        if self.macs.get(mac, (host.name, ""))[0] != host.name or mac not in self.macs
                    ]
                    known = [self.macs[mac][0] for mac in others if mac in self.macs]
                    # A host with several NICs in one wire answers for all of its addresses: that is the cable's fault.
                    if others and not known:
                        told.add(asked)
                        evidence = f"asked by {host.name} on {nic} who else has {asked}, {_list(others)} answers"
                        yield replace(
                            self._duplicate(host, host.name, asked, evidence, ""),
                            advice=f"find {_list(others)} in the MAC tables of the switches: it has no right to it",
                        )

    def _duplicate(self, owner: Host, culprit: str, address: str, evidence: str, mend: str) -> Finding:
        who = "another machine" if culprit == owner.name else culprit
        published = self.plan.published if owner == self.gateway else ()
        reached = next((host for host in published if str(host.published) == address), owner)
        return Finding(
            "address-duplicate",
            culprit,
            f"{who} has {address}, too, which belongs to {reached.name}",
            (evidence, "whoever asks for it gets the one or the other; others forget the wrong one within a minute"),
            mend,
            plan=self._plan_line(owner, address),
            hosts=self._behind(reached),
            cuts=True,
        )

    def _addresses(self, host: Host) -> set[IPAddress]:
        """Every address that a host must have."""
        return {IPAddress(each.cidr.partition("/")[0]) for each in routing.host_network(self.plan, host).addresses}

    def _plan_line(self, host: Host, address: str) -> str:
        for other in self.plan.hosts:
            if str(other.published) == address:
                return self.plan.line("hosts", other.name, "published")
        for nic in host.interfaces:
            if str(nic.address) == address:
                return self.plan.line("hosts", host.name, "addresses", nic.network)
        return self.plan.line("hosts", host.name)

    def _look(self, host: Host) -> Look:
        return self.seen.looks.get(host.name, Look())

    # --- a host ---

    def _host(self, host: Host) -> Iterator[Finding]:
        before = len(self.found)
        yield from self._cables(host)
        state = self.seen.states.get(host.name)
        if state is not None:
            yield from self._network(host, state)
            if host == self.gateway:
                yield from self._rules(host, state)
                yield from self._connection_table(host, state)
                yield from self._guard(host, state)
            else:
                yield from self._guard(host, state)
            yield from self._services(host, state)
            yield from self._disks(host)
        failure = self.seen.failures.get(host.name)
        if failure and not self._cut(host.name) and len(self.found) == before:
            yield from self._unreached(host)

    def _cables(self, host: Host) -> Iterator[Finding]:
        """NICs of a host that hear those of another network, and none of their own."""
        for nic in host.interfaces:
            heard = {
                self.macs[mac]
                for answers in [self._look(host).arp.get(nic.nic, {})]
                for macs in answers.values()
                for mac in macs
                if mac in self.macs and self.macs[mac][0] != host.name
            }
            networks = {network for _, network in heard}
            if networks and nic.network not in networks:
                other = next(iter(sorted(networks)))
                evidence = (
                    f"on {nic.nic} it hears {_list(sorted(name for name, net in heard if net == other))} of {other}"
                )
                yield self._wrong_network(host, nic, other, evidence)

    def _wrong_network(self, host: Host, nic: Interface, other: str, evidence: str) -> Finding:
        mend, advice = self._recable(host.name, nic.nic)
        hosts = self._in_network(nic.network) if host == self.gateway else self._behind(host)
        return Finding(
            "wrong-network",
            host.name,
            f"{host.name}: {nic.nic} is plugged into {other}, not {nic.network}",
            (evidence, f"nobody of {nic.network} answers there"),
            mend,
            advice=f"{advice}: it belongs to {nic.network}",
            plan=self.plan.line("hosts", host.name, "addresses", nic.network),
            hosts=hosts | {host.name},
            cuts=True,
        )

    def _network(self, host: Host, state: HostState) -> Iterator[Finding]:
        wanted, live, nics = routing.host_network(self.plan, host), state.network, state.nics
        mend = self._mend_network(host, state)
        down = [nic for nic in wanted.nics if not live.links.get(nic)]
        dead = [nic for nic in wanted.nics if nic not in down and nic in nics and not nics[nic].carrier]
        for nic in host.interfaces:
            if nic.nic in down:
                there = "is switched off" if nic.nic in live.links else "is not there"
                yield self._on_nic(host, nic, "nic-down", f"its NIC {nic.nic} ({nic.network}) {there}", mend)
            elif nic.nic in dead:
                recable, advice = self._recable(host.name, nic.nic)
                cause = f"its NIC {nic.nic} ({nic.network}) has no signal: cable, or port of the switch"
                yield replace(self._on_nic(host, nic, "no-carrier", cause, recable), advice=advice)
        gone = {*down, *dead}
        missing = [each for each in wanted.addresses if each not in live.addresses and each.nic not in gone]
        if missing:
            hosts: frozenset[str] = frozenset()
            for each in missing:
                hosts |= self._reached_at(host, each.cidr.partition("/")[0])
            addresses = [f"{each.cidr} on {each.nic}" for each in missing]
            line = self._plan_line(host, missing[0].cidr.partition("/")[0])
            yield self._of(host, "address-missing", "address", addresses, "is missing", mend, line, hosts)
        lost = {each.cidr.partition("/")[0] for each in missing}
        routes = [
            each
            for each in wanted.routes
            if each not in live.routes and each.nic not in gone and each.source not in lost
        ]
        if routes:
            elsewhere = [
                each
                for each in live.routes
                if any((each.table, each.destination) == (one.table, one.destination) for one in routes)
                and each not in wanted.routes
            ]
            kind = "route-wrong" if elsewhere else "route-missing"
            arguments = [each.arguments for each in routes]
            hosts = frozenset({OUTSIDE}) if host == self.gateway else self._behind(host)
            line = self._plan_line(host, routes[0].source)
            finding = self._of(host, kind, "route", arguments, "is missing", mend, line, hosts)
            yield replace(
                finding, evidence=(*finding.evidence, *(f"there is {each.selector} instead" for each in elsewhere))
            )
        rules = [each.arguments for each in wanted.rules if each not in live.rules]
        if rules:
            yield self._of(host, "policy-rule-missing", "policy rule", rules, "is missing", mend)
        sysctls = [
            f"{key} is {live.sysctls.get(key, 'not set')}, not {value}"
            for key, value in wanted.sysctls.items()
            if live.sysctls.get(key) != value
        ]
        if sysctls:
            line = self.plan.line("hosts", host.name)
            what = "it does not forward" if host == self.gateway else "sysctls"
            everybody = frozenset(each.name for each in self.plan.hosts if each != host) | {OUTSIDE}
            hosts = everybody if host == self.gateway else self._behind(host)
            yield Finding(
                "sysctl-wrong", host.name, f"{host.name}: {what}: {sysctls[0]}", tuple(sysctls), mend, plan=line,
                hosts=hosts, cuts=True,
            )  # fmt: skip
        if not (missing or routes or rules or sysctls or gone):
            rest = [change.what for change in routing.changes(wanted, live)]
            if rest:
                yield self._of(host, "network-differs", "", rest, "", mend)

    def _of(
        self,
        host: Host,
        id: str,
        noun: str,
        things: list[str],
        state: str,
        mend: str,
        line: str = "",
        hosts: frozenset[str] = frozenset(),
    ) -> Finding:
        """A finding about one or several things of a kind on a host."""
        plural = "es" if noun.endswith("s") else "s"
        first = f"{noun} {things[0]} {state}".strip()
        count = f"{len(things)} {noun}{plural} {state.replace('is', 'are')}".strip()
        evidence = [f"{noun} {each} {state}".strip() for each in things[:SHOWN]]
        evidence += [f"and {len(things) - SHOWN} more"] if len(things) > SHOWN else []
        return Finding(
            id,
            host.name,
            f"{host.name}: {first if len(things) == 1 else count}",
            tuple(evidence),
            mend,
            plan=line or self.plan.line("hosts", host.name),
            hosts=hosts or self._behind(host),
            cuts=True,
        )

    def _on_nic(self, host: Host, nic: Interface, id: str, cause: str, mend: str) -> Finding:
        hosts = self._in_network(nic.network) if host == self.gateway else self._behind(host)
        return Finding(
            id,
            host.name,
            f"{host.name}: {cause}",
            (f"ip link on {host.name}: {nic.nic} is {'down' if id == 'nic-down' else 'up, with no carrier'}",),
            mend,
            plan=self.plan.line("hosts", host.name, "addresses", nic.network),
            hosts=hosts | {host.name},
            cuts=True,
        )

    def _reached_at(self, host: Host, address: str) -> frozenset[str]:
        """Whose connections need an address of a host."""
        if host != self.gateway:
            return self._behind(host)
        for other in self.plan.published:
            if str(other.published) == address:
                return self._behind(other)
        nic = next(nic for nic in host.interfaces if str(nic.address) == address)
        if nic.network == self.plan.enterprise.name:
            return frozenset({host.name, OUTSIDE, *(each.name for each in self.plan.hosts if not each.published)})
        return self._in_network(nic.network) | {host.name}

    def _rules(self, host: Host, state: HostState) -> Iterator[Finding]:
        differences = [each for each in self._differences(host, state) if each.what.startswith("rule ")]
        live = [each for each in differences if each.where == "live" and each.kind != "foreign"]
        if not live:
            return
        kinds = {each.kind for each in live}
        id, state_words = next(
            (id, words)
            for kind, id, words in (
                ("missing", "rule-missing", "is missing"),
                ("out of order", "rule-order", "is out of order: another rule is taken before it"),
                ("extra", "rule-extra", "is there, and not in the plan"),
            )
            if kind in kinds
        )
        main = [
            each
            for each in live
            if each.kind == {"rule-missing": "missing", "rule-order": "out of order"}.get(id, "extra")
        ]
        hosts: frozenset[str] = frozenset()
        for each in main:
            hosts |= self._touched(each.what)
        finding = self._of(
            host, id, "rule", [each.what.removeprefix("rule ") for each in main], state_words, self._deploy(host),
            main[0].plan, hosts,
        )  # fmt: skip
        extra = tuple(
            f"{each.what} is there, and not in the plan" for each in live if each.kind == "extra" and each not in main
        )
        yield replace(finding, evidence=(*finding.evidence, *extra[:SHOWN]))

    def _touched(self, rule: str) -> frozenset[str]:
        """The hosts whose connections a rule is about."""
        ends = [IPNetwork(word) for word in re.findall(r"\d+\.\d+\.\d+\.\d+(?:/\d+)?", rule)]
        found = {
            name
            for host in self.plan.hosts
            if host != self.gateway
            if any(
                address in end
                for end in ends
                for address in (*(nic.address for nic in host.interfaces), host.published)
                if address is not None
            )
            for name in self._behind(host)
        }
        return frozenset(found)

    def _differences(self, host: Host, state: HostState) -> list[Difference]:
        return list(drift.of_host(self.plan, host, state))

    def _connection_table(self, host: Host, state: HostState) -> Iterator[Finding]:
        table = state.conntrack
        if table.share < CROWDED:
            return
        talkers = self._look(host).talkers
        evidence = [f"{table.count} of {table.limit} entries; dropped {table.statistics.get('drop', 0)}, "
                    f"early {table.statistics.get('early_drop', 0)} since boot"]  # fmt: skip
        evidence += [f"{count} of them were opened by {address}" for address, count in talkers]
        loud = talkers[0] if talkers and talkers[0][1] > table.limit / 2 else None
        command = (
            f"conntrack -D -s {loud[0]}" if loud else f"sysctl -w net.netfilter.nf_conntrack_max={2 * table.limit}"
        )
        yield Finding(
            "conntrack-full",
            host.name,
            f"{host.name}: its connection table is full" + (f", with what {loud[0]} opened" if loud else ""),
            tuple(evidence),
            self._ssh(host.name, command),
            advice=f"stop {loud[0]}, or it fills the table again" if loud else "find out who opens them: ./inv flows",
            plan=self.plan.line("hosts", host.name),
            hosts=frozenset(each.name for each in self.plan.hosts) | {OUTSIDE},
            cuts=True,
        )

    def _guard(self, host: Host, state: HostState) -> Iterator[Finding]:
        pending = state.guard.pending
        if not pending:
            return
        what = f"{pending['who']} since {pending['since']}: {'; '.join(pending['what'][:SHOWN])}"
        if pending["left"] > 0:
            self.notes.append(f"{host.name}: a change is being made right now, by {what}")
            return
        yield Finding(
            "guard-stale",
            host.name,
            f"{host.name}: a change was never confirmed, and its timer did not undo it",
            (f"by {what}", f"it was to be undone at {pending['deadline']}"),
            self._ssh(host.name, f"python3 {agent.COPY} rollback {pending['token']} doctor"),
            advice="it goes back to the state before that change; whoever made it should know",
            hosts=self._behind(host),
        )

    def _services(self, host: Host, state: HostState) -> Iterator[Finding]:
        for each in self._differences(host, state):
            unit = each.what.split()[0]
            if each.kind == "stopped" and each.where == "live" and state.units[unit].active != "active":
                yield Finding(
                    "service-down",
                    host.name,
                    f"{host.name}: {each.what}",
                    (f"systemctl status {unit}: {state.units[unit].active}",),
                    self._deploy(host),
                    plan=each.plan,
                    hosts=self._behind(host),
                )
            if each.where.startswith("/") and not _at_boot(each.where):
                yield Finding(
                    "file-differs",
                    host.name,
                    f"{host.name}: {each.where} is not as planned",
                    (f"./inv deploy {host.role} --dry shows the lines",),
                    self._deploy(host),
                    plan=each.plan,
                    hosts=self._behind(host),
                )

    def _disks(self, host: Host) -> Iterator[Finding]:
        for mount, largest in self._look(host).full.items():
            evidence = [f"the largest: {path}, {size / 2**20:.0f} MiB" for size, path in largest]
            path = largest[0][1] if largest else ""
            command, advice = f"du -xh {mount} | sort -h | tail -20", "find out what can go"
            if path.startswith("/var/log/journal/"):
                command, advice = "journalctl --vacuum-size=100M", "the oldest entries of the journal go"
            elif path.startswith("/var/log/"):
                command, advice = (
                    f"truncate -s 0 {shlex.quote(path)}",
                    "this empties that log; copy it away first if it is needed",
                )
            yield Finding(
                "disk-full",
                host.name,
                f"{host.name}: the file system of {mount} is full",
                tuple(evidence) or (f"df {mount}",),
                self._ssh(host.name, command),
                advice=advice,
                hosts=self._behind(host),
            )

    # --- a host that can't be reached, for no reason that was found on it or before it ---

    def _unreached(self, host: Host) -> Iterator[Finding]:
        failure = self.seen.failures[host.name]
        address = self.seen.target.endpoint(host.name).address
        said = f"ssh {host.name} ({address}): {failure.said}"
        common = {"plan": self._plan_line(host, str(address)), "hosts": self._behind(host), "cuts": True}
        match failure.why:
            case "host key":
                yield self._host_key(host, said)
            case "key refused":
                yield self._key_refused(host, said)
            case "refused":
                mend, at = self._console(host.name, "systemctl start ssh")
                cause = f"{host.name}: nothing listens for ssh: its sshd does not run"
                yield Finding("sshd-down", host.name, cause, (said, "the host itself answers"), mend, at, **common)  # type: ignore[arg-type]
            case _ if host == self.gateway:
                yield from self._gateway_unreached(said)
            case _:
                yield from self._silent(host, said)

    def _host_key(self, host: Host, said: str) -> Finding:
        endpoint = self.seen.target.endpoint(host.name)
        known = self.seen.target.known_hosts
        names = ",".join(
            [
                host.name,
                *map(str, [nic.address for nic in host.interfaces]),
                *([str(host.published)] if host.published else []),
            ]
        )
        read = "cat /etc/ssh/ssh_host_ed25519_key.pub"
        forget = f"ssh-keygen -q -f {known} -R {endpoint.address} 2>/dev/null"
        if self._is_lab:
            mend = f'key=$(./inv lab.run {host.name} "{read}") && {forget} && echo "{names} $key" >> {known}'
        else:
            mend = f'{forget} && echo "{names} KEY" >> {known}'
        return Finding(
            "host-key",
            host.name,
            f"{host.name}: its host key is not the one that is known",
            (said, f"known for {endpoint.address} in {known}"),
            mend,
            advice=f"another machine may answer in its place. KEY is what its own console says: {read}. "
            "Only if the host was set up anew, take that for the known one",
            plan=self._plan_line(host, str(endpoint.address)),
            hosts=self._behind(host),
            cuts=True,
        )

    def _key_refused(self, host: Host, said: str) -> Finding:
        user = self.plan.operator.user
        path = authorized_keys(self.plan)
        key = self.seen.workstation.public_key or "YOUR PUBLIC KEY"
        folder = path.rpartition("/")[0]
        command = (
            f"install -d -m 700 -o {user} -g {user} {folder} && echo '{key}' >> {path} && "
            f"chown {user}:{user} {path} && chmod 600 {path}"
        )
        mend, at = self._console(host.name, command)
        then = self._deploy(host)
        return Finding(
            "key-refused",
            host.name,
            f"{host.name}: it refuses the operator's key",
            (said,),
            mend if at else f"{mend} && {then}",
            at,
            advice=f"then here: {then}" if at else "",
            plan=self.plan.line("operator"),
            hosts=self._behind(host),
            cuts=True,
        )

    def _gateway_unreached(self, said: str) -> Iterator[Finding]:
        host, here = self.gateway, self.seen.workstation
        address = self.seen.target.endpoint(host.name).address
        mac = here.neighbours.get(str(address))
        everybody = frozenset({each.name for each in self.plan.hosts} | {OUTSIDE})
        alive = [name for name in self.seen.states if not self._is_deployed(name)]
        others = f"{_list(alive)} can be reached: this machine's own link works" if alive else ""
        line = self.plan.line("hosts", host.name, "addresses", host.primary.network)
        if mac:
            yield Finding(
                "no-connection", host.name,
                f"{host.name}: it is there, and takes no connection: its firewall, or its connection table is full",
                tuple(filter(None, (said, f"{address} answers ARP: {mac}", others))),
                *self._console(host.name, "conntrack -C; conntrack -S; iptables -nvL INPUT"),
                plan=line, hosts=everybody, cuts=True,
            )  # fmt: skip
            return
        mend, at, advice = self._switch_on(host)
        evidence = (said, f"nobody answers ARP for {address}", others)
        cause = f"{host.name}: it is silent: off, or its cable or NIC {host.primary.nic} is dead"
        yield Finding(
            "silent",
            host.name,
            cause,
            tuple(filter(None, evidence)),
            mend,
            at,
            advice,
            line,
            hosts=everybody,
            cuts=True,
        )

    def _silent(self, host: Host, said: str) -> Iterator[Finding]:
        """A host behind the gateway, as the gateway hears it."""
        heard = self._look(self.gateway).arp
        if self.gateway.name not in self.seen.looks:
            return
        in_place: list[tuple[Interface, str]] = []
        elsewhere: list[tuple[Interface, str]] = []
        for nic in host.interfaces:
            for near, answers in heard.items():
                macs = [
                    mac for mac in answers.get(str(nic.address), []) if self.macs.get(mac, (host.name,))[0] == host.name
                ]
                network = next(each.network for each in self.gateway.interfaces if each.nic == near)
                if macs:
                    (in_place if network == nic.network else elsewhere).append((nic, network))
        if elsewhere and not in_place:
            nic, network = elsewhere[0]
            evidence = f"the gateway hears {nic.address} in {network}"
            yield self._wrong_network(host, nic, network, evidence)
        elif not in_place:
            mend, at, advice = self._switch_on(host)
            neighbours = sorted(
                {name for near, answers in heard.items() for name in self._who(answers) if name != host.name}
            )
            evidence_lines = [
                said,
                f"nobody answers the gateway's ARP for {_list(str(nic.address) for nic in host.interfaces)}",
            ]
            evidence_lines += [f"others do: {_list(neighbours)}"] if neighbours else []
            cause = f"{host.name}: it is silent: off, or its cable or NIC {host.primary.nic} is dead"
            yield Finding(
                "silent", host.name, cause, tuple(evidence_lines), mend, at, advice,
                self.plan.line("hosts", host.name), hosts=self._behind(host), cuts=True,
            )  # fmt: skip

    def _who(self, answers: dict[str, list[str]]) -> Iterator[str]:
        for address, macs in answers.items():
            for host in self.plan.hosts:
                if macs and any(str(nic.address) == address for nic in host.interfaces):
                    yield host.name

    def _upstream(self) -> Iterator[Finding]:
        upstream = str(self.plan.enterprise.upstream)
        heard = self._look(self.gateway).arp.get(self.gateway.primary.nic, {})
        if upstream not in heard or heard[upstream] or self._cut(OUTSIDE) or not any(heard.values()):
            return
        yield Finding(
            "silent",
            OUTSIDE,
            f"the upstream router {upstream} is silent: nobody gets out of {self.plan.enterprise.name}",
            (f"nobody answers the gateway's ARP for {upstream}; others in {self.plan.enterprise.name} do",),
            "./inv lab.up" if self._is_lab else "",
            advice="it is not ours: call the people who run the company network",
            plan=self.plan.line("networks", self.plan.enterprise.name, "upstream"),
            hosts=frozenset({OUTSIDE}),
            cuts=True,
        )

    # --- what only packets tell ---

    def _large_packets(self) -> Iterator[Finding]:
        for network in self.plan.networks:
            paths = {
                host: self._look(host).echo[nic.nic]
                for host in self.deployed
                if (nic := host.interface(network.name)) and nic.nic in self._look(host).echo
            }
            if not paths:
                continue
            router_address = self.plan.gateway_address(network.name)
            mtus = {host.name: limit for host, (limit, _) in paths.items()}
            router = self.seen.states.get(self.gateway.name)
            near = self.gateway.interface(network.name)
            if router and near and near.nic in router.nics:
                mtus[self.gateway.name] = router.nics[near.nic].mtu
            usual = max(mtus.values(), key=lambda mtu: (list(mtus.values()).count(mtu), mtu))
            odd = [name for name, mtu in mtus.items() if mtu and mtu != usual]
            for name in odd:
                host = self.plan.host(name)
                nic = host.interface(network.name)
                assert nic is not None
                yield Finding(
                    "mtu-differs", name,
                    f"{name}: the MTU of {nic.nic} is {mtus[name]}, that of the others in {network.name} {usual}",
                    tuple(f"{each}: {mtu}" for each, mtu in mtus.items()),
                    self._ssh(name, f"ip link set {nic.nic} mtu {usual}"),
                    plan=self.plan.line("hosts", name, "addresses", network.name),
                    hosts=self._in_network(network.name) if host == self.gateway else self._behind(host),
                )  # fmt: skip
            lossy = {host: best for host, (limit, best) in paths.items() if 0 < best < limit}
            if odd or not lossy:
                continue
            everybody = len(lossy) == len(paths) > 1
            for host in [self.gateway] if everybody else lossy:
                nic = host.interface(network.name)
                assert nic is not None
                mend, advice = self._recable(host.name, nic.nic)
                yield Finding(
                    "mtu-black-hole", host.name,
                    f"{host.name}: large packets are lost on the way to {nic.nic} ({network.name}), and nobody says so",
                    tuple(
                        f"{each.name} to {router_address}: {size} bytes pass, {paths[each][0]} do not"
                        for each, size in lossy.items()
                    ),
                    mend,
                    advice=f"{advice}: it must pass {usual} bytes",
                    plan=self.plan.line("hosts", host.name, "addresses", network.name),
                    hosts=self._in_network(network.name) if everybody else self._behind(host),
                )  # fmt: skip

    def _behind_the_proxy(self) -> Iterator[Finding]:
        dead_units = dict(self._dead_units())
        for lb in self.plan.hosts_of("lb_nginx"):
            state = self.seen.states.get(lb.name)
            if state is None:
                continue
            groups: dict[str, list[tuple[str, str]]] = {}
            for each in state.upstreams:
                # Of an API server more is known than that it takes a connection.
                error = self._look(lb).connect.get(each.address, each.error)
                groups.setdefault(each.name, []).append((each.address, error))
            for name, servers in groups.items():
                yield from self._upstreams(lb, name, servers, dead_units)
        for name, units in dead_units.items():
            for unit in units:
                if unit.failed and not self._told(name, unit.name):
                    yield self._unit(name, unit, ())

    def _told(self, host: str, unit: str) -> bool:
        return any(
            each.host == host and f" {unit}" in f" {each.cause} {each.mend}".replace('"', " ") for each in self.found
        )

    def _dead_units(self) -> Iterator[tuple[str, list["_DeadUnit"]]]:
        ours = {"systemd-networkd.service", "ssh.service", "nginx.service", "netfilter-persistent.service"}
        for name, state in self.seen.states.items():
            look = self.seen.looks.get(name, Look())
            failed = [_DeadUnit(unit, True) for unit in state.failed_units if unit not in ours]
            idle = [_DeadUnit(unit, False) for unit in look.services if unit not in {*ours, *state.failed_units}]
            yield name, failed + idle

    def _unit(self, host: str, unit: "_DeadUnit", evidence: tuple[str, ...]) -> Finding:
        how = "has failed" if unit.failed else "is enabled and does not run"
        return Finding(
            "unit-failed",
            host,
            f"{host}: {unit.name} {how}",
            (*evidence, f"systemctl status {unit.name}"),
            self._ssh(host, f"systemctl restart {unit.name}"),
            advice=f'why it ended: ./inv ssh {host} "sudo journalctl -u {unit.name} -n 50"',
            hosts=frozenset({host}),
        )

    def _upstreams(
        self, lb: Host, name: str, servers: list[tuple[str, str]], dead_units: dict[str, list["_DeadUnit"]]
    ) -> Iterator[Finding]:
        bad = [(address, error) for address, error in servers if error]
        for address, error in bad:
            ip, _, port = address.rpartition(":")
            host = next(
                (each for each in self.plan.hosts if any(str(nic.address) == ip for nic in each.interfaces)), None
            )
            where = host.name if host else ip
            if host and (self._cut(host.name) or host.name in self.seen.failures):
                continue
            evidence = (f"{lb.name} connects to {address} for {name}: {error}",)
            units = dead_units.get(where, [])
            refused = "refused" in error
            if refused and len(bad) == len(servers) and not units:
                self.notes.append(f"{name}: nothing listens on port {port} of {where}")
                continue
            if refused and len(units) == 1:
                yield self._unit(where, units[0], evidence)
                continue
            owner = self._look(host).owners.get(port, "") if host else ""
            mend = self._ssh(where, f"systemctl restart {owner}") if owner.endswith(".service") and host else ""
            if not mend and host:
                mend = self._ssh(where, f"ss -ltnp 'sport = :{port}'; systemctl --failed")
            kind = "api-down" if name == "kubernetes_api" else "upstream-down"
            what = "its API server" if kind == "api-down" else f"its server of {name}, port {port},"
            yield Finding(
                kind,
                where,
                f"{where}: {what} {'does not listen' if refused else 'does not answer'}",
                evidence,
                mend,
                advice=""
                if owner.endswith(".service")
                else f"{owner or 'nothing'} listens there: start it as it was installed",
                plan=self.plan.line("hosts", where) if host else "",
                hosts=frozenset({where}),
            )

    def _connections(self) -> Iterator[Finding]:
        """The connections that fail for no reason that was found yet."""
        left = {flow: words for flow, words in self.failing.items() if not self._explained(flow)}
        yield from self._foreign_policy_rules(left)
        left = {flow: words for flow, words in left.items() if not self._explained(flow)}
        yield from self._foreign_rules(left)
        left = {flow: words for flow, words in left.items() if not self._explained(flow)}
        if left:
            flow, (expected, found) = next(iter(left.items()))
            mend = f"./inv trace {flow.source} {flow.destination}" + (f" --port {flow.port}" if flow.port else "")
            yield Finding(
                "unexplained",
                flow.source,
                f"{len(left)} connections fail, for no reason that was found: {flow}",
                (f"expected: {expected}", f"seen: {found}", *traffic.why(self.plan, flow)),
                mend,
                hosts=frozenset(name for each in left for name in each.hosts),
            )
        lost = [host for host in self.deployed if host.name in self.seen.failures and not self._cut(host.name)]
        for host in lost:
            yield Finding(
                "unexplained",
                host.name,
                f"{host.name}: it can't be reached, for no reason that was found",
                (self.seen.failures[host.name].said,),
                f"./inv trace {self.seen.workstation.name or 'WORKSTATION'} {host.name} --port 22",
                hosts=self._behind(host),
                cuts=True,
            )

    def _foreign_policy_rules(self, left: dict[Flow, tuple[str, str]]) -> Iterator[Finding]:
        for name, state in self.seen.states.items():
            ends = {
                address: [
                    flow for flow in left if name in flow.hosts and address in (flow.source_address, flow.destination)
                ]
                for address in (nic.address for nic in self.plan.host(name).interfaces)
            }
            wanted = routing.host_network(self.plan, self.plan.host(name)).rules
            for rule in state.network.rules:
                if rule.priority in KERNEL_RULES or rule.priority in routing.PRIORITIES or rule in wanted:
                    continue
                flows = [flow for address, each in ends.items() if _selects(rule, address) for flow in each]
                if flows and not self._explained(flows[0]):
                    expected, found = left[flows[0]]
                    yield Finding(
                        "policy-rule-foreign",
                        name,
                        f"{name}: a policy rule of somebody else takes its answers another way: {rule.arguments}",
                        (f"{len(flows)} connections fail; expected: {expected}; seen: {found}",),
                        self._ssh(name, f"ip rule del {rule.arguments}"),
                        advice="somebody made it: find out who needs it",
                        plan=self.plan.line("hosts", name),
                        hosts=frozenset({name}),
                    )

    def _foreign_rules(self, left: dict[Flow, tuple[str, str]]) -> Iterator[Finding]:
        """Rules of others on the gateway that a failing connection meets before ours, and no good one does."""
        state = self.seen.states.get(self.gateway.name)
        lost = [
            host
            for host in (self.gateway, *self.plan.published)
            if host.name in self.seen.failures and not self._cut(host.name)
        ]
        if state is None or not (left or lost):
            return
        ours = {
            (rule.table, rule.chain, rule.spec)
            for rule in canonical(nat.gateway_rules(self.plan), state.firewall.wanted)
        }
        packets = Firewall(self.plan, state.firewall.live, ours)
        ways: list[list[Suspect]] = [packets.met(flow.source_address, flow.destination, flow.port) for flow in left]
        for host in lost:
            address = self.seen.target.endpoint(host.name).address
            hop = self.seen.workstation.hops.get(str(address))
            if hop and hop.source:
                ways.append(packets.met(IPAddress(hop.source), address, traffic.SSH_PORT))
        good = [flow for flow in self.seen.outcomes if flow not in self.failing]
        innocent = {
            suspect
            for flow in good
            for suspect in packets.met(flow.source_address, flow.destination, flow.port)
            if suspect.certain and suspect.drops
        }
        counts: dict[Suspect, int] = {}
        for way in ways:
            for suspect in way:
                if suspect not in innocent:
                    counts[suspect] = counts.get(suspect, 0) + 1
        if not counts:
            return
        worst = max(counts, key=lambda each: (counts[each], each.certain))
        counters = {(each.table, each.chain, each.spec): each.packets for each in state.counters}
        hit = counters.get((worst.table, worst.chain, worst.spec))
        command = f"iptables -t {worst.table} -D {worst.chain} {worst.spec}"
        met = [flow for flow in left if worst in packets.met(flow.source_address, flow.destination, flow.port)]
        hosts = frozenset(name for flow in met for name in flow.hosts) | frozenset(
            name for host in lost for name in self._behind(host)
        )
        yield Finding(
            "rule-foreign",
            self.gateway.name,
            f"{self.gateway.name}: a rule of somebody else {'drops' if worst.drops else 'takes'} packets before ours: "
            f"-t {worst.table} -A {worst.chain} {worst.spec}",
            (
                f"{len(met)} connections that fail meet it"
                + (f", {hit} packets did so far" if hit is not None else ""),
                *(f"{left[flow][0]}; seen: {left[flow][1]}" for flow in met[:1]),
            ),
            self._ssh(self.gateway.name, command),
            advice="somebody made it: find out why before it comes back",
            hosts=hosts,
            cuts=True,
        )

    # --- what works at present ---

    def _packages(self) -> Iterator[Finding]:
        """Package sources that no host with a way out reaches."""
        bad: dict[str, list[tuple[str, str]]] = {}
        for host in self.deployed:
            for uri, error in self._look(host).sources.items():
                if error and not self._cut(OUTSIDE) and not any(host.name in each.hosts for each in self.found):
                    bad.setdefault(uri.partition("://")[2].partition("/")[0], []).append((host.name, error))
        for server, who in bad.items():
            home = next(
                (each for each in self.plan.hosts if str(each.primary.address) == server.partition(":")[0]), None
            )
            name = home.name if home else server
            unit = next((each for units in [dict(self._dead_units()).get(name, [])] for each in units), None)
            evidence = tuple(f"{each}: {error}" for each, error in who[:SHOWN])
            if unit:
                mend, advice = self._ssh(name, f"systemctl start {unit.name}"), f"{unit.name} does not run there"
            else:
                mend, advice = "", f"look at the web server of {name}"
            if home and self._look_at_silent(home):
                mend, _, advice = self._switch_on(home)
                mend = "./inv lab.up" if self._is_lab else mend
            yield Finding(
                "packages-unreachable",
                name,
                f"{name}: packages can't be had from {server}: a deploy that needs one fails",
                evidence,
                mend,
                advice=advice,
                latent=True,
            )

    def _look_at_silent(self, host: Host) -> bool:
        answers = [answers for answers in self._look(self.gateway).arp.values() if str(host.primary.address) in answers]
        return bool(answers) and not any(each[str(host.primary.address)] for each in answers)

    def _latent(self, host: Host) -> Iterator[Finding]:
        state = self.seen.states.get(host.name)
        if state is None:
            return
        what = [
            each
            for each in self._differences(host, state)
            if each.where == "at boot"
            or _at_boot(each.where)
            or (each.kind == "stopped" and self._only_disabled(state, each))
        ]
        if what:
            evidence = [
                f"{each.what} ({each.kind}{'' if each.where == 'at boot' else f', {each.where}'})" for each in what
            ]
            more = [f"and {len(what) - SHOWN} more"] if len(what) > SHOWN else []
            yield Finding(
                "boot-differs",
                host.name,
                f"{host.name}: after its next boot it will not be as planned",
                (*evidence[:SHOWN], *more),
                self._deploy(host),
                plan=what[0].plan,
                latent=True,
            )
        offset = state.clock.offset
        if abs(offset) > CLOCK_SECONDS:
            yield Finding(
                "clock-off",
                host.name,
                f"{host.name}: its clock is {abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}",
                ("compared with the clock of this machine; certificates and logs depend on it",),
                self._ssh(host.name, "systemctl restart systemd-timesyncd"),
                advice="or whatever keeps the time there (chrony, ntpd)",
                latent=True,
            )

    def _only_disabled(self, state: HostState, each: Difference) -> bool:
        unit = each.what.split()[0]
        return unit in state.units and state.units[unit].active == "active"


@dataclass(frozen=True)
class _DeadUnit:
    name: str
    failed: bool


def _at_boot(path: str) -> bool:
    """Whether a file matters at a boot only: what it makes is compared live, too."""
    return path.startswith((str(routing.NETWORKD), routing.NETWORKD_CONF, routing.SYSCTL_CONF))


def _selects(rule: PolicyRule, address: IPAddress) -> bool:
    return not rule.source or address in IPNetwork(rule.source)


def _quoted(command: str) -> str:
    """A command as one argument in a shell."""
    return f'"{command}"' if not re.search(r'["$`\\!]', command) else shlex.quote(command)


def _list(names: Iterable[str]) -> str:
    found = list(names)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more
