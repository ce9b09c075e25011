"""What sysctls will be after the next boot, by systemd-sysctl's own order. Pure.

sysctl.d(5): files in the order of their names, whichever folder they are in; of files with the same name that of the
first folder; an empty one, or a link to /dev/null, hides those behind it. The last assignment of a key wins, and a key
that is named anywhere is not set by a pattern. ufw sets its own after that.
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from underlay.compare.difference import Place

FOLDERS = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d")
UFW, UFW_SYSCTLS = "/etc/ufw/ufw.conf", "/etc/ufw/sysctl.conf"
PATTERNS = (*(f"{folder}/*.conf" for folder in FOLDERS), UFW, UFW_SYSCTLS)
"""All that is read of a host."""
FORWARD = "net/ipv4/ip_forward"
FORWARD_ALL = "net/ipv4/conf/all/forwarding"


@dataclass(frozen=True)
class Assignment:
    """A line that sets a key, or, with `value` None, keeps patterns from it; `key` is a path below /proc/sys."""

    place: Place
    key: str
    value: str | None


def path_of(key: str) -> str:
    """`net.ipv4.ip_forward` as a path: the first separator tells which of both forms a key has."""
    separator = re.search(r"[./]", key)
    if separator and separator[0] == ".":
        key = key.translate(str.maketrans("./", "/."))
    return re.sub("/+", "/", key).strip("/")


def _lines(path: str, text: str) -> Iterable[Assignment]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.strip()
        if not words or words[0] in "#;":
            continue
        key, equals, value = words.partition("=")
        if not equals and not key.startswith("-"):
            continue  # no assignment: systemd-sysctl passes over it
        key = path_of(key.removeprefix("-").strip())
        yield Assignment(Place(path, number, words), key, value.strip() if equals else None)


def in_order(files: Mapping[str, str]) -> list[str]:
    """The paths of the files that systemd-sysctl reads, in its order."""
    chosen: dict[str, str] = {}
    for folder in FOLDERS:
        for path in files:
            where = PurePosixPath(path)
            if str(where.parent) == folder and where.suffix == ".conf":
                chosen.setdefault(where.name, path)
    return [path for _, path in sorted(chosen.items())]


def at_boot(files: Mapping[str, str], keys: Iterable[str]) -> dict[str, Assignment]:
    """For each of these keys (paths) the assignment that decides it, where there is one; `files`: path → text."""
    options: dict[str, Assignment] = {}
    for path in in_order(files):
        for each in _lines(path, files[path]):
            # One that repeats an earlier value keeps its place.
            if each.key not in options or options[each.key].value != each.value:
                options.pop(each.key, None)
                options[each.key] = each
    written: dict[str, Assignment] = {}
    for option in options.values():
        if option.value is None:
            continue
        if not set(option.key) & set("*?["):
            _write(written, option, option.key)
            continue
        for key in dict.fromkeys([*keys, FORWARD, FORWARD_ALL]):
            if key not in options and _fits(key, option.key):
                _write(written, option, key)
    if re.search(r"^\s*ENABLED\s*=\s*[\"']?yes", files.get(UFW, ""), re.MULTILINE | re.IGNORECASE):
        for each in _lines(UFW_SYSCTLS, files.get(UFW_SYSCTLS, "")):
            _write(written, each, each.key)
    return {key: written[key] for key in keys if key in written}


def _write(written: dict[str, Assignment], option: Assignment, key: str) -> None:
    """What the kernel makes of it: forwarding of all is forwarding of each."""
    written[key] = option
    if key in (FORWARD, FORWARD_ALL):
        written[FORWARD] = written[FORWARD_ALL] = option
        for each in list(written):
            if re.fullmatch("net/ipv4/conf/[^/]+/forwarding", each):
                written[each] = option


def _fits(key: str, pattern: str) -> bool:
    parts, patterns = key.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))
