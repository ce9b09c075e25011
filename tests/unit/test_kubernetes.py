"""The lab's Kubernetes: what its build is kept by, and the images that are made of it."""

import hashlib
import json
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lab import image, machine, network
from lab.kubernetes import build, debs, oci
from lab.process import LabError, Progress


def archive(folder: Path) -> Path:
    """Two images: one has a layer of its own on top of one that the other has, too."""
    for name in ("base", "proxy"):
        (folder / name).write_text(name)
    base, top = (oci.layer(folder / f"{name}.tar", folder / name) for name in ("base", "proxy"))
    images = [oci.Image("r.example/proxy:v1", (base, top), "proxy"), oci.Image("r.example/base:2", (base,), "base")]
    oci.write(folder / "images.tar", images)
    return folder / "images.tar"


def read(tar: tarfile.TarFile, described: dict[str, Any]) -> bytes:
    """The blob that a description leads to, which must fit it."""
    algorithm, digest = described["digest"].split(":")
    content = tar.extractfile(f"blobs/{algorithm}/{digest}")
    assert content is not None
    data = content.read()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (digest, described["size"])
    return data


def test_an_archive_leads_from_names_to_programs(tmp_path: Path) -> None:
    with tarfile.open(archive(tmp_path)) as tar:
        found = {}
        index = json.load(tar.extractfile("index.json") or pytest.fail("no index"))
        for described in index["manifests"]:
            manifest = json.loads(read(tar, described))
            config = json.loads(read(tar, manifest["config"]))
            layers = [read(tar, layer) for layer in manifest["layers"]]
            assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(each).hexdigest()}" for each in layers]
            assert config["os"] == "linux"
            found[described["annotations"]["io.containerd.image.name"]] = (config["config"]["Entrypoint"], len(layers))
        names = tar.getnames()
    assert found == {"r.example/proxy:v1": (["proxy"], 2), "r.example/base:2": (["base"], 1)}
    assert len(names) == len(set(names)) == 8, "the base is there once"


def test_a_layer_has_a_program_of_root_where_kubeadm_wants_it(tmp_path: Path) -> None:
    (tmp_path / "kube-proxy").write_text("ELF")
    with tarfile.open(oci.layer(tmp_path / "layer.tar", tmp_path / "kube-proxy")) as tar:
        (member,) = tar.getmembers()
    assert (member.name, member.mode, member.uid, member.size) == ("usr/local/bin/kube-proxy", 0o755, 0, 3)


def test_the_same_content_is_the_same_archive(tmp_path: Path) -> None:
    def written(name: str, seconds: int) -> bytes:
        (tmp_path / name).mkdir()
        for each in ("base", "proxy"):
            (tmp_path / name / each).touch()
            os.utime(tmp_path / name / each, (seconds, seconds))
        return archive(tmp_path / name).read_bytes()

    assert written("one", 1) == written("two", 2_000_000_000)


@pytest.mark.parametrize("where", ["build.__file__", "debs.__file__", "oci.__file__", "build.SOURCE_SCRIPT"])
def test_a_build_is_kept_by_all_that_it_is_made_by(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = build.folder("all")
    other = tmp_path / "other"
    other.write_text("another text")
    monkeypatch.setattr(f"lab.kubernetes.{where}", other)
    assert build.folder("all") != before
    assert build.folder("all") != build.folder("api")


def test_a_program_says_its_version() -> None:
    command = build.compile_program("kubelet")
    for module in ("component-base/version", "client-go/pkg/version"):  # upstream's build sets both, too
        assert f"-X k8s.io/kubernetes/vendor/k8s.io/{module}.gitVersion=v1.20.2 " in command
    assert command.endswith("./cmd/kubelet")


def test_a_build_of_all_serves_who_wants_the_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def make(new: Path, what: build.What, say: Progress) -> None:
        new.mkdir()
        made.append(what)

    monkeypatch.setattr(image, "IMAGES", tmp_path)
    monkeypatch.setattr(build, "IMAGES", tmp_path)
    monkeypatch.setattr(build, "_build", make)
    monkeypatch.setattr(machine, "kill_cgroup", lambda group: None)
    paths = [build.ensure(Progress(), what) for what in ("api", "api", "all", "api")]
    assert made == ["api", "all"]
    assert paths == [build.folder(what) for what in ("api", "api", "all", "all")]


def test_what_is_kept_is_whole_and_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any kind, an image too: one that was cut off is never used, and its older ones serve until it is there."""
    ended: list[str] = []
    monkeypatch.setattr(image, "IMAGES", tmp_path)
    monkeypatch.setattr(machine, "kill_cgroup", ended.append)
    for name in ("kind-old", "other-1"):
        (tmp_path / name).mkdir()

    def cut_off(new: Path) -> None:
        (new / "half").mkdir(parents=True)
        raise LabError("no network")

    with pytest.raises(LabError, match="no network"):
        image.once(tmp_path / "kind-new", "kind", cut_off)
    assert ended == [".build"]
    assert not (tmp_path / "kind-new").exists()
    assert (tmp_path / "kind-old").exists()
    image.once(tmp_path / "kind-new", "kind", Path.mkdir)
    image.once(tmp_path / "kind-new", "kind", cut_off)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"kind-new", "other-1"}


def test_what_is_built_has_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argvs: list[list[str]] = []
    monkeypatch.setattr(machine, "in_cgroup", lambda group, argv: [group, *argv])
    monkeypatch.setattr(image, "run", lambda argv, **_: argvs.append(argv))
    image.offline(tmp_path, "kubernetes", "go build", "--bind=/a:/b", timeout=1)
    (argv,) = argvs
    assert argv[0] == ".build", "who ends the lab ends this"
    assert "--private-network" in argv
    assert f"--machine={network.PREFIX}kubernetes" in argv, "who cleans up finds it among the hosts"
    assert argv[-4:] == ["--bind=/a:/b", "/bin/sh", "-c", "go build"]


def test_packages_have_what_was_built_and_its_units(tmp_path: Path) -> None:
    programs, repo = tmp_path / "bin", tmp_path / "repo"
    for folder in (programs, repo):
        folder.mkdir()
    for name in ("kubeadm", "kubelet", "kubectl", "kube-proxy"):
        (programs / name).write_text(name)
    umask = os.umask(0o077)
    try:
        debs.write(programs, "1.20.2", tmp_path, repo)
    finally:
        os.umask(umask)
    architecture = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout
    names = {f"{name}_1.20.2-00_{architecture.strip()}.deb" for name in debs.FILES}
    assert {path.name for path in repo.iterdir()} == names
    kubeadm = next(repo.glob("kubeadm_*"))
    listed = subprocess.run(["dpkg-deb", "--contents", kubeadm], capture_output=True, text=True, check=True).stdout
    modes = {line.split()[-1]: " ".join(line.split()[:2]) for line in listed.splitlines()}
    assert modes["./usr/bin/kubeadm"] == "-rwxr-xr-x root/root"
    assert modes["./usr/"] == "drwxr-xr-x root/root"
    assert modes["./usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf"] == "-rw-r--r-- root/root"
    field = subprocess.run(["dpkg-deb", "--field", kubeadm, "Depends"], capture_output=True, text=True, check=True)
    assert field.stdout.strip() == "kubelet, kubectl, cri-tools"
