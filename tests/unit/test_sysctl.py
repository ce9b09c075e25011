"""What decides a sysctl at the next boot: files of many shapes, in systemd-sysctl's order."""

import pytest

from underlay.compare import network
from underlay.compare.managers import boot
from underlay.compare.network import LiveNetwork
from underlay.compare.systemd import sysctl
from underlay.desired.files import network_files
from underlay.desired.routing import HostNetwork, host_network
from underlay.plan import REPO, load

PLAN = load(REPO / "group_data/all.py")
MASTER, GATEWAY = (host_network(PLAN, PLAN.host(name)) for name in ("master-1", "gateway"))
FORWARD = "net/ipv4/ip_forward"


@pytest.mark.parametrize(
    ("files", "value"),
    [
        ({"/etc/sysctl.d/a.conf": "net.ipv4.ip_forward=1", "/etc/sysctl.d/b.conf": "net/ipv4/ip_forward = 0"}, "0"),
        ({"/etc/sysctl.d/a.conf": "net.ipv4.ip_forward=1", "/usr/lib/sysctl.d/b.conf": "net.ipv4.ip_forward=0"}, "0"),
        ({"/etc/sysctl.d/a.conf": "net.ipv4.ip_forward=1", "/usr/lib/sysctl.d/a.conf": "net.ipv4.ip_forward=0"}, "1"),
        ({"/etc/sysctl.d/b.conf": "", "/usr/lib/sysctl.d/b.conf": "net.ipv4.ip_forward=0"}, None),
        ({"/run/sysctl.d/b.conf": "-net.ipv4.ip_forward = 1"}, "1"),
        ({"/run/sysctl.d/b.conf": "/net/ipv4/ip_forward=1\n# net.ipv4.ip_forward=0\n; x\n\nnonsense"}, "1"),
        ({"/etc/sysctl.d/b.conf": "net.ipv4.ip_forward=1\nnet.ipv4.conf.all.forwarding=0"}, "0"),
        ({"/etc/sysctl.d/b.conf": "net.ipv4.conf.all.forwarding=0\nnet.ipv4.ip_forward=1"}, "1"),
        # A pattern does not set what is named anywhere; but what it sets has its effect.
        ({"/etc/sysctl.d/b.conf": "net.ipv4.ip_forward=1\nnet.ipv4.ip_*=0"}, "1"),
        ({"/etc/sysctl.d/b.conf": "net.ipv4.ip_forward=1\nnet.ipv4.conf.*.forwarding=0"}, "0"),
        (
            {
                "/etc/sysctl.d/b.conf": "net.ipv4.ip_forward=1\n-net.ipv4.conf.all.forwarding\n"
                "net.ipv4.conf.*.forwarding=0"
            },
            "1",
        ),
        ({"/etc/sysctl.d/b.conf": "-net.ipv4.ip_forward\nnet.*.ip_forward=0"}, None),
        ({"/etc/sysctl.d/b.conf": "net.*.ip_forward=0"}, "0"),
        ({"/etc/sysctl.d/b.conf": "net.*=0"}, None),  # a * does not go beyond one part of a name
        # What repeats an earlier value keeps its place.
        (
            {"/etc/sysctl.d/b.conf": "net.ipv4.ip_forward=1\nnet.ipv4.conf.all.forwarding=0\nnet.ipv4.ip_forward=1"},
            "0",
        ),
        ({"/etc/sysctl.conf": "net.ipv4.ip_forward=1"}, None),
        (
            {"/etc/sysctl.d/99-sysctl.conf": "net.ipv4.ip_forward=1", "/etc/sysctl.d/b.txt": "net.ipv4.ip_forward=0"},
            "1",
        ),
        ({"/etc/ufw/ufw.conf": "ENABLED=no", "/etc/ufw/sysctl.conf": "net/ipv4/ip_forward=1"}, None),
        ({"/etc/ufw/ufw.conf": "ENABLED=yes", "/etc/ufw/sysctl.conf": "net/ipv4/ip_forward=1"}, "1"),
    ],
)
def test_which_line_decides(files: dict[str, str], value: str | None) -> None:
    found = sysctl.at_boot(files, [FORWARD]).get(FORWARD)
    assert (found and found.value) == value


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.conf.bond0/100.rp_filter", "net/ipv4/conf/bond0.100/rp_filter"),
        ("net/ipv4/conf/bond0.100/rp_filter", "net/ipv4/conf/bond0.100/rp_filter"),
        ("//net//ipv4/ip_forward", "net/ipv4/ip_forward"),
    ],
)
def test_both_forms_of_a_key(key: str, path: str) -> None:
    assert sysctl.path_of(key) == path


