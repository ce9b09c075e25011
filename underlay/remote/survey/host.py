"""The services, file systems and connection table of the host itself."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

ENTRIES = 30_000
"""Of the connection table, how many are looked at to tell who opened most."""
WRITTEN = ("/", "/var", "/var/log", "/var/lib", "/etc", "/run", "/tmp", "/home")  # noqa: S108  it is looked at
"""Folders in which a host must be able to write."""
SECONDS = 3
"""What a program has that is asked something."""
SEARCH = 1.5
"""Seconds to search for large files."""


EXITED = "1"
"""Of ExecMainCode: the program exited, no signal ended it."""


def services(_: bool) -> list[str]:
    """See the module."""
    # What an administrator enabled. `systemctl list-unit-files` says the same, and reads all units for it.
    names = sorted({path.name for path in Path("/etc/systemd/system").glob("*.wants/*.service")})
    if not names:
        return []
    # Those that were never asked to run, or whose condition does not hold, have no ConditionResult.
    properties = "Id,Type,ActiveState,ConditionResult,Result,ExecMainCode"
    shown = output("systemctl", "show", f"--property={properties}", *names)
    found = []
    for block in shown.split("\n\n"):
        unit = dict(line.partition("=")[::2] for line in block.splitlines())
        if (
            unit.get("ActiveState") in ("inactive", "failed")
            and unit.get("Type") != "oneshot"
            and unit.get("ConditionResult") == "yes"
            and not _done(unit)
        ):
            found.append(unit["Id"])
    return found


def _done(unit: dict[str, str]) -> bool:
    """Whether a service has ended by itself, its work done: nobody stopped it, and it did not fail."""
    if unit.get("Result") != "success" or unit.get("ExecMainCode") != EXITED:
        return False
    words = output("journalctl", "--unit", unit["Id"], "--lines=3", "--output=cat", "--no-pager")
    return "Deactivated successfully" in words and "Stopped " not in words


def failed(_: bool) -> dict[str, str]:
    """See the module."""
    listed = output("systemctl", "list-units", "--state=failed", "--plain", "--no-legend", "--full")
    names = [line.split()[0] for line in listed.splitlines() if line.strip()]
    if not names:
        return {}
    shown = output("systemctl", "show", "--property=Id,FragmentPath", "--", *names)
    units = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in shown.strip().split("\n\n")]
    return {unit["Id"]: unit.get("FragmentPath", "") for unit in units if "Id" in unit}


def owners(ports: list[int]) -> dict[str, str]:
    """See the module."""
    found = {}
    for port in ports:
        users = re.search(r'users:\(\("([^"]*)",pid=(\d+)', output("ss", "-Hltnp", f"sport = :{port}"))
        if users:
            unit = ""
            with suppress(OSError):
                unit = Path(f"/proc/{users[2]}/cgroup").read_text().strip().rpartition("/")[2]
            found[str(port)] = unit if unit.endswith(".service") else users[1]
    return found


def output(*argv: str) -> str:
    """What a program prints; empty if it can't."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def full(share: float) -> dict[str, list[list[Any]]]:
    """See the module."""
    found: dict[str, list[list[Any]]] = {}
    devices = set()
    for path in filter(os.path.isdir, WRITTEN):
        usage = os.statvfs(path)
        device = os.stat(path).st_dev
        if device not in devices and usage.f_blocks and 1 - usage.f_bavail / usage.f_blocks >= share:
            found[path] = large_files(path, device)
        devices.add(device)
    return found


def large_files(top: str, device: int) -> list[list[Any]]:
    """The largest files of a file system, those of logs first looked at."""
    sizes: dict[str, int] = {}
    end = time.monotonic() + SEARCH
    for start in ("/var/log", top):
        for folder, folders, names in os.walk(start):
            with suppress(OSError):
                if os.lstat(folder).st_dev != device:
                    folders.clear()
                    continue
                for name in names:
                    path = os.path.join(folder, name)
                    sizes[path] = os.lstat(path).st_blocks * 512
            if time.monotonic() > end:
                break
    return [[size, path] for path, size in sorted(sizes.items(), key=lambda item: -item[1])[:3]]


def talkers(share: float) -> list[list[Any]]:
    """See the module."""
    count, limit = (int(Path(f"/proc/sys/net/netfilter/nf_conntrack_{name}").read_text()) for name in ("count", "max"))
    if count < share * limit:
        return []
    from underlay.remote import conntrack  # noqa: PLC0415  most hosts have no use for it

    # The table is huge: the first entries tell enough.
    with closing(conntrack.opened()) as entries:
        counts = Counter(source for _, source, *_ in islice(entries, ENTRIES))
    seen = sum(counts.values())
    return [[address.decode(), number / seen] for address, number in counts.most_common(3)]
