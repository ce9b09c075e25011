"""The Debian packages and the systemd units that each role needs. Pure."""

from dataclasses import dataclass

from underlay import programs


@dataclass(frozen=True)
class Unit:
    """A unit that is active, and enabled; or another one is `instead` of it."""

    name: str
    instead: str = ""


NETWORKD = Unit("systemd-networkd.service")
IFUPDOWN = Unit("networking.service")
NETWORK_MANAGER = Unit("NetworkManager.service")
FIREWALL = Unit("underlay-firewall.service")
MANAGERS = (NETWORKD, IFUPDOWN, NETWORK_MANAGER)
"""What brings NICs up; a host has one of them, or more."""
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
ALL = (*MANAGERS, FIREWALL, SSH, SSH_SOCKET, NGINX)

UNITS: dict[str, tuple[Unit, ...]] = {
    "gateway": (FIREWALL,),
    "jumphost": (SSH,),
    "lb_nginx": (NGINX,),
    "master": (),
    "worker": (),
}
"""Role → those of what it does; a host also needs what brings its NICs up."""

PACKAGES: dict[str, tuple[str, ...]] = {
    "gateway": ("iptables", "conntrack", "tcpdump"),
    "jumphost": ("python3-venv", "tcpdump", *programs.packages(programs.COMMANDS)),
    "lb_nginx": ("nginx", "libnginx-mod-stream", "tcpdump"),
    "master": ("conntrack", "tcpdump"),
    "worker": ("conntrack", "tcpdump"),
}
"""Role → the packages that it needs."""
