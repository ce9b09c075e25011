"""Hosts that exist, made up: what each says of itself when `invoke adopt` looks at it."""

from collections.abc import Mapping

from netaddr import IPAddress, IPNetwork

from tests.unit.site import ruleset, sshd
from underlay.adopt.seen import Login, Manager, Nic, Seen, System
from underlay.compare.difference import UnitState
from underlay.compare.filters import Filters
from underlay.compare.network import LiveNetwork
from underlay.compare.sshd import Sshd
from underlay.desired.nat import gateway_rules
from underlay.desired.routing import MAIN, Address, Route
from underlay.facts.firewall import Firewall
from underlay.observe.state import HostState
from underlay.plan import Host, Plan

NETWORKD = (Manager("networkd", "", "/etc/systemd/network/50-installer.network"),)


def says(asked: str, name: str, nics: Mapping[str, str], router: str = "", **parts: object) -> Seen:
    """A Debian that has these addresses (NIC → CIDR; several with a blank between), and a default route in `main`."""
    found = Seen(asked, HostState(asked, {}))
    addresses = tuple(Address(nic, cidr) for nic, text in nics.items() for cidr in text.split())
    leads = next((nic for nic, text in nics.items() for cidr in text.split() if _in(router, cidr)), "")
    own = [address.ip for address in addresses]
    said: dict[str, object] = {
        "login": Login("ops", IPAddress(asked if asked in own else own[0]), 22, ""),
        "system": System("Debian GNU/Linux 13", ("debian",), "13", name, "6.12", "x86_64", (3, 13)),
        "nics": tuple(
            Nic(nic, f"02:{asked}:{nic}", addresses=tuple(text.split()), managers=NETWORKD)
            for nic, text in nics.items()
        ),
        "network": LiveNetwork(
            dict.fromkeys(nics, True), addresses, (Route(MAIN, "default", router, leads),) if router else (), ()
        ),
        "firewall": Firewall(installed=False),
        "filters": Filters(),
        "units": {"systemd-networkd": UnitState("active", "enabled")},
        "listening": {22: "sshd"},
        "names": (),
        "sshd": Sshd({"passwordauthentication": "no"}),
        "free": 4000,
        "synchronized": True,
        "swap": (),
        "speeds": {},
        "sysctls": {},
        "node_ip": "",
        "containers": 0,
    }
    found.__dict__.update(said | parts)
    return found


def _in(router: str, cidr: str) -> bool:
    return bool(router) and IPAddress(router) in IPNetwork(cidr)


def told(plan: Plan, host: Host) -> Seen:
    """A host of a plan, as it would be if somebody had made it by hand."""
    nics = {nic.nic: nic.with_prefix for nic in host.interfaces}
    parts: dict[str, object] = {"sshd": sshd(plan, host)}
    if host.role == "gateway":
        first = host.primary
        more = [f"{each.published}/{first.cidr.prefixlen}" for each in plan.published]
        nics[first.nic] = " ".join([first.with_prefix, *more])
        parts["firewall"] = Firewall(live=ruleset(gateway_rules(plan)))
    if host.role == "lb_nginx":
        parts["listening"] = {6443: "nginx", 80: "nginx", 22: "sshd"}
    asked = str(host.published or host.primary.address)
    login = host.login
    sudo = "sudo: a password is required" if login.sudo == "password" else ""
    parts["login"] = Login(login.user, host.primary.address, login.port, sudo)
    router = str(plan.gateway_address(host.default_network))
    return says(asked, host.name, nics, router, **parts)
