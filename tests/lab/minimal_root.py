"""Runs commands of the repo on a fresh machine: Debian's minimum and Python, nothing else.

    UNDERLAY_LAB=NAME python3 -m tests.lab.minimal_root SUITE COMMAND ...

The machine is a folder with mounts, processes and a lab of its own. Of this one it has the kernel, and the settings
with which it reaches the package sources. Whatever happens, nothing of it is left: all of its mounts and processes end
with the first of its processes, and that one with this process, which ends when its stdin does.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

from lab import machine
from lab.process import LabError, run, wait_until
from lab.state import NAME, VARIABLE
from underlay.plan import REPO

ROOT = VARIABLE / "minimal"
CHECKOUT = "/root/underlay"
SETTINGS = [
    *("/etc/resolv.conf", "/usr/local/share/ca-certificates"),
    *("/etc/pip.conf", "/etc/xdg/pip", "/root/.config/pip"),
]
VARIABLES = re.compile(r"\w+_proxy|PIP_\w+|SSL_CERT_\w+|UNDERLAY_LAB", re.IGNORECASE)

ENTER = f"""
cd "$1"
mount --bind . .
cd "$1"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
pivot_root . .
umount --lazy .
cd {CHECKOUT}
shift
for command; do ./inv $command; done
"""


def main(suite: str, commands: Sequence[str]) -> int:
    """The exit code of the first of these that fails, or 0."""
    assert NAME, "the machine's own lab is not to be touched"
    _clear()
    try:
        ROOT.mkdir(parents=True)
        code = _confined(["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3", suite, str(ROOT)])
        if code == 0:
            _settings()
            _checkout()
            code = _confined(["sh", "-euc", ENTER, "sh", str(ROOT), *commands])
        return code
    finally:
        _clear()


def _confined(argv: Sequence[str]) -> int:
    """Run a program with mounts and processes of its own, which end with it, and it with this process."""
    die = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
    environment = {name: value for name, value in os.environ.items() if VARIABLES.fullmatch(name)}
    environment |= {"PATH": os.defpath + ":/usr/sbin:/sbin", "HOME": "/root"}
    with subprocess.Popen([*die, *argv], stdin=subprocess.DEVNULL, env=environment) as process:

        def end() -> None:
            os.read(0, 1)
            process.kill()

        Thread(target=end, daemon=True).start()
        return process.wait()


def _settings() -> None:
    for path in map(Path, SETTINGS):
        copy = ROOT / path.relative_to("/")
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, copy, dirs_exist_ok=True)
        elif path.exists():
            shutil.copy(path, copy)
    (ROOT / "etc/apt/apt.conf.d/80sources").write_text(run(["apt-config", "dump", "Acquire"]))


def _checkout() -> None:
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=REPO)
    for name in filter(None, listed.split("\0")):
        copy = ROOT / CHECKOUT[1:] / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if (REPO / name).exists():  # else it is removed, but not in a commit yet
            shutil.copy(REPO / name, copy)


def _clear() -> None:
    machine.kill_cgroup()

    def removed() -> bool:
        shutil.rmtree(ROOT, ignore_errors=True)  # again and again: what was killed just now may still write
        return not ROOT.exists()

    if not wait_until(removed, seconds=120):
        raise LabError(f"{ROOT} can't be removed")
    with suppress(OSError):  # not there
        VARIABLE.rmdir()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
