"""Data files in Python syntax, read without running them: values with the line each of them stands on."""

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Keys = tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a data file: where, what, and how to mend it."""

    line: int
    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"  line {self.line}: {self.where}: {self.what}\n    mend: {self.mend}"


@dataclass
class Literals:
    """What a data file holds.

    values: the names assigned at the top level, with plain values
    lines: for each path of keys, e.g. `("hosts", "lb", "published")`, the line it stands on
    problems: duplicate keys and anything that is not plain data
    """

    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Keys, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, *keys: str) -> int:
        """The line of a path of keys, or of the nearest parent that has one (1 for the file itself)."""
        while keys and keys not in self.lines:
            keys = keys[:-1]
        return self.lines.get(keys, 1)


def dotted(keys: Keys) -> str:
    """`("hosts", "lb")` as people write it: `hosts.lb`."""
    return ".".join(keys)


def read(path: Path) -> Literals:
    """Read a data file. OSError and SyntaxError are the caller's to report."""
    found = Literals()
    for node in ast.parse(path.read_text(), str(path)).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                if name in found.values:
                    found.problems.append(_duplicate(found, (name,), node.lineno))
                    continue
                found.lines[name,] = node.lineno
                found.values[name] = _value(value, (name,), found)
            case ast.Expr(value=ast.Constant()):
                pass  # the docstring
            case _:
                found.problems.append(_not_data(node.lineno, "the file"))
    return found


def _value(node: ast.expr, keys: Keys, found: Literals) -> Any:
    match node:
        case ast.Dict():
            values: dict[str, Any] = {}
            for key_node, value_node in zip(node.keys, node.values, strict=True):
                if not isinstance(key_node, ast.Constant) or not isinstance(key_node.value, str):
                    found.problems.append(_not_data((key_node or value_node).lineno, dotted(keys)))
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
            except ValueError:
                found.problems.append(_not_data(node.lineno, dotted(keys)))
                return None


def _duplicate(found: Literals, keys: Keys, line: int) -> Problem:
    return Problem(
        line, dotted(keys), f"is there twice (first on line {found.lines[keys]})", "rename or delete one of the two"
    )


def _not_data(line: int, where: str) -> Problem:
    return Problem(line, where, "is not plain data", "write the value itself: no code, names or calls here")
