"""The Debian packages that each role needs. Pure."""

PACKAGES: dict[str, tuple[str, ...]] = {
    "gateway": ("iptables", "iptables-persistent", "conntrack", "tcpdump"),
    "jumphost": ("python3-venv", "tcpdump"),
    "lb_nginx": ("nginx", "libnginx-mod-stream", "tcpdump"),
    "master": ("conntrack", "tcpdump"),
}
