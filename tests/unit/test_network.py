"""What `ip` and `sysctl` of the supported systems print, as the network of a host."""

import pytest

from underlay.compare.network import LiveNetwork, Shape
from underlay.compare.systemd.networkd import Device, System
from underlay.desired.routing import MAIN, Address, PolicyRule, Route
from underlay.facts.network import command, parse

ROUTES = """
[{"type":"7","dst":"default","table":"77","flags":[]},
{"dst":"100.64.0.0/21","dev":"eth0","table":"1002","protocol":"4","scope":"253","prefsrc":"100.64.0.2","flags":[]},
{"dst":"default","gateway":"100.64.0.1","dev":"eth0","protocol":"4","prefsrc":"100.64.0.2","metric":9,"flags":[]},
{"dst":"10.9.9.9","gateway":"100.64.0.1","dev":"eth0","flags":["linkdown"]},
{"dst":"default","table":"1003","flags":[],"nexthops":[{"gateway":"10.0.0.3","dev":"eth1","weight":1,"flags":[]}]},
{"type":"2","dst":"100.64.0.2","dev":"eth0","table":"255","protocol":"2","scope":"254","flags":[]}]
"""
RULES = """
[{"priority":0,"src":"all","table":"255"},
{"priority":99,"src":"all","fwmark":"0x1","action":"7"},
{"priority":30100,"src":"100.64.0.2","dst":"192.168.0.0","dstlen":24,"table":"1002","protocol":"4"},
{"priority":30200,"src":"all","table":"254","suppress_prefixlen":0,"protocol":"4"},
{"priority":32766,"src":"all","table":"254"}]
"""
# iproute2 6.15 (Debian 13) differs from 6.1 (Debian 12) in what it adds to an IPv6 address.
ADDRESSES = """
[{"ifindex":1,"ifname":"lo","flags":["LOOPBACK"],"mtu":65536,"link_type":"[772]","addr_info":[]},
{"ifindex":3,"link":"p0","ifname":"eth0","altnames":["enp3s0"],"flags":["BROADCAST","MULTICAST","UP","LOWER_UP"],
"link_type":"[1]","address":"02:00:00:00:00:03","addr_info":[
{"family":"inet","local":"100.64.0.2","prefixlen":21,"broadcast":"100.64.7.255","scope":"0","label":"eth0"},
{"family":"inet","local":"100.64.0.9","prefixlen":21,"scope":"0","secondary":true,"label":"eth0"},
{"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"253","tentative":true,PROTOCOL"valid_life_time":1}]}]
"""
SYSCTLS = "net.ipv4.ip_forward = 0\nnet.ipv4.conf.bond0/100.rp_filter = 1\n"
FILES = (
    "/etc/systemd/network/05-underlay-eth0.network W05ldHdvcmtdCg==\n"
    "/etc/systemd/network/with space.network W05ldHdvcmtdCg==\n/etc/sysctl.d/hidden.conf \n"
)
NICS = """
/run/systemd/netif/links/3:NETWORK_FILE=/etc/systemd/network/50-a.network
/run/udev/data/n3:E:ID_PATH=pci-0000:03:00.0
/run/udev/data/n3:E:ID_NET_DRIVER=virtio_net
/sys/class/net/wlan0/uevent:DEVTYPE=wlan
/sys/class/net/eth0/device/driver:DRIVER=../../bus/virtio
"""
SYSTEM = "- box\n- 0123\n- none\n- x86_64\n- quiet a=b"


def output(**sections: str) -> list[str]:
    default = {"address": ADDRESSES, "route": ROUTES, "rule": RULES, "sysctl": SYSCTLS, "files": FILES, "nics": NICS}
    default |= {"system": SYSTEM, "managers": "", "closed": ""}
    return [
        line
        for name, text in (default | sections).items()
        for line in (f"@@ {name}", *text.split("\n"), "@@ = 0")
        if line
    ]


@pytest.mark.parametrize("protocol", ["", '"protocol":"0x3",'], ids=["iproute2 6.1", "iproute2 6.15"])
def test_what_a_host_prints(protocol: str) -> None:
    assert parse(output(address=ADDRESSES.replace("PROTOCOL", protocol))) == LiveNetwork(
        links={"lo": False, "eth0": True},
        addresses=(Address("eth0", "100.64.0.2/21"), Address("eth0", "100.64.0.9/21")),
        routes=(
            Route(77, "default", "", ""),
            Route(1002, "100.64.0.0/21", "", "eth0", "100.64.0.2"),
            Route(MAIN, "default", "100.64.0.1", "eth0", "100.64.0.2", 9),
            Route(MAIN, "10.9.9.9/32", "100.64.0.1", "eth0"),
            Route(1003, "default", "", ""),
        ),
        rules=(
            PolicyRule(0, "", "", 255),
            PolicyRule(99, "", "", 0),
            PolicyRule(30100, "100.64.0.2", "192.168.0.0/24", 1002),
            PolicyRule(30200, "", "", MAIN, True),
            PolicyRule(32766, "", "", MAIN),
        ),
        sysctls={"net.ipv4.ip_forward": "0", "net.ipv4.conf.bond0/100.rp_filter": "1"},
        files={
            "/etc/systemd/network/05-underlay-eth0.network": "[Network]\n",
            "/etc/systemd/network/with space.network": "[Network]\n",
            "/etc/sysctl.d/hidden.conf": "",
        },
        devices=(
            Device(("lo",), "", "", "loopback"),
            Device(
                ("eth0", "enp3s0"),
                "02:00:00:00:00:03",
                "02:00:00:00:00:03",
                "ether",
                driver="virtio_net",
                properties={
                    "NETWORK_FILE": "/etc/systemd/network/50-a.network",
                    "ID_PATH": "pci-0000:03:00.0",
                    "ID_NET_DRIVER": "virtio_net",
                },
                in_use="/etc/systemd/network/50-a.network",
            ),
        ),
        system=System(("box", "0123"), "none", "quiet a=b", "x86_64"),
        shapes={"lo": Shape(65536), "eth0": Shape(0, parent="p0")},
    )


def test_a_host_without_routes_sysctls_and_files() -> None:
    """`ip` prints nothing at all where there is no route."""
    found = parse(output(address="[]", route="", sysctl="", files=""))
    assert (found.routes, found.sysctls, found.files) == ((), {}, {})


@pytest.mark.parametrize(
    "lines",
    [
        [],
        output(address=""),
        output(address='Object "address" is unknown, try "ip help".'),
        output(address="[]", rule=""),
        output(address="[]", route='[{"dev":"eth0"}]'),
        output(address="[]", files="")[:-1],
    ],
    ids=["nothing", "no links", "no JSON", "no rules", "no destination", "cut off"],
)
def test_what_can_t_be_read_is_not_empty(lines: list[str]) -> None:
    with pytest.raises((ValueError, KeyError)):
        parse(lines)


def test_sysctls_are_asked_for_only_where_there_are_some() -> None:
    assert "sysctl -e net.ipv4.ip_forward\n" in command(["net.ipv4.ip_forward"])
    assert "sysctl -e" not in command([])
