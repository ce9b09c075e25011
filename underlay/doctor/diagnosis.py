"""From what the doctor saw to what is wrong: causes, each with its evidence and the command that fixes it. Pure.

It walks outwards from the workstation: this machine, then host by host its cable, its link, addresses, routes, policy
rules, forwarding, rules, connection table, services, then what is between the hosts and behind them. A cause says what
follows from it, and what follows from an earlier cause is none.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from underlay.access.answers import UnreadableError, reading
from underlay.doctor.cause import Cause, Diagnosis
from underlay.doctor.causes import host as hosts
from underlay.doctor.causes import neighbours, paths
from underlay.doctor.causes import services as behind
from underlay.doctor.causes.unreached import unreached
from underlay.doctor.causes.workstation import workstation
from underlay.doctor.investigation import Investigation, some
from underlay.doctor.survey import Survey

Say = Callable[[str], None]


def diagnose(seen: Survey, say: Say = lambda _: None) -> Diagnosis:
    """The walk; `say` is told each step and what it found."""
    case = Investigation(seen)
    unread: list[str] = []

    def step(name: str, *parts: Iterable[Cause]) -> None:
        before = len(case.found)
        for findings in parts:
            try:
                # One by one: what comes later depends on what was found before.
                with reading(name):
                    for finding in findings:
                        case.found.append(_pasteable(finding))
            except UnreadableError as error:
                unread.append(str(error))
        causes = [each.cause for each in case.found[before:]]
        say(f"{name}: {'; '.join(causes) or 'ok'}")

    step("this machine", workstation(case))
    if not case.found:
        step("neighbours", neighbours.duplicates(case))
        for planned in case.deployed:
            step(planned.name, neighbours.cables(case, planned), hosts.host(case, planned), unreached(case, planned))
        step("upstream router", neighbours.upstream(case))
        step("large packets", paths.large_packets(case))
        step("other packet filters", paths.filters(case))
        step("behind the load balancer", behind.services(case))
        step(f"{len(seen.outcomes)} connections", paths.connections(case))
        step("name servers", behind.names(case))
        step("package sources", behind.packages(case))
        step("after a boot", *(hosts.latent(case, planned) for planned in case.deployed))
    live = [each for each in case.found if not each.latent]
    if live:
        live[0] = replace(live[0], evidence=(*live[0].evidence, *_what_follows(case, live[0])))
    # What could not be looked at follows from what is wrong, if anything is.
    missed = () if live else tuple(dict.fromkeys([*unread, *seen.unread]))
    return Diagnosis((*live, *(each for each in case.found if each.latent)), tuple(dict.fromkeys(case.notes)), missed)


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
