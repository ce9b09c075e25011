"""What kubeadm needs of a node: a host beside it, the steps that make it one, what is refused."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyinfra.api.exceptions import PyinfraError

from tests.unit import site
from underlay.nodes import containerd, difference, state
from underlay.nodes.containerd import OddConfigError, merged, overruled
from underlay.nodes.difference import BEGIN, END, NO_SWAP, with_block, without_swap
from underlay.nodes.state import NodeState, Package
from underlay.nodes.wanted import (
    CONFIG,
    CRICTL,
    FSTAB,
    HOSTS,
    KEY_FILE,
    MACHINE_ID,
    PROGRAMS,
    SOURCE_FILE,
    SYSCTL_FILE,
    SYSCTLS,
    TOOLS,
    Preparation,
    preparation,
)
from underlay.observe import drift
from underlay.operations import deploying, nodes
from underlay.plan import REPO, load
from underlay.verify import checks
from underlay.verify.checks import EveryHost, WrongError

PLAN = load(REPO / "tests/golden/good/cluster.py")
HOST = PLAN.host("worker-1")
PAUSE = "registry.lab.example/kubernetes/pause:3.10"
# As the package of Debian 12 (containerd 1.6) has it.
DEBIAN = """\
version = 2

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
      conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.internal.v1.opt"]
    path = "/var/lib/containerd/opt"
