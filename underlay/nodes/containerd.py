"""What a node needs of containerd, put into the configuration that the host has. Pure.

One file is changed, whoever wrote it, and not a drop-in added: containerd 1.x takes, of two files that say something of
a plugin, the later one's words alone (2.0 joins them), and Debian's file says where the CNI's programs are. What is put
in bears a mark, what it replaces stays as a comment. That nothing else changes is proven by reading both texts: where
they differ in more than was meant, the file is left alone.
"""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

MARK = "# underlay"
WAS = "# underlay, was: "
EFFECTIVE = ("sandbox_image", "sandbox", "SystemdCgroup")
"""What pods fail without, in the names of both versions."""
CNI = "/opt/cni/bin"
"""Where Calico, Cilium, Flannel and kubernetes-cni put their programs; Debian's file names another folder."""
RUNC = {"runtime_type": "io.containerd.runc.v2", "options": {"SystemdCgroup": True}}
"""With its options alone it would have no type: a runtime that is named has no defaults."""
Tree = dict[str, Any]


class OddConfigError(ValueError):
    """A configuration that can't be changed without a risk; `str()` says why."""


def wanted(version: int, pause: str) -> Tree:
    """What a node needs, in a file of this version: 2 is for containerd 1.3 and later, 3 for 2.0 and later."""
    if version == 2:
        return {
            "version": 2,
            "plugins": {
                "io.containerd.grpc.v1.cri": {
                    "sandbox_image": pause,
                    "containerd": {"runtimes": {"runc": RUNC}},
                    "cni": {"bin_dir": CNI},
                }
            },
        }
    return {
        "version": 3,
        "plugins": {
            "io.containerd.cri.v1.images": {"pinned_images": {"sandbox": pause}},
            "io.containerd.cri.v1.runtime": {"containerd": {"runtimes": {"runc": RUNC}}, "cni": {"bin_dir": CNI}},
        },
    }


def merged(text: str, major: int, pause: str) -> str:
    """The configuration with what a node needs in it; the same if it has that already.

    text: of the file, empty if there is none; major: of containerd's version
    Raises OddConfigError.
    """
    there = _read(text)
    version: object = there.get("version")
    if version is None and not {"plugins", "plugin_dir", "grpc"} & there.keys():
        version = 2 if major < 2 else 3
    if not isinstance(version, int) or version not in ((2,) if major < 2 else (2, 3)):
        said = "1, which it has by having none" if version is None else version
        raise OddConfigError(f"it is of version {said}: containerd {major} can be told more in one of version 2")
    need = wanted(version, pause)
    if "cri" in there.get("disabled_plugins", ()):
        need["disabled_plugins"] = [each for each in there["disabled_plugins"] if each != "cri"]
    found = text
    try:
        for path, value in _leaves(need):
            if _at(_read(found), path) != value:
                found = _put(found, path, value)
        good = _read(found) == _joined(there, need)
    except OddConfigError:
        good = False
    if not good:
        raise OddConfigError("it is written in a way that can't be changed without a risk")
    return found


def overruled(dump: str, pause: str) -> list[str]:
    """What containerd makes of all its files otherwise than a node needs, as `KEY is VALUE`.

    dump: what `containerd config dump` prints. Raises OddConfigError.
    """
    there = _read(dump)
    need = wanted(2 if there.get("version") == 2 else 3, pause)
    found = [(path, value, _at(there, path)) for path, value in _leaves(need) if path[-1] in EFFECTIVE]
    return [f"{path[-1]} is {json.dumps(seen)}" for path, value, seen in found if seen != value]


def by_hand(major: int, pause: str) -> list[str]:
    """What a person writes who changes the file, each as `KEY.KEY… = VALUE`."""
    return [f"{_keys(path)} = {json.dumps(value)}" for path, value in _leaves(wanted(2 if major < 2 else 3, pause))]


def _keys(path: Sequence[str]) -> str:
    return ".".join(each if re.fullmatch("[A-Za-z0-9_-]+", each) else json.dumps(each) for each in path)


def _read(text: str) -> Tree:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise OddConfigError(f"it is no TOML: {error}") from None


def _leaves(tree: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for key, value in tree.items():
        found += _leaves(value, (*path, key)) if isinstance(value, dict) else [((*path, key), value)]
    return found


def _at(tree: Tree, path: tuple[str, ...]) -> Any:
    value: Any = tree
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _joined(tree: Tree, other: Tree) -> Tree:
    found = dict(tree)
    for key, value in other.items():
        mine = found.get(key)
        found[key] = _joined(mine, value) if isinstance(value, dict) and isinstance(mine, dict) else value
    return found


_HEADER = re.compile(r"\s*\[(?!\[)(?P<keys>.+)\]\s*(#.*)?")
_KEY = re.compile(r"""\s*(?:([A-Za-z0-9_-]+)|"([^"\\]*)"|'([^']*)')\s*(\.|$)""")


def _table(line: str) -> tuple[str, ...] | None:
    """The keys of a line that begins a table, nothing that is a key for one of another kind; None for another line."""
    header = _HEADER.fullmatch(line)
    keys, rest = [], header["keys"] if header else ""
    while rest and (key := _KEY.match(rest)):
        keys.append(next(each for each in key.groups()[:3] if each is not None))
        rest = rest[key.end() :]
    return tuple(keys) if header and not rest else ("[",) if re.match(r"\s*\[", line) else None


def _put(text: str, path: tuple[str, ...], value: object) -> str:
    """A value put into the text: in the place of another one, into its table, or with a table behind all else."""
    lines = text.splitlines()
    *table, key = path
    # JSON's texts, lists and truths are TOML's, too.
    new = f"{key} = {json.dumps(value)}  {MARK}"
    begin = next((number for number, line in enumerate(lines) if _table(line) == tuple(table)), -1)
    if begin < 0 and table:
        return "".join(f"{line}\n" for line in [*lines, f"[{_keys(table)}]  {MARK}", new])
    first = begin + 1
    end = next((number for number in range(first, len(lines)) if _table(lines[number]) is not None), len(lines))
    for number in range(first, end):
        if re.match(rf"\s*{re.escape(key)}\s*=", lines[number]):
            old, indent = lines[number].strip(), _indent(lines[number])
            lines[number : number + 1] = [indent + new] if MARK in old else [f"{indent}{WAS}{old}", indent + new]
            break
    else:
        lines.insert(first, (_indent(lines[begin]) if table else "") + new)
    return "".join(f"{line}\n" for line in lines)


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]
