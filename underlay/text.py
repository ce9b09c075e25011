"""Text of others on its way to a person: words that a shell must take as words, characters that a terminal would obey.

What hosts say (names, comments, errors) may hold anything. It is kept as it is inside, and made harmless where it is
shown: `shown_safely` is around every command, `command` and `argument` are around every word that is to be pasted.
"""

import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

TAB = 8
_COLOURS = re.compile(r"(\x1b\[(?:[01]|3[1-6]|9[1-6])m)")
"""What pyinfra sets and takes back: it makes nothing invisible and moves nothing."""
_PROGRESS = re.compile(r"\x1b\[K|[^\x00-\x1f\x7f-\x9f]+\r|\x1b\[1A *\x1b\[1A\n?")
"""What pyinfra writes, by itself, to a terminal: text of others is always written with the end of its line."""


def command(*words: object) -> str:
    """Words as a command line: a shell takes each as one word, whatever is in it."""
    return shlex.join(map(str, words))


def argument(line: str) -> str:
    """A command line as one argument of another one: of `./inv ssh HOST …`, say."""
    return f'"{line}"' if not re.search(r'["$`\\!]', line) else shlex.quote(line)


def is_blank(text: str) -> bool:
    """Whether nothing is in it that can be seen: where a word is meant, a variable that is not set, most likely."""
    return not any(each.isprintable() and not each.isspace() for each in text)


def printable(text: str) -> str:
    """Text that a terminal only shows: all else but the end of a line is escaped in the way of JSON, `\\u001b`.

    That is control characters (C0, DEL, C1), with them every escape sequence, and what reorders or hides text (format
    characters of Unicode). A tab becomes spaces.
    """
    return "\n".join(_line(line) for line in text.split("\n"))


def one_line(text: str) -> str:
    """As `printable`, in a place where there is room for a line only."""
    return _line(text.replace("\n", " "))


def _line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in text.expandtabs(TAB))


def _escaped(character: str) -> str:
    # JSON stays JSON, with the same data in it. DEL is the one that `dumps` leaves alone.
    return "\\u007f" if character == "\x7f" else json.dumps(character)[1:-1]


class Safe(io.TextIOBase):
    """A stream that writes text so that it is only shown; `raw` is the one behind it.

    colours: leave the colours that pyinfra sets, and how it shows progress
    """

    def __init__(self, raw: TextIO, colours: bool = False) -> None:
        self.raw = raw
        self._colours = colours

    def write(self, text: str) -> int:
        if self._colours and _PROGRESS.fullmatch(text):
            self.raw.write(text)
        elif self._colours:
            parts = _COLOURS.split(text)
            self.raw.write("".join(part if index % 2 else printable(part) for index, part in enumerate(parts)))
        else:
            self.raw.write(printable(text))
        return len(text)

    def flush(self) -> None:
        self.raw.flush()

    def isatty(self) -> bool:
        return self.raw.isatty()

    def fileno(self) -> int:
        return self.raw.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream behind it."""
        return self.raw.encoding


def raw(stream: TextIO) -> TextIO:
    """The stream behind a safe one: for what is not text of others, and must come out as it is."""
    return stream.raw if isinstance(stream, Safe) else stream


def make_safe(*, colours: bool = False) -> None:
    """From now on whatever this process prints is only shown."""
    sys.stdout, sys.stderr = (Safe(raw(each), colours) for each in (sys.stdout, sys.stderr))


@contextmanager
def shown_safely() -> Iterator[None]:
    """Whatever is printed meanwhile is only shown."""
    before = sys.stdout, sys.stderr
    make_safe()
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
