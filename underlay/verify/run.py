"""Runs the checks and tells a person, with a table, what holds and what does not."""

import re
import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from underlay.access.anew import anew
from underlay.access.login import sudo
from underlay.access.target import Target, announce
from underlay.console import screen
from underlay.errors import COULD_NOT, GOOD, INTERRUPTED, WRONG, OperatorError
from underlay.observe.evidence import Evidence
from underlay.plan import REPO, ROLES
from underlay.verify.plugin import Result, Verification

CHECKS = REPO / "tests" / "site"
SHOWN = 3
"""Failures of one check that are told in full: with the gateway down all are alike. JUnit XML has every one."""
FORWARDING = {
    "open": "Forwarding is open: the gateway lets in whatever somebody outside has a route for.",
    "planned": "Forwarding is planned: whatever routes somebody outside has, the gateway lets in what the plan names.",
}
"""What the checks were made by, see docs/plan.md."""
NOT_TRIED = "Not tried: UDP, ICMP, IPv6, large packets, rates, a boot. ./inv doctor looks at some of these."
"""What no check covers: good means nothing about it."""
MANY = 4
"""Hosts of a role that have rows of their own."""
WIDTH = 80
"""Columns where the output is not a terminal."""


def run(target: Target, roles: Iterable[str], junit: Path | None = None) -> int:
    """Verify roles, print what was found, and write it to `junit` as JUnit XML.

    Returns the exit code: COULD_NOT if nothing was checked, or the run was cut off before anything was found wrong.
    Raises OperatorError if `junit` can't be written.
    """
    roles = [role for role in ROLES if role in set(roles)]
    console = screen() if sys.stdout.isatty() else screen(width=WIDTH, color_system=None)
    announce(target)
    sudo.ask(target)
    with anew(target) as own:
        return _run(own, roles, junit, console)


def _run(target: Target, roles: list[str], junit: Path | None, console: Console) -> int:
    started = time.monotonic()
    evidence = Evidence(target)
    verification = Verification(evidence, roles)
    arguments = [str(CHECKS), f"--rootdir={REPO}", "-o", "addopts=", "-p", "no:terminal", "-p", "no:cacheprovider"]
    if junit:
        try:
            junit.touch()
        except OSError as error:
            raise OperatorError(f"{junit} can't be written: {error.strerror}") from error
        arguments.append(f"--junit-xml={junit.resolve()}")
    with console.status(f"verifying {', '.join(roles)}"):
        code = pytest.main(arguments, plugins=[verification])
    interrupted = code == pytest.ExitCode.INTERRUPTED and not verification.errors
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
        verification.errors.append("the run was cut off: there may be more")
    seconds = time.monotonic() - started
    results = verification.results
    if results:
        _show(console, results, evidence)
    for problem in verification.errors:
        console.print(Text(f"ERROR {problem}"))
    if results:
        console.print(FORWARDING[target.plan.forwarding])
        console.print(NOT_TRIED)
        if target.outside is None:
            console.print("Beyond the upstream router nothing was checked: the real internet has no listener of ours.")
        if junit:
            console.print(f"JUnit XML: {escape(str(junit))}")
    wrong = sum(1 for result in results if result.problem)
    skipped = sum(1 for result in results if result.skipped)
    counts = f"{len(results) - skipped} checks" + (f" ({skipped} more could not be made)" if skipped else "")
    if wrong:
        console.print(f"[bold red]WRONG[/]: {wrong} of {counts}, in {seconds:.1f} s")
        return INTERRUPTED if interrupted else WRONG
    if verification.errors:
        console.print(f"[bold red]not verified[/]: {counts} were good, in {seconds:.1f} s")
        return INTERRUPTED if interrupted else COULD_NOT
    if len(results) == skipped:
        why = "see above" if skipped else f"the plan has no host with the role {' or '.join(roles)}"
        console.print(f"nothing was checked: {why}")
        return COULD_NOT
    console.print(f"[bold green]good[/]: all {counts}, in {seconds:.1f} s")
    return GOOD


def _show(console: Console, results: list[Result], evidence: Evidence) -> None:
    """The table, one row for each kind of check of each host; below it what is wrong."""
    rows: dict[tuple[str, str], list[Result]] = {}
    problems: dict[str, list[str]] = {}
    """What is wrong → whose it is, each once."""
    unknown: dict[str, set[str]] = {}
    """Why checks could not be made → the roles that they are of."""
    for result in results:
        check = result.check
        if result.problem and (dead := evidence.unreachable(result.hosts)):
            # Everything that needs a dead host is one row and one line, not hundreds.
            name, why = dead
            check = f"what needs {name}"
            problems.setdefault(why, []).append(f"{result.role} / {check}")
        elif result.problem:
            problems.setdefault(result.problem, []).append(f"{result.role} / {check}")
        if result.skipped:
            unknown.setdefault(result.skipped, set()).add(result.role)
        rows.setdefault((result.role, check), []).append(result)
    rows = _together(rows)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("role", "check"):
        table.add_column(title, overflow="fold")
    table.add_column("result", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    for (role, check), found in sorted(rows.items(), key=lambda row: ROLES.index(row[0][0])):
        table.add_row(role, escape(check), _verdict(found), f"{sum(result.seconds for result in found):.1f} s")
    console.print(table)
    shown: Counter[tuple[str, ...]] = Counter()
    own_rows = {f"{role} / {check}" for role, check in rows}
    for problem, whose in problems.items():
        checks = tuple(dict.fromkeys(whose))
        # Of many hosts the same check is one that fails often.
        kind = tuple(check if check in own_rows else re.sub(r" / .*?: ", " / ", check) for check in checks)
        shown[kind] += 1
        if shown[kind] <= SHOWN:
            console.print(Text(f"WRONG {', '.join(checks)}", style="bold red"), soft_wrap=True)
            console.print(Text("".join(f"  {line}\n" for line in problem.splitlines())), soft_wrap=True)
    for reason, of_roles in unknown.items():
        console.print(Text(f"NOT CHECKED {', '.join(sorted(of_roles))}: {reason}", style="yellow"), soft_wrap=True)
    for checks, count in shown.items():
        if count > SHOWN:
            console.print(Text(f"WRONG {', '.join(checks)}: {count - SHOWN} more like these"), soft_wrap=True)


def _together(rows: dict[tuple[str, str], list[Result]]) -> dict[tuple[str, str], list[Result]]:
    """Of a role with many hosts, a row for all that is the same check of each; what is wrong is told below, by host."""
    alike: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for role, check in rows:
        _, of_host, words = check.partition(": ")
        if of_host and not check.startswith("traffic: "):
            alike.setdefault((role, words), []).append((role, check))
    found = dict(rows)
    for (role, words), keys in alike.items():
        if len(keys) > MANY:
            together = [result for key in keys for result in found.pop(key)]
            found[role, f"{len(keys)} hosts: {words}"] = together
    return found


def _verdict(results: list[Result]) -> str:
    if wrong := sum(1 for result in results if result.problem):
        return f"[bold red]WRONG {wrong}/{len(results)}[/]"
    if skipped := sum(1 for result in results if result.skipped):
        return f"[yellow]unknown {skipped}/{len(results)}[/]"
    return f"[green]{len(results)} good[/]"
