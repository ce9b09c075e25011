"""Finds out what is wrong with the site and shows it: cause, evidence, fix."""

import sys
import time
from dataclasses import asdict
from json import dumps

from rich.console import Console
from rich.text import Text

from underlay.access.target import Target, announce
from underlay.console import screen
from underlay.doctor.cause import Cause, Diagnosis
from underlay.doctor.causes import oddities
from underlay.doctor.diagnosis import diagnose
from underlay.doctor.gather import gather
from underlay.errors import exit_code
from underlay.text import one_line

LATELY = 24 * 3600
"""Seconds: what changed since then is shown beside a finding."""


def run(target: Target, json: bool, since: float | None = None) -> int:
    """Examine the site and print the diagnosis; the walk goes to stderr as it is made.

    since: print, too, what changed on the hosts since then; seconds of the epoch
    Returns the exit code.
    """
    announce(target)
    begin = time.monotonic()

    def say(line: str) -> None:
        print(f"doctor {time.monotonic() - begin:4.1f}s  {line}", file=sys.stderr, flush=True)

    seen = gather(target, say, time.time() - LATELY if since is None else since)
    diagnosis = diagnose(seen, say)
    seconds = time.monotonic() - begin
    looks = {} if since is None else {host.name: seen.looks.get(host.name) for host in target.plan.deployed}
    if json:
        shown = document(target, diagnosis, seconds)
        print(dumps(shown if since is None else {**shown, "changed": oddities.document(looks)}, indent=2))
    else:
        console = screen(highlight=False, soft_wrap=True)
        show(diagnosis, seconds, console)
        for line in oddities.lines(looks):
            console.print(Text(one_line(line)))
    return code(diagnosis)


def examine(target: Target) -> Diagnosis:
    """The diagnosis of the site, without a word meanwhile."""
    return diagnose(gather(target, lambda _: None, time.time() - LATELY))


def code(diagnosis: Diagnosis) -> int:
    """The exit code."""
    return exit_code(wrong=diagnosis.findings, unread=diagnosis.unread)


def document(target: Target, diagnosis: Diagnosis, seconds: float) -> dict[str, object]:
    """The diagnosis for programs."""
    shown = ("id", "host", "cause", "evidence", "fix", "at", "advice", "plan", "latent", "odd")
    return {
        "site": target.plan.site,
        "target": target.name,
        "healthy": not (diagnosis.findings or diagnosis.unread),
        "findings": [
            {key: value for key, value in asdict(each).items() if key in shown} for each in diagnosis.findings
        ],
        "notes": list(diagnosis.notes),
        "unread": list(diagnosis.unread),
        "seconds": round(seconds, 1),
    }


def show(diagnosis: Diagnosis, seconds: float, console: Console) -> None:
    """The diagnosis for people."""
    for number, finding in enumerate(diagnosis.findings, 1):
        console.print()
        console.print(
            Text(f"{number}. {one_line(finding.cause)}", style="bold yellow" if finding.latent else "bold red")
        )
        for title, lines in _parts(finding):
            for index, line in enumerate(lines):
                console.print(
                    Text(
                        f"   {title if index == 0 else '':<9} {one_line(line)}", style="bold" if title == "fix" else ""
                    )
                )
    console.print()
    for note in diagnosis.notes:
        console.print(Text(f"note: {one_line(note)}"))
    for reason in diagnosis.unread:
        console.print(Text(f"not looked at: {one_line(reason)}", style="yellow"))
    live = sum(not each.latent for each in diagnosis.findings)
    latent = len(diagnosis.findings) - live
    if diagnosis.findings:
        counts = [f"{live} to fix now"] * bool(live) + [f"{latent} to fix before it matters"] * bool(latent)
        console.print(f"{', '.join(counts)}; in {seconds:.1f} s. Fix the first, then look again: ./inv doctor")
    elif diagnosis.unread:
        console.print(f"nothing was found, but not everything was looked at; in {seconds:.1f} s")
    else:
        console.print(f"healthy, in {seconds:.1f} s")


def _parts(finding: Cause) -> list[tuple[str, list[str]]]:
    fix = [finding.fix] if finding.fix else []
    return [
        ("evidence", list(finding.evidence)),
        ("odd there", list(finding.odd)),
        ("plan", [finding.plan] if finding.plan else []),
        ("advice", [finding.advice] if finding.advice else []),
        ("fix", [*fix, *([f"({finding.at})"] if finding.at else [])]),
    ]
