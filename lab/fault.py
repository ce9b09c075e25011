"""Faults: ways to break the lab's site on purpose, each a file of `lab/faults` that says what the doctor must find.

One fault at a time, kept in the record FILE until it is healed: whoever looks for a cause has one to find.
"""

import difflib
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lab import blueprint, control, network
from lab.blueprint import SWITCH, Blueprint
from lab.process import CommandError, LabError, run
from lab.state import RUNTIME, load
from underlay.plan import Plan

FOLDER = Path(__file__).parent / "faults"
FILE = RUNTIME / "fault.json"
OPERATOR = "operator"
"""Where a fault is that concerns what the workstation's user keeps: known host keys."""
SECONDS = 60

_Text = Annotated[str, Field(min_length=1)]


class Fault(BaseModel):
    """A fault, as its file has it; `name` is the file's.

    what: one line for people
    where: the host whose root runs the commands; or "switch", for cables; or "operator"
    power_off: the fault is that the host is off; else `inject` and `heal` are shell commands. They find the plan in
        variables (see `variables`), and end at the first that fails. `heal` also works after the site was fixed
    finding: the cause that the doctor must name first; `on` is the host of which
    fix: what the doctor must print to fix it, as a regular expression that matches all of it
    slow: it takes long to inject or to fix
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    what: _Text
    where: _Text
    power_off: bool = False
    inject: str = ""
    heal: str = ""
    finding: _Text
    on: _Text
    fix: _Text
    slow: bool = False

    @model_validator(mode="after")
    def _whole(self) -> "Fault":
        if self.power_off == bool(self.inject and self.heal):
            raise ValueError("it has either power_off = true, or both inject and heal")
        return self


def catalogue(folder: Path = FOLDER) -> dict[str, Fault]:
    """Every fault by its name. LabError for the first file that can't be used."""
    return {path.stem: _read(path) for path in sorted(folder.glob("*.toml"))}


def _read(path: Path) -> Fault:
    try:
        return Fault.model_validate({"name": path.stem, **tomllib.loads(path.read_text())})
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise LabError(f"{path}: can't be read: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        what = first["msg"].removeprefix("Value error, ")
        raise LabError(f"{path}: {where}: {what}: the keys are those of lab.fault.Fault") from None


def find(name: str) -> Fault:
    """The fault of that name. LabError if there is none."""
    faults = catalogue()
    if name not in faults:
        close = difflib.get_close_matches(name, faults, 1)
        hint = f"did you mean {close[0]!r}?" if close else "`./inv lab.fault` lists them"
        raise LabError(f"unknown fault {name!r}: {hint}")
    return faults[name]


def injected() -> Fault | None:
    """The fault that the lab has now, or None."""
    try:
        return Fault.model_validate_json(FILE.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise LabError(f"{FILE}: can't be read: `./inv lab.reset` brings the lab up anew ({error})") from None


def inject(name: str, plan: Plan) -> Fault:
    """Break the lab. LabError if it is broken already, or if the fault can't be made; then it is healed again."""
    fault = find(name)
    _require_lab()
    try:
        with FILE.open("x") as record:
            record.write(fault.model_dump_json())
    except FileExistsError:
        there = injected()
        raise LabError(f"the lab has the fault {there.name if there else '?'!r}: `./inv lab.heal` first") from None
    try:
        if fault.power_off:
            control.power_off(fault.where)
        else:
            _execute(fault, fault.inject, plan)
    except BaseException:
        with suppress(LabError):  # what went wrong first is told; the record stays, for `heal` to be tried again
            heal(plan)
        raise
    return fault


def heal(plan: Plan) -> Fault | None:
    """Take the fault back, whether the site was fixed meanwhile or not; the fault, or None if there is none."""
    _require_lab()
    fault = injected()
    if fault is None:
        return None
    if fault.power_off:
        control.power_on(fault.where)
    else:
        _execute(fault, fault.heal, plan)
    FILE.unlink(missing_ok=True)
    return fault


def _require_lab() -> None:
    state = load()
    if state is None or not state.complete:
        raise LabError("the lab is not up: start it with `./inv lab.up`")
    if state.checkout != control.CHECKOUT:
        raise LabError(f"the lab on this machine belongs to {state.checkout}: break it from there")


def _execute(fault: Fault, script: str, plan: Plan) -> None:
    drawn = blueprint.load()
    if fault.where not in (SWITCH, OPERATOR):
        blueprint.check_name(fault.where, (machine.name for machine in drawn.machines))
    environment = variables(plan, drawn)
    exports = "".join(f"{name}={value}\n" for name, value in environment.items())
    commands = ["/bin/sh", "-euc", exports + script]
    match fault.where:
        case "switch":
            run(["ip", "netns", "exec", f"{network.PREFIX}{SWITCH}", *commands], timeout=SECONDS)
        case "operator":
            run(commands, cwd=RUNTIME, timeout=SECONDS)
        case host:
            done = control.run(host, commands, timeout=SECONDS)
            if done.returncode:
                raise CommandError([*commands[:2], script], done.returncode, done.stdout + done.stderr)


def variables(plan: Plan, drawn: Blueprint) -> dict[str, str]:
    """What the commands of faults know of the plan, as variables of the shell; in names, `-` is `_`.

    HOST_NETWORK: its address there; HOST_NETWORK_nic, HOST_NETWORK_port: its NIC, and its port of the switch;
    HOST_published; NETWORK_cidr, NETWORK_length, NETWORK_bridge; outside; known_hosts; namespaces (begin with it)
    """
    return dict(_variables(plan, drawn))


def _variables(plan: Plan, drawn: Blueprint) -> Iterator[tuple[str, str]]:
    for machine in drawn.machines:
        for port, nic in zip(network.ports(machine, drawn), machine.nics, strict=True):
            yield _name(machine.name, nic.network, "nic"), nic.name
            yield _name(machine.name, nic.network, "port"), port
    for host in plan.hosts:
        for interface in host.interfaces:
            yield _name(host.name, interface.network), str(interface.address)
        if host.published:
            yield _name(host.name, "published"), str(host.published)
    for index, each in enumerate(plan.networks):
        yield _name(each.name, "cidr"), str(each.cidr)
        yield _name(each.name, "length"), str(each.cidr.prefixlen)
        yield _name(each.name, "bridge"), f"br{index}"
    yield "namespaces", network.PREFIX
    if state := load():
        yield "outside", state.outside
        yield "known_hosts", str(state.known_hosts)


def _name(*parts: str) -> str:
    return "_".join(parts).replace("-", "_")
