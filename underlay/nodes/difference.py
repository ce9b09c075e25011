"""A host beside what a node must be, and the commands that make it one. Pure.

What is ours alone is known by its name (files) or by a mark (lines of /etc/hosts and /etc/fstab, of containerd's
configuration); all else of the host stays.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from underlay.compare.difference import Difference, File, NodePart, UnitState
from underlay.compare.files import file_difference
from underlay.desired.units import Unit
from underlay.facts.packages import ALONE, APT, INSTALL, PATIENCE, UPDATE
from underlay.nodes import containerd
from underlay.nodes.containerd import OddConfigError
from underlay.nodes.state import SWAP_UNITS, NodeState
from underlay.nodes.wanted import (
    BRIDGE_FILTER,
    BRIDGED,
    CLOCKS,
    CONFIG,
    CONTAINERD,
    CRICTL,
    FSTAB,
    HEAD,
    HOSTS,
    MACHINE_ID,
    MODULES,
    PROGRAMS,
    SOCKET,
    SYSCTLS,
    TIMESYNCD,
    TOOLS,
    Preparation,
)

BEGIN, END = "# underlay: the nodes of the cluster, written by the repo's deploy", "# underlay: end"
NO_SWAP = "# underlay, no swap on a node: "


@dataclass(frozen=True)
class Step:
    """What differs, and what mends it: files with their text, then shell commands.

    check: a shell command that fails for a bad file, which is `$NEW` until then
    """

    differences: tuple[Difference, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    commands: str = ""
    check: str = ""


def obstacles(wanted: Preparation, state: NodeState) -> list[str]:
    """Why a deploy must not make a node of the host: what can't be done beside what is there, each with what to do."""
    found = []
    crictl = state.files.get(CRICTL)
    if crictl is not None and not crictl.startswith(HEAD) and SOCKET not in crictl:
        found.append(f"{CRICTL} is for another runtime than containerd: remove it, or that runtime")
    for name in PROGRAMS:
        version = _version(name, state)
        if version not in ("", wanted.cluster.version):
            found.append(
                f"{name} {version} is installed, the plan has {wanted.cluster.version}: another version of a cluster "
                "is kubeadm's business (kubeadm upgrade); then write it in the plan"
            )
    try:
        _config(wanted, state)
    except OddConfigError as error:
        found.append(f"{CONFIG}: {error}. Move it away, or write there: {_by_hand(wanted, state)}")
    else:
        said = _overruled(wanted, state)
        if said and _config(wanted, state) == state.files.get(CONFIG, ""):
            found.append(f"containerd does not what {CONFIG} says ({', '.join(said)}): look at what it imports")
    return found


def lacking(state: NodeState) -> list[str]:
    """What the kernel can't do, or is not the host's to change; nothing mends it there."""
    found = [f"the kernel {state.kernel} has no {name}" for name, how in state.modules.items() if how == "none"]
    if state.container:
        found.append(f"it is a container ({state.container}): the clock, and what is swapped to, are its machine's")
    return found


def packages(state: NodeState) -> list[str]:
    """The packages of the host's own sources that it lacks."""
    found = [name for name in TOOLS if name not in state.packages]
    found += [CONTAINERD] if state.containerd is None else []
    return found + ([TIMESYNCD] if not (state.container or _clocks(state)) else [])


def differences(wanted: Preparation, state: NodeState) -> list[Difference]:
    """All that is not as it must be; of what the kernel can't do, that of a host with a kernel of its own."""
    told = obstacles(wanted, state) + ([] if state.container else lacking(state))
    found = [Difference("differs", NodePart(each)) for each in told]
    found += [Difference("missing", NodePart(f"package {name}")) for name in packages(state)]
    return found + [each for step in steps(wanted, state) for each in step.differences]


def steps(wanted: Preparation, state: NodeState) -> Iterator[Step]:
    """What is to be done, in this order, once the packages are there."""
    for path, content in wanted.files.items():
        foreign = path == CRICTL and not state.files.get(path, HEAD).startswith(HEAD)
        if not foreign and (difference := file_difference(path, content, state.files)):
            yield Step((difference,), {path: content})
    yield from _kernel(state)
    if not state.container:
        yield from _swap(state)
    if state.files.get(MACHINE_ID, "").strip() in ("", "uninitialized"):
        yield Step((Difference("missing", NodePart(f"id in {MACHINE_ID}")),), commands="systemd-machine-id-setup")
    names = with_block(state.files.get(HOSTS, ""), wanted.names)
    if difference := file_difference(HOSTS, names, state.files):
        yield Step((difference,), {HOSTS: names})
    if not (state.container or _clocks(state)):
        yield _unit(TIMESYNCD, state)
    yield from _containerd(wanted, state)
    yield from _programs(wanted, state)


def _unit(name: str, state: NodeState) -> Step:
    found = UnitState(*state.units.get(name, ("inactive", "")))
    return Step((Difference("stopped", Unit(f"{name}.service"), found),), commands=f"systemctl enable --now {name}")


def _kernel(state: NodeState) -> Iterator[Step]:
    for name in MODULES:
        if state.modules.get(name) == "there":
            yield Step((Difference("missing", NodePart(f"module {name}")),), commands=f"modprobe {name}")
    bridged = state.modules.get(BRIDGE_FILTER) != "none"
    for key, value in SYSCTLS.items():
        seen = state.sysctls.get(key)
        if seen != value and (bridged or key not in BRIDGED or seen is not None):
            commands = f"sysctl -q -w {key}={value}"
            part = NodePart(f"sysctl {key}", value)
            yield Step((Difference("differs", part, seen or "not set"),), commands=commands)


