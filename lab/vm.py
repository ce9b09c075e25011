"""A host of the lab that is a machine of its own: qemu with a kernel of its own, booting the disk of `invoke image`.

It is run by `lab.host` like the others. Its NICs are ports of the switch (taps). Commands reach it by qemu's guest
agent, over no NIC; a shell is at its second serial port, the first one is its console.
"""

import base64
import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from lab import image, machine, network, trunk
from lab.blueprint import SWITCH, Blueprint, Machine
from lab.process import CommandError, LabError, Progress, run
from lab.state import IMAGES, RUNTIME, VARIABLE
from underlay.image import build, disk, seed

NAMES = build.names("lab")
FURTHER = ("qemu-guest-agent", *image.BASE)
"""Packages: the repository of the lab has only what the base of its hosts lacks."""
MEMORY_MIB = 1024
BOOT_SECONDS = 600.0
"""Software emulation, and a machine that is busy."""
SHELL = ["/bin/bash", "--login"]


def is_vm(name: str) -> bool:
    """Whether the host of that name is one."""
    return _disk(name).exists()


def ensure_parts(suite: str, say: Progress) -> Path:
    """What the disks of such hosts are made of, built if it is not there; then the suite's older ones are removed."""
    inputs = [Path(build.__file__).read_text(), build.CUSTOMIZE.read_text(), *FURTHER]
    path = IMAGES / f"vm-{suite}-{hashlib.sha256(repr(inputs).encode()).hexdigest()[:16]}"
    return image.once(path, f"vm-{suite}", lambda new: _make_parts(new, suite, say))


def _make_parts(folder: Path, suite: str, say: Progress) -> None:
    say(f"building the disk of Debian {suite} (once; it is kept in {IMAGES})")
    folder.mkdir()
    work = folder / "work"
    work.mkdir()
    # Not the lock: who ends this by its control group needs that first.
    build.parts(
        folder,
        work,
        NAMES,
        build.kernel_options(["eth0"]),
        suite,
        FURTHER,
        lambda argv, env: run(machine.in_cgroup(".build", argv), env=env, timeout=3000, inherit=False),
    )
    shutil.rmtree(work)


def make_disk(host: Machine, user: str, login: str, host_key: Path, parts: Path, files: Mapping[str, str]) -> None:
    """Give a host a fresh disk, as `invoke image` writes it; its first boot sets it up."""
    first = seed.First(
        name=host.name,
        nic=host.nic,
        address=host.address,
        router=host.router,
        user=user,
        login=login,
        host_key=host_key.read_text(),
        host_key_public=host_key.with_suffix(".pub").read_text(),
        files=files,
        links=host.links,
    )
    path = _disk(host.name)
    path.parent.mkdir(parents=True)
    made = path.with_name("seed")
    build.write_seed(made, first, _run)
    path.touch(mode=0o600)
    disk.write(path, parts, made, NAMES, _run)


def _run(argv: list[str], stdin: str = "") -> None:
    run(argv, stdin=stdin, env=build.REPRODUCIBLE, timeout=300)


