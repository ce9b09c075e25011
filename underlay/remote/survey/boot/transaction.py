"""What systemd starts at the next boot, by its own word: its program, run as a test, reads all units anew.

It runs as nobody, who may read every file, and talks to no running systemd: so it also answers while that one hangs.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

PROGRAMS = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
READER = ("--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search")
SECONDS = 25
VENDOR = ("/usr/lib/", "/lib/", "/run/")
"""Where units come from that no person wrote."""
UNITS = (
    *("/etc/systemd/system.control", "/run/systemd/system.control", "/run/systemd/transient", "/etc/systemd/system"),
    *("/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system"),
)
"""Folders of units, the strongest first."""
WANTS = ("WantedBy", "RequiredBy", "RequisiteOf", "UpheldBy", "BoundBy", "TriggeredBy")
HARMLESS = re.compile(
    r"Description|Documentation|X-.*|Limit\w+|Nice|CPU\w+|Memory\w+|IO\w+|Tasks\w+|OOM\w+|ManagedOOM\w+|Restart\w*"
    r"|StartLimit\w+|Log\w+|Syslog\w+|Standard(Output|Error)|Timeout\w+|Watchdog\w*|Environment|ExecReload|ExecStop\w*"
    r"|Kill\w+|SendSIG\w+|Before|After|Wants|OnFailure|OnSuccess|WantedBy|Also|Alias|Delegate\w*|Slice|UMask"
)
"""Settings of a unit that keep it neither from starting nor from doing what it did: an order is seen in a cycle."""
MOST = 40
"""Lines of a kind that are told at most."""


class UnreadError(Exception):
    """What is wrong, as a person reads it."""


def dump() -> tuple[str, str]:
    """What systemd's test prints: of all units, and what it says of them meanwhile. Raises UnreadError."""
    program = next(filter(os.path.exists, PROGRAMS), PROGRAMS[0])
    argv = ["setpriv", *READER, "--ambient-caps=+dac_read_search", "--", program]
    argv += ["--test", "--system", "--no-pager", "--log-target=console", "--log-color=no", "--unit=default.target"]
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"}
    try:
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnreadError(f"{program} --test: {error}") from None
    if "By jobs" not in done.stdout:
        raise UnreadError(f"{program} --test: {(done.stderr.strip().splitlines() or ['it says nothing'])[-1]}")
    return done.stdout, done.stderr


