"""The machine that the lab runs on: what it must have, and the control group that holds all that the lab starts."""

import json
import os
import platform
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from lab.process import LabError, run, wait_until
from lab.state import NAME, RUNTIME
from underlay.programs import LAB, missing, packages, search_path

ROOT = RUNTIME.name
RAISED = RUNTIME / "neighbours.json"
NEIGHBOURS = Path("/proc/sys/net/ipv4/neigh/default")
GONE_SECONDS, ENDED_SECONDS = 5.0, 30.0
"""What dead processes may take to be gone, and those that were killed to be dead, on a busy machine."""
INOTIFY = {"max_user_instances": 8192, "max_user_watches": 524288}


def check(further: Mapping[str, str] | None = None) -> None:
    """LabError with the fix if this machine can't run the lab. `further`: programs that it needs, too."""
    if platform.system() != "Linux":
        raise LabError(f"the lab needs Linux, this is {platform.system()}: run it in a Debian or Ubuntu machine")
    check_root()
    if lacking := packages(missing(LAB | dict(further or {}))):
        if not shutil.which("apt-get", path=search_path()):
            raise LabError(f"the lab needs {', '.join(lacking)} and there is no apt here: run it on Debian or Ubuntu")
        raise LabError(f"the lab needs programs that are not here: apt-get install {' '.join(lacking)}")
    cgroup_root()


def check_root() -> None:
    """LabError for anyone but root: namespaces, mounts and containers are root's. And for a bad name of the lab."""
    check_name()
    if os.geteuid():
        raise LabError("the lab needs root: run the same command with sudo")


def check_name() -> None:
    """LabError for a name of the lab that can't be part of the names of files and namespaces."""
    if not re.fullmatch("[a-z0-9]{0,8}", NAME):
        raise LabError(f"UNDERLAY_LAB={NAME[:60]!r} is no name for a lab: give it up to eight small letters and digits")


def install(required: Mapping[str, str]) -> None:
    """Install the packages of programs that are missing, if this is root on a machine with apt."""
    lacking = packages(missing(required))
    if lacking and not os.geteuid() and shutil.which("apt-get", path=search_path()):
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "--quiet"], env=env, timeout=300)
        run(["apt-get", "install", "--yes", "--no-install-recommends", *lacking], env=env, timeout=600)


def raise_limits(known: int) -> None:
    """Let many hosts boot, and know so many neighbours (`known`) in all; `lower_limits` takes the latter back.

    With the usual 128 inotify instances those after the fifteenth hang in silence. The table of neighbours is one for
    all namespaces: with the usual 1024 entries packets of a lab of more than about 18 nodes are lost at random.
    """
    for name, least in INOTIFY.items():
        limit = Path("/proc/sys/fs/inotify") / name
        if int(limit.read_text()) < least:
            limit.write_text(str(least))
    before = neighbours()
    if before[0] < known:
        after = (2 * known, known)
        RAISED.write_text(json.dumps([before, after]))
        _set_neighbours(after)


def lower_limits() -> None:
    """Take back what `raise_limits` did for this lab, unless somebody has set it since."""
    if RAISED.exists():
        before, after = json.loads(RAISED.read_text())
        if neighbours() == tuple(after):
            _set_neighbours(before)
        RAISED.unlink()


def neighbours() -> tuple[int, ...]:
    """How many the machine's kernel knows at most, and from how many on it forgets the old ones."""
    return tuple(int((NEIGHBOURS / name).read_text()) for name in ("gc_thresh3", "gc_thresh2"))


def _set_neighbours(limits: Sequence[int]) -> None:
    for name, limit in zip(("gc_thresh3", "gc_thresh2"), limits, strict=True):
        (NEIGHBOURS / name).write_text(str(limit))


def mounts_below(path: Path) -> list[Path]:
    """What is mounted below this folder, innermost first; not the folder itself, which may be a disk of its own."""
    mounts = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()]
    return [mount for mount in reversed(mounts) if path in mount.parents]


