"""Plan → what a node needs before kubeadm runs, as values. Pure but for the key of the package source."""

from dataclasses import dataclass

from underlay.plan import Host, Kubernetes, Plan

BRIDGE_FILTER = "br_netfilter"
MODULES = ("overlay", BRIDGE_FILTER)
"""Without the first containerd has no file systems for containers, without the second no iptables sees bridged pods."""
BRIDGED = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
"""Sysctls that are there once br_netfilter is."""
SYSCTLS = {
    **dict.fromkeys(BRIDGED, "1"),
    "net.ipv4.ip_forward": "1",
    # Each pod's programs watch files: the kernel's own limits are for a person's desktop.
    "fs.inotify.max_user_instances": "8192",
    "fs.inotify.max_user_watches": "524288",
}
PROGRAMS = ("kubeadm", "kubelet", "kubectl")
TOOLS = ("ethtool", "iptables", "socat")
"""Packages whose programs kubelet and kube-proxy run."""
CONTAINERD, TIMESYNCD = "containerd", "systemd-timesyncd"
"""Packages: where there is no other containerd; where nothing keeps the time."""
CLOCKS = ("chrony", "chronyd", "ntp", "ntpd", "ntpsec", "openntpd", TIMESYNCD)
"""Units that keep the time."""

MODULES_FILE = "/etc/modules-load.d/underlay-kubernetes.conf"
SYSCTL_FILE = "/etc/sysctl.d/zz-underlay-kubernetes.conf"
"""Sorts before our other file: that a node forwards is said before how strict its NICs are."""
CRICTL, CONFIG = "/etc/crictl.yaml", "/etc/containerd/config.toml"
SOURCE_FILE, KEY_FILE = "/etc/apt/sources.list.d/underlay-kubernetes.list", "/etc/apt/keyrings/underlay-kubernetes.asc"
HOSTS, FSTAB, MACHINE_ID = "/etc/hosts", "/etc/fstab", "/etc/machine-id"
SOCKET = "unix:///run/containerd/containerd.sock"
HEAD = "# Written by the repo's deploy, which would write it again.\n"


@dataclass(frozen=True)
class Preparation:
    """What a node must be.

    files: path → content of those that are ours alone
    names: lines of /etc/hosts, the nodes and the API
    """

    cluster: Kubernetes
    files: dict[str, str]
    names: tuple[str, ...]

    def __str__(self) -> str:
        return f"Kubernetes {self.cluster.version}"


def preparation(plan: Plan, host: Host) -> Preparation | None:
    """What the plan makes of a host as a node; None if it is none."""
    cluster = plan.kubernetes
    if cluster is None or host not in plan.nodes:
        return None
    files = {
        MODULES_FILE: HEAD + "".join(f"{name}\n" for name in MODULES),
        # With a minus: a kernel that lacks one is told of by a deploy, and boots.
        SYSCTL_FILE: HEAD + "".join(f"-{key} = {value}\n" for key, value in SYSCTLS.items()),
        CRICTL: f"{HEAD}runtime-endpoint: {SOCKET}\nimage-endpoint: {SOCKET}\ntimeout: 10\n",
    }
    if source := cluster.source:
        words = (f"deb [signed-by={KEY_FILE}]", source.url, source.suite, *source.components)
        files[SOURCE_FILE] = f"{HEAD}{' '.join(words)}\n"
        files[KEY_FILE] = (plan.source.parent / source.key).read_text()
    nodes = [f"{plan.node_address(node)} {node.name}" for node in plan.nodes]
    return Preparation(cluster, files, (*nodes, f"{plan.api_address(plan.hosts_of('lb_nginx')[0])} {cluster.endpoint}"))
