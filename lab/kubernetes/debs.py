"""Debian packages of what was built: named as upstream's own, with what these have and need.

No Debian has crictl, which kubeadm calls: the `cri-tools` in here is a stand-in that asks containerd's own `ctr`.
"""

from pathlib import Path

from lab.process import run
from underlay.image.build import REPRODUCIBLE

KUBELET = """\
[Unit]
Description=kubelet: The Kubernetes Node Agent
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart=/usr/bin/kubelet
Restart=always
RestartSec=10

[Install]
WantedBy=multi-user.target
"""
KUBEADM = """\
[Service]
Environment=KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml
Environment="KUBELET_KUBECONFIG_ARGS=--kubeconfig=/etc/kubernetes/kubelet.conf \
--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""
CRICTL = """\
#!/bin/sh
# What kubeadm calls: crictl -r SOCKET COMMAND [IMAGE]
shift 2
case $1 in
info) exec ctr version ;;
pods) ;;
inspecti) ctr --namespace k8s.io images ls --quiet | grep --quiet --line-regexp --fixed-strings "$2" ;;
pull) exec ctr --namespace k8s.io images pull --hosts-dir /etc/containerd/certs.d "$2" ;;
*) echo "this crictl is a stand-in and does not know: $*" >&2 && exit 1 ;;
esac
"""
FILES = {
    "kubectl": {},
    "kubelet": {"usr/lib/systemd/system/kubelet.service": KUBELET},
    "kubeadm": {"usr/lib/systemd/system/kubelet.service.d/10-kubeadm.conf": KUBEADM},
    "cri-tools": {"usr/bin/crictl": CRICTL},
}
NEEDS = {
    "kubelet": "iptables, iproute2, socat, mount, ebtables, ethtool, conntrack, containernetworking-plugins",
    "kubeadm": "kubelet, kubectl, cri-tools",
    "cri-tools": "containerd",
}


def write(programs: Path, version: str, work: Path, repo: Path) -> None:
    """Write the packages into a folder. `programs`: where what was built is; `work`: for the trees they are made of."""
    architecture = run(["dpkg", "--print-architecture"]).strip()
    for name, files in FILES.items():
        control = [f"Package: {name}", f"Version: {version}-00", f"Architecture: {architecture}"]
        control += ["Maintainer: the lab <root@localhost>", f"Description: Kubernetes of the lab, {name}"]
        control += [f"Depends: {NEEDS[name]}"] if name in NEEDS else []
        contents = {path: text.encode() for path, text in files.items()}
        contents["DEBIAN/control"] = "\n".join([*control, ""]).encode()
        if (program := programs / name).exists():
            contents[f"usr/bin/{name}"] = program.read_bytes()
        root = work / name
        for path, content in contents.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        for each in (root, *root.rglob("*")):  # whatever the umask is here
            each.chmod(0o755 if each.is_dir() or each.parent.name == "bin" else 0o644)
        # Not compressed: they never leave the machine.
        run(["dpkg-deb", "-Znone", "--root-owner-group", "--build", str(root), str(repo)], env=REPRODUCIBLE)
