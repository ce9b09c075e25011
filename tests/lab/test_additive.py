"""A deploy adds: what a host's own files make of its network is there afterwards, live and after a boot."""

import json
import re
from collections.abc import Iterator

import pytest

from lab import control
from tests.lab.commands import inside, invoke, pyinfra

pytestmark = pytest.mark.usefixtures("deployed")

FOLDER = "/etc/systemd/network"
INSTALLER = f"{FOLDER}/50-installer.network"
OURS = f"{FOLDER}/05-underlay-* {FOLDER}/*.network.d /etc/sysctl.d/*underlay.conf /etc/systemd/networkd.conf.d"
THEIRS = """\
[Match]
{match}

[Link]
MTUBytes=1480

[Network]
Address={address}
Gateway={router}
Address=fd12:3456:789a::2/64
Gateway=fd12:3456:789a::1
Address=10.99.0.2/24
DNS=100.64.0.53
Domains=site.example
LLMNR=no

[Route]
Destination=10.200.0.0/16
Gateway=10.99.0.1
"""
NETPLAN = """\
[Unit]
DefaultDependencies=no
Before=systemd-networkd.service

[Service]
Type=oneshot
ExecStart=mkdir -p /run/systemd/network
ExecStart=cp /root/netplan /run/systemd/network/10-netplan-eth0.network

[Install]
WantedBy=systemd-networkd.service
"""
# The last words of an address differ by kernel, and the life of one is no part of it.
LOOK = r"""
ip -o -4 address show; ip -o -6 address show scope global
ip -o -4 route show; ip -o -6 route show
for nic in /sys/class/net/eth*; do echo "$nic mtu $(cat $nic/mtu)"; done
grep -HE '^(DNS|DOMAINS|LLMNR|MDNS)=.' /run/systemd/netif/links/*
"""


def network(host: str) -> set[str]:
    """What a host's network is, but for what only policy routing sees."""
    return {re.sub(r"^\d+: |\\.*", "", line).strip() for line in inside(host, LOOK).splitlines()}


def write(host: str, path: str, text: str) -> None:
    inside(host, f"mkdir -p {path.rpartition('/')[0]}; cat > {path} <<'EOF'\n{text}EOF\n")


def reboot(host: str) -> None:
    """A cold boot, until networkd has done what it was told."""
    control.reboot(host)
    inside(host, "for i in $(seq 50); do networkctl list | grep -qE 'configuring|pending' || exit 0; sleep 0.1; done")


def drift(role: str) -> list[dict[str, str]]:
    done = invoke("drift", role, "--json", good=False)
    [found] = json.loads(done.stdout).values()
    differences: list[dict[str, str]] = found["differences"]
    return differences


def fresh(host: str, files: dict[str, str]) -> None:
    """The host as it was installed, with these files instead of the installer's."""
    inside(host, f"mkdir -p /root/kept; cp -n {INSTALLER} /root/kept/; rm -rf {OURS} {INSTALLER}")
    for path, text in files.items():
        write(host, path, text)
    reboot(host)


@pytest.fixture(autouse=True)
def as_installed() -> Iterator[None]:
    yield
    for host, role in (("master-1", "master"), ("gateway", "gateway")):
        if control.run(host, "test -e /root/kept").returncode == 0:
            inside(
                host,
                "systemctl disable netplan.service 2>/dev/null; rm -rf /etc/systemd/system/netplan.service "
                f"{FOLDER}/* /run/systemd/network/* /etc/sysctl.d/*l.conf; cp /root/kept/* {FOLDER}; rm -rf /root/kept",
            )
            reboot(host)
            pyinfra(f"deploys/{role}.py", "-y")


def kept_by_a_deploy(host: str, role: str) -> None:
    """Deploy, and see that all of the host's is there: live, after a second deploy, after a boot."""
    before = network(host)
    assert any("fd12:3456:789a::2/64" in line for line in before), before
    pyinfra(f"deploys/{role}.py", "-y")
    assert before - network(host) == set()
    assert invoke("verify").returncode == 0
    assert drift(role) == []
    reboot(host)
    assert before - network(host) == set()
    assert invoke("verify").returncode == 0
    assert drift(role) == []
    planned = json.loads(pyinfra(f"deploys/{role}.py", "--dry", "--json").stdout)["plan"]
    assert [step["operation"] for step in planned if step["hosts_with_change"]] == []


@pytest.mark.parametrize(
    ("host", "role", "address", "router"),
    [
        pytest.param("master-1", "master", "100.64.0.2/21", "100.64.0.1", marks=pytest.mark.long),
        ("gateway", "gateway", "192.168.0.51/24", "192.168.0.1"),
    ],
)
def test_what_the_installer_wrote(host: str, role: str, address: str, router: str) -> None:
    """A file for one NIC, with a drop-in of somebody's."""
    text = THEIRS.format(match="Name=eth0", address=address, router=router)
    fresh(host, {INSTALLER: text, f"{INSTALLER}.d/90-more.conf": "[Network]\nDNS=100.64.0.54\n"})
    kept_by_a_deploy(host, role)
    assert inside(host, f"ls {INSTALLER}.d") == "50-underlay.conf\n90-more.conf\n"