def unmount_below(path: Path) -> None:
    """Unmount all that is mounted below this folder."""
    for mount in mounts_below(path):
        run(["umount", "--lazy", str(mount)])


# --- control groups -------------------------------------------------------------------------------------------------


def cgroup_root() -> Path:
    """The folder of the lab's control group.

    Each host has one of its own below it, for two reasons: without, all hosts' systemds would share one tree, and
    stopping ssh.service in one host would stop it in all; and whatever the lab started can be found and ended by it.
    """
    for where in _mounted("cgroup2"):
        if where.is_relative_to("/sys/fs/cgroup") and os.access(where, os.W_OK):
            return where / ROOT
    raise LabError("the lab needs a writable cgroup2 in /sys/fs/cgroup: run it on a machine, not in a container")


def in_cgroup(name: str, argv: list[str]) -> list[str]:
    """The command that runs `argv` in the lab's control group of that name: a host's, or one that begins with a dot."""
    group = cgroup_root() / name
    group.mkdir(parents=True, exist_ok=True)
    return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *argv]


def cgroup_populated(name: str = "") -> bool:
    """Whether anything runs in the lab's control group of that name (default: in any of them)."""
    try:
        return "populated 1" in (cgroup_root() / name / "cgroup.events").read_text()
    except OSError:
        return False


def kill_cgroup(name: str = "") -> None:
    """End all that runs in the lab's control group of that name (default: in all of them), and remove it."""
    group = cgroup_root() / name
    # systemd-nspawn makes the same folders where systemd's cgroup v1 is mounted, too.
    hierarchies = [group, *(where / ROOT / name for where in _mounted("cgroup"))]
    pids: set[int] = set()

    def ended() -> bool:
        pids.update(processes_below(group))
        with suppress(FileNotFoundError):
            (group / "cgroup.kill").write_text("1")
        try:
            for hierarchy in hierarchies:
                for folder, _, _ in os.walk(hierarchy, topdown=False):
                    os.rmdir(folder)
        except OSError:
            return False
        return True

    # Again and again: a process that was just started moves into its group itself.
    if not wait_until(ended, seconds=15):
        raise LabError(f"processes of the lab do not end: systemd-cgls {group}")
    wait_for_end(pids)


def processes_below(group: Path) -> set[int]:
    """The processes in a control group, or in one below it."""
    found: set[int] = set()
    for listed in group.rglob("cgroup.procs"):
        with suppress(OSError):  # the group is gone, or has threads only
            found.update(map(int, listed.read_text().split()))
    return found - {0}  # one that is not of this machine's process namespace


def _mounted(kind: str) -> list[Path]:
    lines = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    return [Path(where) for _, where, found, *_ in lines if found == kind]


# --- processes ------------------------------------------------------------------------------------------------------

Namespace = tuple[int, int]
"""What tells namespaces apart: device and inode. The device, too, or a file that is none could look like one."""


def namespace(path: Path) -> Namespace | None:
    """The namespace that a path leads to; None if nothing is there (any more)."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def processes_in(namespaces: set[Namespace | None]) -> set[int]:
    """The processes whose network namespace is one of these."""
    wanted = namespaces - {None}
    pids = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {int(pid.name) for pid in pids if namespace(pid / "ns/net") in wanted}


def wait_for_end(pids: Iterable[int]) -> None:
    """Wait until processes that were killed are gone: they leave their group and their namespaces a while before.

    LabError if one does not end. A dead one whose parent does not ask for its end can't be waited for.
    """
    pids = list(pids)
    if wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), seconds=GONE_SECONDS):
        return
    pids = [pid for pid in pids if _lives(pid)]
    if not wait_until(lambda: not any(map(_lives, pids)), seconds=ENDED_SECONDS):
        left = " ".join(str(pid) for pid in pids if _lives(pid))
        raise LabError(f"processes of the lab do not end: ps {left}")


def _lives(pid: int) -> bool:
    return _state(pid) not in ("Z", "X", "")


def _state(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def ancestry() -> set[int]:
    """This process and those that it comes from."""
    pids, pid = set(), os.getpid()
    while pid:
        pids.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pids
