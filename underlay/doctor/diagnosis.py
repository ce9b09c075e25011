"""From what the doctor saw to what is wrong: causes, each with its evidence and the command that fixes it. Pure.

It walks outwards from the workstation: this machine, then host by host its cable, its link, addresses, routes, policy
rules, forwarding, rules, connection table, services, then what is between the hosts and behind them. A cause says what
follows from it, and what follows from an earlier cause is none.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import groupby

from underlay.access.answers import UnreadableError, reading
from underlay.desired.traffic import Flow
from underlay.doctor.cause import Cause, Diagnosis
from underlay.doctor.causes import ends
from underlay.doctor.causes import host as hosts
from underlay.doctor.causes import services as behind
from underlay.doctor.causes.access.accounts import accounts
from underlay.doctor.causes.access.unreached import no_connection, unreached
from underlay.doctor.causes.access.workstation import workstation
from underlay.doctor.causes.between import neighbours, paths
from underlay.doctor.causes.boot import boot
from underlay.doctor.causes.checks import checks
from underlay.doctor.causes.oddities import beside
from underlay.doctor.investigation import Investigation, some
from underlay.doctor.survey import Survey
from underlay.plan import Host

Say = Callable[[str], None]


def diagnose(seen: Survey, say: Say = lambda _: None) -> Diagnosis:
    """The walk; `say` is told each step and what it found."""
    walk = _Walk(seen, say)
    walk.hosts()
    walk.between()
    return walk.diagnosis()


def unexplained(seen: Survey) -> tuple[list[Flow], list[Host]]:
    """The connections that fail, and the hosts that can't be reached, for no reason on the hosts themselves."""
    walk = _Walk(seen, lambda _: None)
    walk.hosts()
    if walk.stopped:
        return [], []
    lost = [host for host in walk.case.deployed if host.name in seen.failures and not walk.case.is_cut(host.name)]
    return list(walk.case.unexplained()), lost


class _Walk:
    def __init__(self, seen: Survey, say: Say) -> None:
        self.case = Investigation(seen)
        self.say = say
        self.unread: list[str] = []
        self.stopped = False

    def step(self, name: str, *parts: Iterable[Cause], silent: bool = False) -> bool:
        """One part of the walk; what it finds comes behind what was found before.

        Whether it found nothing; then it is silent, if so wanted.
        """
        before = len(self.case.found)
        for findings in parts:
            try:
                # One by one: what comes later depends on what was found before.
                with reading(name):
                    for finding in findings:
                        self.case.found.append(_pasteable(finding))
            except UnreadableError as error:
                self.unread.append(str(error))
        causes = [each.cause for each in self.case.found[before:]]
        if causes or not silent:
            self.say(f"{name}: {'; '.join(causes) or 'ok'}")
        return not causes

    def hosts(self) -> None:
        """This machine, then the hosts, and what is certain about what is between them."""
        case = self.case
        self.step("this machine", workstation(case))
        self.stopped = bool(case.found)
        if self.stopped:
            return
        self.step("neighbours", neighbours.same_mac(case), neighbours.duplicates(case))
        for role, alike in groupby(case.deployed, lambda planned: planned.role):
            good = [planned.name for planned in alike if self._host(planned)]
            if good:
                self.say(f"{good[0] if len(good) == 1 else f'{role} ({len(good)} hosts)'}: ok")
        self.step("upstream router", neighbours.upstream(case))
        self.step("large packets", paths.large_packets(case))
        self.step("other packet filters", paths.filters(case))

    def _host(self, planned: Host) -> bool:
        case = self.case
        return self.step(
            planned.name,
            neighbours.cables(case, planned),
            ends.ends(case, planned),
            hosts.host(case, planned),
            unreached(case, planned),
            silent=True,
        )

    def between(self) -> None:
        """What packets that were followed tell, and what is behind the hosts."""
        case = self.case
        if self.stopped:
            return
        self.step("packets that were followed", paths.followed(case))
        self.step("the gateway", no_connection(case))
        self.step("behind the load balancer", behind.services(case))
        self.step(f"{len(case.seen.outcomes)} connections", paths.connections(case))
        self.step("name servers", behind.names(case))
        self.step("package sources", behind.packages(case))
        self.step("what verify checks", *(checks(case, planned) for planned in case.deployed))
        self.step("who may log in", accounts(case))
        self.step("after a boot", *(boot(case, planned) for planned in case.deployed))

    def diagnosis(self) -> Diagnosis:
        """What was found."""
        case = self.case
        live, latent = ([each for each in case.found if each.latent == late] for late in (False, True))
        if live:
            live[0] = replace(live[0], evidence=(*live[0].evidence, *_what_follows(case, live[0])))
        live, latent = ([beside(case, each) for each in found] for found in (live, latent))
        # What could not be looked at follows from what is wrong, if anything is.
        missed = () if live else tuple(dict.fromkeys([*self.unread, *case.seen.unread]))
        return Diagnosis((*live, *latent), tuple(dict.fromkeys(case.notes)), missed)


def _pasteable(finding: Cause) -> Cause:
    """Without its fix where that has characters that a terminal obeys: shown as they are not, it is another command."""
    if finding.fix.isprintable():
        return finding
    advice = f"{finding.advice}; " if finding.advice else ""
    return replace(finding, fix="", at="", advice=f"{advice}what it is about has characters that can't be pasted")


def _what_follows(case: Investigation, finding: Cause) -> list[str]:
    lost = [name for name in case.seen.failures if case.is_deployed(name) and name != finding.host]
    follows = [f"{some(lost)} can't be reached the plan's way"] if lost else []
    follows += [f"{len(case.failing)} of {len(case.seen.outcomes)} connections fail"] if case.failing else []
    return [f"what follows: {'; '.join(follows)}"] if follows else []
