"""What hosts are: one command reads all that an operation needs.

A fact that can't be read fails; unknown is never "empty".
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from pyinfra.api.exceptions import FactProcessError

from underlay.access.answers import UnreadableError, reading

MARK = "@@ "
END = f"{MARK}= "


def script(commands: Mapping[str, str]) -> str:
    """A shell command that runs several and marks the output of each; it fails if one of them did.

    Such a command may be a section of another one.
    """
    sections = (
        f'echo {shlex.quote(MARK + name)}\n( {command}\n)\ncode=$?; echo "{END}$code"; [ $code = 0 ] || failed=1'
        for name, command in commands.items()
    )
    return "\n".join(("failed=0", *sections, "[ $failed = 0 ]"))


def sections(lines: Iterable[str]) -> dict[str, tuple[int, list[str]]]:
    """Cut the output of a `script`: name → exit code and lines; a section that did not come to its end is left out."""
    found: dict[str, tuple[int, list[str]]] = {}
    name, content, depth = "", list[str](), 0
    for line in lines:
        depth -= line.startswith(END)
        if depth == 0 and line.startswith(END):
            found[name] = int(line.removeprefix(END)), content
        elif depth == 0 and line.startswith(MARK):
            name, content = line.removeprefix(MARK), []
        else:
            content.append(line)
        depth += line.startswith(MARK) and not line.startswith(END)
    return found


def good(lines: Iterable[str]) -> dict[str, list[str]]:
    """The sections of a `script`, name → lines. Raises ValueError if the command of one failed."""
    found = sections(lines)
    for name, (code, content) in found.items():
        if code != 0:
            raise ValueError(f"{name}: {(content or [f'exit code {code}'])[-1]}")
    return {name: content for name, (_, content) in found.items()}


@contextmanager
def fact(what: str) -> Iterator[None]:
    """Around what reads a fact of pyinfra: whatever the host said, only this host fails, in one line."""
    try:
        with reading(f"{what} of this host"):
            yield
    except UnreadableError as error:
        raise FactProcessError(str(error)) from error
