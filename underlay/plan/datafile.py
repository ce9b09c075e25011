"""A data file as its model: read, validated, and one report of all that is wrong with it."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from underlay.errors import OperatorError
from underlay.plan import literals
from underlay.plan.literals import Keys, Literals, Problem, dotted, shown
from underlay.plan.model import Frozen, shown_path
from underlay.plan.values import MistakeError


class PlanError(OperatorError):
    """A data file that can't be used; `str()` is the whole report, ready for a person."""


def read_literals(path: Path) -> Literals:
    """Read a data file, with PlanError for one that is missing or is not Python."""
    try:
        return literals.read(path)
    except OSError as error:
        raise PlanError(
            f"{shown_path(path)}: can't be read: {error.strerror}\n    fix: name a file that can be"
        ) from error
    except SyntaxError as error:
        problem = Problem(error.lineno or 1, "the file", f"is not Python: {error.msg}", "fix the syntax")
        raise PlanError(report(path, [problem])) from error


def report(path: Path, problems: Iterable[Problem]) -> str:
    """The one error report about a data file: every problem in the order of its lines."""
    found = sorted(set(problems), key=lambda problem: (problem.line, problem.where, problem.what))
    count = f"{len(found)} error" + ("s" if len(found) > 1 else "")
    return "\n".join([f"{shown_path(path)}: {count}; nothing was changed", *map(str, found)])


Model = TypeVar("Model", bound=Frozen)


def validate(
    model: type[Model], value: object, keys: Keys, source: Literals, context: object = None
) -> Model | list[Problem]:
    """One part of a data file as its model, or what is wrong with it, each with its line and a fix.

    `context` is for the model's validators.
    What `source.problems` has already is not said again, so the list can be empty: report both together.
    """
    try:
        return model.model_validate(value, context=context)
    except ValidationError as error:
        return [
            _problem(model, dict(details), keys, source)
            for details in error.errors(include_url=False)
            if not source.is_broken(*keys, *map(str, details["loc"]))
        ]


def _problem(model: type[BaseModel], error: dict[str, Any], keys: Keys, source: Literals) -> Problem:
    path = (*keys, *map(str, error["loc"]))
    # What the file doesn't have (a missing key, a part's name, which is its key) is said of what should have it.
    written = path if path in source.lines and error["type"] != "extra_forbidden" else path[:-1]
    match error["type"]:
        case "value_error" if isinstance(mistake := error["ctx"]["error"], MistakeError):
            what, fix = str(mistake), mistake.fix
        case "missing":
            what, fix = f"has no {path[-1]!r}", f"add {path[-1]!r}"
        case "extra_forbidden":
            what, fix = unknown("key", path[-1], _known_keys(model, error["loc"][:-1]))
        case "literal_error":
            what, fix = unknown(path[-1], error["input"], re.findall(r"'([^']+)'", error["ctx"]["expected"]))
        case "dict_type" | "model_type" | "model_attributes_type":
            what, fix = f"{shown(error['input'])} is not a {{…}} of keys and values", _SEE
        case "string_type":
            what, fix = f"{shown(error['input'])} is not a text", "write a text in quotes"
        case "tuple_type":
            what, fix = f"{shown(error['input'])} is not a list", "write a list in […]"
        case "bool_type":
            what, fix = f"{shown(error['input'])} is neither True nor False", "write one of the two, without quotes"
        case "too_short":
            what, fix = "is empty", _SEE
        case _:
            what, fix = f"{shown(error['input'])}: {error['msg']}", _SEE
    return Problem(source.line(*path), dotted(written) or "the file", what, fix)


def _known_keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    kind: Any = model
    for key in loc:
        # A model's field, else what a dict holds.
        fields = getattr(kind, "model_fields", None)
        kind = fields[key].annotation if fields else get_args(kind)[-1]
        if type(None) in get_args(kind):
            kind = get_args(kind)[0]
    return [field.alias or name for name, field in kind.model_fields.items() if name != "name"]


_SEE = "see docs/plan.md for what belongs there"


def unknown(kind: str, name: object, known: Iterable[str]) -> tuple[str, str]:
    """What is wrong with a name that is not one of the known, and the fix: the one that was meant, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
    return f"unknown {kind} {shown(name)}", hint
