"""What the doctor says."""

from dataclasses import dataclass

from underlay.desired.traffic import Flow


@dataclass(frozen=True)
class Cause:
    """A cause, its evidence and its fix.

    id: the kind of the cause, for programs and tests
    host: what is to be fixed: a host of the plan, the outside world (`plan.OUTSIDE`), or a machine that is in no plan
    fix: the command to paste, on this machine in this repo; or at `at`, where that is another place
    advice: what else a person should know before
    plan: the line of the plan that says how it should be
    about: what of the host, where another cause may be about the same: a unit
    latent: everything works at present, and will not after the next boot, deploy or so
    odd: what else differs from a plain host there, and what changed there lately
    hosts: connections of these hosts may fail because of it; `cuts`: they can't be reached because of it, either
    flows: further connections that fail because of it
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
    odd: tuple[str, ...] = ()
    about: str = ""
    hosts: frozenset[str] = frozenset()
    cuts: bool = False
    flows: frozenset[Flow] = frozenset()


@dataclass(frozen=True)
class Diagnosis:
    """What is wrong, in the order in which it is to be fixed.

    notes: what is no fault of the site, but worth to know
    unread: what could not be looked at, and no finding says why
    """

    findings: tuple[Cause, ...]
    notes: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
