"""The plan of a site: its model, its checks, its loader. Pure: no pyinfra, no network.

A plan file (`group_data/all.py`, or the file that UNDERLAY_PLAN names) is plain data in Python syntax. `load` reads it
without running it, collects everything that is wrong with it, and either raises one `PlanError` with the whole report
or returns a frozen `Plan` that the rest of the code trusts.
"""

import difflib
import os
import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from netaddr import AddrFormatError, IPAddress, IPNetwork
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, Strict, ValidationError

from underlay import literals
from underlay.errors import OperatorError
from underlay.literals import Keys, Literals, Problem, dotted, shown

REPO = Path(__file__).resolve().parent.parent
ROLES = ("gateway", "jumphost", "lb_nginx", "master")
"""The roles that have a deploy, in the order in which each opens the way to the next."""

Role = Literal["gateway", "jumphost", "lb_nginx", "master", "workstation", "images", "server"]
Target = Literal["lab", "ssh"]
OUTSIDE = "internet"
"""What the lab calls its host for the upstream router and the outside world; no host of a plan has that name."""


class PlanError(OperatorError):
    """A data file that can't be used; `str()` is the whole report, ready for a person."""


class MistakeError(ValueError):
    """What is wrong with a value, and how to mend it: for validators of models that `validate` reports on."""

    def __init__(self, what: str, mend: str) -> None:
        super().__init__(what)
        self.mend = mend


def text(pattern: str, what: str, mend: str) -> BeforeValidator:
    """A validator of text that must match a pattern as a whole; `what` says what it should have been."""

    def check(value: object) -> object:
        if isinstance(value, str) and value.isprintable() and re.fullmatch(pattern, value):
            return value
        raise MistakeError(f"{shown(value)} is not {what}", mend)

    return BeforeValidator(check)


