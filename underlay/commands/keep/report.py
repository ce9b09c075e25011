"""`./inv report`."""

import sys
from dataclasses import asdict
from json import dumps

from invoke import Context, task

from underlay.access.target import announce, current
from underlay.errors import OperatorError, report_and_exit


@task(
    help={
        "output": "the file to write; default report.html in the current folder (on the jump host: your home)",
        "json": "print the facts as JSON; the page is written only where --output says so",
    }
)
@report_and_exit()
def report(_: Context, output: str = "", json: bool = False) -> None:
    """Write one HTML page about the whole site as it is now: topology, traffic, rules, drift, history.

    It needs no network to be read, and hosts that are down are shown as such. Exit code: 0 written, whatever it says;
    1 it could not be written.
    """
    from underlay.report import facts as reports
    from underlay.report import html as page

    target = current()
    path = None if json and not output else page.path(target, output)
    if path and (problem := page.not_writable(path)):
        raise OperatorError(f"{path} can't be written: {problem}: name another with --output")
    announce(target)
    facts = reports.gather(target)
    if path:
        try:
            path.write_text(page.page(target.plan, facts))
        except OSError as error:
            raise OperatorError(f"{path} can't be written: {error.strerror}") from error
        print(f"{path}: {page.summary(facts)}", file=sys.stderr if json else sys.stdout)
    if json:
        print(dumps(asdict(facts), indent=2))
