"""What works at present and will not after the next boot: as the parts said that make it, and as their files are."""

from collections.abc import Iterator

from underlay.access.answers import UnreadableError
from underlay.compare import sshd
from underlay.compare.difference import File, Nic, NotLoaded, Place
from underlay.compare.managers import boot as compared
from underlay.compare.systemd import next_boot
from underlay.compare.systemd.networkd import is_ours as is_network_file
from underlay.compare.systemd.next_boot import NextBoot, Problem
from underlay.desired.files import SSHD, sshd_file, sshd_settings
from underlay.desired.ruleset import Rule
from underlay.desired.units import Unit
from underlay.doctor.cause import Cause
from underlay.doctor.causes.host import firewalld
from underlay.doctor.investigation import Investigation, first
from underlay.observe.state import HostState
from underlay.plan import Host
from underlay.text import command

CLOCK_SECONDS = 60


def boot(case: Investigation, planned: Host) -> Iterator[Cause]:
    """`boot-unit`, `boot-program`, `boot-script`, `boot-disk`, `boot-network`, `packages-broken`, then what is read
    from files. Raises UnreadableError for what could not be asked, when all else was told."""
    state = case.state(planned)
    if state is None:
        return
    found = state.next_boot
    if isinstance(found, NextBoot):
        problems = case.next_boot(planned, state)
        for each in problems:
            if not _is_told(case, planned, each.about):
                yield _cause(case, planned, each)
        case.notes += [f"{planned.name}: {each}" for each in next_boot.notes(found, problems)]
    yield from _files(case, planned, state)
    if state.boot.unread:
        why = "; ".join(state.boot.unread)
        raise UnreadableError(f"what the next boot of {planned.name} does can't be read: {why}")


def _is_told(case: Investigation, planned: Host, about: str) -> bool:
    """Whether a unit is a cause already: it does not run now, either."""
    return (planned.name, about) in case.told or any(
        each.host == planned.name and (each.about == about or (each.id == "unit-masked" and about in each.cause))
        for each in case.found
    )


def _cause(case: Investigation, planned: Host, problem: Problem) -> Cause:
    return Cause(
        id=problem.kind,
        host=planned.name,
        cause=f"{planned.name}: {problem.what}",
        evidence=first(problem.evidence),
        fix=case.mend(planned, problem),
        advice=problem.advice,
        plan=case.line(planned),
        latent=True,
    )


def _files(case: Investigation, planned: Host, state: HostState) -> Iterator[Cause]:
    """`boot-differs`, `boot-undone`, `firewalld`, `sshd-open`, `clock-off`."""
    asked = state.next_boot if isinstance(state.next_boot, NextBoot) else None
    # Without the program that puts them in place no rule of ours comes back: it is a cause of its own.
    headless = bool(asked and asked.broken)
    if planned == case.gateway:
        yield from firewalld(case, planned, state, now=False)
    what = [
        each
        for each in case.differences(planned, state)
        if (each.at_boot and each.kind != "unmanaged" and not (headless and isinstance(each.thing, Rule | NotLoaded)))
        # systemd itself says more of units.
        or (each.kind == "disabled" and not (asked and asked.systemd and isinstance(each.thing, Unit)))
        or (isinstance(each.thing, File) and each.thing.boot)
    ]
    undone = {each.found: each for each in what if isinstance(each.found, Place)}
    what = [each for each in what if not isinstance(each.found, Place)]
    if any(isinstance(each.thing, File) and place.path.endswith(".network") for place, each in undone.items()):
        # What ours are beside is what keeps them out: the deploy of that fix makes them anew.
        what = [each for each in what if not (isinstance(each.thing, File) and is_network_file(each.thing.path))]
    for place, each in undone.items():
        path = command(place.path)
        look = isinstance(each.thing, Nic)
        fix, advice = f"sed -i '{place.number}s/^/# /' {path}", "this makes the line a comment"
        if look:
            fix, advice = f"cat {path}", "name the NIC there"
        elif compared.matches_nics(place):
            later = place.path.rpartition("/")[0] + "/50-" + place.path.rpartition("/")[2]
            fix, advice = f"mv {path} {command(later)}", "this puts it behind ours"
        then = f" && {case.deploy(planned)}" if isinstance(each.thing, File) and place.path.endswith(".network") else ""
        yield Cause(
            id="boot-undone",
            host=planned.name,
            cause=f"{planned.name}: after its next boot it will not be as planned: {each.what}",
            evidence=(f"{place.path}, line {place.number}: {place.text}",),
            fix=case.ssh(planned.name, fix) + then,
            advice=f"{advice}; somebody wrote it: find out what for",
            plan=each.origin(case.plan, planned) or case.line(planned),
            latent=True,
        )
    if what:
        yield Cause(
            id="boot-differs",
            host=planned.name,
            cause=f"{planned.name}: after its next boot it will not be as planned",
            evidence=first([f"{each.where}: {each.what} ({each.word})" for each in what]),
            fix=case.deploy(planned),
            plan=next(filter(None, (each.origin(case.plan, planned) for each in what)), case.line(planned)),
            latent=True,
        )
    yield from _sshd(case, planned, state)
    offset = state.clock.offset
    if abs(offset) > CLOCK_SECONDS:
        yield Cause(
            id="clock-off",
            host=planned.name,
            cause=f"{planned.name}: its clock is {abs(offset):.0f} s {'ahead' if offset > 0 else 'behind'}",
            evidence=("compared with the clock of this machine; certificates and logs depend on it",),
            fix=case.ssh(planned.name, "systemctl restart systemd-timesyncd"),
            advice="or restart whatever keeps the time there (chrony, ntpd)",
            plan=case.line(planned),
            latent=True,
        )


def _sshd(case: Investigation, planned: Host, state: HostState) -> Iterator[Cause]:
    """`sshd-open`: our file is there, and other lines win over it. Without that a deploy is the fix: `file-differs`."""
    if state.files.get(SSHD) != sshd_file(case.plan, planned):
        return
    found = sshd.differences(sshd_settings(case.plan, planned), planned.login.user, state.sshd)
    if found:
        paths = dict.fromkeys([*(each.found.path for each in found if isinstance(each.found, Place)), sshd.CONFIG])
        yield Cause(
            id="sshd-open",
            host=planned.name,
            cause=f"{planned.name}: {found[0].what}",
            evidence=first([each.what for each in found]),
            fix=case.ssh(planned.name, command("grep", "-nE", "^", *paths)),
            advice="; ".join(first(sshd.advice(found))),
            plan=case.line(planned),
            latent=True,
        )
