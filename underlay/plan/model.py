"""The model of a plan: frozen and strict, checked once when it is loaded; the rest of the code trusts it. Pure."""

import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from netaddr import IPAddress, IPNetwork
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from underlay.plan.literals import Literals, dotted
from underlay.plan.values import (
    Address,
    CertificateName,
    Cidr,
    DnsName,
    FilePath,
    HostsCidr,
    Image,
    KeyFile,
    KubernetesVersion,
    Label,
    Legs,
    MistakeError,
    Mtu,
    NicName,
    Ports,
    SiteName,
    SourceUrl,
    SourceWord,
    SshPort,
    Text,
    UnicastCidr,
    UserName,
    VlanId,
)

REPO = Path(__file__).resolve().parent.parent.parent
ROLES = ("gateway", "jumphost", "lb_nginx", "master", "worker")
"""The roles that have a deploy, in the order in which each opens the way to the next."""

MOST_NETWORKS = 99
"""Each has a routing table of its own on the hosts, in a range that is ours (see `desired.routing`)."""
NODES = ("master", "worker")
"""The roles whose hosts are nodes of a Kubernetes cluster."""
Role = Literal["gateway", "jumphost", "lb_nginx", "master", "worker", "workstation", "images", "server"]
Target = Literal["lab", "ssh"]
Sudo = Literal["nopasswd", "password"]
"""How an account that is not root becomes root: at once, or with its password."""
BondMode = Literal["active-backup", "802.3ad"]
"""How a bond uses its legs: one at a time, as any switch can; all of them, which the switch must agree to (LACP)."""
Forwarding = Literal["open", "planned"]
"""What the gateway forwards from the enterprise network to the internal ones: all, or what the plan names."""
SSH_PORT = 22
"""Where sshd listens, if the plan does not say so."""
MTU = 1500
"""Of a NIC that is made of others, where the plan has none; else it would be that of those at that time."""
OUTSIDE = "internet"
"""What the lab calls its host for the upstream router and the outside world; no host of a plan has that name."""


class Frozen(BaseModel):
    """What every part of the model has in common: strict about its keys, never changed after it was checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Network(Frozen):
    """One network of the site. The one with an `upstream` router is the enterprise network; the others are internal."""

    name: Label
    cidr: HostsCidr
    upstream: Address | None = None


class Zone(Frozen):
    """A range kept for `network`, in or beside its own CIDR; no other network or zone may overlap it."""

    name: Label
    network: Text
    cidr: UnicastCidr


class Operator(Frozen):
    """Who logs in on the real hosts (target "ssh"): the private key, the known host keys; the account, which a host may
    have another one of; the ssh configuration by which this person reaches the first host on each way.
    """

    user: UserName = "ops"
    port: SshPort = SSH_PORT
    sudo: Sudo = "nopasswd"
    key: FilePath = "~/.ssh/id_ed25519"
    known_hosts: FilePath = "~/.ssh/known_hosts"
    ssh_config: FilePath | None = None


class Login(Frozen):
    """How a host is entered: the account, the port of its sshd, and how root is become there; None: it is root."""

    user: UserName
    port: SshPort
    sudo: Sudo | None


class ForwardingException(Frozen):
    """What may come in from the enterprise network beside what goes to published addresses.

    source, destination: who asks, and what is asked: internal addresses, or one that the gateway has outside
    ports: see `Ports`; None for all
    """

    name: Label
    source: Cidr = Field(alias="from")
    destination: Cidr = Field(alias="to")
    ports: Ports | None = None


def _with_keys(published: object) -> object:
    return published if published is None or isinstance(published, dict) else {"address": published}


def _with_name(nic: object) -> object:
    return nic if isinstance(nic, dict) else {"nic": nic}


class Published(Frozen):
    """A host's enterprise address, and what of it may be asked from there (see `Ports`; None for all)."""

    address: Address
    ports: Ports | None = None


class NicSpec(Frozen):
    """How a host gets its NIC of a network: one that it has, or a bond of some; a VLAN on that.

    nic: its name; of a bond the one that it gets
    bond: the NICs that are its legs
    vlan: the number of the VLAN; None where packets have no tag
    mtu: None leaves it as it is
    """

    nic: NicName | None = None
    bond: Legs | None = None
    mode: BondMode = "active-backup"
    vlan: VlanId | None = None
    mtu: Mtu | None = None

    @model_validator(mode="after")
    def _whole(self) -> "NicSpec":
        if not (self.nic or self.bond):
            raise MistakeError("has neither 'nic' nor 'bond'", 'write {"nic": "eno1", "vlan": 10}, say')
        if "mode" in self.model_fields_set and not self.bond:
            raise MistakeError("has a 'mode', and is no bond", "delete it, or name the legs of the bond")
        return self


