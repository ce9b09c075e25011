"""The plan of a site: its model, its checks, its loader. Pure: no pyinfra, no network.

A plan file (`group_data/all.py`, or the file that UNDERLAY_PLAN names) is plain data in Python syntax. `load` reads it
without running it, collects everything that is wrong with it, and either raises one `PlanError` with the whole report
or returns a frozen `Plan` that the rest of the code trusts.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from netaddr import AddrFormatError, IPAddress, IPNetwork
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, StringConstraints, ValidationError

from underlay import literals
from underlay.literals import Literals, Problem, dotted

REPO = Path(__file__).resolve().parent.parent
ROLES = ("gateway", "jumphost", "lb_nginx", "master")
"""The roles that have a deploy, in the order in which each opens the way to the next."""

Role = Literal["gateway", "jumphost", "lb_nginx", "master", "workstation", "images"]


class PlanError(Exception):
    """A data file that can't be used; `str()` is the whole report, ready for a person."""


def _address(value: object) -> IPAddress:
    if isinstance(value, IPAddress):
        return value
    try:
        # Dotted quads only: netaddr also takes integers and IPv6, which a plan can't mean.
        if not isinstance(value, str) or value.count(".") != 3:
            raise ValueError
        return IPAddress(value, version=4)
    except (AddrFormatError, ValueError) as error:
        raise ValueError(f"{value!r} is not an IPv4 address|write four numbers, like 192.0.2.7") from error


def _cidr(value: object) -> IPNetwork:
    if isinstance(value, IPNetwork):
        return value
    try:
        if not isinstance(value, str) or "/" not in value:
            raise ValueError
        network = IPNetwork(value, version=4)
    except (AddrFormatError, ValueError) as error:
        raise ValueError(f"{value!r} is not a CIDR|write the network with its length, like 192.0.2.0/24") from error
    if network.ip != network.network:
        raise ValueError(f"{value} has host bits set|write {network.cidr}")
    if network.prefixlen > 30:
        raise ValueError(f"{value} has no room for hosts|use a length of 30 or less")
    return network


Address = Annotated[IPAddress, BeforeValidator(_address)]
Cidr = Annotated[IPNetwork, BeforeValidator(_cidr)]
Label = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$")]
NicName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]


class Frozen(BaseModel):
    """What every part of the model has in common: strict about its keys, never changed after it was checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Network(Frozen):
    """One network of the site. The one with an `upstream` router is the enterprise network; the others are internal."""

    name: Label
    cidr: Cidr
    upstream: Address | None = None


class Zone(Frozen):
    """A range reserved inside `network`; no other network may overlap it."""

    name: Label
    network: str
    cidr: Cidr


class Operator(Frozen):
    """Who logs in on the real hosts (target "ssh"): account with sudo, private key, known host keys."""

    user: Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")] = "ops"
    key: str = "~/.ssh/id_ed25519"
    known_hosts: str = "~/.ssh/known_hosts"


class HostSpec(Frozen):
    """One line of `hosts` in the plan file, as a person writes it."""

    name: Label
    role: Role
    addresses: dict[str, Address] = Field(min_length=1)
    published: Address | None = None
    default_route: str | None = None
    nics: dict[str, NicName] = {}


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


class Host(Frozen):
    """A host with its NICs in the order of its line; the first is its primary one, the one an installed machine has."""

    name: str
    role: Role
    interfaces: tuple[Interface, ...]
    published: Address | None
    default_network: str

    @property
    def primary(self) -> Interface:
        """The first NIC: what an installed machine has, and where it is reached and published."""
        return self.interfaces[0]

    def interface(self, network: str) -> Interface | None:
        """The NIC in a network, or None."""
        return next((nic for nic in self.interfaces if nic.network == network), None)


class Plan(Frozen):
    """A checked plan. Order is the file's order throughout, and matters: rules follow it."""

    source: Path
    site: str
    target: Literal["lab", "ssh"]
    operator: Operator
    networks: tuple[Network, ...]
    zones: tuple[Zone, ...]
    hosts: tuple[Host, ...]
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

    def line(self, *keys: str) -> str:
        """Where something stands in the plan, for people: `group_data/all.py:37 hosts.lb.published`."""
        return f"{_shown(self.source)}:{self._literals.line(*keys)} {dotted(keys)}"


_Named = TypeVar("_Named", Network, Host)


def _named(items: tuple[_Named, ...], name: str) -> _Named:
    for item in items:
        if item.name == name:
            return item
    raise KeyError(name)


