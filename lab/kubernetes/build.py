"""The Kubernetes of Debian 12's source package, built once and kept beside the lab's images.

A build is a folder: `bin` has the programs, `repo/SUITE` is an apt repository of what nodes need beside them. If it is
one of all programs, `repo` has packages of these, too (`lab.kubernetes.debs`), and `images.tar` has every image that
kubeadm asks for but coredns, as it is called in REGISTRY (`lab.kubernetes.oci`). Its etcd is Debian's.

Debian's source package has all of upstream's sources, vendored ones included, so nothing but it, Debian's Go and
one library is loaded. It is the last one of which Debian can build servers: real behaviour, old version.
"""

import hashlib
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from lab import image, machine
from lab.kubernetes import debs, oci
from lab.process import Progress, run
from lab.state import IMAGES, SUITES
from underlay.image.build import REPRODUCIBLE

What = Literal["api", "all"]

VERSION = "1.20.2"
REGISTRY = "registry.lab.example"
API = ("kubectl", "kubeadm", "kube-apiserver")
PROGRAMS: dict[What, tuple[str, ...]] = {
    "api": API,
    "all": (*API, "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubemark"),
}
FOR_NODES = (
    *("containerd", "runc", "containernetworking-plugins", "docker-registry", "etcd-server", "etcd-client"),
    *("iptables", "conntrack", "socat", "ebtables", "ethtool", "ipset", "kmod"),
)
"""Both suites have all of these. What neither has is crictl, which kubeadm looks for."""
IN_IMAGES = ("etcd-server", "etcd-client", "iptables", "conntrack", "ebtables", "ipset", "kmod")
"""What the images of etcd and kube-proxy have of Debian."""

SUITE = "bookworm"
"""It has the source package, and a Go that is old enough for it."""
FOR_BUILD = ("golang-go", "golang-github-modern-go-reflect2-dev", "dpkg-dev", "gcc", "libc6-dev")
SOURCE = "/go/src/k8s.io/kubernetes"
SOURCE_SCRIPT = Path(__file__).with_name("source.sh")
GO = f"export HOME=/root GOPATH=/go GO111MODULE=off GOPROXY=off GOFLAGS=-trimpath CGO_ENABLED=0 SOURCE={SOURCE}"
STEP_SECONDS = 3600.0
"""The longest takes two minutes on two cores that have nothing else to do."""


def folder(what: What) -> Path:
    """Where the build of these programs is, or will be."""
    inputs = hashlib.sha256()
    for file in (__file__, debs.__file__, oci.__file__, SOURCE_SCRIPT):
        inputs.update(Path(file).read_bytes())
    return IMAGES / f"kubernetes-{what}-{inputs.hexdigest()[:16]}"


def ensure(say: Progress, what: What = "all") -> Path:
    """The build of these programs (one of all has those of the API, too), made if it is not there."""
    if folder("all").exists():
        what = "all"
    return image.once(folder(what), f"kubernetes-{what}", lambda new: _build(new, what, say))


def compile_program(name: str) -> str:
    """The command that makes one program of the source, as `/NAME`."""
    major, minor, _ = VERSION.split(".")
    values = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "archive"}
    values["buildDate"] = "1970-01-01T00:00:00Z"
    # The second one is what an API server answers.
    modules = [f"k8s.io/kubernetes/vendor/k8s.io/{each}/version" for each in ("component-base", "client-go/pkg")]
    settings = [f"-X {module}.{key}={value}" for module in modules for key, value in values.items()]
    flags = " ".join(["-s", "-w", *settings])
    # The vendored libraries of cloud providers would be half of all that is compiled.
    return f"cd {SOURCE}; go build -tags providerless -o /{name} -ldflags '{flags}' ./cmd/{name}"


def _build(new: Path, what: What, say: Progress) -> None:
    say(f"building Kubernetes {VERSION}: {', '.join(PROGRAMS[what])} (once; it is kept in {IMAGES})")
    programs, work = new / "bin", new / "work"
    root = work / "root"
    for made in (programs, work):
        made.mkdir(parents=True)
    repos = {suite: new / "repo" / suite for suite in SUITES}
    for suite, repo in repos.items():
        repo.mkdir(parents=True)
        # All that these depend on, whatever the base of a host has: nothing is in this root.
        _debian(work / suite, "custom", (), [image.download(repo, " ".join(FOR_NODES))], suite)
    say("the packages for nodes are there")
    load = 'cd "$1/src" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get'
    hooks = [
        'mkdir "$1/src" && sed "s/^deb /deb-src /" "$1/etc/apt/sources.list" >"$1/etc/apt/sources.list.d/src.list"',
        f"{load} update && {load} --download-only source kubernetes",
    ]
    _debian(root, "minbase", FOR_BUILD, hooks)
    say("Debian's Go and the source are there")

    def step(script: str, done: str) -> None:
        begin = time.monotonic()
        image.offline(root, "kubernetes", f"set -eu; {GO}\n{script}", timeout=STEP_SECONDS)
        say(f"{done} ({time.monotonic() - begin:.0f} s)")

    step(f"VERSION={VERSION}\n{SOURCE_SCRIPT.read_text()}", "the source is whole")
    for program in PROGRAMS[what]:
        step(compile_program(program), f"{program} is built")
        shutil.move(root / program, programs)
    if what == "all":
        step(f"gcc -Os -static -s -o /pause {SOURCE}/build/pause/linux/pause.c", "pause is built")
        hooks = ['rm -f "$1"/etc/apt/sources.list "$1"/etc/hostname "$1"/etc/resolv.conf']
        _debian(work / "base.tar", "essential", IN_IMAGES, hooks)
        oci.write(new / "images.tar", _images(programs, root / "pause", work))
        for suite, repo in repos.items():
            debs.write(programs, VERSION, work / f"{suite}.debs", repo)
        say("the images and packages of them are there")
    for repo in repos.values():
        image.index(repo)
    shutil.rmtree(work)


def _debian(root: Path, variant: str, packages: Iterable[str], hooks: Iterable[str], suite: str = SUITE) -> None:
    argv = ["mmdebstrap", "--quiet", "--mode=root", f"--variant={variant}"]
    argv += [f"--include={package}" for package in packages]
    argv += [f"--dpkgopt={option}" for option in image.DPKG]
    argv += [f"--customize-hook={hook}" for hook in hooks]
    argv = machine.in_cgroup(".build", [*argv, suite, str(root)])
    run(argv, env=REPRODUCIBLE, timeout=STEP_SECONDS, inherit=False)


def _images(programs: Path, pause: Path, work: Path) -> Iterator[oci.Image]:
    argv = [str(programs / "kubeadm"), "config", "images", "list", f"--kubernetes-version=v{VERSION}"]
    for reference in run([*argv, f"--image-repository={REGISTRY}"]).split():
        name = reference.removeprefix(f"{REGISTRY}/").partition(":")[0]
        if name == "coredns":
            continue
        base = [work / "base.tar"] if name in ("etcd", "kube-proxy") else []
        program = {"etcd": [], "pause": [pause]}.get(name, [programs / name])
        layers = [oci.layer(work / f"{name}.tar", each) for each in program]
        yield oci.Image(reference, (*base, *layers), name)
