"""The systemd units that each role needs. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A unit that is active, and enabled."""

    name: str


NETWORKD = Unit("systemd-networkd.service")
FIREWALL = Unit("underlay-firewall.service")
FIREWALL_FILE = f"/etc/systemd/system/{FIREWALL.name}"
SSH = Unit("ssh.service")
NGINX = Unit("nginx.service")
ALL = (NETWORKD, FIREWALL, SSH, NGINX)

UNITS: dict[str, tuple[Unit, ...]] = {
    "gateway": (FIREWALL, NETWORKD),
    "jumphost": (SSH, NETWORKD),
    "lb_nginx": (NGINX, NETWORKD),
    "master": (NETWORKD,),
}
