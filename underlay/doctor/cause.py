"""What the doctor says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A cause, its evidence and its fix.

    id: the kind of the cause, for programs and tests
    host: what is to be fixed: a host of the plan, the outside world (`plan.OUTSIDE`), or a machine that is in no plan
    fix: the command to paste, on this machine in this repo; or at `at`, where that is another place
    advice: what else a person should know before
    plan: the line of the plan that says how it should be
    latent: everything works at present, and will not after the next boot, deploy or so
    hosts: connections of these hosts may fail because of it; `cuts`: they can't be reached because of it, either
    """

    id: str
    host: str
    cause: str
    evidence: tuple[str, ...]
    fix: str = ""
    at: str = ""
    advice: str = ""
    plan: str = ""
    latent: bool = False
    hosts: frozenset[str] = frozenset()
    cuts: bool = False


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, in the order in which it is to be fixed.

    notes: what is no fault of the site, but worth to know
    unread: what could not be looked at, and no finding says why
    """

    findings: tuple[Cause, ...]
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
