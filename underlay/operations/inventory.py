"""What `inventory.py` gives to pyinfra: the hosts of each role, and only of the roles that a command names."""

import fnmatch
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

from underlay.access.target import Target
from underlay.errors import OperatorError
from underlay.plan import ROLES
from underlay.plan.literals import shown
from underlay.text import is_blank

Group = list[tuple[str, dict[str, Any]]]


def run_no_data_files() -> None:
    """Let pyinfra leave the files of `group_data/` alone: it runs each of them, also those of no plan in force.

    What is in them is read by `underlay.plan`, and nothing asks pyinfra for it.
    """
    from pyinfra_cli import inventory  # noqa: PLC0415 (it patches whoever imports it, for gevent)

    inventory._get_group_data = lambda _: {}


def _named_roles(argv: list[str]) -> tuple[str, ...]:
    named = [Path(word).stem for word in argv if word.endswith(".py") and Path(word).parent.name == "deploys"]
    return tuple(role for role in ROLES if role in named)


def check(argv: list[str]) -> None:
    """Raises OperatorError where a word is empty: pyinfra would take no limit for no host, and end well."""
    own = list(takewhile(lambda word: word != "--", argv))  # behind it is a command for the hosts
    for before, word in pairwise(own):
        if is_blank(word) or (word.startswith(("--limit=", "--exclude=")) and is_blank(word.partition("=")[2])):
            raise OperatorError(f"the argument after {before!r} is empty: leave it out, or say what is meant")


def check_choice(argv: list[str], found: dict[str, Group]) -> None:
    """Raises OperatorError where `--limit` or `--exclude` chooses no host of the groups.

    pyinfra would end well, with nothing done; or, where it is not excluded, with a host that was not meant.
    """
    own = list(takewhile(lambda word: word != "--", argv))
    names = [name for hosts in found.values() for name, _ in hosts]
    for before, word in pairwise([*own, ""]):
        for option in ("--limit", "--exclude"):
            chosen = word if before == option else before.partition("=")[2] if before.startswith(f"{option}=") else ""
            if chosen and chosen not in found and not fnmatch.filter(names, chosen):
                raise OperatorError(f"{option} {shown(chosen)} is no host of this command: it has {', '.join(names)}")


def wanted_roles(argv: list[str]) -> tuple[str, ...]:
    """The roles whose deploy files a command line names, or all of them.

    pyinfra connects to every host of the inventory before it does anything; on a new site most can't be reached yet.
    """
    return _named_roles(argv) or ROLES


def certain(target: Target, argv: list[str]) -> list[str]:
    """The hosts that pyinfra will connect to, whatever else is on its command line; empty where that can't be told."""
    limited = any(word.startswith("--limit") for word in argv)
    return [] if limited else [host.name for role in _named_roles(argv) for host in target.plan.hosts_of(role)]


def groups(target: Target, argv: list[str]) -> dict[str, Group]:
    """Role → its hosts with pyinfra's data; a role without hosts is left out (pyinfra crashes on one)."""
    found: dict[str, Group] = {
        role: [(host.name, {}) for host in target.plan.hosts_of(role)] for role in wanted_roles(argv)
    }
    return {role: hosts for role, hosts in found.items() if hosts}