class HostSpec(Frozen):
    """One line of `hosts` in the plan file, as a person writes it."""

    name: Label
    role: Role
    addresses: dict[str, Address] = Field(min_length=1)
    published: Annotated[Published | None, BeforeValidator(_with_keys)] = None
    default_route: Text | None = None
    nics: dict[str, Annotated[NicSpec, BeforeValidator(_with_name)]] = {}
    user: UserName | None = None
    port: SshPort | None = None
    sudo: Sudo | None = None


class PackageSource(Frozen):
    """A package source as a line of apt: `deb [signed-by=…] URL SUITE COMPONENTS`.

    key: the file, beside the plan, with the public key that its packages are signed with, as text
    """

    url: SourceUrl
    suite: SourceWord = "/"
    components: tuple[SourceWord, ...] = ()
    key: KeyFile


class Kubernetes(Frozen):
    """The cluster that the masters and workers are nodes of.

    version: exact; of kubeadm, kubelet and kubectl, and of what kubeadm runs
    source: of these packages; None for the sources that the hosts have themselves
    images: the repository of the images
    pause: the image of each pod's first container; None in the file for that of the version
    endpoint: the name of the API, at the load balancer
    pods, services: the ranges of the cluster's own addresses
    node_network: whose address a node has in the cluster, and in which pods reach each other; None in the file for that
        of the first master's default route
    api_network: in which the API servers are reached, also by the load balancer; None in the file for that of the first
        master's first address
    domain: of the names inside the cluster
    names: further names and addresses that the API's certificate is for
    """

    version: KubernetesVersion
    source: PackageSource | None = None
    images: Image
    pause: Image | None = None
    endpoint: DnsName
    pods: UnicastCidr = IPNetwork("10.244.0.0/16")
    services: UnicastCidr = IPNetwork("10.96.0.0/16")
    node_network: Text | None = None
    api_network: Text | None = None
    domain: DnsName = "cluster.local"
    names: tuple[CertificateName, ...] = ()

    @property
    def minor(self) -> int:
        """33 of version 1.33.4."""
        return int(self.version.split(".")[1])


class PlanFile(Frozen):
    """The top level of a plan file; what stands below the names of its dictionaries is checked part by part."""

    site: SiteName
    target: Target
    operator: Operator = Operator()
    forwarding: Forwarding = "open"
    exceptions: dict[str, object] = {}
    networks: dict[str, object] = Field(min_length=1)
    zones: dict[str, object] = {}
    hosts: dict[str, object] = Field(min_length=1)
    kubernetes: Kubernetes | None = None


class Interface(Frozen):
    """A NIC of a host: the network it is in, its name on the host, its address there with the network's length."""

    network: str
    nic: str
    address: Address
    cidr: Cidr

    @property
    def with_prefix(self) -> str:
        """`100.64.0.2/21`."""
        return f"{self.address}/{self.cidr.prefixlen}"


class Bond(Frozen):
    """Several NICs used as one; see `BondMode`."""

    name: str
    legs: tuple[str, ...]
    mode: BondMode


class Vlan(Frozen):
    """A NIC for the packets of another one that have a tag."""

    name: str
    parent: str
    number: int


class Host(Frozen):
    """A host with its NICs in the order of its line; the first is its primary one, the one an installed machine has.

    links: the NICs that are made of others, each behind those that it is made of
    mtus: NICs with their MTU, where the plan has one
    ports: what may be asked of its published address from the enterprise network; None for all
    """

    name: str
    role: Role
    interfaces: tuple[Interface, ...]
    links: tuple[Bond | Vlan, ...] = ()
    mtus: tuple[tuple[str, int], ...] = ()
    published: Address | None
    ports: Ports | None
    default_network: str
    login: Login

    @property
    def primary(self) -> Interface:
        """The first NIC: what an installed machine has, and where it is reached and published."""
        return self.interfaces[0]

    def interface(self, network: str) -> Interface | None:
        """The NIC in a network, or None."""
        return next((nic for nic in self.interfaces if nic.network == network), None)

    def admits(self, protocol: str, port: int | None) -> bool:
        """Whether the enterprise network may ask this of its published address; port None for a free one, or icmp."""
        return self.ports is None or covers(self.ports, protocol, port)