def start(host: Machine, blueprint: Blueprint, console: Path) -> None:
    """Switch a host on."""
    network.plug_taps(host, blueprint)
    inside = ["nsenter", f"--net={network.netns(SWITCH)}"]
    with console.open("w") as log:

        def begin(argv: list[str]) -> None:
            subprocess.Popen(
                machine.in_cgroup(host.name, [*inside, *argv]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        begin(command(host, blueprint, console))
        for line in _trunks(host, blueprint):
            begin([sys.executable, "-IS", trunk.__file__, json.dumps(line)])


def _trunks(host: Machine, blueprint: Blueprint) -> Iterator[dict[str, object]]:
    """What to carry over each trunk, see `lab.trunk`."""
    ports = [name for name, _ in network.trunk_ports(host, blueprint)]
    for each in host.trunks:
        numbers = list(each.vlans)
        vlans, ports = dict(zip(numbers, ports, strict=False)), ports[len(numbers) :]
        legs = [[str(_socket(host.name, f"{leg}-{end}")) for end in ("switch", "host")] for leg in each.legs]
        yield {"legs": legs, "vlans": vlans}


def set_signal(name: str, index: int, on: bool) -> None:
    """Cut the cable of a host's NIC, by its number, or plug it in again."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(_socket(name, "qmp")))
        answers = line.makefile("rb")
        for request in (("qmp_capabilities", {}), ("set_link", {"name": f"n{index}", "up": on})):
            line.sendall(_request(*request))
            while "return" not in (said := json.loads(next(answers))):
                if "error" in said:
                    raise LabError(f"qemu of host {name!r}: {said['error']}")


def command(host: Machine, blueprint: Blueprint, console: Path) -> list[str]:
    """The command line of a host's qemu."""
    argv = ["qemu-system-x86_64", "-name", host.name, "-accel", "tcg,thread=multi", "-machine", "pc", "-cpu", "max"]
    argv += ["-smp", "2", "-m", str(MEMORY_MIB), "-nodefaults", "-display", "none", "-vga", "std"]
    argv += ["-serial", f"file:{console}", "-serial", f"unix:{_socket(host.name, 'tty')},server=on,wait=off"]
    # What the guest has written is the machine's from then on, also after a power cut of the guest.
    argv += ["-drive", f"file={_disk(host.name)},format=raw,if=virtio,cache=unsafe"]
    argv += ["-chardev", f"socket,id=agent,path={_socket(host.name, 'agent')},server=on,wait=off"]
    argv += ["-device", "virtio-serial", "-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"]
    argv += ["-device", "virtio-rng-pci"]
    argv += ["-qmp", f"unix:{_socket(host.name, 'qmp')},server=on,wait=off"]
    for index, (port, nic) in enumerate(zip(network.ports(host, blueprint), host.nics, strict=True)):
        if nic.network:
            argv += ["-netdev", f"tap,id=n{index},ifname={port},script=no,downscript=no"]
        else:
            here, there = (_socket(host.name, f"{nic.name}-{end}") for end in ("host", "switch"))
            ends = f"local.type=unix,local.path={here},remote.type=unix,remote.path={there}"
            argv += ["-netdev", f"dgram,id=n{index},{ends}"]
        argv += ["-device", f"virtio-net-pci,netdev=n{index},mac={nic.mac},romfile="]
    return argv


def leader(name: str) -> int | None:
    """The process that is its machine; None if the host is off: its trunks may still run."""
    for pid in machine.processes_below(machine.cgroup_root() / name):
        with suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().startswith("qemu"):
                return pid
    return None


# --- commands -------------------------------------------------------------------------------------------------------


def execute(
    name: str, command: list[str], env: Mapping[str, str], stdin: str | None, capture: bool, timeout: float | None
) -> subprocess.CompletedProcess[str]:
    """Run a command as root: see `host.execute`. Unlike there its output comes at its end."""
    if not capture and command == SHELL and sys.stdin.isatty():
        return subprocess.CompletedProcess(command, _shell(name, env.get("TERM", "dumb")), "", "")
    if stdin is None:
        stdin = "" if capture or sys.stdin.isatty() else sys.stdin.read()
    words = [*(["/usr/bin/timeout", "--kill-after=1", str(timeout)] if timeout else []), *command]
    begin = time.monotonic()
    with suppress(_SilentError):
        done = _wait(name, _begin(name, words, env, stdin), None if timeout is None else begin + timeout + 10)
        if timeout is None or time.monotonic() < begin + timeout:
            output, errors = (_text(done, key) for key in ("out-data", "err-data"))
            if not capture:
                sys.stdout.write(output)
                sys.stderr.write(errors)
                output = errors = ""
            code = int(str(done.get("exitcode", 0))) or -int(str(done.get("signal", 0)))
            return subprocess.CompletedProcess(command, code, output, errors)
    raise CommandError(command, None, "")


class _SilentError(Exception):
    """The agent gave no answer."""


def _begin(name: str, argv: list[str], env: Mapping[str, str], stdin: str) -> int:
    data = base64.b64encode(stdin.encode()).decode()
    variables = [f"{key}={value}" for key, value in env.items()]
    path, *arguments = ["/usr/bin/env", "-C", "/root", *argv]
    asked = {"path": path, "arg": arguments, "env": variables, "capture-output": True, "input-data": data}
    return int(str(_ask(name, "guest-exec", asked)["pid"]))


def _wait(name: str, pid: int, until: float | None) -> dict[str, object]:
    pause = 0.02
    while True:
        found = _ask(name, "guest-exec-status", {"pid": pid})
        if found["exited"]:
            return found
        if until is not None and time.monotonic() > until:
            raise _SilentError
        time.sleep(pause)
        pause = min(0.5, pause * 1.5)


def _text(done: Mapping[str, object], key: str) -> str:
    return base64.b64decode(str(done.get(key, ""))).decode(errors="replace")


def _ask(name: str, what: str, arguments: Mapping[str, object], seconds: float = 60) -> dict[str, object]:
    """Ask a host's agent something; its answer. The agent has one line, for one caller at a time."""
    with _socket(name, "lock").open("w") as lock, socket.socket(socket.AF_UNIX) as line:
        fcntl.flock(lock, fcntl.LOCK_EX)
        line.settimeout(seconds)
        try:
            line.connect(str(_socket(name, "agent")))
            # An earlier caller that was cut off may have left half an answer: what stands before this id is not ours.
            mark = int.from_bytes(os.urandom(4))
            # The byte makes the agent forget what it may have read half of; it complains of it, before the answer.
            line.sendall(b"\xff" + _request("guest-sync-delimited", {"id": mark}))
            answers = line.makefile("rb")
            for answer in answers:
                with suppress(ValueError):
                    if json.loads(answer.rpartition(b"\xff")[2]).get("return") == mark:
                        break
            line.sendall(_request(what, arguments))
            found = json.loads(next(answers))
        except (OSError, ValueError, StopIteration) as error:
            raise _SilentError from error
    if "return" not in found:
        raise LabError(f"the agent of host {name!r} refuses: {found.get('error')}")
    return dict(found["return"])


def _request(what: str, arguments: Mapping[str, object]) -> bytes:
    return json.dumps({"execute": what, "arguments": arguments}).encode() + b"\n"


def _shell(name: str, term: str) -> int:
    """A shell on this terminal, until it ends; its exit code is not known."""
    pid = _begin(name, ["agetty", "--autologin", "root", "--noclear", "ttyS1", "115200", term], {}, "")
    with socket.socket(socket.AF_UNIX) as line, _raw():
        line.connect(str(_socket(name, "tty")))
        while not _ask(name, "guest-exec-status", {"pid": pid})["exited"]:
            while ready := select.select([line, sys.stdin], [], [], 0.5)[0]:
                if line in ready:
                    os.write(sys.stdout.fileno(), line.recv(65536))
                if sys.stdin in ready:
                    line.sendall(os.read(sys.stdin.fileno(), 1024))
    return 0


@contextmanager
def _raw() -> Iterator[None]:
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setraw(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _disk(name: str) -> Path:
    return VARIABLE / "hosts" / name / "disk.raw"


def _socket(name: str, what: str) -> Path:
    return RUNTIME / f"{name}.{what}"


def check_nics(names: list[str], host: str) -> None:
    """LabError for NICs that such a host can't have: their names are those that its kernel gives, in order."""
    if any(not re.fullmatch(f"eth{index}", name) for index, name in enumerate(names)):
        raise LabError(f"{host} can't be a machine of its own in the lab: its NICs are not called eth0, eth1, …")
