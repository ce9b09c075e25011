"""Faults: ways to break the lab's site on purpose, each a file of `lab/faults` that says what the doctor must find.

One fault at a time in each place, kept in the folder RECORDS until it is healed.
"""

import difflib
import shlex
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lab import blueprint, control, network
from lab.blueprint import SWITCH, Blueprint
from lab.process import CommandError, LabError, run
from lab.state import RUNTIME, LabState, load
from lab.target import WORKSTATION
from underlay.access.endpoints import endpoints_from
from underlay.access.ssh_config import ssh_config
from underlay.plan import Plan

FOLDER = Path(__file__).parent / "faults"
RECORDS = RUNTIME / "faults"
"""For each place that has a fault: the fault."""
OPERATOR = "operator"
"""Where a fault is that concerns what the workstation's user keeps: known host keys. Also: where his ssh is run."""
SECONDS = 60

TOOLS = """
tcp() { timeout 3 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null; }
pings() { ping -nqc 2 -i 0.2 -W 2 "$@" >/dev/null 2>&1; }
seen_as() {
    ip netns exec ${namespaces}dev timeout 6 python3 -c 'if True:
        import socket
        server = socket.create_server(("", 7777))
        print(server.accept()[1][0])' &
    ip netns exec $namespaces$1 timeout 5 bash -c \
        "until (: > /dev/tcp/$dev_enterprise/7777); do sleep 0.1; done" 2>/dev/null || true
    wait $!
}
"""
"""What every script has: `tcp ADDRESS PORT` and `pings ADDRESS [OPTION …]` succeed if that is answered; at "operator"
`seen_as HOST` prints the address that a host has for the workstation."""

_Text = Annotated[str, Field(min_length=1)]


class Fault(BaseModel):
    """A fault, as its file has it; `name` is the file's.

    what: one line for people
    where: the host whose root runs the commands; or "switch", for cables; or "operator"
    power_off: the fault is that the host is off; else `inject` and `heal` are shell commands. They find the plan in
        variables (see `variables`), and end at the first that fails. `heal` also works after the site was fixed
    proof: shell commands that succeed only while something is broken as seen from outside; `proof_at` is the host whose
        root runs them, or "operator": this machine, with `$ssh` as the operator's ssh
    unproven: why there can be no proof
    boots: the fault breaks the next boot of `where`, and nothing before; the proof holds after it
    finding: the cause that the doctor must name first; `on` is the host of which
    fix: what the doctor must print to fix it, as a regular expression that matches all of it; empty: no fix, because no
        command is one
    advice: what its advice must have, as a regular expression
    slow: it takes long to inject or to fix
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    what: _Text
    where: _Text
    power_off: bool = False
    inject: str = ""
    heal: str = ""
    proof: str = ""
    proof_at: _Text = WORKSTATION
    unproven: str = ""
    boots: bool = False
    finding: _Text
    on: _Text
    fix: str
    advice: str = ""
    slow: bool = False

    @model_validator(mode="after")
    def _whole(self) -> "Fault":
        if self.power_off == bool(self.inject and self.heal):
            raise ValueError("it has either power_off = true, or both inject and heal")
        if self.proof and self.unproven:
            raise ValueError("it has either proof, or unproven: why there can be none")
        if self.boots and not self.proof:
            raise ValueError("boots = true needs a proof")
        if not (self.fix or self.advice):
            raise ValueError("without a fix it has advice")
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


def injected() -> list[Fault]:
    """The faults that the lab has now, the latest first."""
    try:
        records = sorted(RECORDS.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        return [Fault.model_validate_json(path.read_text()) for path in records]
    except (OSError, ValidationError) as error:
        raise LabError(f"{RECORDS}: can't be read: `./inv lab.reset` brings the lab up anew ({error})") from None


def inject(name: str, plan: Plan) -> Fault:
    """Break the lab. LabError if that place has a fault already, or if it can't be made; then it is healed again."""
    fault = find(name)
    _require_lab()
    try:
        RECORDS.mkdir(exist_ok=True)
        with _record(fault).open("x") as record:
            record.write(fault.model_dump_json())
    except FileExistsError:
        there = next((each.name for each in injected() if each.where == fault.where), "?")
        raise LabError(f"{fault.where} has the fault {there!r}: `./inv lab.heal` first") from None
    try:
        if fault.power_off:
            control.power_off(fault.where)
        else:
            execute(fault.where, fault.inject, plan)
    except BaseException:
        with suppress(LabError):  # what went wrong first is told; the record stays, for `heal` to be tried again
            _heal(fault, plan)
        raise
    return fault


def heal(plan: Plan, name: str = "") -> list[Fault]:
    """Take the faults back, the latest first, or that of a name; whether the site was fixed meanwhile or not. Those."""
    _require_lab()
    found = [each for each in injected() if name in ("", each.name)]
    for fault in found:
        _heal(fault, plan)
    return found


def is_broken(fault: Fault, plan: Plan) -> bool:
    """Whether the fault's proof holds now. LabError if it takes too long."""
    try:
        execute(fault.proof_at, fault.proof, plan)
    except CommandError as error:
        if error.returncode is None:
            raise
        return False
    return True


def _heal(fault: Fault, plan: Plan) -> None:
    if fault.power_off:
        control.power_on(fault.where)
    else:
        execute(fault.where, fault.heal, plan)
    _record(fault).unlink(missing_ok=True)


def _record(fault: Fault) -> Path:
    return RECORDS / f"{fault.where}.json"


def _require_lab() -> None:
    state = load()
    if state is None or not state.complete:
        raise LabError("the lab is not up: start it with `./inv lab.up`")
    if state.checkout != control.CHECKOUT:
        raise LabError(f"the lab on this machine belongs to {state.checkout}: break it from there")


def execute(where: str, script: str, plan: Plan) -> None:
    """Run a script at a place. CommandError if it fails, without `returncode` if it takes too long."""
    drawn = blueprint.load()
    if where not in (SWITCH, OPERATOR):
        blueprint.check_name(where, (machine.name for machine in drawn.machines))
    exports = "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables(plan, drawn).items())
    commands = ["/bin/sh", "-euc", exports + TOOLS + script]
    match where:
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
    HOST_published; NETWORK_cidr, NETWORK_length, NETWORK_bridge; outside; known_hosts; namespaces (begin with it);
    ssh: the operator's, for a script of "operator": `$ssh HOST COMMAND` makes a new connection by the plan's way
    """
    return dict(_variables(plan, drawn))


def _variables(plan: Plan, drawn: Blueprint) -> Iterator[tuple[str, str]]:
    for machine in drawn.machines:
        for port, nic in zip(network.ports(machine, drawn), machine.nics, strict=True):
            if nic.network:  # else its network is one of several
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
        yield "ssh", _ssh(plan, state)


def _ssh(plan: Plan, state: LabState) -> str:
    ends = endpoints_from(plan, plan.host(WORKSTATION))
    text = ssh_config(plan, ends, state.key, [state.known_hosts], RUNTIME)
    # A connection that is open proves nothing.
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("Control")]
    config = RUNTIME / "proof_ssh_config"
    config.write_text("\n".join(lines) + "\n")
    return shlex.join(["ip", "netns", "exec", f"{network.PREFIX}{WORKSTATION}", "ssh", "-F", str(config)])


def _name(*parts: str) -> str:
    return "_".join(parts).replace("-", "_")
