"""Where people are shown things."""

from rich.console import Console


def console() -> Console:
    """The terminal, or a wide page where there is none."""
    terminal = Console()
    # A pipe has no width; rules must not be cut there.
    return terminal if terminal.is_terminal else Console(width=160)