@pytest.mark.long
def test_a_file_for_all_nics() -> None:
    """1. the first NIC has its own, by its MAC; 2. the others' is repeated for each, and followed when it changes."""
    mac = inside("master-1", "cat /sys/class/net/eth0/address").strip()
    text = THEIRS.format(match=f"MACAddress={mac}", address="100.64.0.2/21", router="100.64.0.1")
    others = "[Match]\nName=eth* en*\n[Link]\nMTUBytes=1490\n[Network]\nDNS=100.64.0.55\nLinkLocalAddressing=ipv6\n"
    fresh("master-1", {f"{FOLDER}/10-first.network": text, f"{FOLDER}/70-all.network": others})
    kept_by_a_deploy("master-1", "master")
    write("master-1", f"{FOLDER}/70-all.network", others.replace("1490", "1470"))
    assert {each["where"] for each in drift("master")} == {f"{FOLDER}/05-underlay-eth{n}.network" for n in (1, 2)}
    pyinfra("deploys/master.py", "-y")
    assert drift("master") == []
    assert inside("master-1", "cat /sys/class/net/eth[12]/mtu").split() == ["1470", "1470"]


@pytest.mark.long
def test_what_netplan_makes_at_each_boot() -> None:
    text = THEIRS.format(match="Name=eth0", address="100.64.0.2/21", router="100.64.0.1")
    inside("master-1", f"systemctl cat systemd-networkd >/dev/null; mkdir -p /root/kept; cp -n {INSTALLER} /root/kept")
    write("master-1", "/root/netplan", text)
    write("master-1", "/etc/systemd/system/netplan.service", NETPLAN)
    inside("master-1", "systemctl enable netplan.service")
    fresh("master-1", {})
    kept_by_a_deploy("master-1", "master")
    assert inside("master-1", f"ls {FOLDER}").split()[:1] == ["05-underlay-eth1.network"]


def test_a_file_that_comes_before_later() -> None:
    """1. nothing is different as long as the host runs; 2. all say what will be; 3. a deploy adds ours to it."""
    early = f"{FOLDER}/00-early.network"
    inside("master-1", f"mkdir -p /root/kept; cp -n {INSTALLER} /root/kept")
    write("master-1", early, "[Match]\nName=eth0\n[Network]\nAddress=10.98.0.2/24\nDNS=100.64.0.56\n")
    assert f"{early}.d/50-underlay.conf" in {each["where"] for each in drift("master")}
    done = invoke("verify", "master", good=False)
    assert (done.returncode, "00-early.network.d" in done.stdout) == (2, True)
    found = json.loads(invoke("doctor", "--json", good=False).stdout)["findings"]
    assert [(each["id"], each["host"]) for each in found] == [("boot-differs", "master-1")]
    pyinfra("deploys/master.py", "-y")
    assert drift("master") == []
    reboot("master-1")
    assert invoke("verify").returncode == 0
    assert "10.98.0.2/24" in inside("master-1", "ip -4 address show dev eth0")


@pytest.mark.long
def test_a_host_of_an_earlier_version() -> None:
    """Its files hid the installer's: that one is in charge again; an address that only they had goes."""
    text = THEIRS.format(match="Name=eth0", address="100.64.0.2/21", router="100.64.0.1")
    hides = "[Match]\nName=eth0\n[Network]\nLinkLocalAddressing=no\nAddress=100.64.0.2/21\nAddress=100.64.0.77/21\n"
    hides += "[Route]\nGateway=100.64.0.1\nPreferredSource=100.64.0.2\n"
    ours = f"{FOLDER}/05-underlay-eth0.network"
    fresh("master-1", {INSTALLER: text, ours: hides, "/etc/sysctl.d/99-underlay.conf": "net.ipv4.ip_forward=0\n"})
    assert "fd12" not in inside("master-1", "ip -6 address")
    pyinfra("deploys/master.py", "-y")
    assert "fd12:3456:789a::2/64" in inside("master-1", "ip -6 address")
    assert "100.64.0.77" not in inside("master-1", "ip -4 address")
    assert control.run("master-1", f"ls {ours} /etc/sysctl.d/99-underlay.conf").returncode != 0
    assert invoke("verify").returncode == 0
    reboot("master-1")
    kept_by_a_deploy("master-1", "master")


@pytest.mark.long
def test_a_sysctl_file_that_comes_later() -> None:
    """1. one that people write comes before ours; 2. one that does not is told by all, and the fix takes it away."""
    inside("gateway", f"mkdir -p /root/kept; cp -n {INSTALLER} /root/kept")
    write("gateway", "/etc/sysctl.d/local.conf", "net.ipv4.ip_forward = 0\n")
    assert drift("gateway") == []
    reboot("gateway")
    assert inside("gateway", "sysctl -n net.ipv4.ip_forward") == "1\n"
    late = "/etc/sysctl.d/zzz-local.conf"
    write("gateway", late, "# hardened\nnet.ipv4.conf.*.forwarding = 0\n")
    [found] = drift("gateway")
    assert (found["kind"], found["where"]) == ("differs", "at boot")
    assert f"{late}:2" in found["what"]
    done = invoke("verify", "gateway", good=False)
    assert (done.returncode, late in done.stdout) == (2, True)
    done = pyinfra("deploys/gateway.py", "-y", good=False)
    assert (done.returncode, f"take line 2 out of {late}" in done.stdout + done.stderr) == (1, True)
    [cause] = json.loads(invoke("doctor", "--json", good=False).stdout)["findings"]
    assert (cause["id"], cause["latent"]) == ("boot-undone", True)
    assert cause["fix"] == f"./inv ssh gateway \"sudo sed -i '2s/^/# /' {late}\""
    inside("gateway", f"sed -i '2s/^/# /' {late}")
    assert drift("gateway") == []
    pyinfra("deploys/gateway.py", "-y")
    reboot("gateway")
    assert invoke("verify").returncode == 0