def _swap(state: NodeState) -> Iterator[Step]:
    fstab = state.files.get(FSTAB, "")
    without = without_swap(fstab)
    if without != fstab:
        difference = Difference("differs", File(FSTAB, without), fstab)
        yield Step((difference,), {FSTAB: without}, "systemctl daemon-reload")
    if state.swaps:
        difference = Difference("differs", NodePart("swap", "off"), f"on {', '.join(state.swaps)}")
        yield Step((difference,), commands=f"swapoff {shlex.join(state.swaps)}")
    if state.swap_units:
        difference = Difference("differs", NodePart("swap after a boot", "off"), f"on by {', '.join(state.swap_units)}")
        # Those of /etc/fstab are told above, and gone by now.
        told = () if without != fstab else (difference,)
        yield Step(told, commands=f"{SWAP_UNITS} | xargs -r systemctl mask --now")


def _containerd(wanted: Preparation, state: NodeState) -> Iterator[Step]:
    if state.containerd is None:
        return
    if state.units.get(CONTAINERD) != ("active", "enabled"):
        yield _unit(CONTAINERD, state)
    text = state.files.get(CONFIG, "")
    try:
        config = _config(wanted, state)
    except OddConfigError:
        return  # an obstacle
    if config != text:
        difference = Difference("differs" if text else "missing", File(CONFIG, config), text or None)
        check = 'containerd --config "$NEW" config dump >/dev/null'
        # Containers live through it.
        yield Step((difference,), {CONFIG: config}, f"systemctl restart {CONTAINERD}", check)


def _programs(wanted: Preparation, state: NodeState) -> Iterator[Step]:
    version = wanted.cluster.version
    if needed := [name for name in PROGRAMS if not _version(name, state)]:
        lacks = tuple(Difference("missing", NodePart(f"package {name} {version}")) for name in needed)
        yield Step(lacks, commands=_install(needed, version))
    if unheld := [name for name in PROGRAMS if name in state.packages and not state.packages[name].held]:
        free = tuple(Difference("differs", NodePart(f"package {name}", "held"), "not held") for name in unheld)
        yield Step(free, commands=f"apt-mark -qq hold {' '.join(unheld)}")


def _install(names: list[str], version: str) -> str:
    """Shell commands; in a shell of their own, because of what they set, and do at their end."""
    cache = APT.replace("apt-get -q", "apt-cache -q", 1)
    exact = version.replace(".", r"\.")
    return f"""(
{ALONE}{UPDATE} || true
set --
for name in {" ".join(names)}; do
  there=$({cache} madison "$name" | awk -F'|' '{{ gsub(/ /, "", $2); print $2 }}' |
    grep -E '^([0-9]+:)?{exact}([-+~]|$)' | head -n 1)
  if [ -z "$there" ]; then
    echo "no package source of this host has $name {version}: look at kubernetes.source of the plan" >&2
    exit 1
  fi
  set -- "$@" "$name=$there"
done
{APT} -y --no-remove -o DPkg::Lock::Timeout={PATIENCE} {INSTALL} "$@"
apt-mark -qq hold {" ".join(names)}
)"""


def with_block(text: str, lines: tuple[str, ...]) -> str:
    """The text of /etc/hosts with ours in front: of a name that is there twice the first line counts."""
    rest = re.sub(rf"(?ms)^{re.escape(BEGIN)}\n.*?^{re.escape(END)}\n", "", text)
    return "".join(f"{line}\n" for line in (BEGIN, *lines, END)) + rest


def without_swap(text: str) -> str:
    """The text of /etc/fstab with its lines about swap as comments."""

    def line(each: str) -> str:
        words = each.split()
        return NO_SWAP + each if len(words) > 2 and not words[0].startswith("#") and words[2] == "swap" else each

    return "".join(map(line, text.splitlines(keepends=True)))


def _clocks(state: NodeState) -> list[str]:
    return [name for name in CLOCKS if state.units.get(name, ("", ""))[0] == "active"]


def _version(name: str, state: NodeState) -> str:
    """1.33.4 of what is installed, as a package or otherwise; empty if it is not.

    A program knows better than the version of its package: `1.20.5+really1.20.2`.
    """
    if name in state.packages and name not in state.programs:
        found = re.match(r"(?:\d+:)?(\d+\.\d+\.\d+)", state.packages[name].version)
        return found[1] if found else state.packages[name].version
    return state.programs.get(name, "")


def _config(wanted: Preparation, state: NodeState) -> str:
    text = state.files.get(CONFIG, "")
    assert wanted.cluster.pause  # whole, see `plan.parts.cluster`
    return containerd.merged(text, state.containerd[0], wanted.cluster.pause) if state.containerd else text


def _overruled(wanted: Preparation, state: NodeState) -> list[str]:
    assert wanted.cluster.pause
    return containerd.overruled(state.dump, wanted.cluster.pause) if state.dump.strip() else []


def _by_hand(wanted: Preparation, state: NodeState) -> str:
    assert wanted.cluster.pause
    assert state.containerd
    return ", ".join(containerd.by_hand(state.containerd[0], wanted.cluster.pause))
