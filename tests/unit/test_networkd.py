"""Who is in charge of a NIC at the next boot, and where ours goes then: files as people and installers write them."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from underlay.compare.managers import boot
from underlay.compare.network import LiveNetwork, differences
from underlay.compare.systemd import networkd
from underlay.compare.systemd.networkd import Device, System, charge, network_files
from underlay.desired.files import network_files as ours_beside
from underlay.desired.routing import NETWORKD_CONF, Address, host_network
from underlay.plan import REPO, load

ETC, RUN, LIB = "/etc/systemd/network", "/run/systemd/network", "/usr/lib/systemd/network"
PLAN = load(REPO / "group_data/all.py")
MASTER = host_network(PLAN, PLAN.host("master-1"))
GATEWAY = host_network(PLAN, PLAN.gateway)
MACS = {f"eth{number}": f"02:00:00:00:00:0{number}" for number in range(4)}
DEVICES = (
    Device(("lo",), "00:00:00:00:00:00", "", "loopback"),
    *(Device((nic, f"enp{nic[3]}s0"), mac, mac, "ether", driver="virtio_net") for nic, mac in MACS.items()),
    Device(("eth0.77",), MACS["eth0"], "", "vlan", "vlan"),
    Device(("br0",), "02:00:00:00:00:09", "", "bridge", "bridge"),
)
SYSTEM = System(("box", "0123456789abcdef"), "kvm", "root=/dev/sda quiet", "x86_64")
INSTALLER = "[Match]\nName=eth0\n[Network]\nAddress=100.64.0.2/21\nDNS=10.0.0.1\n"


def in_charge(files: Mapping[str, str], nic: str = "eth0", device: Device | None = None) -> str | None:
    found = charge(network_files(files), device or networkd.device_of(nic, DEVICES), SYSTEM)
    assert not found.unknown
    return found.file.path if found.file else None


def live(files: Mapping[str, str], devices: tuple[Device, ...] = DEVICES) -> LiveNetwork:
    return LiveNetwork(dict.fromkeys(MACS, True), (), (), (), files=dict(files), devices=devices, system=SYSTEM)


@pytest.mark.parametrize(
    ("match", "nics"),
    [
        ("Name=eth0", ["eth0"]),
        ("Name=enp0s0", ["eth0"]),
        ("Name=eth0 eth2", ["eth0", "eth2"]),
        ("Name=eth0\nName=eth2", ["eth0", "eth2"]),
        ("Name=eth0\nName=\nName=eth2", ["eth2"]),
        ("Name=eth[12]", ["eth1", "eth2"]),
        ("Name=eth? !eth1", ["eth0", "eth2", "eth3"]),
        ("Name=!lo eth0 enp1s0 br* eth0.*", ["eth2", "eth3"]),
        ("Name=en*\nType=ether", ["eth0", "eth1", "eth2", "eth3"]),
        ("Type=!loopback\nKind=!*", ["eth0", "eth1", "eth2", "eth3"]),
        ("Kind=bridge vlan", ["eth0.77", "br0"]),
        ("Type=ether bridge", ["eth0", "eth1", "eth2", "eth3", "br0"]),
        (f"MACAddress={MACS['eth0']}", ["eth0", "eth0.77"]),
        ("MACAddress=0200.0000.0001 02-00-00-00-00-02", ["eth1", "eth2"]),
        (f"PermanentMACAddress={MACS['eth0'].upper()}", ["eth0"]),
        ("Driver=virtio*\nName=*1", ["eth1"]),
        ("Name=eth0\nHost=box", ["eth0"]),
        ("Name=eth0\nHost=!box", []),
        ("Name=eth0\nHost=other", []),
        ("Name=eth0\nVirtualization=vm", ["eth0"]),
        ("Name=eth0\nVirtualization=container", []),
        ("Name=eth0\nVirtualization=no", []),
        ("Name=eth0\nKernelCommandLine=quiet", ["eth0"]),
        ("Name=eth0\nKernelCommandLine=!root", []),
        ("Name=eth0\nArchitecture=x86-64", ["eth0"]),
        ("Name=eth0\nSSID=home", []),
        ("# Name=eth0\n; Name=eth1\n  # x\nName=eth2 \\\n# a comment\n  eth3", ["eth2", "eth3"]),
        ("", []),
    ],
)
def test_what_a_file_matches(match: str, nics: list[str]) -> None:
    files = {f"{ETC}/50-a.network": f"[Match]\n{match}\n[Network]\nDHCP=yes\n"}
    assert [each.names[0] for each in DEVICES if in_charge(files, each.names[0])] == nics


@pytest.mark.parametrize(
    ("files", "winner"),
    [
        ({f"{ETC}/50-a.network": INSTALLER, f"{LIB}/10-a.network": INSTALLER}, f"{LIB}/10-a.network"),
        ({f"{ETC}/50-a.network": INSTALLER, f"{RUN}/50-a.network": INSTALLER}, f"{ETC}/50-a.network"),
        ({f"{ETC}/10-a.network": "", f"{LIB}/10-a.network": INSTALLER, f"{RUN}/90-b.network": INSTALLER}, "90-b"),
        ({f"{ETC}/10-a.network": "[Match]\nName=eth9\n", f"{LIB}/10-a.network": INSTALLER}, None),
        ({f"{ETC}/05-underlay-eth0.network": INSTALLER, f"{ETC}/50-a.network": INSTALLER}, f"{ETC}/50-a.network"),
        ({f"{ETC}/50-a.network": INSTALLER, f"{LIB}/50-a.network.d/x.conf": "[Match]\nName=\nName=eth1\n"}, None),
        (
            {f"{ETC}/50-a.netdev": INSTALLER, f"{ETC}/sub/50-a.network": INSTALLER, f"{ETC}/50-a.network~": INSTALLER},
            None,
        ),
        ({f"{ETC}/Z.network": INSTALLER, f"{ETC}/a.network": INSTALLER}, f"{ETC}/Z.network"),
        ({f"{ETC}/50-a.network": "[Network]\nDHCP=yes\n"}, None),
    ],
)
def test_which_file_wins(files: dict[str, str], winner: str | None) -> None:
    found = in_charge(files)
    assert found == winner or (found and winner and winner in found)


def test_what_can_not_be_known_here_networkd_knows() -> None:
    """It took a file: so that one matches, and those in front of it do not."""
    files = {f"{ETC}/10-a.network": "[Match]\nFirmware=acpi\nName=eth0\n", f"{ETC}/50-b.network": INSTALLER}
    eth0 = networkd.device_of("eth0", DEVICES)
    assert in_charge(files, device=replace(eth0, in_use=f"{ETC}/10-a.network")) == f"{ETC}/10-a.network"
    assert in_charge(files, device=replace(eth0, in_use=f"{ETC}/50-b.network")) == f"{ETC}/50-b.network"
    for in_use in ("", f"{ETC}/05-underlay-eth0.network"):
        found = charge(network_files(files), replace(eth0, in_use=in_use), SYSTEM)
        assert [str(each.place) for each in found.unknown] == [f"{ETC}/10-a.network:2 (Firmware=acpi)"]
    [obstacle] = boot.obstacles(MASTER, live(files))
    assert "whether it matches /etc/systemd/network/10-a.network:2" in obstacle.what


def beside(files: Mapping[str, str]) -> dict[str, str]:
    """Ours for each NIC of the master beside these files, and no others of ours."""
    found = boot.files(MASTER, live(files))
    return {path: text for path, text in found.items() if path.startswith(f"{ETC}/")}


FRONT = [f"{ETC}/05-underlay-eth{number}.network" for number in range(3)]


@pytest.mark.parametrize(
    ("files", "path"),
    [
        ({f"{ETC}/50-installer.network": INSTALLER}, f"{ETC}/50-installer.network.d/50-underlay.conf"),
        ({f"{RUN}/10-netplan-eth0.network": INSTALLER}, f"{ETC}/10-netplan-eth0.network.d/50-underlay.conf"),
        ({f"{RUN}/a.network": "[Match]\nName=eth*\n"}, FRONT[0]),
        ({f"{ETC}/a.network": f"[Match]\nPermanentMACAddress={MACS['eth0']}\n"}, f"{ETC}/a.network.d/50-underlay.conf"),
        # Its VLAN has the same MAC, and must not get the address.
        ({f"{ETC}/a.network": f"[Match]\nMACAddress={MACS['eth0']}\n"}, FRONT[0]),
        (
            {f"{ETC}/a.network": f"[Match]\nMACAddress={MACS['eth0']}\nType=ether\n"},
            f"{ETC}/a.network.d/50-underlay.conf",
        ),
        ({f"{ETC}/a.network": "[Match]\nName=eth*\n"}, FRONT[0]),
        ({f"{ETC}/a.network": "[Match]\nName=eth0 eth1\n"}, FRONT[0]),
        ({f"{ETC}/a.network": "[Match]\nName=eth0\n[Link]\nUnmanaged=yes\n"}, FRONT[0]),
        ({}, FRONT[0]),
    ],
)
def test_where_ours_is(files: dict[str, str], path: str) -> None:
    assert next(iter(beside(files))) == path


@pytest.mark.parametrize(
    ("match", "then"),
    [
        (None, f"{ETC}/zz-underlay-eth0.network"),
        ("Name=eth0", f"{ETC}/50-installer.network.d/50-underlay.conf"),
        ("Name=eth*", None),
    ],
)
def test_what_is_in_run_may_not_come_back(match: str | None, then: str | None) -> None:
    """Then the host has ours still, and as long as it is there, ours hides nothing."""
    files = {f"{RUN}/10-netplan-eth0.network": INSTALLER}
    files |= {f"{ETC}/50-installer.network": f"[Match]\n{match}\n"} if match else {}
    found = [path for path, text in beside(files).items() if "Address=100.64.0.2" in text or "NIC=eth0" in text]
    assert found == [f"{ETC}/10-netplan-eth0.network.d/50-underlay.conf", *([then] if then else [])]
    assert boot.differences(MASTER, live(files | boot.files(MASTER, live(files)))) == []


def test_a_drop_in_only_adds() -> None:
    """No match, no key that takes the place of theirs, no address that they give the NIC already."""
    text = beside({f"{ETC}/50-installer.network": INSTALLER})[f"{ETC}/50-installer.network.d/50-underlay.conf"]
    keys = {(each.section, each.key) for each in networkd.settings("x", text) if each.section == "Network"}
    assert keys == {("Network", "KeepConfiguration")}
    assert "[Match]" not in text
    text = beside({f"{ETC}/i.network": f"{INSTALLER}Address=\nAddress=10.0.0.9/8\nKeepConfiguration=yes\n"})[
        f"{ETC}/i.network.d/50-underlay.conf"
    ]
    keys = {(each.section, each.key) for each in networkd.settings("x", text) if each.section == "Network"}
    assert keys == {("Network", "Address")}


def test_a_file_for_several_is_repeated_for_one() -> None:
    """With its drop-ins, all but what it matches, in its order; then ours."""
    files = {
        f"{ETC}/70-all.network": "[Match]\nName=eth*\n[Network]\nDNS=10.0.0.1 \\\n  10.0.0.2\n# why\n"
        "[Route]\nGateway=10.0.0.9\n",
        f"{RUN}/70-all.network.d/b.conf": "[Match]\nType=ether\n[Route]\nDestination=10.1.0.0/16\n[Network]\nDNS=\n",
        f"{LIB}/70-all.network.d/a.conf": "[Link]\nMTUBytes=9000\n",
        f"{LIB}/70-all.network.d/b.conf": "[Link]\nMTUBytes=1280\n",
    }
    found = beside(files)
    assert list(found) == FRONT
    theirs, _, ours = found[FRONT[1]].partition("[X-Underlay]")
    assert theirs.split("\n\n")[0].endswith("[Match]\nName=eth1")
    assert theirs.split("too.\n")[1].split("\n") == [
        *("[Network]", "DNS=10.0.0.1  10.0.0.2", "[Route]", "Gateway=10.0.0.9", "[Link]", "MTUBytes=9000"),
        *("[Route]", "Destination=10.1.0.0/16", "[Network]", "DNS=", "", ""),
    ]
    assert "Address=100.64.32.2/21" in ours
    # What differs when theirs changes is ours to follow.
    changed = {**files, **found, f"{LIB}/70-all.network.d/a.conf": "[Link]\nMTUBytes=9001\n"}
    assert {each.where for each in boot.differences(MASTER, live(changed))} >= set(FRONT)


def test_nothing_differs_once_ours_is_there() -> None:
    files = {
        f"{ETC}/50-installer.network": INSTALLER,
        f"{LIB}/80-all.network": "[Match]\nName=en*\n[Network]\nDHCP=yes",
    }
    there = boot.files(MASTER, live(files))
    assert boot.differences(MASTER, live({**files, **there})) == []
    assert boot.files(MASTER, live({**files, **there})) == there


def test_a_file_in_front_of_ours() -> None:
    """It is in charge then: ours belongs beside it, and no longer beside the other."""
    files = {f"{ETC}/50-installer.network": INSTALLER}
    files |= boot.files(MASTER, live(files)) | {f"{ETC}/00-early.network": "[Match]\nName=eth0\n"}
    found = [(each.where, each.thing) for each in boot.differences(MASTER, live(files))]
    assert [where for where, _ in found] == [
        f"{ETC}/00-early.network.d/50-underlay.conf",
        f"{ETC}/50-installer.network.d/50-underlay.conf",
    ]


@pytest.mark.parametrize("line", ["[Network]\nAddress=", "[Network]\nGateway="])
def test_a_later_drop_in_that_takes_ours_back(line: str) -> None:
    files = {f"{ETC}/50-installer.network": INSTALLER, f"{RUN}/50-installer.network.d/90-x.conf": f"{line}\n"}
    files |= boot.files(MASTER, live(files))
    [found] = boot.differences(MASTER, live(files))
    assert f"is undone by {RUN}/50-installer.network.d/90-x.conf:2" in found.what
    assert "take line 2 out of" in boot.advice(found)


def test_a_later_file_of_networkd_itself() -> None:
    files = dict(ours_beside(MASTER, {}))
    for path, good in (("/etc/systemd/networkd.conf", True), (f"{NETWORKD_CONF[:-13]}zz.conf", False)):
        there = {**files, path: "[Network]\nManageForeignRoutes=yes\n"}
        assert (boot.differences(MASTER, live(there)) == []) == good, path


def test_addresses_that_only_ours_had_are_stale() -> None:
    """In a drop-in, a file of an earlier version, one that repeats others: what the host's own files say stays."""
    ours = "[X-Underlay]\nNIC=eth0\n[Network]\nAddress=100.64.0.77/21\nAddress=100.64.0.2/21\nAddress=100.64.0.66/21\n"
    theirs = f"{INSTALLER}Address=100.64.0.66/21\nAddress=100.64.0.55/21\n"
    for path in (f"{ETC}/50-installer.network.d/50-underlay.conf", f"{ETC}/05-underlay-eth0.network"):
        addresses = [Address("eth0", f"100.64.0.{number}/21") for number in (2, 77, 66, 55)]
        there = live({f"{ETC}/50-installer.network": theirs, path: f"[Network]\nAddress=100.64.0.55/21\n{ours}"})
        found = differences(MASTER, replace(there, addresses=tuple(addresses)))
        assert [each.thing for each in found if each.kind == "extra"] == [Address("eth0", "100.64.0.77/21")]


