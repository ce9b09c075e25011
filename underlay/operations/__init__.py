"""What is done to hosts: each operation reads one fact, compares, and changes only the difference.

Whatever could cut the way to a host goes through `guarded`: applied by the guard, looked at from outside, then kept or
undone.
"""

import base64
import shlex
from collections.abc import Iterable

from pyinfra import host as current_host
from pyinfra import logger
from pyinfra.api import FunctionCommand, Host, State

from underlay.access.target import current
from underlay.guard import runner
from underlay.guard.change import Change
from underlay.operations import connection

_told: set[tuple[str, tuple[str, ...]]] = set()


def tell(lines: Iterable[str]) -> None:
    """Show what differs on the current host, once: an operation is evaluated in a dry run and again when it is made."""
    told = tuple(lines)
    if (current_host.name, told) not in _told:
        _told.add((current_host.name, told))
        for line in told:
            logger.info(f"{current_host.print_prefix}{line}")


def guarded(change: Change, on: str = "") -> FunctionCommand:
    """The command that makes a change under the guard; it fails if the host rolled back.

    on: the host that changes, if it is not the current one
    """
    return FunctionCommand(_apply, (change, on), {})


def _apply(state: State, host: Host, change: Change, on: str) -> bool:  # noqa: ARG001 (pyinfra looks for both names)
    connection.forget(host)
    where = f"{on}: " if on else ""
    return runner.run(current(), on or host.name, change, lambda line: logger.info(f"{host.print_prefix}{where}{line}"))


def write_file(path: str, content: str, mode: str = "644") -> str:
    """Shell commands that replace a file as one step: a reader sees the old one or the new one."""
    target, new = shlex.quote(path), shlex.quote(f"{path}.new")
    folder = shlex.quote(path.rsplit("/", 1)[0])
    encoded = base64.b64encode(content.encode()).decode()
    return (
        f"mkdir -p {folder}\necho {encoded} | base64 -d > {new}\nchmod {mode} {new}\nsync {new}\nmv -f {new} {target}\n"
    )