def covers(ports: tuple[str, ...], protocol: str, port: int | None) -> bool:
    """Whether a port is one of these (see `Ports`); of a free one, None, that is not known, and so it is not."""
    for each in ports:
        kind, _, numbers = each.partition("/")
        first, _, last = numbers.partition("-")
        if kind == protocol and (not numbers or (port is not None and int(first) <= port <= int(last or first))):
            return True
    return False


class Plan(Frozen):
    """A checked plan. Order is the file's order throughout, and matters: rules follow it."""

    source: Path
    site: str
    target: Target
    operator: Operator
    forwarding: Forwarding
    exceptions: tuple[ForwardingException, ...]
    networks: tuple[Network, ...]
    zones: tuple[Zone, ...]
    hosts: tuple[Host, ...]
    kubernetes: Kubernetes | None = None
    _literals: Literals = PrivateAttr(default_factory=Literals)

    @property
    def enterprise(self) -> Network:
        """The company LAN: the network with the upstream router."""
        return next(network for network in self.networks if network.upstream is not None)

    @property
    def internal(self) -> tuple[Network, ...]:
        """The networks behind the gateway."""
        return tuple(network for network in self.networks if network.upstream is None)

    @property
    def gateway(self) -> Host:
        """The one router between the enterprise network and the internal ones."""
        return self.hosts_of("gateway")[0]

    @property
    def jumphost(self) -> Host:
        """The way in to the hosts that have no enterprise address."""
        return self.hosts_of("jumphost")[0]

    @property
    def published(self) -> tuple[Host, ...]:
        """The hosts that are published 1:1, in the plan's order."""
        return tuple(host for host in self.hosts if host.published is not None)

    def network(self, name: str) -> Network:
        """The network of that name (KeyError if there is none)."""
        return _named(self.networks, name)

    def host(self, name: str) -> Host:
        """The host of that name (KeyError if there is none)."""
        return _named(self.hosts, name)

    def hosts_of(self, role: str) -> tuple[Host, ...]:
        """The hosts of a role, in the plan's order; empty if there are none."""
        return tuple(host for host in self.hosts if host.role == role)

    def gateway_address(self, network: str) -> IPAddress:
        """The router's address in a network: the gateway's, or the upstream router's in the enterprise network."""
        upstream = self.network(network).upstream
        if upstream is not None:
            return upstream
        nic = self.gateway.interface(network)
        assert nic is not None  # checked when the plan was loaded
        return nic.address

    @property
    def nodes(self) -> tuple[Host, ...]:
        """The nodes of the cluster, the masters first; empty if the plan has none."""
        return tuple(host for role in NODES for host in self.hosts_of(role)) if self.kubernetes else ()

    def node_address(self, host: Host) -> IPAddress:
        """The address that a node has in the cluster."""
        assert self.kubernetes
        return _address(host, self.kubernetes.node_network)

    def api_address(self, host: Host) -> IPAddress:
        """Where a master's API server is reached, or a load balancer by a node."""
        return _address(host, self.kubernetes.api_network if self.kubernetes else None)

    @property
    def deployed(self) -> tuple[Host, ...]:
        """The hosts of the roles that have a deploy, in the order of ROLES."""
        return tuple(host for role in ROLES for host in self.hosts_of(role))

    def line_of(self, address: IPAddress | str, host: Host | None = None) -> str:
        """Where an address stands in the plan, as `line` tells it; empty for one that is in no plan.

        host: whose address it is, or may be, unless it is a published one: else its own line is told
        """
        for other in self.published:
            if str(other.published) == str(address):
                return self.line("hosts", other.name, "published")
        for owner in self.hosts if host is None else (host,):
            for nic in owner.interfaces:
                if str(nic.address) == str(address):
                    return self.line("hosts", owner.name, "addresses", nic.network)
        return self.line("hosts", host.name) if host else ""

    def line(self, *keys: str) -> str:
        """Where something stands in the plan, for people: `group_data/all.py:37 hosts.lb.published`."""
        return f"{shown_path(self.source)}:{self._literals.line(*keys)} {dotted(keys)}"


def _address(host: Host, network: str | None) -> IPAddress:
    nic = host.interface(network) if network else None
    return (nic or host.primary).address


_Named = TypeVar("_Named", Network, Host)


def _named(items: tuple[_Named, ...], name: str) -> _Named:
    for item in items:
        if item.name == name:
            return item
    raise KeyError(name)


def shown_path(path: Path) -> str:
    """A file as people are told of it: relative to the repo if it is in it."""
    name = path.relative_to(REPO) if path.is_relative_to(REPO) else path
    return os.fsencode(name).decode(errors="backslashreplace")
