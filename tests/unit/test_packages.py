"""Packages that a host lacks: what apt says, as values."""

import pytest

from underlay.facts.packages import Needed, parse

TRIAL = """\
Reading package lists...
The following NEW packages will be installed:
  conntrack libmnl0
Inst libmnl0 (1.0.5-3 Debian:13.1/stable [amd64])
Inst libssl3t64 [3.5.1-1] (3.5.4-1~deb13u1 Debian-Security:13/stable-security [amd64])
Inst conntrack (1:1.4.8-2 Debian:13.1/stable [amd64])
Conf libmnl0 (1.0.5-3 Debian:13.1/stable [amd64])
"""
LOCKED = "apt-get upgrade (process 812)\n"
HALF = "linux-image-amd64 is half-configured\n"
UNMET = """\
The following packages have unmet dependencies:
 conntrack : Depends: libmnl0 (>= 2.0) but 1.0.5-3 is to be installed
E: Unable to correct problems, you have held broken packages.
"""
REMOVES = f"Remv ufw [0.36.2-9]\n{TRIAL}"
UNREAD = """\
W: Failed to fetch http://packages.example/dists/trixie/InRelease  Unable to connect to packages.example:http:
E: Some index files failed to download. They have been ignored, or old ones used instead.
"""
MISSING = "E: Unable to locate package conntrack\n"


def said(lacking: str, trial: str = "", code: int = 0, sources: str = "", holder: str = "", half: str = "") -> Needed:
    parts = {
        "lacking": (lacking, 0),
        "holder": (holder, 0),
        "interrupted": (half, 0),
        "sources": (sources, 100 if sources else 0),
        "trial": (trial, code),
    }
    lines = []
    for name, (text, status) in list(parts.items())[: 5 if lacking else 1]:
        lines += [f"@@ {name}", *text.splitlines(), f"@@ = {status}"]
    return parse(lines)


def test_nothing_is_lacking() -> None:
    assert said("") == Needed()


def test_what_it_takes() -> None:
    """The asked packages, what they need, and what that replaces."""
    assert said("conntrack", TRIAL) == Needed(
        ("conntrack",),
        (("libmnl0", "1.0.5-3"), ("conntrack", "1:1.4.8-2")),
        (("libssl3t64", "3.5.1-1", "3.5.4-1~deb13u1"),),
    )


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (said("conntrack", REMOVES), "it would remove ufw: "),
        (said("conntrack", UNMET, 100), "conntrack : Depends: libmnl0 (>= 2.0) but 1.0.5-3 is to be installed"),
        (said("conntrack", UNMET, 100), "you have held broken packages"),
        (
            said("conntrack", TRIAL, half=HALF),
            "linux-image-amd64 is half-configured): run there: sudo dpkg --configure",
        ),
        (said("conntrack", MISSING, 100), "Unable to locate package conntrack"),
        (said("conntrack", MISSING, 100, UNREAD), "can't be read: Failed to fetch http://packages.example/dists"),
    ],
)
def test_problems(found: Needed, problem: str) -> None:
    """What can't be, in one line, and nothing else is known then."""
    assert problem in found.problem
    assert "\n" not in found.problem
    assert (found.added, found.upgraded) == ((), ())


def test_what_is_no_problem() -> None:
    """A source that nothing of it is in, and what another apt is half-way with."""
    assert said("conntrack", TRIAL, sources=UNREAD).problem == ""
    assert said("conntrack", TRIAL, half=HALF, holder=LOCKED).problem == ""
