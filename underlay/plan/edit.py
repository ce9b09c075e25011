"""The text of a plan with a host's `published` put in or taken out, or with more hosts; all else stays as it is.

The texts are of plans that were read without an error, and have the host.
"""

import ast
import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path

from underlay.plan.model import REPO

_LINE_END = re.compile(rb"(,?)([ \t]*(?:#[^\r\n]*)?)(\r?\n)")
"""What follows an item that is the last one of its line."""


def difference(path: Path, new: str) -> str:
    """What another text changes in the file of a plan, as `git apply` takes it."""
    inside = path.is_relative_to(REPO)
    old, now = (f"{side}/{path.relative_to(REPO)}" if inside else str(path) for side in "ab")
    return "".join(difflib.unified_diff(path.read_text().splitlines(True), new.splitlines(True), old, now, n=1))


def published_in(text: str, name: str, address: str, ports: Sequence[str] = ()) -> str:
    """The text in which a host that has no `published` gets it, behind its addresses; ports: none for all of them."""
    source = text.encode()
    key, value = _item(_host(source, name), "addresses")
    end = after = _end(source, value)
    value_text = json.dumps({"address": address, "ports": [*ports]} if ports else address)
    new = f'"published": {value_text}'.encode()
    indent = _indent(source, key)
    rest = _LINE_END.match(source, end)
    if indent is None or rest is None:
        new = b", " + new
    else:
        # A line of its own, and the comma that may be missing before it.
        new = b"," + rest[2] + rest[3] + indent + new + b","
        after = rest.start(3)
    return (source[:end] + new + source[after:]).decode()


def unpublished_in(text: str, name: str) -> str:
    """The text in which a host has no `published` any more."""
    source = text.encode()
    host = _host(source, name)
    key, value = _item(host, "published")
    begin, end = _start(source, key), _end(source, value)
    indent = _indent(source, key)
    rest = _LINE_END.match(source, end)
    before = max((_end(source, other) for other in host.values if _end(source, other) < begin), default=begin)
    if indent is not None and rest:
        begin, end = begin - len(indent), rest.end()
    elif before < begin and b"#" not in source[before:begin]:
        begin = before
    else:
        end = _behind(rb"[ \t]*,?[ \t]*", source, end)
    return (source[:begin] + source[end:]).decode()


def with_hosts(text: str, lines: Sequence[str]) -> str:
    """The text with further lines behind its last host."""
    source = text.encode()
    hosts = _hosts(source)
    last = _end(source, hosts.values[-1])
    comma = _behind(rb"\s*,", source, last)
    comma = comma if comma != last else -1
    rest = _LINE_END.match(source, last)
    # Behind the line, with its comment, of the last host; before the brace where that is on the same line.
    at = rest.start(3) if rest else comma if comma > 0 else last
    middle = source[last:at]
    head = source[:last] + (b"" if comma > 0 else b",") + middle
    new = ("\n" + "\n".join(lines)).encode()
    tail = source[at:]
    return (head + new + (b"" if rest else b"\n") + tail).decode()


def _hosts(source: bytes) -> ast.Dict:
    for node in ast.parse(source).body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id="hosts")], value=ast.Dict() as hosts)
                | ast.AnnAssign(target=ast.Name(id="hosts"), value=ast.Dict() as hosts)
            ):
                return hosts
    raise KeyError("hosts")


def _host(source: bytes, name: str) -> ast.Dict:
    _, host = _item(_hosts(source), name)
    assert isinstance(host, ast.Dict)
    return host


def _item(entry: ast.Dict, name: str) -> tuple[ast.expr, ast.expr]:
    for key, value in zip(entry.keys, entry.values, strict=True):
        if isinstance(key, ast.Constant) and key.value == name:
            return key, value
    raise KeyError(name)


def _offset(source: bytes, line: int, column: int) -> int:
    return sum(map(len, source.splitlines(keepends=True)[: line - 1])) + column


def _start(source: bytes, node: ast.expr) -> int:
    return _offset(source, node.lineno, node.col_offset)


def _end(source: bytes, node: ast.expr) -> int:
    """Where a value ends, with the parentheses that it may stand in: those are no part of a node."""
    assert node.end_lineno is not None
    assert node.end_col_offset is not None
    end = _offset(source, node.end_lineno, node.end_col_offset)
    return _behind(rb"(?:\s*\))*", source, end)


def _behind(pattern: bytes, source: bytes, at: int) -> int:
    """Where that ends which begins here, by a pattern that also takes nothing."""
    found = re.compile(pattern).match(source, at)
    return found.end() if found else at


def _indent(source: bytes, node: ast.expr) -> bytes | None:
    """The blanks before a node that begins its line; None if something else is there."""
    before = source[_offset(source, node.lineno, 0) : _start(source, node)]
    return before if not before.strip() else None
