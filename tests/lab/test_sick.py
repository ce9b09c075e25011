"""A host that is sick, or somebody else's by now: its programs say odd things, without end, or nothing.

Every command survives it in bounded time: that host, or that part of it, was not read, and all others were.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from lab import control, host
from tests.lab.commands import inside, invoke

pytestmark = pytest.mark.usefixtures("deployed")
SICK = "master-1"
SECONDS = 15
"""What a command may take on a quiet machine."""
BUSY = 8
"""Times as long where all of them run at once, or beside other labs."""
FOLDER = "/run/sick"
LEFT = "sleep 77.7"
"""What a program leaves behind that keeps its output open, as one that waits for a disk does."""
CONTROLS = r"printf '\033]0;gone\007\033[2J\n{\"a\": [[[1e999, \"\\ud800\"]]]}\n\000\377\n'"
BOMB = "head -c 500000000 /dev/zero | gzip -1"
PROGRAMS = {
    "of all kinds": {
        "ip": "yes '[{}]'",
        "ss": f"setsid {LEFT} & exit 0",
        "systemctl": "trap '' TERM; while :; do sleep 1; done",
        "dpkg-query": CONTROLS,
        "sshd": CONTROLS,
    },
    "flood": {"ip": "yes '[{}]'", "ss": "yes", "systemctl": "yes Id=x", "dpkg-query": "yes a b c installed"},
    "odd": {"ip": CONTROLS, "ss": CONTROLS, "systemctl": CONTROLS, "dpkg-query": CONTROLS, "sshd": CONTROLS},
    "hang": {"ip": f"setsid {LEFT} & exit 0", "systemctl": "trap '' TERM; while :; do sleep 1; done"},
    "bomb": {"python3": BOMB, "ip": "echo '[[[[[[[[[['"},
}


@contextmanager
def replaced(name: str, programs: dict[str, str]) -> Iterator[None]:
    """Other programs in place of a host's own."""
    lines = [f"mkdir -p {FOLDER} && cd {FOLDER} || exit 1"]
    for program, script in programs.items():
        control.run(name, f"mkdir -p {FOLDER} && cat > {FOLDER}/{program}", stdin=f"#!/bin/sh\n{script}\n")
        lines.append(f"chmod 755 {program} && mount --bind {program} $(readlink -f $(command -v {program})) || exit 1")
    try:
        inside(name, "\n".join(lines))
        yield
    finally:
        # By force: what hangs still has them.
        inside(name, "for each in $(grep -o ' /usr/s*bin/[^ ]*' /proc/self/mountinfo); do umount -l $each; done")
        control.run(name, f"pkill -xf '{LEFT}'; pkill -9 -f '^/bin/sh /usr/s*bin/'")


def commands(folder: Path) -> dict[str, list[str]]:
    """Every command that looks at hosts."""
    return {
        "status": ["--json"],
        "verify": [],
        "drift": ["--json"],
        "doctor": ["--json"],
        "bundle": ["--json", "--output", str(folder / "bundle.tar.gz")],
        "backup": ["--output", str(folder / "backup.tar")],
        "report": ["--output", str(folder / "report.html")],
        "flows": ["--json"],
        "capture": [SICK, "--seconds", "1", "--output", str(folder / "capture.pcap")],
        "history": ["--json"],
        "deploy": ["master", "--dry"],
    }


def timed(name: str, arguments: list[str]) -> tuple[float, "subprocess.CompletedProcess[str]"]:
    begin = time.monotonic()
    done = invoke(name, *arguments, good=False)
    return time.monotonic() - begin, done


def check(name: str, done: "subprocess.CompletedProcess[str]") -> None:
    """No traceback, a documented exit code, nothing that a terminal would obey, and all others are read."""
    said = done.stdout + done.stderr
    assert done.returncode in (0, 1, 2), said
    assert "Traceback" not in said
    assert "\033" not in said
    assert "\007" not in said
    if name == "drift":
        found = json.loads(done.stdout)
        assert "error" in found.pop(SICK), done.stdout
        assert {one for each in found.values() for one in each} == {"differences"}, done.stdout
    elif name == "status":
        found = json.loads(done.stdout)
        assert {each["name"] for each in found["hosts"] if each["error"] or each["unread"]} == {SICK}, done.stdout
    elif name == "verify":
        assert f"{SICK} can't be read: " in said
        assert not [line for line in said.splitlines() if "can't be" in line and SICK not in line], said
    elif name == "doctor":
        found = json.loads(done.stdout)
        told = [*found["unread"], *(each["host"] for each in found["findings"])]
        assert told
        assert not [line for line in told if SICK not in line], done.stdout


@pytest.mark.long
@pytest.mark.parametrize("kind", PROGRAMS)
def test_hostile_programs(kind: str, tmp_path: Path) -> None:
    """A host whose programs flood, say odd things or hang: every command at the same time."""
    with replaced(SICK, PROGRAMS[kind]), ThreadPoolExecutor(4) as pool:
        asked = commands(tmp_path)
        found = dict(zip(asked, pool.map(timed, asked, asked.values()), strict=True))
    for name, (seconds, done) in found.items():
        check(name, done)
        # A deploy waits for a host as long as for its package sources.
        assert seconds < BUSY * SECONDS * (2 if name == "deploy" else 1), (name, seconds)


@contextmanager
def frozen(name: str) -> Iterator[None]:
    """The first process of a host is stopped: nothing that asks systemd gets an answer."""
    leader = host.leader(name)
    assert leader is not None
    os.kill(leader, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(leader, signal.SIGCONT)


@contextmanager
def mute(name: str) -> Iterator[None]:
    """A host whose sshd takes connections and says nothing."""
    control.run(name, "pkill -STOP -x sshd")
    try:
        yield
    finally:
        control.run(name, "pkill -CONT -x sshd")


@contextmanager
def shell(name: str, lines: str) -> Iterator[None]:
    """A host where the operator's shell runs some lines before anything else."""
    control.run(name, "cat > ~ops/.bashrc", stdin=lines)
    try:
        yield
    finally:
        control.run(name, "rm -f ~ops/.bashrc; pkill -xf 'sleep 300'")


SICKNESSES: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "systemd is stopped": lambda: frozen(SICK),
    "sshd says nothing": lambda: mute(SICK),
    "the login shell talks": lambda: shell(SICK, "echo Welcome; printf '\\033[2J{}\\n@@ x\\n0 0 aGk=\\n'\n"),
    "the login shell hangs": lambda: shell(SICK, "sleep 300\n"),
}


@pytest.mark.long
@pytest.mark.parametrize("sickness", SICKNESSES)
def test_sick_host(sickness: str, tmp_path: Path) -> None:
    """One command after the other: none takes longer than with any other fault."""
    asked = {name: each for name, each in commands(tmp_path).items() if name not in ("capture", "deploy", "backup")}
    slow: dict[str, float] = {}
    with SICKNESSES[sickness]():
        for name, arguments in asked.items():
            seconds, done = timed(name, arguments)
            said = done.stdout + done.stderr
            assert done.returncode in (0, 1, 2), said
            assert "Traceback" not in said
            assert "\033" not in said
            if name == "status":
                unwell = {each["name"] for each in json.loads(done.stdout)["hosts"] if each["error"] or each["unread"]}
                assert unwell <= {SICK}, said
            slow |= {name: round(seconds, 1)} if seconds > BUSY * SECONDS else {}
    assert slow == {}