def _shown(path: Path) -> str:
    return str(path.relative_to(REPO)) if path.is_relative_to(REPO) else str(path)


def plan_file() -> Path:
    """The plan file in force: what UNDERLAY_PLAN names, or the repo's own."""
    return Path(os.environ.get("UNDERLAY_PLAN") or REPO / "group_data" / "all.py").resolve()


def read_literals(path: Path) -> Literals:
    """Read a data file, with PlanError for one that is missing or is not Python."""
    try:
        return literals.read(path)
    except OSError as error:
        raise PlanError(
            f"{_shown(path)}: can't be read: {error.strerror}. Name another file, or mend its path"
        ) from error
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        what = getattr(error, "msg", None) or str(error)
        raise PlanError(
            report(path, [Problem(line, "the file", f"is not Python: {what}", "mend the syntax")])
        ) from error


def report(path: Path, problems: Iterable[Problem]) -> str:
    """The one error report about a data file: every problem in the order of its lines."""
    found = sorted(set(problems), key=lambda problem: (problem.line, problem.where, problem.what))
    count = f"{len(found)} error" + ("s" if len(found) > 1 else "")
    return "\n".join([f"{_shown(path)}: {count}; nothing was changed", *map(str, found)])


def load(path: Path | None = None) -> Plan:
    """Read and check a plan file (default: `plan_file()`). Raises PlanError with everything that is wrong with it."""
    path = (path or plan_file()).resolve()
    source = read_literals(path)
    checker = _Checker(source)
    plan = checker.plan(path)
    if checker.problems or plan is None:
        raise PlanError(report(path, checker.problems))
    return plan


_Model = TypeVar("_Model", bound=Frozen)


