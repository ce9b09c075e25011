"""The lab's API: up, down, reset, status, reboot, power, run, shell. Every error for a person is a LabError.

There is one lab to a machine (or to a name, see `lab.state`), whichever checkout it belongs to. What changes it holds a
lock of the kernel's meanwhile, so a run that was killed blocks nobody. What runs is found by looking, not by the
record alone: whatever state a killed run left behind, the next `up` or `down` fixes it.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, TextIO, TypeVar

from pydantic import BaseModel

from lab import blueprint, flavour, host, image, machine, network, vm
from lab.blueprint import Blueprint, Machine
from lab.process import LOCKS, LabError, Progress, wait_until
from lab.state import IMAGES, NETNS_DIR, RUNTIME, STATE, SUITES, VARIABLE, LabHost, LabState, load
from underlay.plan import ROLES, Plan
from underlay.programs import VM

CHECKOUT = image.REPO
LOCK = RUNTIME / "lock"

T = TypeVar("T")


class MachineStatus(BaseModel):
    """A host as it is now. `state` is that of its systemd ("running", "degraded", "starting", …), or "off"."""

    name: str
    state: str
    address: str


class LabStatus(BaseModel):
    """The lab as it is now; `state` is "changing" while a process changes it, "broken" where one was cut off."""

    state: Literal["up", "down", "changing", "broken"]
    suite: str | None = None
    checkout: Path | None = None
    plan: Path | None = None
    hosts: list[MachineStatus] = []

    def table(self) -> str:
        """For people."""
        if self.suite is None:
            fix = {"down": "`./inv lab.up` starts it", "broken": "`./inv lab.up` fixes it"}
            return f"the lab is {self.state}: {fix.get(self.state, 'wait for it')}"
        lines = [f"the lab is {self.state}: Debian {self.suite}, of {self.plan}, owned by {self.checkout}"]
        width = max(len(each.name) for each in self.hosts)
        return "\n".join([*lines, *(f"  {each.name:{width}}  {each.state:9} {each.address}" for each in self.hosts)])


# --- the whole lab --------------------------------------------------------------------------------------------------


def up(
    plan: Plan,
    suite: str | None = None,
    say: Progress | None = None,
    hosts: str | None = None,
    vms: Collection[str] | None = None,
) -> LabState:
    """Bring the lab up, or leave it as it is if it is up; hosts that are off are switched on.

    suite: that of the lab that is up, else the default
    hosts: how the network of those that are deployed was set up, see `lab.flavour`; the same
    vms: the hosts that are machines of their own; None: those of the lab that is up, else none

    LabError if it is up with another suite or plan: `reset` is what changes that. Interrupted, it takes all down again.
    """
    say = say or Progress()
    image.image(suite or SUITES[0])
    with _locked():
        state = _own()
        hosts = hosts or (state.flavour if state else flavour.DEFAULT)
        drawn = _draw(plan, state, hosts, vms)
        if state and state.complete and network.namespaces():
            _check_same(state, drawn, plan, suite or state.suite)
            return _switch_on(state, drawn, say)
        if _leftovers():
            say("removing what an earlier run left")
            _clear()
        return _build(plan, drawn, suite or SUITES[0], hosts, say)


def flavours(plan: Plan, hosts: str) -> dict[str, str]:
    """Host that is deployed → how its network was set up. LabError for a way that the lab does not know."""
    deployed = [host.name for host in plan.hosts if host.role in ROLES]
    return {name: flavour.of_host(hosts, number) for number, name in enumerate(deployed)}


def down(purge: bool = False, say: Progress | None = None) -> None:
    """Take everything of the lab away; with `purge` its images too. Nothing to take away is no error."""
    say = say or Progress()
    machine.check_root()
    with _locked():
        _own()
        found = _leftovers()
        _clear()
        if purge:
            image.purge()
        for folder in (IMAGES, IMAGES.parent, VARIABLE):
            with suppress(OSError):  # not empty, or not there
                folder.rmdir()
    say("the lab is down" if found else "the lab was down already")


def reset(
    plan: Plan,
    suite: str | None = None,
    say: Progress | None = None,
    hosts: str | None = None,
    vms: Collection[str] | None = None,
) -> LabState:
    """The lab with fresh disks, of this plan; suite, hosts and vms as for `up`."""
    say = say or Progress()
    with _locked():
        state = _own()
        hosts = hosts or (state.flavour if state else flavour.DEFAULT)
        drawn = _draw(plan, state, hosts, vms)
        suite = suite or (state.suite if state else SUITES[0])
        image.image(suite)  # before anything goes
        _clear()
        return _build(plan, drawn, suite, hosts, say)


def _draw(plan: Plan, state: LabState | None, hosts: str, vms: Collection[str] | None) -> Blueprint:
    if vms is None:
        vms = blueprint.load().vms if state and state.complete else ()
    machine.check(VM if vms else {})
    drawn = blueprint.draw(plan, flavours(plan, hosts), vms)
    for each in drawn.machines:
        if each.vm:
            vm.check_nics([nic.name for nic in each.nics], each.name)
    return drawn


def status() -> LabStatus:
    """What of the lab is there, whoever owns it. LabError for a name that no lab has."""
    machine.check_name()
    state = load()
    if state is None or not state.complete or not network.namespaces():
        return LabStatus(state="changing" if _holder() else "broken" if _leftovers() else "down")
    hosts = _each(
        blueprint.load().machines,
        lambda each: MachineStatus(name=each.name, state=host.system_state(each.name), address=each.address),
    )
    return LabStatus(state="up", suite=state.suite, checkout=state.checkout, plan=state.plan, hosts=hosts)


def _build(plan: Plan, drawn: Blueprint, suite: str, hosts: str, say: Progress) -> LabState:
    state = LabState(
        checkout=CHECKOUT,
        suite=suite,
        complete=False,
        key=RUNTIME / "key",
        known_hosts=RUNTIME / "known_hosts",
        hosts={each.name: _record(each) for each in drawn.machines},
        plan=plan.source,
        image=image.image(suite),
        flavour=hosts,
    )
    try:
        state.save()
        drawn.save()
        image.ensure(suite, say)
        if drawn.vms:
            vm.ensure_parts(suite, say)
        machine.raise_limits(drawn.neighbours)
        host.make_key(state.key, drawn.machine(blueprint.INTERNET).user)
        network.create_switch(drawn.networks)
        say(f"booting {len(drawn.machines)} hosts")
        state = _install(state, drawn, drawn.machines)
    except BaseException:
        say("taking down what was begun")
        _clear()
        raise
    say(f"the lab is up: {len(state.hosts)} hosts (Debian {suite})")
    return state


def _switch_on(state: LabState, drawn: Blueprint, say: Progress) -> LabState:
    off = [each for each in drawn.machines if host.leader(each.name) is None]
    if off:
        say(f"switching on {', '.join(each.name for each in off)}")
        for each in off:
            host.stop(each, drawn)
    state = _boot(state, drawn, off)
    say(f"the lab is up{'' if off else ' already'} (Debian {state.suite}); `./inv lab.reset` gives it fresh disks")
    return state


def _boot(state: LabState, drawn: Blueprint, machines: Iterable[Machine]) -> LabState:
    machines = list(machines)
    for each in machines:
        host.start(each, drawn, state.image)
    _each(machines, host.wait_ready)
    return _record_hosts(state, drawn)


def _install(state: LabState, drawn: Blueprint, machines: Iterable[Machine]) -> LabState:
    machines = list(machines)
    _each(machines, lambda each: host.make_key(host.keys(each.name), each.name))
    _write_known_hosts(state, drawn)
    public_key = state.key.with_suffix(".pub")
    parts = vm.ensure_parts(state.suite, Progress()) if any(each.vm for each in machines) else None
    _each(machines, lambda each: host.make_disk(each, drawn, state.image, public_key, parts))
    return _boot(state, drawn, machines)


def _write_known_hosts(state: LabState, drawn: Blueprint) -> None:
    lines = []
    for each in drawn.machines:
        kind, key, _ = host.keys(each.name).with_suffix(".pub").read_text().split()
        lines.append(f"{','.join(each.names)} {kind} {key}\n")
    state.known_hosts.write_text("".join(lines))


def _record(each: Machine) -> LabHost:
    return LabHost(netns=network.netns(each.name), leader=host.leader(each.name), root=host.root(each.name))


def _record_hosts(state: LabState, drawn: Blueprint) -> LabState:
    hosts = {each.name: _record(each) for each in drawn.machines}
    state = state.model_copy(update={"checkout": CHECKOUT, "complete": True, "hosts": hosts})
    state.save()
    return state


def _clear() -> None:
    """Take away all that is there of a lab but the images, whoever made it and however it ended."""
    machine.kill_cgroup()
    namespaces = network.namespaces()
    host.end_processes(namespaces)
    machine.unmount_below(host.HOSTS)
    for namespace in namespaces:
        network.remove(namespace)
    with suppress(OSError):  # not empty: it is not the lab's alone
        NETNS_DIR.rmdir()
    host.sweep("*")
    machine.lower_limits()
    if host.HOSTS.exists():
        shutil.rmtree(host.HOSTS)
    image.discard_unfinished()
    for path in RUNTIME.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path != LOCK:
            path.unlink()


def _leftovers() -> bool:
    """Whether anything is there that `_clear` would take away."""
    there = STATE.exists() or host.HOSTS.exists() or machine.cgroup_root().exists()
    return bool(there or network.namespaces() or machine.mounts_below(host.HOSTS))


# --- one host -------------------------------------------------------------------------------------------------------


def reboot(name: str, patience: float = 0.5) -> None:
    """A power cut and a cold boot from disk: what was only set in the running kernel is gone.

    `patience`: for how many seconds to wait for another process that changes the lab.
    """
    with _changing(name, patience) as (state, drawn, each):
        host.stop(each, drawn)
        _boot(state, drawn, [each])


def power_off(name: str) -> None:
    """A power cut. The host's disk stays; its network namespace is gone until `power_on`."""
    with _changing(name) as (state, drawn, each):
        host.stop(each, drawn)
        _record_hosts(state, drawn)


