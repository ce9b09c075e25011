"""What invoke lacks: a positional argument that can be left out, as in `invoke deploy [ROLE]`."""

from typing import Any

from invoke.parser.parser import ParseMachine

_complete_context = ParseMachine.complete_context


def _complete_context_with_optional(machine: Any) -> Any:
    # A task says so with `positional=["x"], optional=["x"]` and a default of None; left out, its value is "".
    for argument in machine.context.missing_positional_args if machine.context else ():
        if argument.optional:
            argument.set_value("", cast=False)
    return _complete_context(machine)


def allow_optional_positionals() -> None:
    """From now on a task's positional arguments that are also `optional` may be left out."""
    ParseMachine.complete_context = _complete_context_with_optional  # type: ignore[method-assign, assignment]
