"""What only one role knows: `group_data/ROLE.py`, read and checked like the plan itself."""

import re
from pathlib import Path
from typing import Annotated, TypeVar, cast

from netaddr import IPAddress, IPNetwork
from pydantic import AfterValidator, BeforeValidator, Field, Strict, ValidationInfo

from underlay.plan.datafile import PlanError, read_literals, report, unknown, validate
from underlay.plan.literals import shown
from underlay.plan.model import REPO, Frozen, Plan
from underlay.plan.values import DNS_NAME, MistakeError, ipv4, is_unicast, text

_Model = TypeVar("_Model", bound=Frozen)

API_PORT = 6443
HTTP_PORT = 80
"""What the proxy listens on, at each of its addresses."""
_LOOPBACK = IPNetwork("127.0.0.0/8")


def _upstream(value: object, info: ValidationInfo) -> str:
    """`HOST:PORT` or `ADDRESS:PORT` as `ADDRESS:PORT`; the context is the plan that has the hosts."""
    name, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    if not name or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        fix = "write it like master-1:3000, with a port of up to 65535"
        raise MistakeError(f"{shown(value)} is not HOST:PORT", fix)
    plan = cast(Plan, info.context)
    if "." in name:  # no name of a host has one
        address = ipv4(name)
        if address not in _LOOPBACK and (not is_unicast(address) or _names_a_network(plan, address)):
            raise MistakeError(f"no host can have the address {address}", "write the address of a web system")
    else:
        named = next((host for host in plan.hosts if host.name == name), None)
        if named is None:
            raise MistakeError(*unknown("host", name, [host.name for host in plan.hosts]))
        address = named.primary.address
    if int(port) in (API_PORT, HTTP_PORT) and (address in _LOOPBACK or address in _proxy(plan)):
        raise MistakeError(
            f"{shown(value)} is the proxy itself, which would ask itself for ever", "name another system"
        )
    return f"{address}:{int(port)}"


def _names_a_network(plan: Plan, address: IPAddress) -> bool:
    return any(address in (network.cidr.network, network.cidr.broadcast) for network in plan.networks)


def _proxy(plan: Plan) -> set[IPAddress | None]:
    """All addresses of the load balancers: each has all web systems."""
    proxies = plan.hosts_of("lb_nginx")
    return {nic.address for host in proxies for nic in host.interfaces} | {host.published for host in proxies}


def _not_empty(upstreams: tuple[str, ...]) -> tuple[str, ...]:
    if not upstreams:
        raise MistakeError("is empty", "write at least one HOST:PORT")
    return upstreams


RESERVED = """
    adm admin apt audio avahi backup bin bind bird cdrom ceph chrony colord crontab daemon dhcpcd dialout dip disk
    dnsmasq docker etcd fax floppy frr frrvty fwupd-refresh games gdm geoclue git gnats grafana haproxy input irc
    kea kmem kvm landscape libvirt libvirt-qemu list lp lxd mail man messagebus mlocate mysql named netdev news
    nginx nobody nogroup nslcd ntp ntpsec nvpd openldap operator pcap plocate plugdev polkitd pollinate postdrop
    postfix postgres prometheus proxy quagga quaggavty rabbitmq rpc redis render root rtkit sasl sgx shadow snmp src ssh
    sshd ssl-cert sssd staff statd stunnel4 sudo sync sys syslog systemd tape tcpdump telnetd tftp tomcat tss tty
    unbound underlay-oncall usbmux users utmp uucp uuidd video voice wheel whoopsie wireshark www-data zabbix
"""
"""Accounts and groups of base-passwd, and some that Debian's packages make on a server, also with `_` in front."""


def _not_in_use(account: str, info: ValidationInfo) -> str:
    plan = cast(Plan, info.context)
    fix = "give each person an account of their own"
    if account in ("root", plan.jumphost.login.user):
        # A deploy would replace its keys, and lock itself out.
        raise MistakeError(f"{account!r} has other keys already", fix)
    if account.lstrip("_") in RESERVED.split() or account.startswith(("systemd-", "debian-")):
        raise MistakeError(f"{account!r} is an account or a group of the system", fix)
    return account


ServerName = Annotated[
    str,
    text(
        DNS_NAME,
        "the name of a web system",
        "write it like grafana.lab.example",
    ),
]
Upstream = Annotated[str, BeforeValidator(_upstream)]
BodySize = Annotated[
    str, text("[0-9]{1,18}|[0-9]{1,9}[kmgKMG]", "a size", 'write it as nginx does, like "10g", or "0" for no limit')
]
Directive = Annotated[
    str, text(r".*[^;\s]", "one nginx directive", "write each as a text of its own, without the semicolon at its end")
]
Account = Annotated[
    str,
    text("[a-z_][a-z0-9_-]{0,31}", "the name of an account", "use up to 32 of a-z, 0-9, _ and -, a letter first"),
    AfterValidator(_not_in_use),
]
PublicKey = Annotated[
    str,
    text(
        r"(sk-)?(ssh|ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/=]{32,}( .*)?",
        "a public key",
        "copy the line of a .pub file, like ssh-ed25519 AAAA… ada@laptop",
    ),
]


class WebService(Frozen):
    """A virtual host of the L7 proxy.

    upstreams: `ADDRESS:PORT` each; in the file also `HOST:PORT`
    websockets: keep upgraded connections
    max_body: largest request body in nginx's notation; "0" is no limit
    extra: further nginx directives for its `location /`, each without the semicolon
    """

    upstreams: Annotated[tuple[Upstream, ...], AfterValidator(_not_empty)]
    websockets: Annotated[bool, Strict()] = False
    max_body: BodySize = "1m"
    extra: tuple[Directive, ...] = ()


class LbNginx(Frozen):
    """`group_data/lb_nginx.py`: virtual hosts by their name."""

    web_services: dict[ServerName, WebService] = Field(default_factory=dict)


class Jumphost(Frozen):
    """`group_data/jumphost.py`: the people on call, account → public keys."""

    people_on_call: dict[Account, tuple[PublicKey, ...]] = Field(default_factory=dict)


def role_file(plan: Plan, role: str) -> Path:
    """The data file of a role: beside the plan in force if there is one, else the repo's own."""
    beside = plan.source.parent / f"{role}.py"
    return beside if beside.is_file() else REPO / "group_data" / f"{role}.py"


def jumphost(plan: Plan) -> Jumphost:
    """The jump host's data. Raises PlanError with everything that is wrong with it."""
    return _read(Jumphost, plan, "jumphost")


def lb_nginx(plan: Plan) -> LbNginx:
    """The load balancer's data. Raises PlanError with everything that is wrong with it."""
    return _read(LbNginx, plan, "lb_nginx")


def check(plan: Plan) -> None:
    """Read the files of all roles that the plan has hosts of. Raises PlanError with everything that is wrong with them.

    Before the first host is touched: a file that is read when its role's turn comes stops a deploy half-way.
    """
    wrong = []
    for role, read in (("jumphost", jumphost), ("lb_nginx", lb_nginx)):
        try:
            if plan.hosts_of(role):
                read(plan)
        except PlanError as error:
            wrong.append(str(error))
    if wrong:
        raise PlanError("\n".join(wrong))


def _read(model: type[_Model], plan: Plan, role: str) -> _Model:
    path = role_file(plan, role)
    source = read_literals(path)
    data = validate(model, source.values, (), source, context=plan)
    if isinstance(data, list) or source.problems:
        raise PlanError(report(path, [*source.problems, *(data if isinstance(data, list) else [])]))
    return data
