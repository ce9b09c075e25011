"""How a command ends: the exit codes of all of them, and a mistake of a person as one report without a traceback."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from underlay.text import is_blank, shown_safely

GOOD = 0
"""As it should be, or done."""
COULD_NOT = 1
"""Could not be done or looked at: a mistake in a command or the plan, a host that can't be reached."""
WRONG = 2
"""Looked at, and something is wrong or would change; done, but not with all of it."""
INTERRUPTED = 130
"""Ended by Ctrl-C, in the way of shells."""


def exit_code(*, wrong: object, unread: object) -> int:
    """The exit code of a look at the site: what is wrong counts for more than what could not be looked at."""
    return WRONG if wrong else COULD_NOT if unread else GOOD


class OperatorError(Exception):
    """What a person can fix; `str()` says what, where and how, in one line unless its class says otherwise."""


@contextmanager
def report_and_exit() -> Iterator[None]:
    """Turn an OperatorError into its text and exit code COULD_NOT, Ctrl-C into INTERRUPTED.

    So it does with what this machine refuses (REFUSED), also if that is the last line of the output.
    It is around every command: what is printed meanwhile is only shown, whoever wrote it (see `text`).
    """
    with shown_safely():
        try:
            with _written():
                _no_empty_variables()
                yield
        except OperatorError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(COULD_NOT) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except REFUSED as error:
            _tell(error)
            raise SystemExit(COULD_NOT) from None


def _no_empty_variables() -> None:
    for name, value in os.environ.items():
        if name.startswith("UNDERLAY_") and is_blank(value):
            raise OperatorError(f"{name} is set, but empty: unset it, or say what is meant")


REFUSED = (OSError, UnicodeError, MemoryError)
"""What a command does not expect of this machine: no room, no right, a name too long, a program or file not there."""


def refusal(error: BaseException) -> str:
    """What this machine refused, in one line; empty where nobody is left who would read it."""
    match error:
        case BrokenPipeError():
            return ""  # `| head` has read enough
        case OSError(strerror=str(what)):
            where = error.filename if isinstance(error.filename, str | bytes) else ""
            name = os.fsdecode(where)
            return f"{name}: {what}" if name else what
        case MemoryError():
            return "there is not enough memory"
    return " ".join(str(error).split()) or type(error).__name__


def ready() -> None:
    """Get a process ready to be a command, from its first line on, whoever started it, however.

    Its output is written line by line, and in no encoding that lacks a character; what this machine refuses outside of
    any command ends in one line, too. Raises SystemExit where it has no stdout: the first file that it opened would be
    taken for that.
    """
    sys.excepthook = _uncaught
    closed = sys.stdout is None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # in the order of their numbers
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (the lowest number that is free: this one)
    if closed:
        print("error: stdout is closed: send it to a file, or to /dev/null", file=sys.stderr)
        raise SystemExit(COULD_NOT)
    # Progress of the parts belongs before what follows it, also into a pipe.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]


@contextmanager
def _written() -> Iterator[None]:
    try:
        yield
    finally:
        sys.stdout.flush()


def _tell(error: BaseException) -> None:
    with suppress(OSError):  # stderr is what can't be written, too
        if said := refusal(error):
            print(f"error: {said}", file=sys.stderr, flush=True)
    # What was not written is tried again when Python ends, with a traceback and an exit code of its own.
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(null, stream.fileno())
    os.close(null)


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, REFUSED):
        _tell(error)
    else:
        sys.__excepthook__(kind, error, trace)
