"""The files of a host beside what they must be. Pure."""

import difflib
from collections.abc import Mapping

from underlay.compare.difference import Difference, File


def file_difference(path: str, wanted: str, present: Mapping[str, str]) -> Difference | None:
    """What differs in one file, if anything does; `present` is path → text of those that are there."""
    found = present.get(path)
    if found == wanted:
        return None
    return Difference("missing" if found is None else "differs", File(path, wanted), found)


def boot_differences(wanted: Mapping[str, str], present: Mapping[str, str]) -> list[Difference]:
    """What differs in the files of which the network is made at a boot: those that are wanted, then what must go."""
    paths = [path for path, content in wanted.items() if present.get(path) != content]
    paths += [path for path in present if path not in wanted]
    return [Difference("differs", File(path, wanted.get(path), boot=True), present.get(path)) for path in paths]


def lines(difference: Difference) -> list[str]:
    """The lines of a file that differ, as a unified diff."""
    file, present = difference.thing, difference.found
    assert isinstance(file, File)
    assert present is None or isinstance(present, str)
    old, new = (present or "").splitlines(), (file.content or "").splitlines()
    names = ("/dev/null" if present is None else file.path, "/dev/null" if file.content is None else file.path)
    return list(difflib.unified_diff(old, new, *names, lineterm="", n=1))
