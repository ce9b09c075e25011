"""What the doctor knows while it walks: what was seen, what was found so far, and what follows from that. Pure."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

from netaddr import IPAddress, IPNetwork

from underlay.access import via
from underlay.access.answers import UnreadableError
from underlay.compare import network
from underlay.compare.difference import Difference, Nic
from underlay.compare.systemd.next_boot import NextBoot, Problem
from underlay.desired import routing
from underlay.desired.routing import PolicyRule
from underlay.desired.traffic import Flow
from underlay.doctor.cause import Cause
from underlay.doctor.survey import HostSurvey, Survey
from underlay.observe import boot, drift, exchange
from underlay.observe.state import HostState
from underlay.plan import OUTSIDE, Host, Interface, Plan
from underlay.text import argument, command

SHOWN = 4
"""Pieces of evidence of one kind that are told in full."""


class Fix(NamedTuple):
    """A command to paste: here, or `at` another place; and what a person should know."""

    command: str
    at: str = ""
    advice: str = ""


class Investigation:
    """One walk of the doctor's.

    found: the causes so far; what follows from them is none
    notes: see `cause.Diagnosis`
    told: host and unit, of services whose cause was found
    """

    def __init__(self, seen: Survey) -> None:
        self.seen = seen
        self.plan: Plan = seen.plan
        self.gateway = seen.plan.gateway
        self.deployed = seen.plan.deployed
        self.found: list[Cause] = []
        self.notes: list[str] = []
        self.told: set[tuple[str, str]] = set()

    # --- what was seen ---

    @property
    def is_lab(self) -> bool:
        """Whether the site is the lab: hosts are switched on, and their consoles reached, by commands."""
        return self.seen.target.name == "lab"

    @property
    def here(self) -> str:
        """The machine that the doctor runs on, for people."""
        return self.seen.workstation.name or self.seen.target.workstation or "this machine"

    def is_deployed(self, name: str) -> bool:
        """Whether a host is one of ours, not a workstation or somebody's server."""
        return any(host.name == name for host in self.deployed)

    def state(self, host: Host) -> HostState | None:
        """The state of a host that was reached."""
        return self.seen.states.get(host.name)

    def look(self, host: Host) -> HostSurvey:
        """What a host sees around it; nothing if it was not reached."""
        return self.seen.looks.get(host.name, HostSurvey())

    @cached_property
    def macs(self) -> dict[str, tuple[str, str]]:
        """The MACs of the NICs of the plan, as their hosts tell → the host, and the network the NIC belongs to."""
        found = {}
        for name, state in self.seen.states.items():
            try:
                nics = state.nics
            except UnreadableError:
                continue
            for planned in self.plan.host(name).interfaces:
                if planned.nic in nics:
                    found[nics[planned.nic].mac] = (name, planned.network)
        return found

    @cached_property
    def failing(self) -> dict[Flow, tuple[str, str]]:
        """The connections that fail: what was expected, what was seen. Those of hosts that need not let us in are not
        known, and no fault."""
        bystanders = {name for name in self.seen.failures if not self.is_deployed(name)}
        return {
            flow: words
            for flow, outcome in self.seen.outcomes.items()
            if not flow.hosts & bystanders and (words := exchange.judge(flow, outcome))
        }

    def differences(self, host: Host, state: HostState) -> list[Difference]:
        """What differs from the plan on a host. Raises UnreadableError."""
        return list(drift.of_host(self.plan, host, state))

    def next_boot(self, host: Host, state: HostState) -> list[Problem]:
        """What keeps the next boot of a host from being as planned; nothing if it did not say."""
        known = self.seen.host_keys.get(host.name, [])
        return boot.problems(self.plan, host, state, state.boot, known) if isinstance(state.next_boot, NextBoot) else []

    # --- what follows ---

    def is_cut(self, name: str) -> bool:
        """Whether an earlier cause explains that a host can't be reached."""
        return any(each.cuts and name in each.hosts for each in self.found)

    def unexplained(self) -> dict[Flow, tuple[str, str]]:
        """The failing connections that no cause so far explains."""
        return {flow: words for flow, words in self.failing.items() if not self.is_explained(flow)}

    def is_explained(self, flow: Flow) -> bool:
        """Whether an earlier cause explains that a connection fails."""
        blamed = {name for each in self.found if not each.latent for name in each.hosts}
        if any(flow in each.flows for each in self.found):
            return True
        return bool(flow.hosts & blamed) or (self.gateway.name in blamed and self._crosses(flow))

    def _crosses(self, flow: Flow) -> bool:
        """Whether a connection goes through the gateway, or is looked up in its table."""
        near = [network for network in self.plan.networks if flow.source_address in network.cidr]
        return flow.tracked is not None or not any(flow.destination in network.cidr for network in near)

    def behind(self, host: Host) -> frozenset[str]:
        """A host, and those that are reached through it."""
        return frozenset({host.name, *(each.name for each in self.seen.target.endpoints if each.jump == host.name)})

    def in_network(self, network: str) -> frozenset[str]:
        """The hosts but the gateway that have a NIC in a network, and those that are reached through them."""
        there = [host for host in self.plan.hosts if host.interface(network) and host != self.gateway]
        return frozenset(name for host in there for name in self.behind(host))

    def cause(
        self,
        id: str,
        host: Host,
        what: str,
        evidence: list[str],
        fix: str,
        advice: str = "",
        *,
        latent: bool = True,
    ) -> Cause:
        """What is wrong with a host by itself; if it is not latent, it stops all that goes through there."""
        return Cause(
            id=id,
            host=host.name,
            cause=f"{host.name}: {what}",
            evidence=first(evidence),
            fix=fix,
            advice=advice,
            plan=self.line(host),
            latent=latent,
            hosts=frozenset() if latent else self.behind(host),
        )

    def who_needs(self, host: Host, nic: Interface) -> frozenset[str]:
        """Whose connections fail without a NIC of a host."""
        return (self.in_network(nic.network) if host == self.gateway else self.behind(host)) | {host.name}

    def about(self, ends: Sequence[IPNetwork]) -> frozenset[str]:
        """The hosts but the gateway that have an address in one of these networks."""
        found: set[str] = set()
        for host in self.plan.hosts:
            addresses = [nic.address for nic in host.interfaces] + ([host.published] if host.published else [])
            if host != self.gateway and any(address in end for end in ends for address in addresses):
                found |= self.behind(host)
        return frozenset(found)

    @property
    def everybody(self) -> frozenset[str]:
        """All hosts, and the outside world."""
        return frozenset({*(host.name for host in self.plan.hosts), OUTSIDE})

    # --- the plan ---

    def addresses(self, host: Host) -> set[IPAddress]:
        """Every address that a host must have."""
        return {IPAddress(each.ip) for each in routing.host_network(self.plan, host).addresses}

    def line(self, host: Host, address: IPAddress | str = "") -> str:
        """The line of the plan that has an address of a host; without one, the host's own line."""
        return self.plan.line_of(address, host)

    # --- fixes ---

    def deploy(self, host: Host) -> str:
        """The deploy of a host's role."""
        return f"./inv deploy {host.role}"

    def ssh(self, name: str, line: str) -> str:
        """A command line as root on a host, by the way on which it was reached: one that can't cut that way."""
        login = self.plan.host(name).login
        return f"./inv ssh {name}{self._way(name)} {argument(f'sudo {line}' if login.sudo else line)}"

    def change(self, name: str, line: str) -> str:
        """A command line as root on a host that might cut the way to it: as a confirmed change."""
        return f"./inv change {name}{self._way(name)} {argument(line)}"

    def _way(self, name: str) -> str:
        way = self.seen.other_ways.get(name)
        if way is None:
            return ""
        first = via.addresses(self.plan.host(name), self.plan.host(way.via))[0]
        return f" --via {way.via}" + ("" if str(first) == way.address else f" --address {way.address}")

    def mend(self, host: Host, problem: Problem) -> str:
        """The command that takes away what keeps the next boot from being as planned; empty where none surely does."""
        line = " && ".join(problem.commands)
        if problem.guard or not line:
            return self.change(host.name, line) if line else ""
        return self.ssh(host.name, command("sh", "-c", line) if len(problem.commands) > 1 else line)

    def console(self, name: str, line: str) -> Fix:
        """A command line for a host that ssh does not lead to."""
        if self.is_lab:
            return Fix(f"./inv lab.run {name} {argument(line)}")
        return Fix(line, f"at the console of {name}, as root")

    def local(self, line: str) -> Fix:
        """A command line as root on the machine that the doctor runs on."""
        return self.console(self.here, line) if self.is_lab else Fix(f"sudo {line}")

    def replug(self, name: str, nic: str) -> Fix:
        """For a cable, or its port of the switch."""
        advice = f"look at the cable of {name} {nic}, and at its port of the switch"
        return Fix("./inv lab.heal" if self.is_lab else "", "", advice)

    def switch_on(self, host: Host) -> Fix:
        """For a host that is silent, which is as much as can be known from elsewhere."""
        nic = host.primary.nic
        up = self.console(host.name, command("ip", "link", "set", nic, "up"))
        then = f" && {self.deploy(host)}" if self.is_deployed(host.name) else ""
        advice = f"switch {host.name} on; if it is on, look at its cable of {nic} and switch that NIC on"
        if self.is_lab:
            return Fix(f"./inv lab.up && {up.command}{then}", "", advice)
        return Fix(up.command, up.at, f"{advice}{'; then here: ' + self.deploy(host) if then else ''}")

    def fix_network(self, host: Host, state: HostState) -> str:
        """The deploy of a host; after what makes the way to it, where there is none."""
        found = network.differences(routing.host_network(self.plan, host), state.network)
        if any(isinstance(each.thing, Nic) for each in found):
            # networkd of Debian 12 takes the policy rules away with a NIC, and brings them back with it.
            found = [each for each in found if each.kind != "missing" or not isinstance(each.thing, PolicyRule)]
        commands = [_words_only(line) for each in found for line in network.commands(each)]
        if host.name not in self.seen.other_ways or not commands:
            return self.deploy(host)
        return f"{self.change(host.name, ' && '.join(commands))} && {self.deploy(host)}"


def _words_only(line: str) -> str:
    """A command of which a word (the name of a NIC) may be anything without a space, for a shell."""
    plain = line.removesuffix(" || true")
    return command(*plain.split()) + line[len(plain) :]


def some(items: Iterable[object]) -> str:
    """The first of several things, as a list for people, and how many more there are."""
    found = list(map(str, items))
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def first(lines: Sequence[str]) -> tuple[str, ...]:
    """The first of several pieces of evidence, and how many more there are."""
    more = (f"and {len(lines) - SHOWN} more",) if len(lines) > SHOWN else ()
    return (*lines[:SHOWN], *more)