@pytest.mark.parametrize(
    ("wanted", "line", "good"),
    [
        (GATEWAY, "IPv4Forwarding=no", False),
        (GATEWAY, "IPv4Forwarding=yes", True),
        (GATEWAY, "IPv4ReversePathFilter=strict", True),
        (MASTER, "IPv4Forwarding=no", True),
        (MASTER, "IPv4ReversePathFilter=no", False),
        (MASTER, "IPv4ReversePathFilter=strict", True),
        (GATEWAY, "IPv4ReversePathFilter=no", False),
    ],
)
def test_what_networkd_sets_of_sysctl(wanted: object, line: str, good: bool) -> None:
    assert wanted in (GATEWAY, MASTER)
    network = GATEWAY if wanted == GATEWAY else MASTER
    files = {f"{ETC}/a.network": f"[Match]\nName=eth0\n[Network]\n{line}\n"}
    assert (boot.obstacles(network, live(files)) == []) == good


def test_networkd_forwards_nothing() -> None:
    files = {"/usr/lib/systemd/networkd.conf.d/a.conf": "[Network]\nIPv4Forwarding=no\n"}
    [found] = boot.obstacles(GATEWAY, live(files))
    assert "net.ipv4.ip_forward is set by /usr/lib/systemd/networkd.conf.d/a.conf:2" in found.what
