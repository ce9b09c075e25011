"""The invoke tasks of the person on call. Thin: other modules do the work."""

import os
import sys
from dataclasses import asdict
from json import dumps

from invoke import Context, Exit, task

from underlay import arguments
from underlay.errors import report_and_exit
from underlay.target import announce, current


@task(
    positional=["host", "command"],
    optional=["command"],
    help={"host": "a host of the plan", "command": "a command line for its shell, instead of a login"},
)
def ssh(_: Context, host: str, command: str | None = None) -> None:
    """Log in on a host, through the jump host where that is the way: `./inv ssh master-1`.

    With a command, its output and exit code are those of this task: `./inv ssh gateway "ip route"`.
    """
    with report_and_exit():
        target = current()
    name = arguments.host(target.plan, host).name
    if target.vantage is not None and target.vantage.name == name:
        argv = ["sh", "-c", command] if command else [os.environ.get("SHELL", "/bin/sh"), "-l"]
    else:
        argv = ["ssh", "-F", str(target.ssh_config), name, *([command] if command else [])]
    os.execvp(argv[0], argv)


@task(
    help={
        "output": "the file to write; default report.html in the current folder (on the jump host: the temporary one)",
        "json": "print the facts as JSON; the page is written only where --output says so",
    }
)
def report(_: Context, output: str = "", json: bool = False) -> None:
    """Write one HTML page about the whole site as it is now: topology, traffic, rules, drift, history.

    It needs no network to be read, and hosts that are down are shown as such. Exit code: 0 written, whatever it
    says; 1 it could not be written.
    """
    from underlay.oncall import page  # pyinfra: only this task should wait for its import
    from underlay.oncall import report as reports

    with report_and_exit():
        target = current()
    path = None if json and not output else page.path(target, output)
    if path and (problem := page.not_writable(path)):
        raise Exit(f"error: {path} can't be written: {problem}: name another with --output", code=1)
    announce(target)
    facts = reports.gather(target)
    if path:
        try:
            path.write_text(page.page(target.plan, facts))
        except OSError as error:
            raise Exit(f"error: {path} can't be written: {error.strerror}", code=1) from None
        print(f"{path}: {page.summary(facts)}", file=sys.stderr if json else sys.stdout)
    if json:
        print(dumps(asdict(facts), indent=2))
