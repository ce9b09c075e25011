"""The values that a data file may hold: addresses, networks, names, each with what is wrong with a bad one."""

import re
from typing import Annotated

from netaddr import AddrFormatError, IPAddress, IPNetwork
from pydantic import AfterValidator, BeforeValidator, Strict

from underlay.plan.literals import shown


class MistakeError(ValueError):
    """What is wrong with a value, and how to fix it: for validators of models that `validate` reports on."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


def text(pattern: str, what: str, fix: str) -> BeforeValidator:
    """A validator of text that must match a pattern as a whole; `what` says what it should have been."""

    def check(value: object) -> object:
        if isinstance(value, str) and value.isprintable() and re.fullmatch(pattern, value):
            return value
        raise MistakeError(f"{shown(value)} is not {what}", fix)

    return BeforeValidator(check)


# Stricter than netaddr, which also takes IPv6, integers, netmasks and fewer than four numbers.
_QUAD = re.compile(r"\d{1,3}(\.\d{1,3}){3}", re.ASCII)
_QUAD_AND_LENGTH = re.compile(rf"{_QUAD.pattern}/\d{{1,2}}", re.ASCII)
_NO_HOSTS = tuple(map(IPNetwork, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")))
_SHORTEST, _LONGEST = 8, 30
"""Lengths of a network: 10.0.0.0/8 is the largest private one, a /30 has two hosts."""


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
        fix = "write the network with its length, like 192.0.2.0/24"
        raise MistakeError(f"{shown(value)} is not a CIDR", fix) from error
    if network.ip != network.network:
        raise MistakeError(f"{value} has host bits set", f"write {network.cidr}")
    return network


def _for_hosts(network: IPNetwork) -> IPNetwork:
    if network.prefixlen > _LONGEST:
        raise MistakeError(f"{network} has no room for hosts", f"use a length of {_LONGEST} or less")
    if network.prefixlen < _SHORTEST:
        raise MistakeError(f"{network} is a large part of the internet", f"use a length of {_SHORTEST} or more")
    return network


def _unicast(network: IPNetwork) -> IPNetwork:
    if any(overlap(network, other) for other in _NO_HOSTS):
        raise MistakeError(f"{network} has addresses that no host can have", "choose a range of unicast addresses")
    return network


# No \d: it takes digits of other scripts, too.
_PORT = re.compile(r"(?P<protocol>tcp|udp)/(?P<first>[0-9]{1,5})(-(?P<last>[0-9]{1,5}))?|icmp")


def _port(value: object) -> str:
    found = _PORT.fullmatch(value) if isinstance(value, str) else None
    fix = "write it like tcp/443, udp/5000-5010, with ports from 1 to 65535, or icmp"
    if not found:
        raise MistakeError(f"{shown(value)} is no protocol with a port", fix)
    if found["protocol"] is None:
        return "icmp"
    first = int(found["first"])
    last = int(found["last"] or first)
    if not 0 < first <= last < 65536:
        raise MistakeError(f"{shown(value)} has no such port", fix)
    return f"{found['protocol']}/{first}" + (f"-{last}" if last > first else "")


def _ports(ports: tuple[str, ...]) -> tuple[str, ...]:
    if not ports:
        raise MistakeError("is empty", "name at least one, like tcp/443; without 'ports' all of them are meant")
    for port in ports:
        if ports.count(port) > 1:
            raise MistakeError(f"{port} is there twice", "delete one of the two")
    return ports


def is_unicast(address: IPAddress) -> bool:
    """Whether another host can have that address."""
    return not any(address in network for network in _NO_HOSTS)


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Whether two networks have an address in common."""
    return one in other or other in one


Address = Annotated[IPAddress, BeforeValidator(ipv4)]
Cidr = Annotated[IPNetwork, BeforeValidator(_cidr)]
Ports = Annotated[tuple[Annotated[str, BeforeValidator(_port)], ...], AfterValidator(_ports)]
"""`tcp/443`, `udp/5000-5010` or `icmp` each."""
UnicastCidr = Annotated[Cidr, AfterValidator(_unicast)]
HostsCidr = Annotated[Cidr, AfterValidator(_for_hosts), AfterValidator(_unicast)]
Text = Annotated[str, Strict()]
Label = Annotated[
    str,
    text("[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", "a name", "use up to 40 of a-z, 0-9 and -, with no - at either end"),
]
NicName = Annotated[
    str,
    # What the kernel allows, without what it, its sysctls, systemd or programs use for something else.
    text(
        r"(?!(\.|\.\.|lo|all|default|bonding_masters|[0-9]+)$)[A-Za-z0-9_.][A-Za-z0-9_.-]{0,14}",
        "the name of a NIC",
        "use the name that `ip link` shows: up to 15 of A-Z, a-z, 0-9, _, . and -, not digits alone",
    ),
]


