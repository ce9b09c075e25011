"""Debian packages that a host lacks, and what it would take to install them; nothing of the host is changed."""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyinfra.api import FactBase

from underlay.facts import fact, script, sections

SOURCES_SECONDS = 120
"""For package lists and for packages; a source that is silent is given up after SILENCE."""
SILENCE = 15
TIMED_OUT = 124
"""The exit code of timeout(1)."""
HOLDER = (
    "at=$(stat -c %i /var/lib/dpkg/lock-frontend 2>/dev/null)\n"
    "pid=$(awk -v at=\":$at\" 'substr($6, length($6) - length(at) + 1) == at { print $5; exit }' /proc/locks)\n"
    '[ -z "$pid" ] || echo "$(tr "\\0\\n" "  " </proc/$pid/cmdline | cut -c -80) (process $pid)"'
)
"""Prints who holds the lock of dpkg; nothing if nobody does."""
QUERY = "timeout 10 dpkg-query --show"
HALF_WAY = (
    f"{QUERY}"
    " --showformat='${db:Status-Status} ${db:Status-Eflag} ${Package}\\n'"
    ' | awk \'$1 ~ /^(half-|unpacked)/ || $2 == "reinstreq" { print $3 " is " $1 }\''
)
"""Prints the packages that dpkg did not come to an end with."""
PATIENCE = 180
"""Seconds to wait for another apt or dpkg."""
ALONE = """\
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
own=$(mktemp -d /var/cache/underlay-apt.XXXXXX) && trap 'rm -rf "$own"' EXIT && chmod 755 "$own" || exit 1
mkdir -p "$own/lists/partial" "$own/cache/archives/partial"
"""
"""A shell script begins with it: what apt downloads is in a folder of its own, and gone afterwards.

So a dry run changes nothing, and nobody who reads package lists at the same time is in the way.
"""
APT = (
    f'apt-get -q -o Dir::State::Lists="$own/lists" -o Dir::Cache="$own/cache" -o Acquire::Retries=1 '
    f"-o Acquire::http::Timeout={SILENCE} -o Acquire::https::Timeout={SILENCE}"
)
UPDATE = f"timeout {SOURCES_SECONDS} {APT} -q -o APT::Update::Error-Mode=any update"
INSTALL = "install --no-install-recommends"


@dataclass(frozen=True)
class Needed:
    """What a host lacks.

    names: the packages that were asked for and are not installed
    added: name and version of all that would be installed, those that the asked ones need too
    upgraded: name, version now and then
    problem: why they can't be installed, and what to do; empty if they can
    """

    names: tuple[str, ...] = ()
    added: tuple[tuple[str, str], ...] = ()
    upgraded: tuple[tuple[str, str, str], ...] = ()
    problem: str = ""


def command(names: Sequence[str]) -> str:
    """The shell command whose output `parse` reads; it needs root."""
    look = {
        "holder": HOLDER,
        "interrupted": f"ls /var/lib/dpkg/updates; {HALF_WAY}",
        "sources": f"{UPDATE} 2>&1",
        "trial": f"{APT} --simulate {INSTALL} $lacking 2>&1",
    }
    return (
        f"lacking=$(for name in {shlex.join(names)}; do\n"
        f"{QUERY} --showformat='${{db:Status-Status}}\\n' \"$name\" 2>/dev/null | grep -qx installed"
        ' || echo "$name"\ndone)\n'
        f"{script({'lacking': 'echo $lacking'})}\n"
        f'[ -z "$lacking" ] || {{\n{ALONE}{script(look)}\n}}\ntrue'
    )


def parse(lines: Iterable[str]) -> Needed:
    """Read the output of `command`. Raises KeyError for anything else."""
    found = sections(lines)
    names = tuple(" ".join(found["lacking"][1]).split())
    if not names:
        return Needed()
    # What is half-way is no fault while another one is at work.
    half = [] if any(found["holder"][1]) else found["interrupted"][1]
    if half:
        return Needed(names, problem=f"dpkg was interrupted ({', '.join(half)}): run there: sudo dpkg --configure -a")
    failed, said = found["trial"]
    if failed:
        return Needed(names, problem=_why(said, *found["sources"]))
    removed = [line.split()[1] for line in said if line.startswith("Remv ")]
    if removed:
        return Needed(names, problem=f"it would remove {', '.join(removed)}: if nobody needs that, remove it there")
    steps = [match for line in said if (match := _STEP.match(line))]
    return Needed(
        names,
        added=tuple((step["name"], step["new"]) for step in steps if not step["old"]),
        upgraded=tuple((step["name"], step["old"], step["new"]) for step in steps if step["old"]),
    )


_STEP = re.compile(r"Inst (?P<name>\S+) (?:\[(?P<old>[^]]*)\] )?\((?P<new>\S+)")


def _why(said: Sequence[str], failed: int, sources: Sequence[str]) -> str:
    """Why apt can't: its errors, what depends on what, and which sources it could not read."""
    what = _errors(said) or ["apt-get fails"]
    if failed:
        unread = [each for each in _errors(sources) if each not in what] or (
            [f"no answer within {SOURCES_SECONDS} s"] if failed == TIMED_OUT else []
        )
        what += [f"its package sources can't be read: {each}" for each in unread]
        return f"{'; '.join(what)}. Put /etc/apt/sources.list and sources.list.d there right, or the way to the sources"
    return "; ".join([*what, *(" ".join(line.split()) for line in said if line.startswith(" "))])


def _errors(lines: Sequence[str]) -> list[str]:
    found = dict.fromkeys(line[3:].rstrip(".") for line in lines if line.startswith(("E: ", "W: ")))
    return [each for each in found if not each.startswith("Some index files failed")]


class Packages(FactBase[Needed]):
    """Which of some packages a host lacks, and what it takes to install them, as `Needed`."""

    def command(self, names: Sequence[str]) -> str:
        return command(names)

    @fact("the packages")
    def process(self, output: list[str]) -> Needed:
        return parse(output)


class AptBusy(FactBase[str]):
    """Who holds the lock of dpkg; empty if nobody does."""

    default = str

    def command(self) -> str:
        return HOLDER

    def process(self, output: list[str]) -> str:
        return " ".join(output)
