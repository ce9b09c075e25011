"""The system that the programs of a host need: its units, the programs that are asked by others, how it finds names."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from underlay.remote import at_once
from underlay.remote.survey.host import WRITTEN, output

SECONDS = 2
"""What a program has that tells its version."""
LINES = 6
"""Of a unit's journal that are told."""
PROPERTIES = {
    "Id": "name",
    "LoadState": "load",
    "ActiveState": "active",
    "SubState": "sub",
    "Result": "result",
    "UnitFileState": "file",
    "FragmentPath": "path",
}
SETS = re.compile(r"(?!#|;)(\w+)\s*=(.*)")
RESTARTS = 3
"""How often a service was started anew, from which on it is a loop."""
PATHS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def units(names: list[str]) -> list[dict[str, Any]]:
    """See the package."""
    looped = [
        line.split()[0]
        for line in output("systemctl", "list-units", "--state=activating", "--plain", "--no-legend").splitlines()
        if line.strip() and line.split()[0].endswith(".service")
    ]
    wanted = list(dict.fromkeys([*names, *looped[:20]]))
    keys = ",".join([*PROPERTIES, "NRestarts", "ConditionResult", "DropInPaths"])
    found = []
    for block in output("systemctl", "show", f"--property={keys}", *wanted).split("\n\n"):
        shown = dict(line.partition("=")[::2] for line in block.splitlines())
        if "Id" not in shown:
            continue
        unit: dict[str, Any] = {ours: shown.get(theirs, "") for theirs, ours in PROPERTIES.items()}
        unit["restarts"] = int(shown.get("NRestarts") or 0)
        unit["unmet"] = shown.get("ConditionResult") == "no"
        unit["log"] = []
        own = [unit["path"]] if unit["path"].startswith(("/etc/", "/run/")) else []
        unit["sets"] = [row for path in [*own, *shown.get("DropInPaths", "").split()] for row in _settings(path)]
        found.append(unit)
    bad = [each for each in found if each["load"] == "loaded" and each["active"] in ("failed", "activating")]
    for unit, lines in zip(bad, at_once(_log, [[each["name"]] for each in bad[:10]], [], SECONDS), strict=False):
        unit["log"] = lines
    return found


def _settings(path: str) -> list[list[Any]]:
    """The settings in a file of an administrator: file, number of the line, the line."""
    with suppress(OSError):
        lines = Path(path).read_text(errors="replace").splitlines()[:200]
        return [[path, number, line[:200]] for number, line in enumerate(lines, 1) if SETS.match(line)]
    return []


def _log(unit: str) -> list[str]:
    lines = output("journalctl", "-q", "-b", "-o", "cat", "--no-pager", f"--lines={LINES}", f"--unit={unit}")
    return [line[:200] for line in lines.splitlines()[-LINES:]]


def lacking(programs: list[str]) -> dict[str, str]:
    """See the package."""
    found = at_once(_trouble, [[each] for each in programs], "", SECONDS + 0.5)
    return {program: why for program, why in zip(programs, found, strict=True) if why}


def _trouble(program: str) -> str:
    path = shutil.which(program, mode=os.F_OK, path=PATHS)
    if path is None:
        return "is not there"
    if not os.access(path, os.X_OK):
        return f"can't be run: {path} has the wrong mode"
    try:
        done = subprocess.run(
            [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False
        )
    except OSError as error:
        return f"can't be run: {path}: {error.strerror}"
    except subprocess.TimeoutExpired:
        return ""  # it is slow, and there
    # Nothing that works says nothing about itself.
    broken = done.returncode in (126, 127) or done.returncode < 0 or not (done.stdout + done.stderr).strip()
    return f"does not work: {path} --version says {(done.stderr.strip() or 'nothing')[-120:]}" if broken else ""


def resolver(_: bool) -> dict[str, Any]:
    """See the package."""
    path = Path("/etc/resolv.conf")
    text = ""
    with suppress(OSError):
        text = path.read_text(errors="replace")[:4000]
    switch = hosts = ""
    with suppress(OSError):
        switch = Path("/etc/nsswitch.conf").read_text(errors="replace")[:8000]
    with suppress(OSError):
        hosts = Path("/etc/hosts").read_text(errors="replace")[:64000]
    mode = -1
    with suppress(OSError):
        mode = os.stat(path).st_mode & 0o777
    order = re.search(r"^hosts:(.*)", switch, re.MULTILINE)
    rows = ((number, line.partition("#")[0].split()) for number, line in enumerate(hosts.splitlines(), 1))
    return {
        "servers": re.findall(r"^nameserver\s+(\S+)", text, re.MULTILINE),
        "linked": os.readlink(path) if path.is_symlink() else "",
        "mode": mode,
        "order": order[1].split() if order else [],
        "hosts": [[number, row] for number, row in rows if len(row) > 1][:500],
    }


def mounts(_: bool) -> list[list[str]]:
    """See the package."""
    found: dict[tuple[int, str], list[str]] = {}
    for path in WRITTEN:
        with suppress(OSError):
            usage, device = os.statvfs(path), os.stat(path).st_dev
            if usage.f_flag & os.ST_RDONLY:
                found.setdefault((device, "read-only"), [path, "read-only"])
            if usage.f_files and usage.f_favail < 0.01 * usage.f_files:
                found.setdefault((device, "inodes"), [path, "inodes"])
    return [*found.values()]


FOLDERS = ("/", "/etc", "/usr", "/usr/bin", "/usr/lib", "/var", "/var/lib", "/run", "/home", "/dev")
READ = ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts", "/etc/ld.so.cache")
DEVICES = {"/dev/null": 3, "/dev/zero": 5, "/dev/full": 7, "/dev/random": 8, "/dev/urandom": 9}
"""The kernel's, by their minor number; the major one is 1."""


def modes(_: bool) -> list[list[str]]:
    """See the package."""
    found = []
    for path in FOLDERS:
        with suppress(OSError):
            mode = stat.S_IMODE(os.stat(path).st_mode)
            if not mode & 1:
                found.append([path, f"has mode {mode:04o}: only root gets to what is in it", f"chmod 755 {path}"])
    for path in ("/tmp", "/var/tmp"):  # noqa: S108  they are looked at
        with suppress(OSError):
            mode = stat.S_IMODE(os.stat(path).st_mode)
            if mode & 0o1003 != 0o1003:
                what = f"has mode {mode:04o}: not everybody may make files of his own there"
                found.append([path, what, f"chmod 1777 {path}"])
    for path in READ:
        with suppress(OSError):
            mode = stat.S_IMODE(os.stat(path).st_mode)
            if not mode & 4:
                found.append([path, f"has mode {mode:04o}: only root can read it", f"chmod 644 {path}"])
    for path, minor in DEVICES.items():
        there = os.stat(path) if os.path.exists(path) else None
        if there is None or not stat.S_ISCHR(there.st_mode) or there.st_rdev != os.makedev(1, minor):
            what = "is not the kernel's device any more" if there else "is not there"
            found.append([path, what, f"rm -f {path} && mknod -m 666 {path} c 1 {minor}"])
        elif there.st_mode & 0o666 != 0o666:
            what = f"has mode {stat.S_IMODE(there.st_mode):04o}: not everybody may use it"
            found.append([path, what, f"chmod 666 {path}"])
    return found


def sysctls(keys: list[str]) -> dict[str, str]:
    """See the package."""
    found = {}
    for key in keys:
        with suppress(OSError):
            # As sysctl(8) has it, a dot in a name is a slash.
            parts = [part.replace("/", ".") for part in key.split(".")]
            found[key] = Path("/proc/sys", *parts).read_text().strip()[:200]
    return found
