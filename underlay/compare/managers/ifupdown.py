"""Which NICs ifupdown brings up at a boot, by interfaces(5). Pure."""

import fnmatch
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from underlay.compare.difference import Place
from underlay.desired.hooks import INTERFACES, STANZA
from underlay.desired.routing import Address

PATTERNS = (INTERFACES, "/etc/network/interfaces.d/*")
RAISES = ("auto", "allow-auto", "allow-hotplug")


def stanzas(files: Mapping[str, str]) -> dict[str, Place]:
    """NIC → the line that configures it with an IPv4 address, of those that are brought up at a boot, without ours."""
    lines = [*_lines(files, INTERFACES, set())]
    raised = [name for words, _ in lines if words[0] in RAISES for name in words[1:]]
    return {
        words[1]: place
        for words, place in lines
        if words[0] == "iface"
        and words[2:3] in ([], ["inet"])
        and place.path != STANZA
        and any(fnmatch.fnmatchcase(words[1], name.lstrip("/")) for name in raised)
    }


def addresses(files: Mapping[str, str]) -> Iterator[Address]:
    """The addresses that the host's own stanzas give NICs."""
    nic, cidr, length = "", "", ""
    for words, place in [*_lines(files, INTERFACES, set()), (["iface"], Place("", 0, ""))]:
        if words[0] in ("iface", "auto", "mapping") or words[0].startswith("allow-"):
            if nic and cidr:
                yield Address(nic, cidr if "/" in cidr else f"{cidr}/{_bits(length)}")
            nic = words[1] if words[0] == "iface" and len(words) > 1 and place.path != STANZA else ""
            cidr = length = ""
        elif words[0] == "address" and len(words) > 1:
            cidr = words[1]
        elif words[0] == "netmask" and len(words) > 1:
            length = words[1]


def _bits(mask: str) -> str:
    """`255.255.255.0` or `24` → `24`."""
    parts = mask.split(".")
    dotted = len(parts) == 4 and all(part.isdecimal() for part in parts)
    return str(sum(int(part).bit_count() for part in parts)) if dotted else mask


def sourced(files: Mapping[str, str], path: str) -> bool:
    """Whether ifupdown reads a file."""
    probe = {**files, path: "iface probe\n"}
    return any(place.path == path for _, place in _lines(probe, INTERFACES, set()))


def _lines(files: Mapping[str, str], path: str, seen: set[str]) -> Iterator[tuple[list[str], Place]]:
    """The lines of a file and of those that it reads, as words."""
    if path in seen:
        return
    seen.add(path)
    begun, first = "", 0
    for number, line in enumerate(files.get(path, "").splitlines(), 1):
        first = first if begun else number
        begun += line
        if begun.endswith("\\"):
            begun = f"{begun[:-1]} "
            continue
        text, begun = begun.strip(), ""
        words = text.split()
        if not words or text.startswith("#"):
            continue
        if words[0] in ("source", "source-directory"):
            for pattern in words[1:]:
                where = pattern if pattern.startswith("/") else str(PurePosixPath(path).parent / pattern)
                where = f"{where}/*" if words[0] == "source-directory" else where
                for name in sorted(files):
                    if fnmatch.fnmatchcase(name, where) and name.count("/") == where.count("/"):
                        yield from _lines(files, name, seen)
        else:
            yield words, Place(path, first, text)
