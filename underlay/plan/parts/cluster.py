"""The Kubernetes cluster of a plan: what follows from the hosts, and what is wrong with it. Pure but for the key."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from netaddr import IPNetwork

from underlay.plan import given
from underlay.plan.datafile import unknown
from underlay.plan.literals import Keys
from underlay.plan.model import NODES, HostSpec, Kubernetes, Network, Zone
from underlay.plan.values import overlap

HERE = "kubernetes"
MASTERS = (1, 3, 5)
PER_NODE = 24
"""The length of the part of the pods' range that each node gets, as kube-controller-manager has it."""
PODS, SERVICES = (8, PER_NODE), (12, 28)
"""The lengths that these ranges may have: kube-controller-manager and kube-apiserver take no others."""
PAUSE = {20: "3.2", 21: "3.4.1", 22: "3.5", 23: "3.6", 24: "3.7", 25: "3.8", 26: "3.9", 31: "3.10", 34: "3.10.1"}
"""Release 1.N and those after it → the tag of its pause image: kubeadm's constants (PauseVersion)."""
ARMOUR = b"-----BEGIN PGP PUBLIC KEY BLOCK-----"


@dataclass(frozen=True)
class Around:
    """What else the plan has: hosts, ranges, the names of networks as written, the folder of the file."""

    hosts: tuple[HostSpec, ...]
    ranges: Sequence[Network | Zone]
    networks: tuple[str, ...]
    folder: Path


def whole(written: Kubernetes, hosts: Sequence[HostSpec]) -> Kubernetes:
    """The cluster as it is written, and what the first master and the version have for what is not."""
    first = next((host for host in hosts if host.role == "master" and host.addresses), None)
    primary = next(iter(first.addresses)) if first else None
    tag = next(tag for release, tag in reversed(PAUSE.items()) if release <= written.minor)
    return written.model_copy(
        update={
            "pause": written.pause or f"{written.images}/pause:{tag}",
            "api_network": written.api_network or primary,
            "node_network": written.node_network or (first and first.default_route) or primary,
        }
    )


def mistakes(found: Kubernetes, written: Kubernetes, around: Around) -> Iterator[tuple[Keys, str, str]]:
    """Where, what and how to mend it."""
    yield from _hosts(around)
    yield from _networks(found, around)
    yield from _ranges(found, around)
    if written.pause and not (":" in written.pause.rpartition("/")[2] or "@" in written.pause):
        yield (HERE, "pause"), f"{written.pause} has no tag", "write the tag, too: it is to be the same on all nodes"
    if found.source:
        yield from _key(around.folder / found.source.key, found.source.key)


def _hosts(around: Around) -> Iterator[tuple[Keys, str, str]]:
    masters = [host.name for host in around.hosts if host.role == "master"]
    if len(masters) not in MASTERS:
        why = (
            "etcd goes on while more than half of its members do: an even number has one more that can fail, and none "
            "more that may"
            if len(masters) in (2, 4)
            else "there is no API without one"
            if not masters
            else "each change waits for more than half of them"
        )
        names = f" ({', '.join(masters)})" if masters else ""
        yield (HERE,), f"{len(masters)} masters{names}: {why}", "have 1, 3 or 5; further nodes are workers"
    if not any(host.role == "lb_nginx" for host in around.hosts):
        yield (HERE,), "no host has the role 'lb_nginx', where the API is reached", "add one"


def _networks(found: Kubernetes, around: Around) -> Iterator[tuple[Keys, str, str]]:
    for key, name in (("node_network", found.node_network), ("api_network", found.api_network)):
        if name is None:
            continue
        if name not in around.networks:
            yield (HERE, key), *unknown("network", name, around.networks)
            continue
        network = next((each for each in around.ranges if isinstance(each, Network) and each.name == name), None)
        if network and network.upstream:
            what = f"{name!r} is the enterprise network, where nodes have no address"
            yield (HERE, key), what, "name an internal network"
            continue
        for host in around.hosts:
            if host.role in NODES and name not in host.addresses:
                what = f"the node has no address in network {name!r} (kubernetes.{key})"
                yield ("hosts", host.name, "addresses"), what, f"add {name!r}"


def _ranges(found: Kubernetes, around: Around) -> Iterator[tuple[Keys, str, str]]:
    for key, cidr, (shortest, longest) in (("pods", found.pods, PODS), ("services", found.services, SERVICES)):
        if not shortest <= cidr.prefixlen <= longest:
            yield (HERE, key), f"{cidr} is {_size(cidr, shortest)}", f"use a length of {shortest} to {longest}"
        for other in around.ranges:
            if overlap(cidr, other.cidr):
                kind = type(other).__name__.lower()
                what = f"the range of {key}, {cidr}, overlaps {kind} {other.name!r} {other.cidr}"
                yield (HERE, key), what, f"write {key!r} with a range that is nobody's"
    if overlap(found.pods, found.services):
        what = f"the range of pods, {found.pods}, overlaps that of services, {found.services}"
        yield (HERE, "pods"), what, "choose ranges that have no address in common"
    nodes = sum(host.role in NODES for host in around.hosts)
    room = 2 ** max(PER_NODE - found.pods.prefixlen, 0)
    if room < nodes and found.pods.prefixlen <= PER_NODE:
        what = f"{found.pods} is enough for {room} of {nodes} nodes: each has a /{PER_NODE} of it"
        yield (HERE, "pods"), what, "use a shorter length"


def _size(cidr: IPNetwork, shortest: int) -> str:
    return "too large for Kubernetes" if cidr.prefixlen < shortest else "too small for Kubernetes"


def _key(path: Path, name: str) -> Iterator[tuple[Keys, str, str]]:
    keys = (HERE, "source", "key")
    try:
        content = given.content(path)
    except OSError as error:
        yield keys, f"{name} can't be read: {error.strerror}", "put the source's public key beside the plan"
        return
    if ARMOUR not in content or not content.isascii():
        yield keys, f"{name} is no public key as text", f"write it anew: gpg --armor --export KEY > {name}"
