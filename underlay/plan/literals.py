"""Data files in Python syntax, read without running them: values with the line each of them stands on."""

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import TextWrapper
from typing import Any

from underlay.plan import given

Keys = tuple[str, ...]

_SHOWN = 60  # characters of a wrong value that an error repeats
_PLAIN = "write the value itself: no code, names or calls here"
_QUOTE = "write each key as a text in quotes"
_WRAP = TextWrapper(120, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a data file: where, what, and how to fix it."""

    line: int
    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return "\n".join(map(_WRAP.fill, (f"  line {self.line}: {self.where}: {self.what}", f"    fix: {self.fix}")))


@dataclass
class Literals:
    """What a data file holds.

    values: the names assigned at the top level, with plain values
    lines: for each path of keys, e.g. `("hosts", "lb", "published")`, the line it stands on
    problems: duplicate keys and anything that is not plain data
    broken: the paths whose value, or one of whose keys, is one of the problems and therefore not in `values`
    """

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Keys, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    broken: set[Keys] = field(default_factory=set)

    def line(self, *keys: str) -> int:
        """The line of a path of keys, or of the nearest parent that has one (1 for the file itself)."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)

    def is_broken(self, *keys: str) -> bool:
        """Whether nothing is known about a path of keys, because it, or what lacks it, is one of the problems."""
        return keys in self.broken or (bool(keys) and keys not in self.lines and self.is_broken(*keys[:-1]))


def dotted(keys: Keys) -> str:
    """`("hosts", "lb")` as people write it: `hosts.lb`."""
    return ".".join(key if re.fullmatch(r"[\w-]+", key) else shown(key) for key in keys)


def shown(value: object) -> str:
    """A value as an error repeats it: as Python writes it, on one line and not too long."""
    try:
        text = ascii(value)
    except ValueError:  # Python writes no integer of more than 4300 digits
        text = "the number"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def read(path: Path) -> Literals:
    """Read a data file. Raises OSError, or SyntaxError for one that is not Python."""
    found = Literals()
    for node in _parse(path).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                if (name,) in found.lines:
                    found.problems.append(_duplicate(found, (name,), node.lineno))
                    continue
                found.lines[name,] = node.lineno
                found.values[name] = _value(value, (name,), found)
            case ast.Expr(value=ast.Constant()):
                pass  # the docstring
            case _:
                _not_data(found, (), node.lineno)
    return found


def _parse(path: Path) -> ast.Module:
    try:
        # Bytes, so that Python finds out the encoding as it does for every source file.
        return ast.parse(given.content(path), str(path))
    except (ValueError, MemoryError, RecursionError) as error:  # a null byte; nested too deeply
        raise SyntaxError(str(error) or "nested too deeply") from error


def _value(node: ast.expr, keys: Keys, found: Literals) -> Any:
    match node:
        case ast.Dict():
            values: dict[str, Any] = {}
            for key_node, value_node in zip(node.keys, node.values, strict=True):
                if not isinstance(key_node, ast.Constant) or not isinstance(key_node.value, str):
                    found.broken.add(keys)
                    line = (key_node or value_node).lineno
                    found.problems.append(Problem(line, dotted(keys), "has a key that is not a text", _QUOTE))
                    continue
                path = (*keys, key_node.value)
                if key_node.value in values:
                    found.problems.append(_duplicate(found, path, key_node.lineno))
                    continue
                found.lines[path] = key_node.lineno
                values[key_node.value] = _value(value_node, path, found)
            return values
        case ast.List() | ast.Tuple():
            items = []
            for index, item in enumerate(node.elts):
                path = (*keys, str(index))
                found.lines[path] = item.lineno
                items.append(_value(item, path, found))
            return items
        case _:
            try:
                return ast.literal_eval(node)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                _not_data(found, keys, node.lineno)
                return None


def _duplicate(found: Literals, keys: Keys, line: int) -> Problem:
    first = found.lines[keys]
    return Problem(line, dotted(keys), f"is there twice (first on line {first})", "rename or delete one of the two")


def _not_data(found: Literals, keys: Keys, line: int) -> None:
    found.broken.add(keys)
    found.problems.append(Problem(line, dotted(keys) or "the file", "is not plain data", _PLAIN))