# Stricter than netaddr, which also takes IPv6, integers, netmasks and fewer than four numbers.
_QUAD = re.compile(r"\d{1,3}(\.\d{1,3}){3}", re.ASCII)
_QUAD_AND_LENGTH = re.compile(rf"{_QUAD.pattern}/\d{{1,2}}", re.ASCII)
_NO_HOSTS = tuple(map(IPNetwork, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")))


def ipv4(value: object) -> IPAddress:
    """A value of a data file as an IPv4 address. Raises MistakeError for anything but four numbers."""
    if isinstance(value, IPAddress):
        return value
    try:
        if not isinstance(value, str) or not _QUAD.fullmatch(value):
            raise ValueError
        return IPAddress(value, version=4)
    except (AddrFormatError, ValueError) as error:
        raise MistakeError(f"{shown(value)} is not an IPv4 address", "write four numbers, like 192.0.2.7") from error


def _cidr(value: object) -> IPNetwork:
    if isinstance(value, IPNetwork):
        return value
    try:
        if not isinstance(value, str) or not _QUAD_AND_LENGTH.fullmatch(value):
            raise ValueError
        network = IPNetwork(value, version=4)
    except (AddrFormatError, ValueError) as error:
        mend = "write the network with its length, like 192.0.2.0/24"
        raise MistakeError(f"{shown(value)} is not a CIDR", mend) from error
    if network.ip != network.network:
        raise MistakeError(f"{value} has host bits set", f"write {network.cidr}")
    return network


def _for_hosts(network: IPNetwork) -> IPNetwork:
    if network.prefixlen > 30:
        raise MistakeError(f"{network} has no room for hosts", "use a length of 30 or less")
    if any(_overlap(network, other) for other in _NO_HOSTS):
        raise MistakeError(f"{network} has addresses that no host can have", "choose a range of unicast addresses")
    return network


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one in other or other in one


Address = Annotated[IPAddress, BeforeValidator(ipv4)]
Cidr = Annotated[IPNetwork, BeforeValidator(_cidr)]
_Text = Annotated[str, Strict()]
Label = Annotated[
    str,
    text("[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", "a name", "use up to 40 of a-z, 0-9 and -, with no - at either end"),
]
NicName = Annotated[
    str,
    # What the kernel allows, without what it or its sysctls use for something else.
    text(
        r"(?!(\.|\.\.|lo|all|default)$)[A-Za-z0-9_.-]{1,15}",
        "the name of a NIC",
        "use the name that `ip link` shows: up to 15 of A-Z, a-z, 0-9, _, . and -",
    ),
]
_FilePath = Annotated[str, text('[^"]+', "the path of a file", 'write a path in quotes, without " in it')]
# An ssh configuration and messages carry these, so each is one printable line.
_SiteName = Annotated[str, text(".{1,60}", "a name", "give the site a name of up to 60 printable characters")]
_UserName = Annotated[
    str, text("[a-z_][a-z0-9_-]{0,31}", "a user name", "use up to 32 of a-z, 0-9, _ and -, a letter first")
]


class Frozen(BaseModel):
    """What every part of the model has in common: strict about its keys, never changed after it was checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Network(Frozen):
    """One network of the site. The one with an `upstream` router is the enterprise network; the others are internal."""

    name: Label
    cidr: Annotated[Cidr, AfterValidator(_for_hosts)]
    upstream: Address | None = None


class Zone(Frozen):
    """A range kept for `network`, in or beside its own CIDR; no other network or zone may overlap it."""

    name: Label
    network: _Text
    cidr: Cidr


class Operator(Frozen):
    """Who logs in on the real hosts (target "ssh"): account with sudo, private key, known host keys."""

    user: _UserName = "ops"
    key: _FilePath = "~/.ssh/id_ed25519"
    known_hosts: _FilePath = "~/.ssh/known_hosts"


class HostSpec(Frozen):
    """One line of `hosts` in the plan file, as a person writes it."""

    name: Label
    role: Role
    addresses: dict[str, Address] = Field(min_length=1)
    published: Address | None = None
    default_route: _Text | None = None
    nics: dict[str, NicName] = {}


class PlanFile(Frozen):
    """The top level of a plan file; what stands below `networks`, `zones` and `hosts` is checked part by part."""

    site: _SiteName
    target: Target
    operator: Operator = Operator()
    networks: dict[str, object] = Field(min_length=1)
    zones: dict[str, object] = {}
    hosts: dict[str, object] = Field(min_length=1)


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
    target: Target
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
    name = path.relative_to(REPO) if path.is_relative_to(REPO) else path
    return os.fsencode(name).decode(errors="backslashreplace")


def plan_file() -> Path:
    """The plan file in force: what UNDERLAY_PLAN names, or the repo's own."""
    return Path(os.environ.get("UNDERLAY_PLAN") or REPO / "group_data" / "all.py").absolute()


def read_literals(path: Path) -> Literals:
    """Read a data file, with PlanError for one that is missing or is not Python."""
    try:
        return literals.read(path)
    except OSError as error:
        raise PlanError(
            f"{_shown(path)}: can't be read: {error.strerror}\n    mend: name a file that can be"
        ) from error
    except SyntaxError as error:
        problem = Problem(error.lineno or 1, "the file", f"is not Python: {error.msg}", "mend the syntax")
        raise PlanError(report(path, [problem])) from error


def report(path: Path, problems: Iterable[Problem]) -> str:
    """The one error report about a data file: every problem in the order of its lines."""
    found = sorted(set(problems), key=lambda problem: (problem.line, problem.where, problem.what))
    count = f"{len(found)} error" + ("s" if len(found) > 1 else "")
    return "\n".join([f"{_shown(path)}: {count}; nothing was changed", *map(str, found)])


def load(path: Path | None = None) -> Plan:
    """Read and check a plan file (default: `plan_file()`). Raises PlanError with everything that is wrong with it."""
    path = Path(os.path.normpath((path or plan_file()).absolute()))
    checker = _Checker(read_literals(path))
    plan = checker.plan(path)
    if plan is None:
        raise PlanError(report(path, checker.problems))
    return plan


_Model = TypeVar("_Model", bound=Frozen)


def validate(
    model: type[_Model], value: object, keys: Keys, source: Literals, context: object = None
) -> _Model | list[Problem]:
    """One part of a data file as its model, or what is wrong with it, each with its line and a mend.

    `context` is for the model's validators.
    What `source.problems` has already is not said again, so the list can be empty: report both together.
    """
    try:
        return model.model_validate(value, context=context)
    except ValidationError as error:
        return [
            _problem(model, dict(details), keys, source)
            for details in error.errors(include_url=False)
            if not source.is_broken(*keys, *map(str, details["loc"]))
        ]


def _problem(model: type[BaseModel], error: dict[str, Any], keys: Keys, source: Literals) -> Problem:
    path = (*keys, *map(str, error["loc"]))
    # What the file doesn't have (a missing key, a part's name, which is its key) is said of what should have it.
    written = path if path in source.lines and error["type"] != "extra_forbidden" else path[:-1]
    match error["type"]:
        case "value_error" if isinstance(mistake := error["ctx"]["error"], MistakeError):
            what, mend = str(mistake), mistake.mend
        case "missing":
            what, mend = f"has no {path[-1]!r}", f"add {path[-1]!r}"
        case "extra_forbidden":
            what, mend = unknown("key", path[-1], _known_keys(model, error["loc"][:-1]))
        case "literal_error":
            what, mend = unknown(path[-1], error["input"], re.findall(r"'([^']+)'", error["ctx"]["expected"]))
        case "dict_type" | "model_type" | "model_attributes_type":
            what, mend = f"{shown(error['input'])} is not a {{…}} of keys and values", _SEE
        case "string_type":
            what, mend = f"{shown(error['input'])} is not a text", "write a text in quotes"
        case "tuple_type":
            what, mend = f"{shown(error['input'])} is not a list", "write a list in […]"
        case "bool_type":
            what, mend = f"{shown(error['input'])} is neither True nor False", "write one of the two, without quotes"
        case "too_short":
            what, mend = "is empty", _SEE
        case _:
            what, mend = f"{shown(error['input'])}: {error['msg']}", _SEE
    return Problem(source.line(*path), dotted(written) or "the file", what, mend)


def _known_keys(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    kind: Any = model
    for key in loc:
        # A model's field, else what a dict holds.
        fields = getattr(kind, "model_fields", None)
        kind = fields[key].annotation if fields else get_args(kind)[-1]
    return [name for name in kind.model_fields if name != "name"]


_SEE = "see docs/plan.md for what belongs there"


def unknown(kind: str, name: object, known: Iterable[str]) -> tuple[str, str]:
    """What is wrong with a name that is not one of the known, and the mend: the one that was meant, or all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(names)}"
    return f"unknown {kind} {shown(name)}", hint


class _Checker:
    """Builds a plan of what a file holds and collects every problem on the way.

    One mistake gives one error: what is wrong in itself is reported and left out of the checks between parts, and those
    ask what the file has *written* wherever a part left out would look like a part that is missing.
    """

    def __init__(self, source: Literals) -> None:
        self.source = source
        self.problems = list(source.problems)
        self.network_names = tuple(self._written("networks"))
        self.host_names = tuple(self._written("hosts"))
        self.enterprise_names = [
            name for name in self.network_names if self._written("networks", name).get("upstream") is not None
        ]
        self.networks: dict[str, Network] = {}
        self.zones: dict[str, Zone] = {}
        self.hosts: dict[str, HostSpec] = {}

    def plan(self, path: Path) -> Plan | None:
        head = self._part(PlanFile, self.source.values, ())
        self.networks = self._parts("networks", Network)
        self.zones = self._parts("zones", Zone)
        self.hosts = self._parts("hosts", HostSpec)
        self._check_enterprise()
        self._check_ranges()
        self._check_network_names()
        self._check_roles()
        self._check_gateways()
        self._check_hosts()
        self._check_addresses()
        if self.problems or head is None:
            return None
        plan = Plan(
            source=path,
            site=head.site,
            target=head.target,
            operator=head.operator,
            networks=tuple(self.networks.values()),
            zones=tuple(self.zones.values()),
            hosts=tuple(_host(spec, self.networks) for spec in self.hosts.values()),
        )
        plan._literals = self.source
        return plan

    def _add(self, keys: Keys, what: str, mend: str) -> None:
        self.problems.append(Problem(self.source.line(*keys), dotted(keys), what, mend))

    def _written(self, *keys: str) -> dict[str, Any]:
        """What the file has at a path of keys, right or wrong; empty if it is not a mapping."""
        value: Any = self.source.values
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, dict) else {}

    def _part(self, model: type[_Model], value: object, keys: Keys) -> _Model | None:
        match validate(model, value, keys, self.source):
            case list() as problems:
                self.problems += problems
                return None
            case part:
                return part

    def _parts(self, kind: str, model: type[_Model]) -> dict[str, _Model]:
        found: dict[str, _Model] = {}
        for name, value in self._written(kind).items():
            keys = (kind, name)
            if not isinstance(value, dict):
                self._part(model, value, keys)
            elif "name" in value:
                self._add((*keys, "name"), "unknown key 'name'", f"delete it: the name is {name!r} already")
            elif part := self._part(model, {"name": name, **value}, keys) or _salvage(model, name, value):
                found[name] = part
        return found

    def _check_enterprise(self) -> None:
        if self.network_names and not self.enterprise_names and not self.source.is_broken("networks"):
            self._add(("networks",), "no network has an 'upstream' router", "add 'upstream' to the enterprise network")
        for name in self.enterprise_names[1:]:
            self._add(
                ("networks", name, "upstream"),
                f"network {self.enterprise_names[0]!r} has an upstream router already",
                "keep 'upstream' in the enterprise network alone",
            )

    def _check_ranges(self) -> None:
        """Blame the range that overlaps most others, then the next, so that one range too large is one error."""
        left: list[Network | Zone] = [*self.networks.values(), *self.zones.values()]
        while left:
            # Of equals the last one is to blame: it was probably added last.
            worst = max(reversed(left), key=lambda item: len(self._overlapping(item, left)))
            if not (others := self._overlapping(worst, left)):
                return
            left.remove(worst)
            names = " and ".join(map(_range, others))
            keys = ("zones" if isinstance(worst, Zone) else "networks", worst.name, "cidr")
            self._add(keys, f"{_range(worst)} overlaps {names}", "choose ranges that have no address in common")

    def _overlapping(self, item: Network | Zone, others: list[Network | Zone]) -> list[Network | Zone]:
        return [
            other
            for other in others
            if other is not item
            and _overlap(item.cidr, other.cidr)
            and not self._belongs(item, other)
            and not self._belongs(other, item)
        ]

    def _belongs(self, zone: Network | Zone, network: Network | Zone) -> bool:
        return (
            isinstance(zone, Zone)
            and isinstance(network, Network)
            and (zone.network == network.name or zone.network not in self.network_names)
        )

    def _check_network_names(self) -> None:
        places: list[tuple[Keys, str]] = [
            (("zones", zone.name, "network"), zone.network) for zone in self.zones.values()
        ]
        for host in self.hosts.values():
            places += [
                (("hosts", host.name, key, name), name) for key in ("addresses", "nics") for name in getattr(host, key)
            ]
            places += [(("hosts", host.name, "default_route"), name) for name in (host.default_route,) if name]
        strangers: dict[str, list[Keys]] = {}
        for keys, name in places:
            if self.network_names and name not in self.network_names and not self.source.is_broken("networks", name):
                strangers.setdefault(name, []).append(keys)
        for name, (first, *more) in strangers.items():
            lines = sorted({self.source.line(*keys) for keys in more} - {self.source.line(*first)})
            what, mend = unknown("network", name, self.network_names)
            also = f" (also on line{'s' * (len(lines) > 1)} {', '.join(map(str, lines))})" if lines else ""
            self._add(first, what + also, mend)

    def _check_roles(self) -> None:
        roles = [self._written("hosts", name).get("role") for name in self.host_names]
        # One that is not a role may be meant for the one that is missing.
        if not roles or self.source.is_broken("hosts") or any(role not in get_args(Role) for role in roles):
            return
        for role in ("gateway", "jumphost"):
            if role not in roles:
                self._add(("hosts",), f"no host has the role {role!r}", f"add a host with the role {role!r}")

    def _networks_of(self, host: str) -> list[str] | None:
        """The networks in which the file gives a host an address, or None if that can't be known."""
        names = list(self._written("hosts", host, "addresses"))
        known = all(name in self.network_names for name in names) and not self.source.is_broken(
            "hosts", host, "addresses"
        )
        return names if names and known else None

    def _check_gateways(self) -> None:
        gateways = {
            name: self._networks_of(name)
            for name in self.host_names
            if self._written("hosts", name).get("role") == "gateway"
        }
        first = next(iter(gateways), "")
        owned = [name for names in gateways.values() for name in names or ()]
        for network in self.network_names if gateways and None not in gateways.values() else ():
            if network not in owned:
                kind = "enterprise" if network in self.enterprise_names else "internal"
                self._add(
                    ("networks", network),
                    f"the {kind} network {network!r} has no gateway address",
                    f"add {network!r} to the addresses of host {first!r}",
                )
        for name in list(gateways)[1:]:
            shared = [network for network in gateways[name] or () if network in (gateways[first] or ())]
            what = f"is a second gateway, after {first!r}"
            if shared:
                what = f"is a second gateway for {', '.join(map(repr, shared))}, after {first!r}"
            self._add(("hosts", name), what, "a site has one gateway: keep one of the two")
        names = gateways.get(first)
        for enterprise in self.enterprise_names[:1]:
            if names and enterprise in names and names[0] != enterprise:
                self._add(
                    ("hosts", first, "addresses"),
                    "the first address of the gateway is not its enterprise one, where it is reached",
                    f"put {enterprise!r} first",
                )

    def _check_hosts(self) -> None:
        enterprise = self.enterprise_names[0] if self.enterprise_names else None
        for host in self.hosts.values():
            keys = ("hosts", host.name)
            if host.name == OUTSIDE:
                self._add(keys, f"{OUTSIDE!r} is what the lab calls the world outside", "choose another name")
            networks = self._networks_of(host.name)
            if networks is None:
                continue
            self._check_nics(host, networks)
            published = self._written(*keys).get("published") is not None
            if published and (host.role == "gateway" or enterprise in networks):
                self._add(
                    (*keys, "published"),
                    "only a host without an enterprise address can be published",
                    "delete 'published' or its enterprise address",
                )
            if host.role == "jumphost" and enterprise and not published and enterprise not in networks:
                self._add(
                    keys,
                    "the jump host can't be reached from the enterprise network",
                    "add 'published' with a free address of the enterprise network",
                )
            if host.role == "gateway" and enterprise in networks and (host.default_route or enterprise) != enterprise:
                self._add(
                    (*keys, "default_route"),
                    f"the gateway is itself the router of network {host.default_route!r}",
                    "delete it: the gateway's default route is the upstream router",
                )

    def _check_nics(self, host: HostSpec, networks: list[str]) -> None:
        keys = ("hosts", host.name)
        places: list[tuple[Keys, str]] = [((*keys, "nics", name), name) for name in host.nics]
        places += [((*keys, "default_route"), name) for name in (host.default_route,) if name]
        for place, name in places:
            if name in self.network_names and name not in networks:
                mend = f"choose one of {', '.join(networks)}, or give it an address there"
                self._add(place, f"the host has no address in network {name!r}", mend)
        nics = list(_nics(networks, host.nics).values())
        for nic in sorted({nic for nic in nics if nics.count(nic) > 1}):
            self._add((*keys, "nics"), f"NIC {nic!r} is used for two networks", "give each network a NIC of its own")

    def _check_addresses(self) -> None:
        uses = list(self._uses())
        for network in self.networks.values():
            mine = [address for address, _, name in uses if name == network.name]
            if len(mine) > 1 and not any(address in network.cidr for address in mine):
                self._add(
                    ("networks", network.name, "cidr"),
                    f"none of the {len(mine)} addresses in network {network.name!r} is in {network.cidr}",
                    "correct the CIDR or the addresses",
                )
                uses = [use for use in uses if use[2] != network.name]
        first: dict[IPAddress, Keys] = {}
        for address, keys, name in uses:
            found = self.networks.get(name)
            if found and address not in found.cidr:
                kind = "the enterprise network" if keys[-1] == "published" else "network"
                self._add(keys, f"{address} is outside {kind} {name!r} {found.cidr}", f"choose one of {found.cidr}")
            elif found and address == found.cidr.network:
                self._add(keys, f"{address} is the network address of {name!r}", "choose another")
            elif found and address == found.cidr.broadcast:
                self._add(keys, f"{address} is the broadcast address of {name!r}", "choose another")
            elif address in first:
                self._add(keys, f"{address} is used already by {dotted(first[address])}", "give each its own address")
            else:
                first[address] = keys

    def _uses(self) -> Iterator[tuple[IPAddress, Keys, str]]:
        """Each address, where it stands, and the network it must be in."""
        enterprise = self.enterprise_names[0] if self.enterprise_names else ""
        for network in self.networks.values():
            if network.upstream is not None:
                yield network.upstream, ("networks", network.name, "upstream"), network.name
        for host in self.hosts.values():
            for name, address in host.addresses.items():
                yield address, ("hosts", host.name, "addresses", name), name
            if host.published is not None and enterprise not in host.addresses:
                yield host.published, ("hosts", host.name, "published"), enterprise


def _range(item: Network | Zone) -> str:
    return f"{type(item).__name__.lower()} {item.name!r} {item.cidr}"


def _salvage(model: type[_Model], name: str, value: dict[str, Any]) -> _Model | None:
    """A host without its wrong parts, so that the others are checked too; None if nothing is left of it."""
    if model is not HostSpec:
        return None
    left = {"name": name, **deepcopy(value)}
    try:
        return model.model_validate(left)
    except ValidationError as error:
        for details in error.errors():
            parent: Any = left
            for key in details["loc"][:-1]:
                parent = parent.get(key) if isinstance(parent, dict) else None
            if isinstance(parent, dict):
                parent.pop(details["loc"][-1], None)
    try:
        return model.model_validate(left)
    except ValidationError:
        return None


def _nics(networks: Iterable[str], named: dict[str, str]) -> dict[str, str]:
    return {name: named.get(name, f"eth{index}") for index, name in enumerate(networks)}


def _host(spec: HostSpec, networks: dict[str, Network]) -> Host:
    nics = _nics(spec.addresses, spec.nics)
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