def number(least: int, most: int, what: str, fix: str) -> BeforeValidator:
    """A validator of a whole number in a range; `what` says what it should have been."""

    def check(value: object) -> object:
        if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
            return value
        raise MistakeError(f"{shown(value)} is no {what}", f"write {fix}, from {least} to {most}")

    return BeforeValidator(check)


_DNS_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DNS_NAME = rf"(?=.{{1,253}}$){_DNS_LABEL}(\.{_DNS_LABEL})*"
"""A name as DNS has them, in small letters."""
OLDEST = 20
"""The first release of Kubernetes, 1.OLDEST, whose nodes are prepared: those before it have another configuration."""


def _version(version: str) -> str:
    if int(version.split(".")[1]) < OLDEST:
        raise MistakeError(f"{version} is too old", f"write 1.{OLDEST}.0 or later")
    return version


def _no_address(name: str) -> str:
    if name.replace(".", "").isdecimal():
        raise MistakeError(f"{shown(name)} is an address", "write a name: an address can move to another machine")
    return name


def _certificate_name(value: object) -> str:
    if isinstance(value, str) and _QUAD.fullmatch(value):
        return str(ipv4(value))
    if isinstance(value, str) and re.fullmatch(rf"(\*\.)?{DNS_NAME}", value):
        return value
    raise MistakeError(f"{shown(value)} is neither a name nor an address", "write it like api.example.org or 192.0.2.7")


def _legs(legs: tuple[str, ...]) -> tuple[str, ...]:
    if len(legs) < 2 or len(set(legs)) < len(legs):
        raise MistakeError(f"{', '.join(legs) or 'nothing'} can't be a bond", "name two NICs or more, each once")
    return legs


SshPort = Annotated[int, number(1, 65535, "port", "the number at which sshd listens")]
VlanId = Annotated[int, number(1, 4094, "number of a VLAN", "the number that the switch tags its packets with")]
Mtu = Annotated[int, number(1280, 9216, "MTU", "the size of the largest packet in bytes")]
Legs = Annotated[tuple[NicName, ...], AfterValidator(_legs)]
KubernetesVersion = Annotated[
    str,
    text(r"1\.[0-9]{1,3}\.[0-9]{1,3}", "an exact version", 'write all of it, like "1.33.4"'),
    AfterValidator(_version),
]
DnsName = Annotated[
    str, text(DNS_NAME, "a name of DNS", "write it in small letters, like api.example.org"), AfterValidator(_no_address)
]
CertificateName = Annotated[str, BeforeValidator(_certificate_name)]
Image = Annotated[
    str,
    text(
        r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9]([a-z0-9._-]*[a-z0-9])?)*(:[A-Za-z0-9_.-]{1,128})?"
        r"(@sha256:[0-9a-f]{64})?",
        "an image or the place of some",
        "write it like registry.example.org/kubernetes, of an image with its tag",
    ),
]
SourceUrl = Annotated[
    str,
    text(r"(https?|file|copy):/[!-~]*", "the URL of a package source", "write it as apt has it, like https://…"),
]
SourceWord = Annotated[
    str, text(r"[A-Za-z0-9_./:+-]+", "a word of a package source", "write it as it stands in the line for apt")
]
KeyFile = Annotated[
    str,
    text(
        r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "the name of a file beside the plan", "write its name only, like kubernetes.asc"
    ),
]
FilePath = Annotated[str, text('[^"]+', "the path of a file", 'write a path in quotes, without " in it')]
# An ssh configuration and messages carry these, so each is one printable line.
SiteName = Annotated[str, text(".{1,60}", "a name", "give the site a name of up to 60 printable characters")]
UserName = Annotated[
    str, text("[a-z_][a-z0-9_-]{0,31}", "a user name", "use up to 32 of a-z, 0-9, _ and -, a letter first")
]
