"""`./inv bundle`."""

from dataclasses import asdict
from json import dumps
from pathlib import Path

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.errors import exit_code, report_and_exit


@task(
    help={
        "output": "the file here; default: the site's name and the time",
        "json": "what was written as JSON",
    }
)
@report_and_exit()
def bundle(_: Context, output: str = "", json: bool = False) -> None:
    """Write one archive with all that a colleague needs, without secrets.

    Plan, drift, history, and of each host its configuration, live state, versions and the last hour's logs. Exit code:
    0 written; 2 written without hosts that can't be asked (they are noted in it); 1 not written.
    """
    from underlay.oncall import bundle as bundles

    target = current()
    announce(target)
    found = bundles.write(target, Path(output) if output else bundles.default_file(target))
    missing = {name: why for name, why in found.hosts.items() if why}
    if json:
        print(dumps(asdict(found), indent=2))
    else:
        for why in missing.values():
            print(f"not in it: {why}")
        hosts = f"{len(found.hosts) - len(missing)} of {len(found.hosts)} hosts"
        print(f"{found.file}: {hosts}, {found.bytes / 1e6:.1f} MB, without secrets")
    raise Exit(code=exit_code(wrong=missing, unread=False))
