"""Plan → the files of a host, as text, and where they are. Pure."""

from underlay.desired import routing
from underlay.desired.routing import HostNetwork
from underlay.desired.templates import render
from underlay.plan import Plan

RULES = "/var/lib/underlay/rules.v4"
"""The rules of ours, as the last deploy made them: what is loaded at boot, and how a later one knows which are ours."""
BOOT = (
    ("nftables.service", "/etc/nftables.conf", ("nft", "--file")),
    ("netfilter-persistent.service", "/etc/iptables/rules.v4", ("iptables-restore",)),
)
"""What others load before ours at boot: the unit, its file, the program that loads it."""
SSHD = "/etc/ssh/sshd_config.d/05-underlay.conf"


def network_files(wanted: HostNetwork) -> dict[str, str]:
    """Path → content of every file that makes the network come back after a boot."""
    found = {path: render("network/link.network.j2", **values) for path, values in routing.link_files(wanted).items()}
    found[routing.NETWORKD_CONF] = render("network/networkd.conf.j2")
    if wanted.sysctls:
        found[routing.SYSCTL_CONF] = render("network/sysctl.conf.j2", sysctls=wanted.sysctls)
    return found


def firewall_unit(program: object) -> str:
    """The gateway's unit `units.FIREWALL`; `program`: where the guard is on a host, which puts the rules in place."""
    others = [*(unit for unit, *_ in BOOT), "iptables.service", "ufw.service", "firewalld.service"]
    return render("gateway/firewall.service.j2", record=RULES, program=program, others=" ".join(others))


def sshd_settings(plan: Plan) -> str:
    """The jump host's settings of sshd, the file SSHD."""
    return render("jumphost/sshd.conf.j2", operator=plan.operator.user)


def authorized_keys(plan: Plan) -> str:
    """The operator's authorized_keys on every host."""
    user = plan.operator.user
    return f"{'/root' if user == 'root' else f'/home/{user}'}/.ssh/authorized_keys"