def obstacles(wanted: HostNetwork, files: dict[str, str]) -> list[str]:
    there = {**files, **network_files(wanted, {})}
    found = boot.differences(wanted, LiveNetwork({}, (), (), (), files=there))
    return [each.what for each in found]


@pytest.mark.parametrize(
    ("wanted", "path", "text", "line"),
    [
        (GATEWAY, "/etc/sysctl.d/local.conf", "net.ipv4.ip_forward=0", 0),
        (GATEWAY, "/etc/sysctl.d/99-underlay.conf.bak", "net.ipv4.ip_forward=0", 0),
        (GATEWAY, "/usr/lib/sysctl.d/zzz.conf", "# x\nnet.ipv4.ip_forward=0", 2),
        (GATEWAY, "/run/sysctl.d/zzz.conf", "net.ipv4.conf.*.forwarding=0", 1),
        (GATEWAY, "/run/sysctl.d/zzz.conf", "net.ipv4.conf.eth2.forwarding=0", 1),
        (GATEWAY, "/run/sysctl.d/zzz.conf", "net.ipv4.ip_forward=1", 0),
        (GATEWAY, "/run/sysctl.d/zzz.conf", "net.ipv4.conf.eth9.forwarding=0", 0),
        (GATEWAY, "/etc/sysctl.d/local.conf", "net.ipv4.conf.eth1.rp_filter=0", 0),
        (GATEWAY, "/etc/sysctl.d/zzz.conf", "net.ipv4.conf.eth1.rp_filter=0", 1),
        (GATEWAY, "/etc/sysctl.d/local.conf", "net.ipv4.conf.all.rp_filter=1", 0),
        (GATEWAY, "/etc/sysctl.d/local.conf", "# a tunnel\nnet.ipv4.conf.all.rp_filter=2", 2),
        (GATEWAY, "/etc/sysctl.d/local.conf", "net.ipv4.conf.all.rp_filter=2\nnet.ipv4.conf.all.rp_filter=0", 0),
        (GATEWAY, "/usr/lib/sysctl.d/50-default.conf", "net.ipv4.conf.*.rp_filter=2\n-net.ipv4.conf.all.rp_filter", 0),
        (GATEWAY, "/etc/sysctl.d/local.conf", "net.ipv4.conf.wg0.rp_filter=2", 0),
        (MASTER, "/etc/sysctl.d/local.conf", "net.ipv4.conf.all.rp_filter=1", 0),
        (MASTER, "/usr/lib/sysctl.d/50-default.conf", "net.ipv4.conf.*.rp_filter=2\n-net.ipv4.conf.all.rp_filter", 0),
        (MASTER, "/etc/sysctl.d/zzz.conf", "net.ipv4.conf.*.rp_filter=2", 0),
        (MASTER, "/etc/sysctl.d/zzz.conf", "\n\nnet/ipv4/conf/all/rp_filter = 2", 3),
        (MASTER, "/etc/sysctl.d/zzz.conf", "net.ipv4.ip_forward=0", 0),
    ],
)
def test_what_wins_over_ours(wanted: HostNetwork, path: str, text: str, line: int) -> None:
    found = obstacles(wanted, {path: text})
    assert bool(found) == bool(line), found
    assert all(f"is set by {path}:{line} (" in each for each in found)
    assert len(found) <= 1


@pytest.mark.parametrize(("value", "good"), [("0", True), ("1", True), ("2", False)])
def test_a_loose_filter_of_all_is_told_and_left_alone(value: str, good: bool) -> None:
    """On a gateway it is not ours: NICs that are not in the plan have it, too."""
    sysctls = {**GATEWAY.sysctls, "net.ipv4.conf.all.rp_filter": value}
    live = LiveNetwork({}, (), (), (), sysctls=sysctls, files=network_files(GATEWAY, {}))
    found = boot.obstacles(GATEWAY, live)
    assert (not found) == good
    for each in found:
        assert each.what == "net.ipv4.conf.all.rp_filter is 2, not 0"
        assert "`sysctl -w net.ipv4.conf.all.rp_filter=0`" in boot.advice(each)
    assert "all.rp_filter" not in "".join(map(network.command, network.differences(GATEWAY, live)))


def test_the_file_of_an_earlier_version_goes() -> None:
    found = obstacles(GATEWAY, {"/etc/sysctl.d/99-underlay.conf": "net.ipv4.ip_forward = 1\n"})
    assert found == ["the file is not as planned"]