class Unit:
    """A unit of the dump: key → values; the programs of its Exec lines; whether a job starts it."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.values: dict[str, list[str]] = {}
        self.commands: list[tuple[str, str]] = []
        self.starts = False

    def all(self, *keys: str) -> list[str]:
        """The values of these keys."""
        return [value for key in keys for value in self.values.get(key, [])]

    def names(self, *keys: str) -> list[str]:
        """Those that are names of units, without where they were said."""
        return [value.partition(" ")[0] for value in self.all(*keys)]

    @property
    def files(self) -> list[str]:
        """The file of the unit, and its drop-ins."""
        return self.all("Fragment Path", "DropIn Path")


def units(text: str) -> dict[str, Unit]:
    """The units of a dump, by all their names."""
    found: dict[str, Unit] = {}
    unit, phase = Unit(), ""
    for line in text.splitlines():
        words = line.strip()
        if words.startswith(("-> Unit ", "→ Unit ")):
            name = words.partition(" Unit ")[2].rstrip(":")
            unit = found[name] = Unit(name)
        elif words.startswith(("-> ", "→ ")):
            phase = words.split(" ", 1)[1].rstrip(":")
        elif words.startswith("Command Line: "):
            unit.commands.append((phase, words.partition(": ")[2]))
        elif words.startswith("Action: "):
            name, _, how = words.removeprefix("Action: ").partition(" -> ")
            if how in ("start", "verify-active") and name in found:
                found[name].starts = True
        elif ": " in words:
            key, _, value = words.partition(": ")
            unit.values.setdefault(key, []).append(value)
    for each in list(found.values()):
        for name in each.all("Name", "Alias"):
            found.setdefault(name, each)
    return found


def before(found: Mapping[str, Unit], name: str) -> set[str]:
    """The units that are started before another one is."""
    seen: set[str] = set()
    wanted = [name]
    while wanted:
        unit = found.get(wanted.pop())
        for each in unit.names("After") if unit else ():
            if each not in seen:
                seen.add(each)
                wanted.append(each)
    return seen


# --- one unit -------------------------------------------------------------------------------------------------------


def state(found: Mapping[str, Unit], name: str, since: Mapping[str, float], booted: float) -> dict[str, Any]:
    """What becomes of a unit, see `compare.systemd.next_boot.Start`."""
    unit = found.get(name, Unit())
    begun = since.get(name) or invoked(name) or booted
    load = (unit.all("Unit Load State") or ["not-found"])[0]
    mask = masked_by(name) if load in ("masked", "not-found") else ""
    gone = absent(unit) if unit.starts else []
    broken = mask or (gone[0] if gone else f"{UNITS[-1]}/{name}" if load == "not-found" else "")
    return {
        "load": load,
        # A mask below /run is gone after the boot.
        "starts": unit.starts or mask.startswith("/run/"),
        "mask": mask,
        "package": package(broken) if broken and not broken.startswith("/etc/") else "",
        "files": [path for path in unit.files if not path.startswith(VENDOR)],
        "wanted": [each for each in unit.names(*WANTS) if each in found and found[each].starts],
        "against": [each for each in unit.names("ConflictedBy", "Conflicts") if each in found and found[each].starts],
        "needs": [
            each
            for each in unit.names("Requires", "BindsTo", "Requisite")
            if each in found and found[each].all("Unit Load State") != ["loaded"]
        ],
        "unmet": unmet(unit) if unit.starts else [],
        "absent": gone,
        "newer": [[path, keys] for path in unit.files if (keys := changed(path, begun))],
    }


def masked_by(name: str) -> str:
    """The empty file, or the link to /dev/null, that stands for a unit; empty if none does."""
    for folder in UNITS:
        path = f"{folder}/{name}"
        if os.path.lexists(path):
            with suppress(OSError):
                return path if os.path.realpath(path) == "/dev/null" or not os.path.getsize(path) else ""
            return ""
    return ""


def package(path: str) -> str:
    """The Debian package that has a file, or `mode PATH` if the file is there and only may not be run; empty: none."""
    if os.path.isfile(path) and os.path.getsize(path) and not os.access(path, os.X_OK):
        return f"mode {path}"
    for each in dict.fromkeys([path, path.removeprefix("/usr"), f"/usr{path}"]):
        with suppress(OSError, subprocess.TimeoutExpired):
            argv = ["dpkg-query", "--search", each]
            done = subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, check=False)
            if done.returncode == 0:
                return done.stdout.partition(":")[0]
    return ""


PATHS: dict[str, Callable[[str], bool]] = {
    "PathExists": os.path.exists,
    "PathExistsGlob": lambda pattern: bool(glob.glob(pattern)),
    "PathIsDirectory": os.path.isdir,
    "PathIsSymbolicLink": os.path.islink,
    "PathIsMountPoint": os.path.ismount,
    "PathIsReadWrite": lambda path: os.path.exists(path) and not os.statvfs(path).f_flag & os.ST_RDONLY,
    "DirectoryNotEmpty": lambda path: os.path.isdir(path) and bool(os.listdir(path)),
    "FileNotEmpty": lambda path: os.path.isfile(path) and os.path.getsize(path) > 0,
    "FileIsExecutable": lambda path: os.path.isfile(path) and os.access(path, os.X_OK),
}
"""Conditions that are looked at here: systemd's program for it takes as long as all the rest."""


def unmet(unit: Unit) -> list[str]:
    """The conditions that do not hold. Those that look below /run are made by the boot itself."""
    found, either, others = list[str](), dict[bool, list[str]](), list[str]()
    for key, values in unit.values.items():
        kind = re.fullmatch(r"(?:Condition|Assert)([A-Z]\w+)", key)
        for value in values if kind else ():
            what = value.rpartition(" ")[0]
            path = what.lstrip("|!")
            check = PATHS.get(kind[1]) if kind else None
            if path.startswith("/run/"):
                continue
            if check is None:
                others.append(f"{key}={what}")
                continue
            holds = check(path) == ("!" not in what[: len(what) - len(path)])
            if what.startswith("|"):
                either.setdefault(holds, []).append(f"{key}={what}")
            elif not holds:
                found.append(f"{key}={what}")
    if True not in either and not any("=|" in each for each in others):
        found += either.get(False, [])[:1]
    texts = [_text(path) for path in unit.files if not path.startswith(VENDOR)]
    return found + [
        each for each in others if any(each in text.replace(" ", "") for text in texts) and not _holds(each)
    ]