def power_on(name: str) -> None:
    """Boot a host that is off; nothing to do for one that is on."""
    with _changing(name) as (state, drawn, each):
        if host.leader(name) is None:
            host.stop(each, drawn)
            _boot(state, drawn, [each])


def add(plan: Plan, say: Progress | None = None) -> None:
    """Install and boot the hosts of a plan that the lab does not have yet. LabError if others of it differ."""
    say = say or Progress()
    _up()
    with _locked():
        old = blueprint.load()
        drawn = old.with_new(blueprint.draw(plan, flavours(plan, _up().flavour), old.vms))
        new = drawn.machines[len(old.machines) :]
        if new:
            _rebuild(drawn, new=new)
    say(f"added {', '.join(each.name for each in new) or 'nothing: the lab has every host of the plan'}")


def remove(name: str) -> None:
    """Take a host out of the lab, with its disk."""
    with _changing(name) as (_, drawn, each):
        _rebuild(drawn.without(name), gone=[each])


def replace(name: str) -> None:
    """Put a new machine in the place of a host: fresh disk, new host key, other MACs; installed and booted.

    The new key is in `known_hosts`, as if the operator had read it from the machine's console.
    """
    with _changing(name) as (_, drawn, each):
        another = drawn.with_another(name)
        _rebuild(another, gone=[each], new=[another.machine(name)])


