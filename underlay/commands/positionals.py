"""What invoke lacks with positional arguments: one that can be left out, and `invoke TASK --help`."""

from typing import Any

from invoke.parser.parser import ParseMachine

_complete_context = ParseMachine.complete_context
_see_positional_arg = ParseMachine.see_positional_arg


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


def allow_optional_positionals() -> None:
    """From now on a positional argument that is also `optional` may be left out, and asking for help is no argument."""
    ParseMachine.complete_context = _complete_context_with_optional  # type: ignore[method-assign, assignment]
    ParseMachine.see_positional_arg = _see_positional_arg_or_help  # type: ignore[method-assign, assignment]