"""
# As the package containerd.io has it.
DOCKERS = '#   Licensed\n\ndisabled_plugins = ["cri"]\n\n#root = "/var/lib/containerd"\n#[grpc]\n#  uid = 0\n'
# The part of `containerd config default` that matters.
DEFAULT = """\
disabled_plugins = []
version = 2
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "elsewhere/pause:3.6"
    [plugins."io.containerd.grpc.v1.cri".containerd]
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes]
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
          runtime_type = "io.containerd.runc.v2"
          [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
            SystemdCgroup = false
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/opt/cni/bin"
"""


@pytest.fixture
def wanted() -> Preparation:
    found = preparation(PLAN, HOST)
    assert found
    return found


@pytest.fixture
def ready(wanted: Preparation) -> NodeState:
    """A host that is a node already."""
    config = merged(DEBIAN, 1, PAUSE)
    return NodeState(
        files={
            **wanted.files,
            HOSTS: with_block("127.0.0.1 localhost\n", wanted.names),
            FSTAB: "UUID=1 / ext4 defaults 0 1\n",
            MACHINE_ID: "0123456789abcdef0123456789abcdef\n",
            CONFIG: config,
        },
        sysctls=SYSCTLS,
        modules={"overlay": "loaded", "br_netfilter": "loaded"},
        kernel="6.1.0-40-amd64",
        containerd=(1, 6),
        dump=config,
        packages={
            **{name: Package("1", held=False) for name in TOOLS},
            **{name: Package("1.33.4-1.1", held=True) for name in PROGRAMS},
        },
        programs=dict.fromkeys(PROGRAMS, "1.33.4"),
        units={"containerd": ("active", "enabled"), "chrony": ("active", "enabled")},
    )


def what(wanted: Preparation, found: NodeState) -> list[str]:
    return [f"{each.where}: {each.what}" for each in difference.differences(wanted, found)]


def commands(wanted: Preparation, found: NodeState) -> str:
    return nodes.script(difference.steps(wanted, found))


def test_a_node_needs_nothing(wanted: Preparation, ready: NodeState) -> None:
    assert what(wanted, ready) == []
    assert list(difference.steps(wanted, ready)) == []
    assert difference.obstacles(wanted, ready) == difference.lacking(ready) == difference.packages(ready) == []


def test_without_a_cluster_or_for_another_role_nothing_is_prepared() -> None:
    assert preparation(load(REPO / "tests/golden/good/three-masters.py"), PLAN.host("master-1")) is None
    assert preparation(PLAN, PLAN.host("lb")) is None


@pytest.mark.parametrize(
    ("change", "said", "command"),
    [
        (
            {"modules": {"overlay": "there", "br_netfilter": "loaded"}},
            "live: module overlay is missing",
            "modprobe overlay",
        ),
        (
            {"sysctls": {**SYSCTLS, "net.ipv4.ip_forward": "0"}},
            "live: sysctl net.ipv4.ip_forward is 0, not 1",
            "sysctl -q -w net.ipv4.ip_forward=1",
        ),
        ({"swaps": ("/dev/sda2",)}, "live: swap is on /dev/sda2, not off", "swapoff /dev/sda2"),
        (
            {"swap_units": ("dev-zram0.swap",)},
            "live: swap after a boot is on by dev-zram0.swap, not off",
            "xargs -r systemctl mask --now",
        ),
        (
            {"units": {"containerd": ("active", "enabled"), "systemd-timesyncd": ("inactive", "disabled")}},
            "live: systemd-timesyncd.service is inactive and disabled",
            "systemctl enable --now systemd-timesyncd",
        ),
        (
            {"units": {"containerd": ("inactive", "disabled"), "chrony": ("active", "enabled")}},
            "live: containerd.service is inactive and disabled",
            "systemctl enable --now containerd",
        ),
        (
            {
                "packages": {
                    **dict.fromkeys(TOOLS, Package("1", held=False)),
                    **dict.fromkeys(PROGRAMS[:2], Package("1.33.4-1", held=True)),
                },
                "programs": {},
            },
            "live: package kubectl 1.33.4 is missing",
            "apt-mark -qq hold kubectl",
        ),
    ],
    ids=lambda each: str(each)[:30],
)
def test_one_difference_has_one_step(
    wanted: Preparation, ready: NodeState, change: dict[str, object], said: str, command: str
) -> None:
    found = replace(ready, **change)  # type: ignore[arg-type]
    lines = [each for each in what(wanted, found) if "timesyncd is missing" not in each]
    assert said in lines
    assert command in commands(wanted, found)


@pytest.mark.parametrize("path", [SYSCTL_FILE, CRICTL, SOURCE_FILE, KEY_FILE, HOSTS, CONFIG])
def test_a_file_that_is_gone_is_written(wanted: Preparation, ready: NodeState, path: str) -> None:
    found = replace(ready, files={key: text for key, text in ready.files.items() if key != path})
    [step] = difference.steps(wanted, found)
    assert list(step.files) == [path]
    again = replace(found, files={**found.files, **step.files})
    assert list(difference.steps(wanted, again)) == []


def test_a_package_that_is_not_held_is_held(wanted: Preparation, ready: NodeState) -> None:
    free = replace(ready, packages={**ready.packages, "kubelet": Package("1.33.4-1.1", held=False)})
    assert what(wanted, free) == ["live: package kubelet is not held, not held"]
    assert commands(wanted, free) == "set -e\napt-mark -qq hold kubelet\n"


def test_an_empty_machine_gets_all_of_it(wanted: Preparation) -> None:
    """In an order in which each finds what it needs; what needs no mending is not touched."""
    text = commands(wanted, NodeState(modules={"overlay": "there", "br_netfilter": "there"}))
    places = [text.index(each) for each in ("modprobe br_netfilter", "sysctl -q -w net.bridge", "madison")]
    assert places == sorted(places)
    assert subprocess.run(["sh", "-n"], input=text, text=True, check=False).returncode == 0
    assert "fstab" not in text


FAKES = {
    "apt-get": """case "$*" in *update*) exit 1 ;; esac; echo "apt-get $*" >>"$LOG" """,
    "apt-cache": """for name; do :; done
for version in 1.33.10-1.1 1.33.4-1.1 1.33.4-1.0; do echo " $name | $version | a source"; done""",
    "apt-mark": """echo "apt-mark $*" >>"$LOG" """,
}


@pytest.mark.parametrize(("version", "there"), [("1.33.4", True), ("1.33.1", False), ("1.33", False)])
def test_exactly_the_version_of_the_plan_is_installed(tmp_path: Path, version: str, there: bool) -> None:
    """1.33.1 is no part of 1.33.10; a source that can't be read is no matter where others have it."""
    for name, text in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    log = tmp_path / "log"
    log.touch()
    text = "set -e\n" + difference._install(["kubeadm", "kubelet"], version).replace("/var/cache", str(tmp_path))
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log)}
    done = subprocess.run(["sh"], input=text, text=True, capture_output=True, check=False, env=environment)
    assert (done.returncode == 0) == there
    if there:
        install, hold = log.read_text().splitlines()
        assert install.endswith("--no-install-recommends kubeadm=1.33.4-1.1 kubelet=1.33.4-1.1")
        assert hold == "apt-mark -qq hold kubeadm kubelet"
    else:
        assert f"no package source of this host has kubeadm {version}" in done.stderr
        assert log.read_text() == ""
    assert not list(tmp_path.glob("underlay-apt*"))


