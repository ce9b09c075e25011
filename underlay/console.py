"""Where people are shown things."""

import sys
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from underlay.text import printable, raw

PAGE = 160
"""Columns where there is no terminal."""


class _Shown:
    """Something to show, of which a terminal obeys nothing but what rich makes of it."""

    def __init__(self, thing: ConsoleRenderable) -> None:
        self._thing = thing

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self._thing, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class _Harmless(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Shown(each) for each in renderables]


def screen(*, stderr: bool = False, **options: Any) -> Console:
    """A console of rich, with its options, that shows text of others as text."""
    found = Console(file=raw(sys.stderr if stderr else sys.stdout), **options)
    found.push_render_hook(_Harmless())
    return found


def console() -> Console:
    """The terminal, or a wide page where there is none."""
    terminal = screen()
    # A pipe has no width; rules must not be cut there.
    return terminal if terminal.is_terminal else screen(width=PAGE)
