"""Writes container images as one OCI archive, for `ctr images import`; the same content gives the same bytes.

The format is https://github.com/opencontainers/image-spec: `index.json` names a manifest for each image, a manifest its
configuration and its layers, each by its digest. Layers are not compressed: they never leave the machine.
"""

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = "usr/local/bin"
"""Where the program of a layer is; kubeadm wants kube-proxy there."""
PATH = f"PATH=/{PROGRAMS}:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
TYPE = "application/vnd.oci.image"
Content = io.BufferedReader | io.BytesIO


@dataclass(frozen=True)
class Image:
    """An image: what it is pulled as, its layers (tars), the lowest first, and the program that it runs."""

    reference: str
    layers: tuple[Path, ...]
    program: str


def layer(path: Path, program: Path) -> Path:
    """Write a layer that has one program; its path again."""
    with tarfile.open(path, "w") as tar, program.open("rb") as content:
        _add(tar, f"{PROGRAMS}/{program.name}", content, program.stat().st_size, 0o755)
    return path


def write(path: Path, images: Iterable[Image]) -> None:
    """Write the archive of these images; what several have in common is in it once."""
    with tarfile.open(path, "w") as tar:
        manifests = [_manifest(tar, image) for image in images]
        for name, content in (
            ("oci-layout", {"imageLayoutVersion": "1.0.0"}),
            ("index.json", {"schemaVersion": 2, "manifests": manifests}),
        ):
            data = json.dumps(content).encode()
            _add(tar, name, io.BytesIO(data), len(data))


def _manifest(tar: tarfile.TarFile, image: Image) -> dict[str, Any]:
    layers = []
    for path in image.layers:
        with path.open("rb") as content:
            layers.append(_blob(tar, "layer.v1.tar", content))
    config = {
        "architecture": ARCHITECTURES[platform.machine()],
        "os": "linux",
        "config": {"Entrypoint": [image.program], "Env": [PATH]},
        "rootfs": {"type": "layers", "diff_ids": [each["digest"] for each in layers]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{TYPE}.manifest.v1+json",
        "config": _blob_of_json(tar, "config.v1+json", config),
        "layers": layers,
    }
    # The name that containerd gives it.
    return _blob_of_json(tar, "manifest.v1+json", manifest) | {
        "annotations": {"io.containerd.image.name": image.reference}
    }


def _blob_of_json(tar: tarfile.TarFile, kind: str, value: object) -> dict[str, Any]:
    return _blob(tar, kind, io.BytesIO(json.dumps(value).encode()))


def _blob(tar: tarfile.TarFile, kind: str, content: Content) -> dict[str, Any]:
    """Add a blob if it is not there, and describe it."""
    digest = hashlib.file_digest(content, "sha256").hexdigest()
    size = content.seek(0, io.SEEK_END)
    if (name := f"blobs/sha256/{digest}") not in tar.getnames():
        content.seek(0)
        _add(tar, name, content, size)
    return {"mediaType": f"{TYPE}.{kind}", "digest": f"sha256:{digest}", "size": size}


def _add(tar: tarfile.TarFile, name: str, content: Content, size: int, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)  # of root, at the epoch
    member.size, member.mode = size, mode
    tar.addfile(member, content)
