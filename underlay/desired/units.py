"""The systemd units that each role needs. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """A unit that is enabled; `runs`: and active. One that does not run is only there for the boot."""

    name: str
    runs: bool = True


NETWORKD = Unit("systemd-networkd.service")
# Enabled, not started: a start loads the file and thereby flushes the rules that others made since.
NETFILTER = Unit("netfilter-persistent.service", runs=False)
SSH = Unit("ssh.service")
NGINX = Unit("nginx.service")
ALL = (NETWORKD, NETFILTER, SSH, NGINX)

UNITS: dict[str, tuple[Unit, ...]] = {
    "gateway": (NETFILTER, NETWORKD),
    "jumphost": (SSH, NETWORKD),
    "lb_nginx": (NGINX, NETWORKD),
    "master": (NETWORKD,),
}
