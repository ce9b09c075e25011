"""The lab's API: up, down, reset, status, reboot, power, run, shell. Every error for a person is a LabError.

There is one lab to a machine, whichever checkout it belongs to. What changes it holds a lock of the kernel's meanwhile,
so a run that was killed blocks nobody. What runs is found by looking, not by the record alone: whatever state a killed
run left behind, the next `up` or `down` mends it.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel

from lab import blueprint, host, image, machine, network
from lab.blueprint import Blueprint, Machine
from lab.process import LabError, Progress, run as run_program
from lab.state import RUNTIME, STATE, VARIABLE, LabHost, LabState, load
from underlay.plan import Plan

CHECKOUT = image.REPO
LOCK = RUNTIME / "lock"
DEFAULT_SUITE = next(iter(image.SUITES))

T = TypeVar("T")


class HostStatus(BaseModel):
    """A host as it is now. `state` is that of its systemd ("running", "degraded", "starting", …), or "off"."""

    name: str
    state: str
    address: str


class LabStatus(BaseModel):
    """The lab as it is now; `state` is "broken" where a run was cut off or something of it is gone."""

    state: Literal["up", "down", "broken"]
    suite: str | None = None
    checkout: Path | None = None
    plan: Path | None = None
    hosts: list[HostStatus] = []


# --- the whole lab --------------------------------------------------------------------------------------------------


def up(plan: Plan, suite: str = DEFAULT_SUITE, say: Progress | None = None) -> LabState:
    """Bring the lab up, or leave it as it is if it is up; hosts that are off are switched on.

    LabError if it is up with another suite or plan: `reset` is what changes that. Interrupted, it takes everything down.
    """
    say = say or Progress()
    machine.check()
    image.image(suite)
    drawn = blueprint.draw(plan)
    with _locked():
        state = _own()
        if state and state.complete and network.namespaces():
            _check_same(state, drawn, plan, suite)
            return _switch_on(state, drawn, say)
        if _leftovers():
            say("removing what an earlier run left")
            _clear()
        return _build(plan, drawn, suite, say)


def down(purge: bool = False, say: Progress | None = None) -> None:
    """Take everything of the lab away; with `purge` its images too. Nothing to take away is no error."""
    say = say or Progress()
    machine.check_root()
    with _locked():
        _own()
        found = _leftovers()
        _clear()
        if purge:
            for path in image.IMAGES.iterdir() if image.IMAGES.exists() else ():
                image.remove(path)
        for folder in (image.IMAGES, VARIABLE):
            with suppress(OSError):  # not empty, or not there
                folder.rmdir()
        shutil.rmtree(RUNTIME)  # the lock is the last thing to go
    say("the lab is down" if found else "the lab was down already")


def reset(plan: Plan, suite: str | None = None, say: Progress | None = None) -> LabState:
    """The lab with fresh disks, of this plan; of the suite that it has, if none is given."""
    say = say or Progress()
    machine.check()
    drawn = blueprint.draw(plan)
    with _locked():
        state = _own()
        suite = suite or (state.suite if state else DEFAULT_SUITE)
        image.image(suite)
        _clear()
        return _build(plan, drawn, suite, say)


def status() -> LabStatus:
    """What of the lab is there, whoever owns it."""
    state = load()
    if state is None or not state.complete:
        left = _leftovers() and not _holder()
        return LabStatus(state="broken" if left or state else "down")
    drawn = _drawn(state)
    hosts = _each(drawn.machines, lambda each: HostStatus(name=each.name, state=_state(each), address=each.address))
    return LabStatus(
        state="up" if network.namespaces() else "broken",
        suite=state.suite,
        checkout=state.checkout,
        plan=state.plan,
        hosts=hosts,
    )


def _build(plan: Plan, drawn: Blueprint, suite: str, say: Progress) -> LabState:
    try:
        state = LabState(
            checkout=CHECKOUT,
            suite=suite,
            complete=False,
            key=RUNTIME / "key",
            known_hosts=RUNTIME / "known_hosts",
            hosts={each.name: _record(each.name) for each in drawn.machines},
            plan=plan.source,
            blueprint=drawn.digest,
            image=image.image(suite),
        )
        state.save()
        image.ensure(suite, say)
        (RUNTIME / "blueprint.json").write_text(drawn.model_dump_json())
        machine.raise_limits()
        _make_keys(state, drawn)
        network.create_switch(drawn.networks)
        say(f"booting {len(drawn.machines)} hosts")
        _each(drawn.machines, lambda each: host.make_disk(each, drawn, state.image, state.key.with_suffix(".pub")))
        _boot(state, drawn, drawn.machines)
        state = _save(state, complete=True)
    except BaseException:
        say("taking down what was begun")
        _clear()
        raise
    say(f"the lab is up: {', '.join(state.hosts)} (Debian {suite})")
    return state


def _switch_on(state: LabState, drawn: Blueprint, say: Progress) -> LabState:
    off = [each for each in drawn.machines if host.leader(each.name) is None]
    if off:
        say(f"switching on {', '.join(each.name for each in off)}")
        for each in off:
            host.stop(each, drawn.machines.index(each))
        _boot(state, drawn, off)
    say(f"the lab is up {'again' if off else 'already'} (Debian {state.suite}); `invoke lab.reset` gives it fresh disks")
    return _save(state, complete=True)


def _boot(state: LabState, drawn: Blueprint, machines: Iterable[Machine]) -> None:
    machines = list(machines)
    for each in machines:
        host.start(each, drawn.machines.index(each), drawn.networks, state.image)
    _each(machines, host.wait_ready)


def _make_keys(state: LabState, drawn: Blueprint) -> None:
    host.make_key(state.key, drawn.user)
    _each(drawn.machines, lambda each: host.make_key(host.keys(each.name), each.name))
    lines = []
    for each in drawn.machines:
        kind, key, _ = host.keys(each.name).with_suffix(".pub").read_text().split()
        lines.append(f"{','.join(each.names)} {kind} {key}\n")
    state.known_hosts.write_text("".join(lines))


def _record(name: str) -> LabHost:
    return LabHost(netns=network.netns(name), leader=host.leader(name), root=host.root(name))


def _save(state: LabState, *, complete: bool) -> LabState:
    hosts = {name: _record(name) for name in state.hosts}
    state = state.model_copy(update={"checkout": CHECKOUT, "complete": complete, "hosts": hosts})
    state.save()
    return state


def _clear() -> None:
    """Take away all that is there of a lab but the images, whoever made it and however it ended."""
    machine.kill_cgroup()
    if namespaces := network.namespaces():
        host.end_processes(namespaces)
    for mount in _mounts():
        run_program(["umount", "--lazy", str(mount)])
    for namespace in namespaces:
        network.remove(namespace)
    with suppress(OSError):  # not empty: it is not ours alone
        network.NETNS_DIR.rmdir()
    for path in Path("/run/systemd/nspawn").glob(f"*/{network.PREFIX}*"):  # of containers that were killed
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if host.HOSTS.exists():
        shutil.rmtree(host.HOSTS)
    for path in RUNTIME.iterdir():
        if path != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _leftovers() -> bool:
    """Whether anything is there that `_clear` would take away."""
    return bool(
        STATE.exists() or network.namespaces() or _mounts() or host.HOSTS.exists() or machine.cgroup_root().exists()
    )


def _mounts() -> list[Path]:
    """The mounts below the lab's folders, innermost first."""
    mounts = [Path(line.split()[1]) for line in Path("/proc/mounts").read_text().splitlines()]
    return [mount for mount in mounts if mount.is_relative_to(VARIABLE)][::-1]


