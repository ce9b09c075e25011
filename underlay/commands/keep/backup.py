"""`./inv backup`, and what brings a host's part of it back: `./inv restore`."""

import sys
from contextlib import ExitStack
from dataclasses import asdict
from json import dumps
from pathlib import Path

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.commands import parameters
from underlay.errors import OperatorError, exit_code, report_and_exit


@task(
    help={
        "output": "the file here; default: backup, the site's name and the time",
        "json": "what was written as JSON",
    }
)
@report_and_exit()
def backup(_: Context, output: str = "", json: bool = False) -> None:
    """Keep what is on the hosts and in no repo: host keys, history, who may log in, rules of others.

    The archive has private keys: only its owner may read it; keep it like them. Exit code: 0 written; 2 written without
    hosts that can't be asked (they are named); 1 not written.
    """
    from underlay.oncall import backup as backups

    target = current()
    announce(target)
    found = backups.write(target, Path(output) if output else backups.default_file(target))
    missing = [each for each in found.hosts.values() if isinstance(each, str)]
    if json:
        print(dumps(asdict(found), indent=2))
    else:
        for name, each in found.hosts.items():
            print(f"{name}: {each} files" if isinstance(each, int) else f"not in it: {each}")
        print(f"{found.file} has private keys: only you may read it (mode 600); keep it like them")
    raise Exit(code=exit_code(wrong=missing, unread=False))


@task(
    positional=["file", "host"],
    help={
        "file": "what `./inv backup` wrote",
        "host": "a host of the plan: the one to bring back",
        "dry": "show what it would write, and change nothing",
        "host_key": "SHA256:… of the key that a host installed anew shows at its console, before it has its own back",
        "yes": "do not ask",
        "json": "as JSON: path → new, differs, same or kept",
    },
)
@report_and_exit()
def restore(
    _: Context, file: str, host: str, dry: bool = False, host_key: str = "", yes: bool = False, json: bool = False
) -> None:
    """Bring back a backup to a host that was installed anew: its host keys, its history, who may log in.

    A host that has a history of its own keeps that. Deploy the host's role afterwards: the plan is in the repo, not in
    the backup. Exit code: 0 done; 1 not done, or the host can't be logged in to with its own key afterwards. With
    --dry: 0 nothing would be written; 2 something would; 1 it could not be looked at.
    """
    from underlay.access.sessions import Links
    from underlay.console import console
    from underlay.oncall import backup as backups

    with ExitStack() as stack:
        target = current()
        one = parameters.host(target.plan, host)
        content = backups.load(Path(file), target.plan, one)
        announce(target)
        way = stack.enter_context(backups.installed_anew(target, one, host_key)) if host_key else target
        links = backups.connected(way, one)
        found = backups.restore(links, one, content, dry=True)
        if not json:
            backups.show(found, console())
        changing = set(found.values()) & {"new", "differs"}
        if changing and not dry:
            if not yes:
                parameters.confirmed(f"write these files to {one.name}?")
            backups.restore(links, one, content, dry=False)
            if error := Links(target).log_in_anew(one.name):
                raise OperatorError(f"restored, but {one.name} can't be logged in to with its own key: {error}")
            print(f"{one.name} has them, and its own host key: now ./inv deploy {one.role}", file=sys.stderr)
    if json:
        print(dumps(found, indent=2))
    raise Exit(code=exit_code(wrong=dry and changing, unread=False))