def _holds(condition: str) -> bool:
    try:
        argv = ["systemd-analyze", "condition", condition]
        done = subprocess.run(argv, capture_output=True, timeout=SECONDS, check=False, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return True
    return done.returncode == 0


def absent(unit: Unit) -> list[str]:
    """The programs and files that its start needs and that are not there."""
    texts = [text for path in unit.files if (text := _text(path))]
    found = []
    for phase, line in unit.commands:
        try:
            words = shlex.split(line)
        except ValueError:
            continue
        if phase not in ("ExecStart", "ExecStartPre", "ExecStartPost", "ExecCondition") or not words:
            continue
        needed = [words[0]]
        # An interpreter is there; what it is to run may not be.
        if os.path.basename(words[0]).startswith(("python", "sh", "bash", "dash", "perl")):
            needed += [next((word for word in words[1:] if not word.startswith("-")), "")]
        for index, path in enumerate(needed):
            bad = path.startswith("/") and not os.access(path, os.R_OK if index else os.X_OK)
            if bad and not any(re.search(rf"^{phase}\s*=\s*[@+!:]*-[@+!:]*{re.escape(path)}", t, re.M) for t in texts):
                found.append(path)
    for value in unit.all("EnvironmentFile", "EnvironmentFiles"):
        path = value.split(" ")[0]
        if path.startswith("/") and not os.path.exists(path):
            found.append(path)
    return list(dict.fromkeys(found))


def changed(path: str, begun: float) -> list[str]:
    """The settings of a file that no person of the distribution wrote and that the unit has never been started with."""
    if path.startswith(VENDOR) or age(path) <= begun:
        return []
    lines = re.sub(r"\\\n", " ", _text(path)).splitlines()
    keys = [
        line.partition("=")[0].strip() for line in lines if "=" in line and not line.lstrip().startswith(("#", ";"))
    ]
    return [key for key in dict.fromkeys(keys) if not HARMLESS.fullmatch(key)][:MOST]


def age(path: str) -> float:
    """When a file was made what it is, in seconds since 1970; 0 if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return 0
    return max(found.st_mtime, found.st_ctime)


def _text(path: str) -> str:
    try:
        with open(path, errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""


# --- since when -----------------------------------------------------------------------------------------------------


def booted() -> float:
    """When this host was booted, in seconds since 1970."""
    return _begin(1) or 0.0


def running() -> dict[str, float]:
    """The units that have a process → when the oldest one began."""
    found: dict[str, float] = {}
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        with suppress(OSError):
            begun = _begin(int(path.parent.name))
            for name in set(re.findall(r"/([^/\n]+\.service)", path.read_text())) if begun else ():
                found[name] = min(begun or 0, found.get(name, begun or 0))
    return found


def invoked(name: str) -> float:
    """When a unit was started that is active and may have no process; 0 if systemd has left no trace of it."""
    try:
        return os.lstat(f"/run/systemd/units/invocation:{name}").st_mtime
    except OSError:
        return 0


def _begin(pid: int) -> float | None:
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        now = Path("/proc/uptime").read_text().split()[0]
        import time  # noqa: PLC0415

        return time.time() - float(now) + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return None


def told(said: str) -> Iterator[str]:
    """What systemd says of units that it can't take as they are, without what it says of itself."""
    for line in said.splitlines():
        if re.match(r"\S+\.(service|socket|target|mount|timer|path|swap|slice|automount|device)\b|/etc/", line):
            yield line[:300]


def cycles(said: str) -> list[list[str]]:
    """The units of each cycle that systemd found: it leaves one of them out, and not always the same one."""
    found: list[list[str]] = []
    for line in said.splitlines():
        names = re.findall(r"([\w@.:\\-]+\.[a-z]+)/(?:start|verify-active|stop|restart)\b", line)
        if re.search("[Ff]ound ordering cycle", line):
            found.append(names)
        elif found and re.search(r"[Ff]ound dependency on|Job \S+ deleted", line):
            found[-1] += names
    return [list(dict.fromkeys(each)) for each in found if each][:MOST]


def links(found: Mapping[str, Unit], names: Iterable[str]) -> dict[str, list[str]]:
    """Of units the files that people wrote."""
    return {
        name: [path for path in found[name].files if not path.startswith(VENDOR)] for name in names if name in found
    }
