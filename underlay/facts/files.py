"""The content of small files."""

import base64
import shlex
from collections.abc import Iterable

from pyinfra.api import FactBase

from underlay.facts import fact


def command(patterns: Iterable[str]) -> str:
    """A shell command that prints each file that matches one of the patterns, as its path and its content in base64.

    One that is a link to /dev/null, which hides files of the same name, is an empty one. It fails if one can't be read.
    """
    # A pattern that matches nothing stays as it is, and is no file.
    return (
        f'for f in {" ".join(patterns)}; do if [ -f "$f" ]; then text=$(base64 -w0 "$f") || exit 1; echo "$f $text"; '
        'elif [ -c "$f" ]; then echo "$f "; fi; done'
    )


def home_command(path: str) -> str:
    """A shell command that does the same for one file of a home, `~USER/FILE`, which is printed under that name."""
    return f'f={path}; if [ -f "$f" ]; then text=$(base64 -w0 "$f") || exit 1; echo "{path} $text"; fi'


def parse(lines: Iterable[str]) -> dict[str, str]:
    """What `command` printed: path → content."""
    found = {}
    for line in lines:
        path, _, content = line.rpartition(" ")
        found[path] = base64.b64decode(content).decode(errors="replace")
    return found


class FileContents(FactBase[dict[str, str]]):
    """The content of files, path → content; a file that is not there is left out."""

    def command(self, paths: list[str]) -> str:
        """+ paths: absolute paths"""
        return command(map(shlex.quote, paths))

    @staticmethod
    def default() -> dict[str, str]:
        """No file is there."""
        return {}

    @fact("files")
    def process(self, output: list[str]) -> dict[str, str]:
        return parse(output)
