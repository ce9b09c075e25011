"""Runbook pages as what they are to a test: commands with their outputs, changes of files, and steps in the lab. Pure.

A page is Markdown. What is executed of it, in its order:

- a block ```console: each line `$ COMMAND` (continued by lines that begin with `> `) and below it what it prints, as a
  terminal shows it: `…` stands for any text, and alone on a line for any lines;
- a block ```diff: a change of a file of `group_data`;
- a comment `<!-- lab: TASK ARGUMENTS -->`: what is done to the lab (`./inv lab.TASK`), where the real world does it;
- a comment `<!-- exit: N -->`: the exit code of the last command in the next block; without it, 0.

A block ```text is for people. Blocks of any other kind are refused, so that no command is left out.
"""

import difflib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTIONS = ("Symptom", "First look", "Cause", "Fix", "Check", "Undo")
"""What a page has, in this order; each may be left out but the first and `Check`."""
ELLIPSIS = "…"
_COMMENT = re.compile(r"<!-- *(\w+): *(.*?) *-->")
_FENCE = re.compile(r"(`{3,})(\w*)")


class RunbookError(Exception):
    """A page that can't be executed; `str()` says where and why."""


@dataclass
class Command:
    """What a person types, what it prints, and its exit code."""

    line: int
    text: str
    output: list[str] = field(default_factory=list)
    exit: int = 0


@dataclass(frozen=True)
class Edit:
    """A change of a file: the first text becomes the second."""

    line: int
    path: str
    old: str
    new: str


@dataclass(frozen=True)
class LabStep:
    """Something that is done to the lab, and that a reader does not see."""

    line: int
    task: str
    arguments: tuple[str, ...]


Step = Command | Edit | LabStep


@dataclass(frozen=True)
class Page:
    """A page: its file, its title, its sections and what is executed."""

    path: Path
    title: str
    sections: tuple[str, ...]
    steps: tuple[Step, ...]


def read(path: Path) -> Page:
    """A page of a file. Raises RunbookError."""
    lines = path.read_text().splitlines()
    try:
        steps = tuple(_steps(lines))
    except RunbookError as error:
        raise RunbookError(f"{path.name}:{error}") from None
    titles = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    sections = tuple(line.removeprefix("## ") for line in lines if line.startswith("## "))
    if len(titles) < 1 or list(sections) != [each for each in SECTIONS if each in sections]:
        raise RunbookError(f"{path.name}: a page has a title, and of these sections some, in this order: {SECTIONS}")
    return Page(path, titles[0], sections, steps)


def _steps(lines: list[str]) -> Iterator[Step]:  # noqa: PLR0912 (one branch for each kind of line)
    exit_code: int | None = None
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.startswith("<!--"):
            comment = _COMMENT.fullmatch(line)
            if comment and comment[1] == "exit" and comment[2].isdecimal():
                exit_code = int(comment[2])
            elif comment and comment[1] == "lab" and comment[2]:
                task, *arguments = shlex.split(comment[2])
                yield LabStep(number, task, tuple(arguments))
            else:
                raise RunbookError(f"{number}: neither `<!-- lab: TASK -->` nor `<!-- exit: N -->`")
        elif fence := _FENCE.match(line):
            end = next((n for n in range(number, len(lines)) if lines[n] == fence[1]), None)
            if end is None:
                raise RunbookError(f"{number}: the block does not end")
            content, first = lines[number:end], number + 1
            number = end + 1
            match fence[2]:
                case "console":
                    commands = _commands(content, first)
                    if exit_code is not None:
                        commands[-1].exit = exit_code
                        exit_code = None
                    yield from commands
                case "diff":
                    yield _edit(content, first)
                case "text":
                    pass
                case kind:
                    raise RunbookError(
                        f"{first - 1}: a block of the kind {kind!r} is not executed: console, diff, text"
                    )
    if exit_code is not None:
        raise RunbookError(f"{number}: an exit code without a block of commands behind it")


def _commands(lines: list[str], first: int) -> list[Command]:
    found: list[Command] = []
    for number, line in enumerate(lines, first):
        if line.startswith("$ "):
            found.append(Command(number, line.removeprefix("$ ")))
        elif not found:
            raise RunbookError(f"{number}: a block of commands begins with `$ COMMAND`")
        elif line.startswith("> ") and not found[-1].output:
            found[-1].text += f"\n{line.removeprefix('> ')}"
        else:
            found[-1].output.append(line)
    if not found:
        raise RunbookError(f"{first}: a block of commands without one")
    return found


def _edit(lines: list[str], first: int) -> Edit:
    names = [line.removeprefix("+++ ") for line in lines if line.startswith("+++ ")]
    if len(names) != 1 or not re.fullmatch(r"(b/)?group_data/\w+\.py", names[0]):
        raise RunbookError(f"{first}: a change has one line `+++ group_data/FILE.py`")
    body = [line for line in lines if not line.startswith(("--- ", "+++ ", "@@ "))]
    old = "".join(f"{line[1:]}\n" for line in body if not line.startswith("+"))
    new = "".join(f"{line[1:]}\n" for line in body if not line.startswith("-"))
    return Edit(first, names[0].removeprefix("b/"), old, new)


def edited(text: str, edit: Edit) -> str:
    """The text with a change made. Raises RunbookError where it does not fit once."""
    if text.count(edit.old) != 1:
        raise RunbookError(f"{edit.line}: the change of {edit.path} fits {text.count(edit.old)} times")
    return text.replace(edit.old, edit.new)


def difference(expected: list[str], seen: str) -> str:
    """Expected and seen output as a diff; empty if they agree."""
    lines = [line.rstrip() for line in seen.splitlines()]
    if re.fullmatch("".join(map(_pattern, expected)), "".join(f"{line}\n" for line in lines)):
        return ""
    # A line that is there as its pattern wants it is no difference to look at, nor is what "…" alone stands for.
    wanted = [each for each in expected if each.strip() != ELLIPSIS]
    left = [next((line for line in lines if re.fullmatch(_pattern(each), f"{line}\n")), each) for each in wanted]
    return "\n".join(difflib.unified_diff(left, lines, "expected", "seen", lineterm="", n=100))


def _pattern(line: str) -> str:
    if line.strip() == ELLIPSIS:
        return r"(?:.*\n)*?"
    return ".*?".join(map(re.escape, line.rstrip().split(ELLIPSIS))) + r"\n"