def _rebuild(drawn: Blueprint, gone: Iterable[Machine] = (), new: Iterable[Machine] = ()) -> None:
    # Cut off in between, the lab is not complete, and the next `up` builds it anew.
    state = _up().model_copy(update={"complete": False})
    state.save()
    for each in gone:
        host.stop(each, drawn)
        host.remove_disk(each.name)
    drawn.save()
    _install(state, drawn, new)


def run(
    name: str,
    command: list[str] | str,
    *,
    stdin: str | None = None,
    capture: bool = True,
    timeout: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command as root inside a host: see `host.execute`. It need not succeed: look at its `returncode`."""
    blueprint.check_name(name, _up().hosts)
    return host.execute(name, command, stdin=stdin, capture=capture, timeout=timeout)


def shell(name: str = "dev") -> int:
    """A shell as root inside a host, on this terminal; its exit code."""
    return run(name, ["/bin/bash", "--login"], capture=False).returncode


@contextmanager
def _changing(name: str, patience: float = 0.5) -> Iterator[tuple[LabState, Blueprint, Machine]]:
    _up()
    with _locked(patience):
        drawn = blueprint.load()
        yield _up(), drawn, drawn.machine(name)


def _up() -> LabState:
    machine.check_root()
    state = _own()
    if state is None or not state.complete:
        raise LabError("the lab is not up: start it with `./inv lab.up`")
    return state


# --- whose lab it is ------------------------------------------------------------------------------------------------


def _own() -> LabState | None:
    """The record of this checkout's lab. LabError if the machine has the lab of another checkout that still exists."""
    state = load()
    if state and state.checkout != CHECKOUT and state.checkout.exists():
        if network.namespaces() or machine.cgroup_populated():
            raise LabError(
                f"the lab on this machine belongs to {state.checkout}: take it down there first "
                f"(cd {state.checkout} && ./inv lab.down)"
            )
        return None
    return state


def _check_same(state: LabState, drawn: Blueprint, plan: Plan, suite: str) -> None:
    if state.suite != suite:
        raise LabError(
            f"the lab is up with Debian {state.suite}, not {suite}: `./inv lab.reset --suite {suite}` builds it anew"
        )
    if not blueprint.load().same(drawn):
        raise LabError(
            f"the lab is up with hosts or networks that differ from {plan.source}: `./inv lab.reset` builds it anew, "
            "`./inv lab.add` adds hosts"
        )


@contextmanager
def _locked(patience: float = 0.5) -> Iterator[None]:
    """Keep others from changing the lab. LabError, with the process to wait for, if one does now.

    `patience`: seconds to wait for it; never none, because `status` holds the lock for a moment, too.
    """
    RUNTIME.mkdir(mode=0o755, parents=True, exist_ok=True)
    with LOCK.open("a+") as lock:
        if not wait_until(lambda: _lock(lock), seconds=patience):
            raise LabError(f"process {LOCK.read_text() or '?'} is changing the lab: wait for it to end")
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        LOCKS.add(lock.fileno())
        try:
            yield
        finally:
            LOCKS.clear()
            if list(RUNTIME.iterdir()) == [LOCK]:
                shutil.rmtree(RUNTIME)


def _lock(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    if not LOCK.exists() or os.fstat(lock.fileno()).st_ino != LOCK.stat().st_ino:
        raise LabError("the lab was taken down this moment: try again")
    return True


def _holder() -> str | None:
    """The process that holds the lock, or None."""
    with suppress(FileNotFoundError), LOCK.open() as lock:
        if not _lock(lock):
            return LOCK.read_text()
    return None


def _each(machines: Iterable[Machine], work: Callable[[Machine], T]) -> list[T]:
    """Do something for several hosts at once; the results in their order, or the first error."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(work, machines))
