"""What hosts are: one command reads all that an operation needs.

A fact that can't be read fails; unknown is never "empty".
"""

from collections.abc import Iterable

MARK = "== "


def section(name: str) -> str:
    """The shell command that starts a section of a fact's output."""
    return f"echo '{MARK}{name}'"


def sections(lines: Iterable[str]) -> dict[str, list[str]]:
    """Cut a fact's output at its section marks: name → lines."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    for line in lines:
        if line.startswith(MARK):
            current = found.setdefault(line.removeprefix(MARK), [])
        else:
            current.append(line)
    return found
