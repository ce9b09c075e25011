"""What invoke lacks with arguments: a positional one that can be left out, or is several; `TASK --help`; none is empty.

And its own options (`-T abc`, `--config nosuch`) end in one line, too.
"""

from typing import Any

from invoke.exceptions import ParseError
from invoke.parser.parser import ParseMachine
from invoke.program import Program

from underlay.text import is_blank

_complete_context = ParseMachine.complete_context
_see_positional_arg = ParseMachine.see_positional_arg
_handle = ParseMachine.handle
_parse_core = Program.parse_core
_parse_tasks = Program.parse_tasks
_update_config = Program.update_config
_list_tasks = Program.list_tasks
FORMATS = ("flat", "nested", "json")
"""How invoke can list tasks."""


def _complete_context_with_optional(machine: Any) -> Any:
    # A task says so with `positional=["x"], optional=["x"]` and a default of None; left out, its value is "".
    help_wanted = machine.initial.flags["--help"].value
    for argument in machine.context.missing_positional_args if machine.context else ():
        if argument.optional or help_wanted:
            argument.set_value("", cast=False)
    return _complete_context(machine)


def _see_positional_arg_or_help(machine: Any, value: str) -> None:
    if value in ("-h", "--help"):
        machine.initial.flags["--help"].value = machine.context.name
    else:
        _see_positional_arg(machine, value)


def _handle_but_nothing(machine: Any, token: str) -> None:
    # All that is on the command line comes by here, also a value after a `=`. Left out would mean "all of them".
    if is_blank(token):
        where = f"the argument after {machine.before!r}" if hasattr(machine, "before") else "the first argument"
        raise ParseError(f"error: {where} is empty: leave it out, or say what is meant (is a variable not set?)")
    machine.before = token
    words = _several(machine)
    # invoke takes as many positional arguments as a task has; one that is a list takes all words that follow.
    if words is None or machine.waiting_for_flag_value or token.startswith("-"):
        _handle(machine, token)
    else:
        words.set_value(token)


def _several(machine: Any) -> Any:
    arguments = machine.context.positional_args if machine.context else ()
    return next((each for each in arguments if each.kind is list), None)


def _parse_tasks_and_no_more(program: Any) -> None:
    if "--" in program.argv:
        raise ParseError("error: no command takes anything after `--`: leave it out")
    _parse_tasks(program)


def _parse_core_or_say(program: Any, argv: Any) -> None:
    try:
        _parse_core(program, argv)
    except ValueError as error:
        raise ParseError(f"error: an option of invoke's takes a whole number: {error}") from None


def _update_config_or_say(program: Any, merge: bool = True) -> None:
    try:
        _update_config(program, merge)
    except Exception as error:  # noqa: BLE001 (a file of any form)
        raise ParseError(f"error: {program.args.config.value}: {error}") from None


def _list_tasks_or_say(program: Any) -> None:
    if program.list_format not in FORMATS:
        raise ParseError(f"error: --list-format is one of {', '.join(FORMATS)}, not {program.list_format!r}")
    _list_tasks(program)


def strict_arguments() -> None:
    """From now on an empty argument is an error, a positional one that is also `optional` may be left out.

    Asking for help is no argument. What is wrong with an option of invoke's own is told in one line.
    """
    Program.parse_core = _parse_core_or_say  # type: ignore[method-assign, assignment]
    Program.update_config = _update_config_or_say  # type: ignore[method-assign, assignment]
    Program.list_tasks = _list_tasks_or_say  # type: ignore[method-assign, assignment]
    ParseMachine.complete_context = _complete_context_with_optional  # type: ignore[method-assign, assignment]
    ParseMachine.see_positional_arg = _see_positional_arg_or_help  # type: ignore[method-assign, assignment]
    ParseMachine.handle = _handle_but_nothing  # type: ignore[method-assign, assignment]
    Program.parse_tasks = _parse_tasks_and_no_more  # type: ignore[method-assign, assignment]
