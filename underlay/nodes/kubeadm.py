"""Plan → the configuration that kubeadm gets on each node, as values. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from underlay.nodes.wanted import SOCKET
from underlay.plan import Host, Plan
from underlay.plan.roles import API_PORT

APIS = {31: "v1beta4", 22: "v1beta3", 20: "v1beta2"}
"""The first release 1.N that has it → kubeadm's API: each release warns of those before its own."""
NAMED_ARGUMENTS = "v1beta4"
"""From here on arguments are a list of names with values, and no object."""
WITHOUT_SCHEME = "v1beta2"
"""Its kubelets take the path of a socket alone; those of later ones want `unix://`."""
Document = dict[str, Any]


@dataclass(frozen=True)
class Secrets:
    """What is known once the first master runs; each has a place of its own in the file until then."""

    token: str = "<TOKEN>"  # noqa: S105 (a placeholder)
    ca_hash: str = "<CA_HASH>"
    certificate_key: str = "<CERTIFICATE_KEY>"


def api(minor: int) -> str:
    """kubeadm's API for release 1.MINOR: `v1beta4`."""
    return next(name for first, name in APIS.items() if first <= minor)


def documents(plan: Plan, host: Host, secrets: Secrets) -> list[Document]:
    """What kubeadm reads on a node: of the first master for `init`, of all others for `join`."""
    assert plan.kubernetes
    version = api(plan.kubernetes.minor)
    if host != plan.nodes[0]:
        return [join(plan, host, secrets)]
    return [_init(plan, host, version, secrets), _cluster(plan, version), _kubelet(plan), _proxy()]


def endpoint(plan: Plan) -> str:
    """Where the API is reached by all: `api.lab.example:6443`."""
    assert plan.kubernetes
    return f"{plan.kubernetes.endpoint}:{API_PORT}"


def _init(plan: Plan, host: Host, version: str, secrets: Secrets) -> Document:
    known, unknown = secrets, Secrets()
    return {
        **_kind("kubeadm.k8s.io", version, "InitConfiguration"),
        # kubeadm makes what it is not given.
        **({"bootstrapTokens": [{"token": known.token}]} if known.token != unknown.token else {}),
        **({"certificateKey": known.certificate_key} if known.certificate_key != unknown.certificate_key else {}),
        "localAPIEndpoint": _local(plan, host),
        "nodeRegistration": _registration(plan, host, version),
    }


def join(plan: Plan, host: Host, secrets: Secrets) -> Document:
    """What a node gets that joins, whichever it is."""
    assert plan.kubernetes
    version = api(plan.kubernetes.minor)
    found = {
        **_kind("kubeadm.k8s.io", version, "JoinConfiguration"),
        "discovery": {
            "bootstrapToken": {
                "apiServerEndpoint": endpoint(plan),
                "token": secrets.token,
                "caCertHashes": [secrets.ca_hash],
            }
        },
        "nodeRegistration": _registration(plan, host, version),
    }
    if host.role == "master":
        key = secrets.certificate_key
        found["controlPlane"] = {"localAPIEndpoint": _local(plan, host), "certificateKey": key}
    return found


def _cluster(plan: Plan, version: str) -> Document:
    cluster = plan.kubernetes
    assert cluster
    return {
        **_kind("kubeadm.k8s.io", version, "ClusterConfiguration"),
        "kubernetesVersion": f"v{cluster.version}",
        "controlPlaneEndpoint": endpoint(plan),
        "imageRepository": cluster.images,
        "networking": {
            "podSubnet": str(cluster.pods),
            "serviceSubnet": str(cluster.services),
            "dnsDomain": cluster.domain,
        },
        "apiServer": {"certSANs": _names(plan)},
    }


def _names(plan: Plan) -> list[str]:
    """What the API's certificate is for, beside each master's own name and address, which kubeadm adds there."""
    cluster = plan.kubernetes
    assert cluster
    found = [cluster.endpoint]
    for proxy in plan.hosts_of("lb_nginx"):
        addresses = [proxy.published, *(nic.address for nic in proxy.interfaces)]
        found += [str(address) for address in addresses if address]
    # The first address of the services is the API's own inside of the cluster.
    found += [str(cluster.services[1]), *cluster.names]
    return list(dict.fromkeys(found))


def _kubelet(plan: Plan) -> Document:
    assert plan.kubernetes
    return {
        **_kind("kubelet.config.k8s.io", "v1beta1", "KubeletConfiguration"),
        "cgroupDriver": "systemd",
        "clusterDomain": plan.kubernetes.domain,
    }


def _proxy() -> Document:
    return {**_kind("kubeproxy.config.k8s.io", "v1alpha1", "KubeProxyConfiguration"), "mode": "iptables"}


def _kind(group: str, version: str, kind: str) -> Document:
    return {"apiVersion": f"{group}/{version}", "kind": kind}


def _local(plan: Plan, host: Host) -> Document:
    return {"advertiseAddress": str(plan.api_address(host)), "bindPort": API_PORT}


def _registration(plan: Plan, host: Host, version: str) -> Document:
    arguments: Mapping[str, str] = {"node-ip": str(plan.node_address(host))}
    listed = [{"name": name, "value": value} for name, value in arguments.items()]
    return {
        "name": host.name,
        "criSocket": SOCKET.removeprefix("unix://") if version == WITHOUT_SCHEME else SOCKET,
        "kubeletExtraArgs": listed if version == NAMED_ARGUMENTS else dict(arguments),
    }