# --- one host -------------------------------------------------------------------------------------------------------


def reboot(name: str) -> None:
    """A power cut and a cold boot from disk: what was only set in the running kernel is gone."""
    with _one(name) as (state, drawn, each):
        host.stop(each, drawn.machines.index(each))
        _boot(state, drawn, [each])


def power_off(name: str) -> None:
    """A power cut. The host's disk stays; its network namespace is gone until `power_on`."""
    with _one(name) as (_, drawn, each):
        host.stop(each, drawn.machines.index(each))


def power_on(name: str) -> None:
    """Boot a host that is off; nothing to do for one that is on."""
    with _one(name) as (state, drawn, each):
        if host.leader(name) is None:
            host.stop(each, drawn.machines.index(each))
            _boot(state, drawn, [each])


def run(
    name: str, command: list[str] | str, *, stdin: str | None = None, capture: bool = True, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as root inside a host: see `host.execute`. It need not succeed: look at its `returncode`."""
    blueprint.check_name(name, _up().hosts)
    return host.execute(name, command, stdin=stdin, capture=capture, timeout=timeout)


def shell(name: str = "dev") -> int:
    """A shell as root inside a host, on this terminal; its exit code."""
    return run(name, ["/bin/bash", "--login"], capture=False).returncode


@contextmanager
def _one(name: str) -> Iterator[tuple[LabState, Blueprint, Machine]]:
    machine.check_root()
    with _locked():
        _own()
        state = _up()
        drawn = _drawn(state)
        try:
            yield state, drawn, drawn.machine(name)
        finally:
            _save(state, complete=True)


def _up() -> LabState:
    state = load()
    if state is None or not state.complete:
        raise LabError("the lab is not up: start it with `invoke lab.up`")
    machine.check_root()
    return state


def _drawn(state: LabState) -> Blueprint:
    return Blueprint.model_validate_json((STATE.parent / "blueprint.json").read_text())


def _state(each: Machine) -> str:
    if host.leader(each.name) is None:
        return "off"
    done = host.execute(each.name, ["systemctl", "is-system-running"], capture=True, timeout=10)
    return done.stdout.strip() or "starting"


# --- whose lab it is ------------------------------------------------------------------------------------------------


def _own() -> LabState | None:
    """The record of this checkout's lab. LabError if the lab on this machine is another checkout's that still exists."""
    state = load()
    if state and state.checkout != CHECKOUT and state.checkout.exists():
        if network.namespaces() or machine.cgroup_populated():
            raise LabError(
                f"the lab on this machine belongs to {state.checkout}: take it down there first "
                f"(cd {state.checkout} && invoke lab.down)"
            )
        return None
    return state


def _check_same(state: LabState, drawn: Blueprint, plan: Plan, suite: str) -> None:
    if state.suite != suite:
        raise LabError(
            f"the lab is up with Debian {state.suite}, not {suite}: `invoke lab.reset --suite {suite}` builds it anew"
        )
    if state.blueprint != drawn.digest:
        raise LabError(
            f"the lab is up with hosts or networks that differ from {plan.source}: `invoke lab.reset` builds it anew"
        )


@contextmanager
def _locked() -> Iterator[None]:
    """Keep others from changing the lab. LabError, with the process to wait for, if one does now."""
    RUNTIME.mkdir(mode=0o755, parents=True, exist_ok=True)
    with LOCK.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(f"process {_holder() or '?'} is changing the lab: wait for it to end") from None
        if not LOCK.exists() or os.fstat(lock.fileno()).st_ino != LOCK.stat().st_ino:
            raise LabError("the lab was taken down this moment: try again")
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _holder() -> str | None:
    """The process that holds the lock, or None."""
    try:
        with LOCK.open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return LOCK.read_text()
    except FileNotFoundError:
        pass
    return None


def _each(machines: Iterable[Machine], work: Callable[[Machine], T]) -> list[T]:
    """Do something for several hosts at once; the results in their order, or the first error."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(work, machines))