# --- what the kernel can't do, and what is refused ------------------------------------------------------------------


def test_what_a_kernel_lacks_is_told_and_not_tried(wanted: Preparation, ready: NodeState) -> None:
    lab = replace(
        ready,
        modules={"overlay": "loaded", "br_netfilter": "none"},
        sysctls={key: value for key, value in SYSCTLS.items() if "bridge" not in key},
        container="systemd-nspawn",
        swaps=("/dev/vda2",),
        units={"containerd": ("active", "enabled")},
    )
    assert what(wanted, lab) == []
    assert difference.packages(lab) == []
    assert difference.lacking(lab) == [
        "the kernel 6.1.0-40-amd64 has no br_netfilter",
        "it is a container (systemd-nspawn): the clock, and what is swapped to, are its machine's",
    ]
    # A host with a kernel of its own is not as planned then.
    assert what(wanted, replace(lab, container="", swaps=(), units=ready.units)) == [
        "live: the kernel 6.1.0-40-amd64 has no br_netfilter"
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"programs": {"kubelet": "1.32.9"}}, "kubelet 1.32.9 is installed, the plan has 1.33.4"),
        (
            {"files": {CRICTL: "runtime-endpoint: unix:///run/crio/crio.sock\n"}},
            "is for another runtime than containerd",
        ),
        ({"files": {CONFIG: "[plugins.cri]\n"}}, "it is of version 1"),
        ({"files": {CONFIG: "version = 2\nplugins = {}\n"}}, "can't be changed without a risk"),
        ({"files": {CONFIG: "version = = 2"}}, "it is no TOML"),
        ({"dump": DEFAULT}, "containerd does not what /etc/containerd/config.toml says (sandbox_image is"),
    ],
    ids=lambda each: str(each)[:40],
)
def test_what_is_refused(wanted: Preparation, ready: NodeState, change: dict[str, object], said: str) -> None:
    if "files" in change:
        change = {"files": {**ready.files, **change["files"]}}  # type: ignore[dict-item]
    found = replace(ready, **change)  # type: ignore[arg-type]
    [why] = difference.obstacles(wanted, found)
    assert said in why
    assert [each.what for each in difference.differences(wanted, found)] == [why]


def test_a_program_knows_its_version_better_than_its_package(wanted: Preparation, ready: NodeState) -> None:
    odd = dict.fromkeys(PROGRAMS, Package("1.20.5+really1.33.4-1", held=True))
    assert difference.obstacles(wanted, replace(ready, packages={**ready.packages, **odd})) == []
    bare = replace(ready, packages={name: each for name, each in ready.packages.items() if name in TOOLS})
    assert what(wanted, bare) == []  # built by somebody, say


def test_a_crictl_of_others_for_containerd_stays(wanted: Preparation, ready: NodeState) -> None:
    own = "runtime-endpoint: unix:///run/containerd/containerd.sock\ndebug: true\n"
    assert what(wanted, replace(ready, files={**ready.files, CRICTL: own})) == []


