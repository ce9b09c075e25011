"""What a host is as a node of Kubernetes, read by one command."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pyinfra.api import FactBase

from underlay.facts import fact, files, good, script
from underlay.nodes.wanted import (
    BRIDGE_FILTER,
    CLOCKS,
    CONFIG,
    CONTAINERD,
    CRICTL,
    FSTAB,
    HOSTS,
    KEY_FILE,
    MACHINE_ID,
    MODULES,
    MODULES_FILE,
    PROGRAMS,
    SOURCE_FILE,
    SYSCTL_FILE,
    SYSCTLS,
    TOOLS,
)

FILES = (MODULES_FILE, SYSCTL_FILE, CRICTL, SOURCE_FILE, KEY_FILE, HOSTS, FSTAB, MACHINE_ID, CONFIG)
SWAP_UNITS = "systemctl list-unit-files --type=swap --no-legend --no-pager | awk '$2 != \"masked\" {print $1}'"
"""Prints the units that bring swap at a boot, those of /etc/fstab too."""
_PROGRAMS = r"""
for p in kubeadm kubelet kubectl; do
  case $p in
    kubeadm) said=$(kubeadm version -o short 2>/dev/null) ;;
    kubelet) said=$(kubelet --version 2>/dev/null) ;;
    kubectl) said=$(kubectl version --client 2>/dev/null) ;;
  esac
  echo "$p=$(echo "$said" | grep -oE 'v1\.[0-9]+\.[0-9]+' | head -n 1)"
done"""
_MODULES = f"""
for m in {" ".join(MODULES)}; do
  # Built in, it may be in no list of modules: then it is known by what it brings.
  if [ -d /sys/module/$m ] || grep -qw $m /proc/filesystems; then echo $m=loaded
  elif [ $m = {BRIDGE_FILTER} ] && [ -d /proc/sys/net/bridge ]; then echo $m=loaded
  elif modprobe -n -q $m 2>/dev/null; then echo $m=there
  else echo $m=none; fi
done"""
_UNITS = f"systemctl show --property=Id,ActiveState,UnitFileState {' '.join((CONTAINERD, *CLOCKS))}"
_PACKAGES = (
    "dpkg-query --show --showformat='${Package}=${db:Status-Want} ${db:Status-Status} ${Version}\\n' "
    f"{' '.join((*TOOLS, *PROGRAMS))} 2>/dev/null || true"
)
_SYSCTLS = f"for k in {' '.join(SYSCTLS)}; do v=$(sysctl -n $k 2>/dev/null) && echo $k=$v; done; true"


def command() -> str:
    """The shell command whose output `parse` reads; it needs root."""
    return script(
        {
            "files": files.command(FILES),
            "sysctls": _SYSCTLS,
            "modules": _MODULES,
            "swaps": "tail -n +2 /proc/swaps | cut -d' ' -f1",
            "swap units": SWAP_UNITS,
            "container": "systemd-detect-virt --container || true",
            "kernel": "uname -r",
            "containerd": "if command -v containerd >/dev/null; then containerd --version; fi",
            "dump": "if command -v containerd >/dev/null; then containerd config dump 2>/dev/null || true; fi",
            "packages": _PACKAGES,
            "programs": _PROGRAMS,
            "units": _UNITS,
        }
    )


@dataclass(frozen=True)
class Package:
    """An installed package; held: apt leaves it at this version."""

    version: str
    held: bool


@dataclass(frozen=True)
class NodeState:
    """What a host says of what a node needs.

    files: path → text of those of FILES that are there
    sysctls: those that the kernel has
    modules: name → `loaded`, `there` (it can be loaded) or `none`
    swaps: what is swapped to; swap_units: the units that bring it at a boot
    container: the kind of container that the host is, whose kernel is another's; empty if it has its own
    containerd: its version, as far as `(1, 6)`; None if it is not there
    dump: the configuration that containerd makes of all its files
    packages, programs: name → what is installed; → the version that it says it has
    units: name without suffix → ActiveState and UnitFileState
    """

    files: Mapping[str, str] = field(default_factory=dict)
    sysctls: Mapping[str, str] = field(default_factory=dict)
    modules: Mapping[str, str] = field(default_factory=dict)
    swaps: tuple[str, ...] = ()
    swap_units: tuple[str, ...] = ()
    container: str = ""
    kernel: str = ""
    containerd: tuple[int, int] | None = None
    dump: str = ""
    packages: Mapping[str, Package] = field(default_factory=dict)
    programs: Mapping[str, str] = field(default_factory=dict)
    units: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def parse(lines: Iterable[str]) -> NodeState:
    """Read the output of `command`. Raises ValueError, or KeyError, for anything else."""
    found = good(lines)
    pairs = {name: dict(line.split("=", 1) for line in found[name]) for name in ("sysctls", "modules", "programs")}
    container = "".join(found["container"])
    packages = {}
    for line in found["packages"]:
        name, _, words = line.partition("=")
        want, status, version = words.split(" ")
        if status == "installed":
            packages[name] = Package(version, held=want == "hold")
    units = {}
    for block in "\n".join(found["units"]).split("\n\n"):
        said = dict(line.split("=", 1) for line in block.splitlines())
        units[said["Id"].removesuffix(".service")] = (said["ActiveState"], said["UnitFileState"])
    return NodeState(
        files=files.parse(found["files"]),
        sysctls=pairs["sysctls"],
        modules=pairs["modules"],
        swaps=tuple(found["swaps"]),
        swap_units=tuple(found["swap units"]),
        container="" if container == "none" else container,
        kernel="".join(found["kernel"]),
        containerd=_containerd(found["containerd"]),
        dump="\n".join(found["dump"]),
        packages=packages,
        programs={name: version.removeprefix("v") for name, version in pairs["programs"].items() if version},
        units=units,
    )


def _containerd(lines: list[str]) -> tuple[int, int] | None:
    if not lines:
        return None
    # `containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3`, elsewhere with a `v`.
    version = re.search(r" v?(\d+)\.(\d+)\.", lines[0])
    if not version:
        raise ValueError(f"containerd: {lines[0]}")
    return int(version[1]), int(version[2])


class Node(FactBase[NodeState]):
    """What a host is as a node, as `NodeState`."""

    def command(self) -> str:
        return command()

    @fact("what a node needs")
    def process(self, output: list[str]) -> NodeState:
        return parse(output)
