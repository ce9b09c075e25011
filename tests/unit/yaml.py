"""A reader of the YAML that `nodes.kubeadm_file` writes: blocks, JSON's texts, numbers; anything else is an error."""

import json
import re
from typing import Any

_PAIR = re.compile(r"(?P<key>[A-Za-z-]+):(?: (?P<value>.+))?")


def documents(text: str) -> list[Any]:
    """The documents of a text, without its comments."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found: list[list[str]] = [[]]
    for line in lines:
        if line == "---":
            found.append([])
        else:
            found[-1].append(line)
    return [_block(part, 0) for part in found]


def _block(lines: list[str], indent: int) -> Any:
    value = _list(lines, indent) if lines[0].strip().startswith("- ") else _object(lines, indent)
    assert not lines or len(lines[0]) - len(lines[0].lstrip()) < indent, lines
    return value


def _here(lines: list[str], indent: int) -> bool:
    return bool(lines) and lines[0].startswith(" " * indent) and lines[0][indent] != " "


def _list(lines: list[str], indent: int) -> list[Any]:
    found = []
    while _here(lines, indent):
        item = lines[0][indent:]
        assert item.startswith("- "), item
        if _PAIR.fullmatch(item[2:]):
            lines[0] = " " * (indent + 2) + item[2:]
            found.append(_object(lines, indent + 2))
        else:
            found.append(_scalar(lines.pop(0)[indent + 2 :]))
    return found


def _object(lines: list[str], indent: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    while _here(lines, indent) and not lines[0][indent:].startswith("- "):
        pair = _PAIR.fullmatch(lines.pop(0)[indent:])
        assert pair
        assert pair["key"] not in found
        found[pair["key"]] = _scalar(pair["value"]) if pair["value"] else _block(lines, indent + 2)
    return found


def _scalar(text: str) -> Any:
    if text[0] == '"' or re.fullmatch(r"true|false|null|-?\d+", text):
        return json.loads(text)
    # Plain, YAML takes these for something else, or for nothing that is one value.
    assert not re.search(r"^[-?:,\[\]{}#&*!|>%@`' ]|: | #|:$|\s$", text), text
    assert not re.fullmatch(r"(?i)yes|no|on|off|true|false|null|~|[-+.\d].*", text), text
    return text