@pytest.mark.parametrize("where", ["lab", "ssh"])
def test_a_deploy_of_the_lab_does_without_and_another_one_stops(
    wanted: Preparation, ready: NodeState, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    lab = replace(ready, container="systemd-nspawn")
    told: list[str] = []
    made: list[str] = []
    host = SimpleNamespace(name=HOST.name, get_fact=lambda *_, **__: lab)
    monkeypatch.setattr(deploying, "host", host)
    monkeypatch.setattr(deploying, "planned", lambda: (SimpleNamespace(plan=PLAN, name=where), HOST))
    monkeypatch.setattr(deploying, "tell", told.extend)
    monkeypatch.setattr(nodes, "prepared", lambda **given: made.append(given["name"]))
    if where == "ssh":
        with pytest.raises(PyinfraError, match=r"worker-1: it is a container .*Nothing was changed"):
            deploying.kubernetes_node()
        assert made == []
    else:
        deploying.kubernetes_node()
        assert made == ["Node: as kubeadm 1.33.4 needs it, now and at boot"]
        assert [each.split(":")[0] for each in told] == ["left out"]


# --- /etc/hosts and /etc/fstab --------------------------------------------------------------------------------------


def test_our_lines_are_in_front_and_all_else_stays() -> None:
    own = "127.0.0.1 localhost\n127.0.1.1 worker-1\n"
    first = with_block(own, ("192.0.2.1 worker-1",))
    assert first == f"{BEGIN}\n192.0.2.1 worker-1\n{END}\n{own}"
    assert with_block(first, ("192.0.2.2 worker-1",)) == f"{BEGIN}\n192.0.2.2 worker-1\n{END}\n{own}"


def test_the_names_are_those_of_the_nodes_and_the_api(wanted: Preparation) -> None:
    assert wanted.names == (
        "100.64.32.2 master-1",
        "100.64.32.3 master-2",
        "100.64.32.4 master-3",
        "100.64.32.11 worker-1",
        "100.64.32.12 worker-2",
        "100.64.0.53 api.lab.example",
    )


def test_lines_about_swap_become_comments() -> None:
    text = "# /dev/x none swap sw 0 0\nUUID=1 / ext4 rw 0 1\nUUID=2 none swap sw 0 0\n/swapfile\tswap\tswap\tdefaults\n"
    once = without_swap(text)
    assert once.splitlines()[:2] == text.splitlines()[:2]
    assert once.count(NO_SWAP) == 2
    assert once.replace(NO_SWAP, "") == text
    assert without_swap(once) == once


def test_swap_of_fstab_is_told_once(wanted: Preparation, ready: NodeState) -> None:
    files = {**ready.files, FSTAB: "UUID=2 none swap sw 0 0\n"}
    found = replace(ready, files=files, swap_units=("dev-sda2.swap",))
    assert what(wanted, found) == ["/etc/fstab: the file is not as planned"]
    text = commands(wanted, found)
    assert text.index("daemon-reload") < text.index("xargs -r systemctl mask --now")


# --- containerd -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", DEBIAN, DOCKERS, DEFAULT], ids=["none", "debian", "containerd.io", "default"])
@pytest.mark.parametrize("major", [1, 2])
def test_what_a_node_needs_is_put_into_any_configuration(text: str, major: int) -> None:
    once = merged(text, major, PAUSE)
    assert overruled(once, PAUSE) == []
    assert merged(once, major, PAUSE) == once
    other = merged(once, major, "other/pause:1")
    assert overruled(other, "other/pause:1") == []
    assert "pause:3.10" not in other
    assert [line for line in text.splitlines() if line not in once] == [
        line for line in text.splitlines() if f"{containerd.WAS}{line.strip()}" in once and line not in once
    ]


def test_what_is_replaced_stays_as_a_comment() -> None:
    text = merged(DEBIAN, 1, PAUSE)
    assert '      # underlay, was: bin_dir = "/usr/lib/cni"\n      bin_dir = "/opt/cni/bin"  # underlay\n' in text
    assert 'conf_dir = "/etc/cni/net.d"' in text
    assert 'path = "/var/lib/containerd/opt"' in text


def test_a_new_file_is_of_the_version_that_containerd_has() -> None:
    assert merged("", 1, PAUSE).startswith("version = 2")
    assert merged("", 2, PAUSE).startswith("version = 3")
    assert "io.containerd.cri.v1.images" in merged("", 2, PAUSE)
    with pytest.raises(OddConfigError, match="of version 3"):
        merged("version = 3\n", 1, PAUSE)


@pytest.mark.parametrize(
    "text",
    [
        'version = 2\ndisabled_plugins = [\n  "cri",\n]\n',
        'version = 2\n[plugins]\n"io.containerd.grpc.v1.cri" = {sandbox_image = "x"}\n',
        'version = 2\nplugins."io.containerd.grpc.v1.cri".cni.bin_dir = "/x"\n',
    ],
)
def test_what_is_written_in_an_odd_way_is_left_alone(text: str) -> None:
    with pytest.raises(OddConfigError, match="without a risk"):
        merged(text, 1, PAUSE)


def test_a_bad_configuration_is_not_put_in_place(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("old")
    step = difference.Step((), {str(path): "new"}, "echo restarted", check='grep -q good "$NEW"')
    done = subprocess.run(["sh"], input=nodes.script([step]), text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, path.read_text()) == (1, "", "old")
    good = replace(step, files={str(path): "good"})
    done = subprocess.run(["sh"], input=nodes.script([good]), text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout, path.read_text()) == (0, "restarted\n", "good")
    assert [each.name for each in tmp_path.iterdir()] == ["config.toml"]


# --- what a host says -----------------------------------------------------------------------------------------------


SYSTEMCTL = """#!/bin/sh
case $1 in
show) printf 'Id=containerd.service\\nActiveState=active\\nUnitFileState=enabled\\n\\n'
  printf 'Id=chrony.service\\nActiveState=inactive\\nUnitFileState=\\n' ;;
list-unit-files) printf 'a.swap static -\\nb.swap masked enabled\\n' ;;
esac
"""
SAYS = {
    "systemctl": SYSTEMCTL,
    "systemd-detect-virt": "#!/bin/sh\necho none; exit 1\n",
    "kubeadm": "#!/bin/sh\necho v1.33.4\n",
    "kubelet": "#!/bin/sh\necho Kubernetes v1.20.2\n",
    "kubectl": "#!/bin/sh\necho 'Client Version: v1.33.4'; echo 'Kustomize Version: v5.6.0'\n",
    "containerd": "#!/bin/sh\n[ $1 != --version ] || echo containerd github.com/containerd/containerd v1.7.24 0\n",
}


def test_what_a_host_says_can_be_read(tmp_path: Path) -> None:
    """The shell's commands, run here with some programs made up, and what is made of their output."""
    for name, text in SAYS.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    argv = ["sh", "-c", state.command()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=environment)
    found = state.parse(done.stdout.splitlines())
    assert done.returncode == 0
    assert HOSTS in found.files
    assert found.modules.keys() == {"overlay", "br_netfilter"}
    assert (found.container, found.containerd, found.swap_units) == ("", (1, 7), ("a.swap",))
    assert found.programs == {"kubeadm": "1.33.4", "kubelet": "1.20.2", "kubectl": "1.33.4"}
    assert found.units == {"containerd": ("active", "enabled"), "chrony": ("inactive", "")}


@pytest.mark.parametrize(
    ("line", "version"),
    [
        ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u1", (1, 6)),
        ("containerd containerd.io 1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da", (1, 7)),
        ("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7193e4e490e9fbdc236c0e811ccaba3376", (2, 1)),
    ],
)
def test_the_version_of_containerd(line: str, version: tuple[int, int]) -> None:
    assert state._containerd([line]) == version
    assert state._containerd([]) is None
    with pytest.raises(ValueError, match="nonsense"):
        state._containerd(["nonsense"])


def test_drift_of_a_node_is_told(wanted: Preparation, ready: NodeState) -> None:
    assert list(drift.of_host(PLAN, HOST, site.state(PLAN, HOST, node=ready))) == []
    swapped = replace(ready, swaps=("/swapfile",))
    [found] = drift.of_host(PLAN, HOST, site.state(PLAN, HOST, node=swapped))
    line = drift.line(PLAN, HOST, found)
    assert (line.kind, line.where, line.what) == ("differs", "live", "swap is on /swapfile, not off")
    assert line.plan.endswith("kubernetes")


def test_the_operation_changes_the_difference_and_then_nothing(
    wanted: Preparation, ready: NodeState, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    done: list[str] = []
    now = replace(ready, swaps=("/swapfile",), files={**ready.files, HOSTS: "127.0.0.1 localhost\n"})
    monkeypatch.setattr(nodes, "tell", told.extend)
    monkeypatch.setattr(nodes, "host", SimpleNamespace(get_fact=lambda _: now, noop=done.append))
    [command] = nodes.prepared._inner(wanted=wanted)
    assert "swapoff /swapfile" in command.get_raw_value()
    assert "differs: swap is on /swapfile, not off" in told
    assert "+100.64.0.53 api.lab.example" in told
    monkeypatch.setattr(nodes, "host", SimpleNamespace(get_fact=lambda _: ready, noop=done.append))
    assert list(nodes.prepared._inner(wanted=wanted)) == []
    assert done == ["the node is prepared"]


def test_verify_looks_at_it(wanted: Preparation, ready: NodeState) -> None:
    check = EveryHost()
    assert [str(each) for each in checks.preparations(PLAN, HOST)] == ["Kubernetes 1.33.4"]
    assert list(checks.preparations(PLAN, PLAN.host("gateway"))) == []
    check.test_prepared(HOST, site.state(PLAN, HOST, node=ready), wanted)
    unready = site.state(PLAN, HOST, node=replace(ready, modules={"overlay": "there", "br_netfilter": "loaded"}))
    with pytest.raises(WrongError, match="module overlay is missing"):
        check.test_prepared(HOST, unready, wanted)
