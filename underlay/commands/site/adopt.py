"""`./inv adopt`."""

import os
import re
from pathlib import Path

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.commands import parameters
from underlay.errors import OperatorError, report_and_exit

MOST = 250
"""Addresses at once."""
NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""A host in an ssh configuration."""


@task(
    auto_shortflags=False,  # one of them would be -h
    iterable=["addresses"],
    positional=["addresses"],
    help={
        "addresses": "where hosts are reached, each by an address; with --ssh-config also by a name of that",
        "check": "only whether each host is ready for a deploy, and if not what makes it so",
        "site": "the name of a new site: propose a whole plan, also where the plan in force is of these hosts",
        "output": "write the proposal into this file, which must not be there yet",
        "via": "reach those through this address that are in no network of this machine",
        "user": "the account to log in as, instead of the plan's",
        "port": "the port of sshd, instead of 22",
        "ssh_config": "an ssh configuration of yours, that knows ways, accounts and keys",
        "yes": "take the host keys that are not known, without a question",
        "json": "as JSON",
    },
)
@report_and_exit()
def adopt(
    _: Context,
    addresses: list[str],
    check: bool = False,
    site: str = "",
    output: str = "",
    via: str = "",
    user: str = "",
    port: str = "",
    ssh_config: str = "",
    yes: bool = False,
    json: bool = False,
) -> None:
    """Look at hosts that exist, and propose the plan that they would have; changes nothing on them.

    Host keys that are not known are shown, to be compared with the hosts' consoles, and taken after a yes. Exit code:
    0 the proposal is a plan; 2 a question is open; 1 a host could not be looked at, or shows another key than the known
    one. With --check: 0 all are ready; 2 one is not; 1 all that were looked at are, and one could not be.
    """
    from underlay.adopt import look, run

    wanted = _addresses(addresses, names=bool(ssh_config))
    for each in [via] if via else []:
        _addresses([each], names=bool(ssh_config))
    number = parameters.whole(port, 1, 65535) if port else 0
    config = look.config_file(ssh_config) if ssh_config else None
    ways = look.Ways(parameters.user(user), number, config, via)
    path = Path(output) if output else None
    if path and check:
        raise OperatorError("--output goes with a proposal, and --check makes none: leave one of the two out")
    if path and os.path.lexists(path):
        raise OperatorError(f"{path} is there already: name another file with --output")
    if path and not os.access(path.parent, os.W_OK | os.X_OK):
        raise OperatorError(f"no file can be made in {path.parent}: name another one with --output")
    title = parameters.site(site)
    target = current()
    if not json:
        announce(target)
    looks = run.look(target, wanted, ways, new=bool(title))
    if check:
        raise Exit(code=run.check(target, looks, ways, json=json))
    ask = None if yes else parameters.confirmed
    raise Exit(code=run.adopt(target, looks, title, path, ask, json=json))


def _addresses(asked: list[str], *, names: bool) -> list[str]:
    """The words, each once: addresses, or names of the person's ssh configuration."""
    wanted = list(dict.fromkeys(asked))
    if not wanted:
        raise OperatorError("no address is given: say where the hosts are reached, like 192.0.2.7 192.0.2.8")
    if len(wanted) > MOST:
        raise OperatorError(f"{len(wanted)} addresses: look at up to {MOST} at once")
    for each in wanted:
        if not (names and NAME.fullmatch(each)):
            parameters.address(each)
    return wanted
