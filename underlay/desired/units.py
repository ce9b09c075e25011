"""The systemd units that each role needs. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A unit that is active, and enabled; or another one is `instead` of it."""

    name: str
    instead: str = ""


NETWORKD = Unit("systemd-networkd.service")
FIREWALL = Unit("underlay-firewall.service")
FIREWALL_FILE = f"/etc/systemd/system/{FIREWALL.name}"
SSH_SOCKET = Unit("ssh.socket")
SSH = Unit("ssh.service", instead=SSH_SOCKET.name)
# Where a socket starts it, a reload would end it: it can't listen anew. Its sessions outlive a restart.
RELOAD_SSH = (
    f"if systemctl -q is-active {SSH_SOCKET.name}; then systemctl try-restart {SSH.name}; "
    f"else systemctl reload {SSH.name}; fi"
)
"""Shell commands with which sshd takes its files."""
NGINX = Unit("nginx.service")
ALL = (NETWORKD, FIREWALL, SSH, SSH_SOCKET, NGINX)

UNITS: dict[str, tuple[Unit, ...]] = {
    "gateway": (FIREWALL, NETWORKD),
    "jumphost": (SSH, NETWORKD),
    "lb_nginx": (NGINX, NETWORKD),
    "master": (NETWORKD,),
}
