"""The Debian packages that each role needs. Pure."""

from underlay import programs

PACKAGES: dict[str, tuple[str, ...]] = {
    "gateway": ("iptables", "conntrack", "tcpdump"),
    "jumphost": ("python3-venv", "tcpdump", *programs.packages(programs.COMMANDS)),
    "lb_nginx": ("nginx", "libnginx-mod-stream", "tcpdump"),
    "master": ("conntrack", "tcpdump"),
}
