"""What people's own commands do to the network at a boot: units of theirs, rc.local, cron, hooks of the network,
tmpfiles.d."""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from underlay.remote.survey.boot.transaction import Unit, age, before

PROGRAMS = re.compile(
    r"(?<![\w/.-])(?:/\S*/)?(?:ip6?tables\S*|nft|ip|sysctl|ifconfig|route|systemctl|service)\s|/proc/sys/"
)
"""What can change the network: only such lines are told."""
SHELLS = re.compile(r"/(sh|bash|dash|env)$")
OF_PEOPLE = ("/etc/", "/usr/local/", "/opt/", "/srv/", "/root/", "/home/", "/var/")
ROOT_CRON = ("/etc/crontab", "/etc/cron.d/*", "/var/spool/cron/crontabs/root")
HOOKS = {
    "networking.service": "/etc/network/if-*up.d/*",
    "networkd-dispatcher.service": "/etc/networkd-dispatcher/*.d/*",
    "NetworkManager.service": "/etc/NetworkManager/dispatcher.d/*",
}
UDEV = "/etc/udev/rules.d/*.rules"
TMPFILES = ("/etc/tmpfiles.d/*.conf", "/usr/local/lib/tmpfiles.d/*.conf")
LARGEST = 65536
MOST = 40


def lines(found: Mapping[str, Unit], ours: str, booted: float, container: bool) -> list[dict[str, Any]]:
    """Every line of these that may change the network, see `compare.systemd.next_boot.Line`."""
    earlier = before(found, ours)
    told = []
    for unit, path, number, text, branch in _all(found, container):
        words = text.strip()
        if words and not words.startswith("#") and PROGRAMS.search(words):
            told.append(
                {
                    "unit": unit,
                    "path": path,
                    "number": number,
                    "text": words[:300],
                    "sure": not branch,
                    "before": unit in earlier,
                    "tried": age(path) <= booted,
                }
            )
    return told[:MOST]


def _all(found: Mapping[str, Unit], container: bool) -> Iterator[tuple[str, str, int, str, bool]]:
    """Unit, path, number, text, and whether it is in a branch."""
    starting = {name: unit for name, unit in found.items() if unit.starts}
    # What a timer starts is undone by that timer.
    timed = {each: unit.name for unit in starting.values() for each in unit.names("Triggers")}
    started = {**timed, **{name: name for name in starting}}
    for name, by in started.items():
        if name not in found or "underlay" in name:
            continue
        for phase, line in found[name].commands:
            if phase in ("ExecStartPre", "ExecStart", "ExecStartPost"):
                yield from _of_command(by, found[name], line)
    if "cron.service" in starting:
        for path in _files(*ROOT_CRON):
            rows = ((number, line.strip()) for number, line, _ in _read(path))
            yield from (("cron.service", path, number, row[7:], False) for number, row in rows if row[:7] == "@reboot")
    for unit_name, pattern in HOOKS.items():
        for path in _files(pattern) if unit_name in starting else ():
            if os.access(path, os.X_OK) and not _packaged(path):
                yield from ((unit_name, path, *each) for each in _read(path))
    yield from _of_rules(container)


def _of_rules(container: bool) -> Iterator[tuple[str, str, int, str, bool]]:
    """Of tmpfiles.d what it writes to the kernel, of udev what it runs."""
    for path in _files(*TMPFILES):
        for number, line, _ in _read(path):
            if re.match(r"[wfF]\S*\s+/proc/sys/", line.strip()):
                yield "systemd-tmpfiles-setup.service", path, number, line, False
    for path in () if container else _files(UDEV):
        for number, line, _ in _read(path):
            for command in re.findall(r'RUN(?:\{program\})?\s*\+?=\s*"([^"]*)"', line):
                yield "systemd-udevd.service", path, number, command, True


def _files(*patterns: str) -> list[str]:
    return [path for pattern in patterns for path in sorted(glob.glob(pattern))]


def _of_command(name: str, unit: Unit, line: str) -> Iterator[tuple[str, str, int, str, bool]]:
    try:
        words = shlex.split(line)
    except ValueError:
        return
    source = next((path for path in reversed(unit.files) if path.startswith("/etc/")), "")
    script = next((word for word in words[:3] if word.startswith(OF_PEOPLE) and os.path.isfile(word)), "")
    if script:
        for number, text, branch in _read(script):
            yield name, script, number, text, branch
    elif source:
        if words and SHELLS.search(words[0]) and "-c" in "".join(words[1:2]):
            line = words[-1]
        number = next((n for n, text, _ in _read(source) if words and words[0] in text), 0)
        yield name, source, number, line, False


def _packaged(path: str) -> bool:
    """Whether a package brought a file: what is in its list."""
    return any(f"{path}\n" in _text(each) for each in glob.glob("/var/lib/dpkg/info/*.list") if _may_own(each, path))


def _may_own(listing: str, path: str) -> bool:
    return os.path.basename(listing).split(".")[0].split(":")[0] in path or "network" in listing


def _read(path: str) -> Iterator[tuple[int, str, bool]]:
    """The lines of a script, and whether each is within a branch, a loop or a function."""
    depth = 0
    for number, line in enumerate(_text(path).splitlines(), 1):
        words = line.strip()
        if words.startswith(("fi", "done", "esac", "}")):
            depth = max(0, depth - 1)
        yield number, line, depth > 0 or bool(re.search(r"\|\||&&|^(if|while|for|case)\b", words))
        if (
            re.match(r"(if|while|until|for|case)\b", words) and not re.search(r";\s*(fi|done|esac)\b", words)
        ) or words.endswith("{"):
            depth += 1
        if re.match(r"exit\b", words) and not depth:
            return


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read(LARGEST)
    except OSError:
        return ""