def validate(model: type[_Model], value: object, keys: tuple[str, ...], source: Literals) -> _Model | list[Problem]:
    """One part of a data file as its model, or what is wrong with it, each with its line and a mend."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        return [_problem(model, dict(details), keys, source) for details in error.errors()]


def _problem(model: type[BaseModel], error: dict[str, Any], keys: tuple[str, ...], source: Literals) -> Problem:
    path = (*keys, *map(str, error["loc"]))
    where = dotted(path)
    line = source.line(*path)
    match error["type"]:
        case "value_error":
            what, _, mend = str(error["ctx"]["error"]).partition("|")
            return Problem(line, where, what, mend)
        case "missing":
            return Problem(line, dotted(path[:-1]), f"has no {path[-1]!r}", f"add {path[-1]!r}")
        case "extra_forbidden":
            known = [name for name in model.model_fields if name != "name"]
            return Problem(line, dotted(path[:-1]) or "the plan", *_unknown("key", path[-1], known))
        case "literal_error":
            expected = re.findall(r"'([^']+)'", error["ctx"]["expected"])
            return Problem(line, where, *_unknown(path[-1], str(error["input"]), expected))
        case "string_pattern_mismatch":
            return Problem(
                line, where, f"{error['input']!r} is not a valid name", f"it must match {error['ctx']['pattern']}"
            )
        case _:
            return Problem(
                line, where, f"{error['input']!r}: {error['msg']}", "see docs/plan.md for what belongs there"
            )


def _unknown(kind: str, name: str, known: Iterable[str]) -> tuple[str, str]:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names) or 'none'}"
    return f"unknown {kind} {name!r}", hint


@dataclass
class _Use:
    """One use of an address, to find those that are used twice."""

    address: IPAddress
    keys: tuple[str, ...]


class _Checker:
    """Builds a plan of what a file holds and collects every problem on the way.

    A part that is wrong in itself is reported and left out of the checks between parts, so one mistake gives one error.
    """

    def __init__(self, source: Literals) -> None:
        self.source = source
        self.problems = list(source.problems)
        self.names = {kind: self._mapping(kind).keys() for kind in ("networks", "zones", "hosts")}

    def add(self, keys: tuple[str, ...], what: str, mend: str) -> None:
        self.problems.append(Problem(self.source.line(*keys), dotted(keys), what, mend))

    def _mapping(self, name: str) -> dict[str, Any]:
        value = self.source.values.get(name)
        return value if isinstance(value, dict) else {}

    def _part(self, model: type[_Model], value: object, keys: tuple[str, ...]) -> _Model | None:
        match validate(model, value, keys, self.source):
            case list() as problems:
                self.problems += problems
                return None
            case part:
                return part

    def _parts(self, name: str, model: type[_Model]) -> list[_Model]:
        found = []
        for key, value in self._mapping(name).items():
            if not isinstance(value, dict):
                self.add((name, key), "is not a {…} of keys and values", "see docs/plan.md for what belongs there")
            elif "name" in value:
                self.add((name, key, "name"), "unknown key 'name'", f"delete it: its name is {key!r}")
            elif part := self._part(model, {"name": key, **value}, (name, key)):
                found.append(part)
        return found

    def plan(self, path: Path) -> Plan | None:
        known = ("site", "target", "operator", "networks", "zones", "hosts")
        for name in self.source.values:
            if name not in known:
                self.add((name,), *_unknown("key", name, known))
        for name in ("networks", "hosts"):
            if not self._mapping(name):
                self.add((name,), "is missing or empty", "add it: see docs/plan.md")
        target = self.source.values.get("target")
        if target not in (targets := get_args(Plan.model_fields["target"].annotation)):
            self.add(("target",), f"{target!r} is not a target", f"write one of {', '.join(map(repr, targets))}")
        site = self.source.values.get("site")
        if not isinstance(site, str) or not site:
            self.add(("site",), f"{site!r} is not a name", "give the site a name")
        operator = self._part(Operator, self.source.values.get("operator", {}), ("operator",))
        networks = self._parts("networks", Network)
        zones = self._parts("zones", Zone)
        hosts = self._parts("hosts", HostSpec)
        self._check_networks(networks, zones)
        self._check_hosts(networks, hosts)
        self._check_gateway(networks, hosts)
        self._check_addresses(networks, hosts)
        if self.problems:
            return None
        by_name = {network.name: network for network in networks}
        plan = Plan(
            source=path,
            site=str(site),
            target=target,
            operator=operator or Operator(),
            networks=tuple(networks),
            zones=tuple(zones),
            hosts=tuple(_host(spec, by_name) for spec in hosts),
        )
        plan._literals = self.source
        return plan

    def _check_networks(self, networks: list[Network], zones: list[Zone]) -> None:
        for one, other in combinations(networks, 2):
            if _overlap(one.cidr, other.cidr):
                self.add(
                    ("networks", other.name, "cidr"),
                    f"{other.cidr} overlaps network {one.name!r} {one.cidr}",
                    "choose ranges that have no address in common",
                )
        for zone in zones:
            keys = ("zones", zone.name, "cidr")
            if zone.network not in self.names["networks"]:
                self.add(("zones", zone.name, "network"), *_unknown("network", zone.network, self.names["networks"]))
            for network in networks:
                if network.name != zone.network and _overlap(zone.cidr, network.cidr):
                    self.add(
                        keys,
                        f"zone {zone.name!r} {zone.cidr} overlaps network {network.name!r} {network.cidr}",
                        f"shrink or move zone {zone.name!r} or network {network.name!r}",
                    )
        for one_zone, other_zone in combinations(zones, 2):
            if _overlap(one_zone.cidr, other_zone.cidr):
                self.add(
                    ("zones", other_zone.name, "cidr"),
                    f"zone {other_zone.name!r} {other_zone.cidr} overlaps zone {one_zone.name!r} {one_zone.cidr}",
                    "choose ranges that have no address in common",
                )
        enterprise = [
            name for name, value in self._mapping("networks").items() if isinstance(value, dict) and "upstream" in value
        ]
        if not enterprise and self.names["networks"]:
            self.add(("networks",), "no network has an 'upstream' router", "add 'upstream' to the enterprise network")
        for name in enterprise[1:]:
            self.add(
                ("networks", name, "upstream"),
                f"network {enterprise[0]!r} has an upstream router already",
                "keep 'upstream' in the enterprise network alone",
            )

    def _check_hosts(self, networks: list[Network], hosts: list[HostSpec]) -> None:
        enterprise = next((network for network in networks if network.upstream), None)
        for host in hosts:
            keys = ("hosts", host.name)
            for name in [*host.addresses, *([host.default_route] if host.default_route else []), *host.nics]:
                if name not in self.names["networks"]:
                    self.add(self._key_of(host, name), *_unknown("network", name, self.names["networks"]))
                elif name not in host.addresses:
                    self.add(
                        self._key_of(host, name),
                        f"the host has no address in network {name!r}",
                        f"choose one of {', '.join(host.addresses)}, or give it an address there",
                    )
            nics = list(_nics(host).values())
            for nic in sorted({nic for nic in nics if nics.count(nic) > 1}):
                self.add((*keys, "nics"), f"NIC {nic!r} is used for two networks", "give each network a NIC of its own")
            if host.published is None:
                continue
            if host.role == "gateway" or (enterprise and enterprise.name in host.addresses):
                self.add(
                    (*keys, "published"),
                    "only a host without an enterprise address can be published",
                    "delete 'published' or its enterprise address",
                )
            if enterprise and host.published not in enterprise.cidr:
                self.add(
                    (*keys, "published"),
                    f"{host.published} is not in the enterprise network {enterprise.cidr}",
                    f"choose a free address of {enterprise.cidr}",
                )

    @staticmethod
    def _key_of(host: HostSpec, network: str) -> tuple[str, ...]:
        if network in host.addresses:
            return ("hosts", host.name, "addresses", network)
        if network in host.nics:
            return ("hosts", host.name, "nics", network)
        return ("hosts", host.name, "default_route")

    def _check_gateway(self, networks: list[Network], hosts: list[HostSpec]) -> None:
        gateways = [host for host in hosts if host.role == "gateway"]
        roles = [value.get("role") for value in self._mapping("hosts").values() if isinstance(value, dict)]
        for role in ("gateway", "jumphost"):
            if roles and role not in roles:
                self.add(("hosts",), f"no host has the role {role!r}", f"add a host with the role {role!r}")
        for network in networks:
            owners = [host for host in gateways if network.name in host.addresses]
            if not owners and gateways:
                kind = "enterprise" if network.upstream else "internal"
                self.add(
                    ("networks", network.name),
                    f"the {kind} network {network.name!r} has no gateway address",
                    f"add {network.name!r} to the addresses of host {gateways[0].name!r}",
                )
            for host in owners[1:]:
                self.add(
                    ("hosts", host.name, "addresses", network.name),
                    f"network {network.name!r} has a gateway already: {owners[0].name!r}",
                    "keep one gateway for each network",
                )
        enterprise = next((network for network in networks if network.upstream), None)
        for host in hosts:
            if host.role == "jumphost" and enterprise and not host.published and enterprise.name not in host.addresses:
                self.add(
                    ("hosts", host.name),
                    "the jump host can't be reached from the enterprise network",
                    "add 'published' with a free address of the enterprise network",
                )
            if host.role == "gateway" and enterprise and next(iter(host.addresses)) != enterprise.name:
                self.add(
                    ("hosts", host.name, "addresses"),
                    "the first address of the gateway is not its enterprise one, where it is reached",
                    f"put {enterprise.name!r} first",
                )

    def _check_addresses(self, networks: list[Network], hosts: list[HostSpec]) -> None:
        by_name = {network.name: network for network in networks}
        first: dict[IPAddress, tuple[str, ...]] = {}
        for use in _uses(networks, hosts):
            network = by_name.get(use.keys[-1]) if "addresses" in use.keys else None
            if use.keys[0] == "networks":
                network = by_name[use.keys[1]]
            if network and use.address not in network.cidr:
                self.add(
                    use.keys,
                    f"{use.address} is outside network {network.name!r} {network.cidr}",
                    f"choose an address of {network.cidr}",
                )
            for candidate in networks:
                if use.address == candidate.cidr.network:
                    self.add(use.keys, f"{use.address} is the network address of {candidate.name!r}", "choose another")
                elif use.address == candidate.cidr.broadcast:
                    self.add(
                        use.keys, f"{use.address} is the broadcast address of {candidate.name!r}", "choose another"
                    )
            if use.address in first:
                self.add(
                    use.keys,
                    f"{use.address} is used already by {dotted(first[use.address])}",
                    "give each its own address",
                )
            else:
                first[use.address] = use.keys


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one in other or other in one


def _uses(networks: list[Network], hosts: list[HostSpec]) -> Iterator[_Use]:
    for network in networks:
        if network.upstream is not None:
            yield _Use(network.upstream, ("networks", network.name, "upstream"))
    for host in hosts:
        for name, address in host.addresses.items():
            yield _Use(address, ("hosts", host.name, "addresses", name))
        if host.published is not None:
            yield _Use(host.published, ("hosts", host.name, "published"))


def _nics(spec: HostSpec) -> dict[str, str]:
    return {name: spec.nics.get(name, f"eth{index}") for index, name in enumerate(spec.addresses)}


def _host(spec: HostSpec, networks: dict[str, Network]) -> Host:
    nics = _nics(spec)
    return Host(
        name=spec.name,
        role=spec.role,
        interfaces=tuple(
            Interface(network=name, nic=nics[name], address=address, cidr=networks[name].cidr)
            for name, address in spec.addresses.items()
        ),
        published=spec.published,
        default_network=spec.default_route or next(iter(spec.addresses)),
    )
