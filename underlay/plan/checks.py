"""The checks of a plan file: every problem is collected, then it is refused as a whole."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any, get_args

from netaddr import IPAddress
from pydantic import ValidationError

from underlay.plan.datafile import Model, unknown, validate
from underlay.plan.literals import Keys, Literals, Problem, dotted
from underlay.plan.model import (
    MOST_NETWORKS,
    OUTSIDE,
    ForwardingException,
    Host,
    HostSpec,
    Interface,
    Kubernetes,
    Login,
    Network,
    Operator,
    Plan,
    PlanFile,
    Role,
    Zone,
    covers,
)
from underlay.plan.parts import cluster
from underlay.plan.parts.nics import mistakes, nics
from underlay.plan.values import overlap


class Checker:
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
        self.exceptions: dict[str, ForwardingException] = {}

    def plan(self, path: Path) -> Plan | None:
        head = self._part(PlanFile, self.source.values, ())
        operator = head.operator if head else Operator()
        self.networks = self._parts("networks", Network)
        self.zones = self._parts("zones", Zone)
        self.hosts = self._parts("hosts", HostSpec)
        self.exceptions = self._parts("exceptions", ForwardingException)
        self._check_enterprise()
        self._check_internal()
        self._check_ranges()
        self._check_network_names()
        self._check_roles()
        self._check_gateways()
        self._check_hosts()
        self._check_logins(operator)
        self._check_addresses()
        self._check_forwarding(operator)
        self._check_exceptions()
        kubernetes = self._kubernetes(head.kubernetes, path) if head and head.kubernetes else None
        # Who reaches whom is asked of a plan that is right in itself.
        if not self.problems:
            self._check_ways(kubernetes)
        if self.problems or head is None:
            return None
        plan = Plan(
            source=path,
            site=head.site,
            target=head.target,
            operator=head.operator,
            forwarding=head.forwarding,
            exceptions=tuple(self.exceptions.values()),
            networks=tuple(self.networks.values()),
            zones=tuple(self.zones.values()),
            hosts=tuple(_host(spec, self.networks, operator) for spec in self.hosts.values()),
            kubernetes=kubernetes,
        )
        plan._literals = self.source
        return plan

    def _add(self, keys: Keys, what: str, fix: str) -> None:
        self.problems.append(Problem(self.source.line(*keys), dotted(keys), what, fix))

    def _written(self, *keys: str) -> dict[str, Any]:
        """What the file has at a path of keys, right or wrong; empty if it is not a mapping."""
        value: Any = self.source.values
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value if isinstance(value, dict) else {}

    def _part(self, model: type[Model], value: object, keys: Keys) -> Model | None:
        match validate(model, value, keys, self.source):
            case list() as problems:
                self.problems += problems
                return None
            case part:
                return part

    def _parts(self, kind: str, model: type[Model]) -> dict[str, Model]:
        found: dict[str, Model] = {}
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

    def _check_internal(self) -> None:
        """That there are internal networks, and not more than there are routing tables."""
        if self.source.is_broken("networks"):
            return
        if self.enterprise_names and len(self.network_names) == len(self.enterprise_names) == 1:
            self._add(("networks",), "there is no internal network", "add one, without 'upstream'")
        for name in self.network_names[MOST_NETWORKS : MOST_NETWORKS + 1]:
            self._add(
                ("networks", name),
                f"is network {MOST_NETWORKS + 1} of {len(self.network_names)}: hosts have routing tables for "
                f"{MOST_NETWORKS}",
                f"use {MOST_NETWORKS} networks or less",
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
            and overlap(item.cidr, other.cidr)
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
            what, fix = unknown("network", name, self.network_names)
            also = f" (also on line{'s' * (len(lines) > 1)} {', '.join(map(str, lines))})" if lines else ""
            self._add(first, what + also, fix)

    def _check_roles(self) -> None:
        roles = [self._written("hosts", name).get("role") for name in self.host_names]
        # One that is not a role may be meant for the one that is missing.
        if not roles or self.source.is_broken("hosts") or any(role not in get_args(Role) for role in roles):
            return
        for role in ("gateway", "jumphost"):
            if role not in roles:
                self._add(("hosts",), f"no host has the role {role!r}", f"add a host with the role {role!r}")
        jumphosts = [name for name in self.host_names if self._written("hosts", name).get("role") == "jumphost"]
        for name in jumphosts[1:]:
            self._add(
                ("hosts", name),
                f"is a second jump host, after {jumphosts[0]!r}",
                "a site has one jump host: keep one of the two",
            )

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
            if host.name == "localhost":
                self._add(keys, "'localhost' is what every host calls itself", "choose another name")
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
                fix = f"choose one of {', '.join(networks)}, or give it an address there"
                self._add(place, f"the host has no address in network {name!r}", fix)
        for below, what, fix in mistakes(networks, host.nics):
            self._add((*keys, "nics", *below), what, fix)

    def _kubernetes(self, written: Kubernetes, path: Path) -> Kubernetes:
        """The cluster, with what follows from the hosts."""
        found = cluster.whole(written, list(self.hosts.values()))
        ranges: list[Network | Zone] = [*self.networks.values(), *self.zones.values()]
        known = cluster.Around(tuple(self.hosts.values()), ranges, self.network_names, path.parent)
        # What is wrong with a host, or its network, is not said of the cluster once more.
        for keys, what, fix in cluster.mistakes(found, written, known) if not self.problems else ():
            self._add(keys, what, fix)
        return found

    def _check_ways(self, kubernetes: Kubernetes | None) -> None:
        """That the jump host and the load balancers reach those that they are there for."""
        enterprise = self.enterprise_names[0]
        for host in self.hosts.values():
            match host.role:
                case "jumphost":
                    what = "the jump host"
                    ends = [
                        other
                        for other in self.hosts.values()
                        if not other.published and enterprise not in other.addresses
                    ]
                case "lb_nginx":
                    what = "the load balancer"
                    ends = [other for other in self.hosts.values() if other.role == "master"]
                case _:
                    continue
            # Behind the upstream router nobody knows the internal networks.
            if (host.default_route or next(iter(host.addresses))) != enterprise:
                continue
            api = kubernetes.api_network if kubernetes and host.role == "lb_nginx" else None
            hidden = [other for other in ends if (api or next(iter(other.addresses))) not in host.addresses]
            # An internal address is what a jump host can't do without, whomever there is to reach today.
            if host.role == "jumphost" and list(host.addresses) == [enterprise]:
                internal = next(name for name in self.network_names if name != enterprise)
                self._add(
                    ("hosts", host.name, "addresses"),
                    "the jump host has an enterprise address only, and reaches no internal network",
                    f"give it an address in an internal network, like {internal!r}",
                )
            elif hidden:
                network = api or next(iter(hidden[0].addresses))
                self._add(
                    ("hosts", host.name),
                    f"{what} can't reach {hidden[0].name!r} in network {network!r}: "
                    "it has no address there, and its default route is the upstream router",
                    f"give it an address in {network!r}, or a 'default_route' by an internal network",
                )

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
                yield host.published.address, ("hosts", host.name, "published"), enterprise

    def _check_logins(self, operator: Operator) -> None:
        fix = "delete it, or name the account that becomes root"
        for host in self.hosts.values():
            if host.sudo and (host.user or operator.user) == "root":
                self._add(("hosts", host.name, "sudo"), "the account is 'root', which needs no sudo", fix)
        if operator.user == "root" and "sudo" in self._written("operator"):
            self._add(("operator", "sudo"), "the account is 'root', which needs no sudo", fix)

    def _check_forwarding(self, operator: Operator) -> None:
        for host in self.hosts.values():
            keys, port = ("hosts", host.name, "published", "ports"), host.port or operator.port
            if (
                host.role == "jumphost"
                and host.published
                and host.published.ports
                and not covers(host.published.ports, "tcp", port)
            ):
                self._add(keys, "the jump host can't be reached by ssh", f"add tcp/{port}: it is the way in")
        if self.source.values.get("forwarding", "open") != "open":
            return
        fix = 'write forwarding = "planned", or delete it'
        what = "has no effect: the gateway forwards all that it is sent"
        for host in self.hosts.values():
            if host.published and host.published.ports:
                self._add(("hosts", host.name, "published", "ports"), what, fix)
        for name in self.exceptions:
            self._add(("exceptions", name), what, fix)

    def _check_exceptions(self) -> None:
        internal = [network for network in self.networks.values() if network.upstream is None]
        outer = [network for network in self.networks.values() if network.upstream is not None]
        reached = {address for address, keys, name in self._uses() if keys[-1] == "published"}
        reached |= {
            host.addresses[network.name]
            for host in self.hosts.values()
            for network in outer
            if host.role == "gateway" and network.name in host.addresses
        }
        for each in self.exceptions.values():
            for network in internal:
                if each.source in network.cidr:
                    what = f"{each.source} is in the internal network {network.name!r}"
                    fix = "name who asks from outside: internal networks reach each other anyway"
                    self._add(("exceptions", each.name, "from"), what, fix)
            asked = each.destination
            for network in outer:
                if overlap(asked, network.cidr) and not (asked.size == 1 and asked.ip in reached):
                    what = f"{asked} is outside, in network {network.name!r}"
                    fix = "name internal addresses, or one published address with /32"
                    self._add(("exceptions", each.name, "to"), what, fix)


def _range(item: Network | Zone) -> str:
    return f"{type(item).__name__.lower()} {item.name!r} {item.cidr}"


def _salvage(model: type[Model], name: str, value: dict[str, Any]) -> Model | None:
    """A host without its wrong parts, so that the others are checked too; None if nothing is left of it."""
    if model is not HostSpec:
        return None
    left = {"name": name, **deepcopy(value)}
    try:
        return model.model_validate(left)
    except ValidationError as error:
        for details in error.errors():
            if not details["loc"]:
                return None  # a key that is no text
            parent: Any = left
            if details["loc"][0] == "published":
                left.pop("published", None)
                continue
            if details["loc"][0] == "nics" and len(details["loc"]) > 1:  # one that is no {…} has no parts
                left["nics"].pop(details["loc"][1], None)
                continue
            for key in details["loc"][:-1]:
                parent = parent.get(key) if isinstance(parent, dict) else None
            if isinstance(parent, dict):
                parent.pop(details["loc"][-1], None)
    try:
        return model.model_validate(left)
    except ValidationError:
        return None


def _host(spec: HostSpec, networks: dict[str, Network], operator: Operator) -> Host:
    made = nics(spec.addresses, spec.nics)
    user = spec.user or operator.user
    return Host(
        name=spec.name,
        role=spec.role,
        interfaces=tuple(
            Interface(network=name, nic=made.names[name], address=address, cidr=networks[name].cidr)
            for name, address in spec.addresses.items()
        ),
        links=made.links,
        mtus=tuple(made.mtus.items()),
        published=spec.published and spec.published.address,
        ports=spec.published and spec.published.ports,
        default_network=spec.default_route or next(iter(spec.addresses)),
        login=Login(
            user=user,
            port=spec.port or operator.port,
            sudo=None if user == "root" else spec.sudo or operator.sudo,
        ),
    )
