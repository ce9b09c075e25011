"""Other programs on a host: further packet filters, and what else installs packages. They are left alone, or named."""

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab import control
from lab.state import LabState
from tests.lab.commands import Runner, inside, invoke
from underlay.plan import Plan

INSTALL = "apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install"
RULES = "iptables-save; ip6tables-save; nft list ruleset"
OURS = "iptables-save | grep -c 100.64"


HOLD = """
import fcntl, glob, time
lock = open("/var/lib/dpkg/lock-frontend", "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
open("/run/held", "w")
end = time.monotonic() + 120
while time.monotonic() < end:
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            if b"DPkg::Lock::" + b"Timeout" in open(path, "rb").read():
                end = min(end, time.monotonic() + 2)
        except OSError:
            pass
    time.sleep(0.1)
"""
"""Holds the lock of dpkg until an apt has waited for it for a while."""


def install(host: str, *names: str) -> None:
    inside(host, f"({INSTALL} {' '.join(names)}) >/dev/null 2>&1")


def purge(host: str, *names: str) -> None:
    inside(host, f"apt-get -qq -y purge {' '.join(names)} >/dev/null 2>&1")


def rules(host: str) -> str:
    """All rules of a host, without what changes by itself."""
    return re.sub(r"^#.*\n|\[\d+:\d+\]|packets \d+ bytes \d+", "", inside(host, RULES), flags=re.MULTILINE)


def drift(role: str) -> list[str]:
    """What is unmanaged on the one host of a role."""
    [found] = json.loads(invoke("drift", role, "--json").stdout).values()
    return [each["what"] for each in found["differences"] if each["kind"] == "unmanaged"]


@contextmanager
def package(host: str, name: str, field: str = "") -> Iterator[str]:
    """The path of a package of our own making on a host; it is removed in the end."""
    control_file = f"Package: {name}\\nVersion: 1\\nArchitecture: all\\nMaintainer: ops <ops@site.example>\\n{field}"
    inside(
        host,
        f"mkdir -p /root/{name}/DEBIAN && printf '{control_file}Description: made up\\n' > /root/{name}/DEBIAN/control"
        f" && dpkg-deb --build /root/{name}",
    )
    try:
        yield f"/root/{name}.deb"
    finally:
        inside(host, f"dpkg --purge {name}; rm -r /root/{name} /root/{name}.deb")


@pytest.mark.long
def test_firewalld_on_the_gateway_is_refused(deployed: LabState) -> None:
    """Before anything changes, with what to do; and verify and drift name it."""
    install("gateway", "firewalld", "nftables")
    try:
        before = rules("gateway")
        refused = invoke("deploy", "gateway", good=False)
        assert refused.returncode == 1
        assert "firewalld is active and enabled, nothing was changed" in refused.stderr
        assert "systemctl disable --now firewalld" in refused.stderr
        assert rules("gateway") == before
        assert "firewalld.service is active and enabled" in drift("gateway")
        assert any("inet firewalld filter_FORWARD" in each and "rejects" in each for each in drift("gateway"))
        assert "no firewalld" in invoke("verify", "gateway", good=False).stdout
        inside("gateway", "systemctl stop firewalld")
        assert "firewalld is inactive and enabled" in invoke("deploy", "gateway", good=False).stderr
    finally:
        purge("gateway", "firewalld", "nftables")
    invoke("deploy", "gateway")


@pytest.mark.long
def test_other_filters_are_named(deployed: LabState, runner: Runner) -> None:
    """Not loaded by looking; in drift as what they are; and the doctor's fix is one that works."""
    inside("gateway", 'test -z "$(cat /proc/net/ip_tables_names)"')
    install("gateway", "nftables")
    chain = "add table inet block; add chain inet block forward"
    inside("gateway", f"nft '{chain} {{ type filter hook forward priority 5; policy drop; }}'")
    try:
        assert drift("gateway") == ["nftables chain inet block forward (forward, priority 5) policy drop"]
        code, diagnosis = runner.doctor()
        [found] = diagnosis["findings"]
        assert (code, found["id"], found["host"]) == (2, "filter-unmanaged", "gateway")
        invoke("lab.run", "gateway", "nft chain inet block forward '{ policy accept; }'")
        assert "nft chain inet block forward '{ policy accept; }'" in found["fix"]
        assert runner.doctor()[0] == 0
        inside("gateway", "nft delete table inet block && iptables-legacy -P FORWARD DROP")
        assert drift("gateway") == ["iptables-legacy -t filter -P FORWARD DROP"]
    finally:
        inside("gateway", "iptables-legacy -P FORWARD ACCEPT; nft delete table inet block 2>/dev/null || true")
        purge("gateway", "nftables")
    assert runner.doctor()[0] == 0


def test_packages(deployed: LabState) -> None:
    """Shown beforehand, waited for, and none is removed for them."""
    inside("master-1", "dpkg --remove --force-depends conntrack")
    lists = "find /var/lib/apt /var/cache /var/tmp -mindepth 1 -newer /run/before"
    with package("master-1", "conntrack-rival", "Conflicts: conntrack\\n") as rival:
        inside("master-1", f"dpkg --install {rival} && touch /run/before")
        refused = invoke("deploy", "master", good=False)
        assert refused.returncode == 1
        assert "conntrack can't be installed, nothing was changed: it would remove conntrack-rival" in refused.stderr
        inside("master-1", "dpkg --status conntrack-rival | grep -x 'Status: install ok installed'")
        assert inside("master-1", lists) == ""
    with package("master-1", "half-way") as half:
        inside("master-1", f"dpkg --unpack {half}")
        refused = invoke("deploy", "master", good=False)
        assert "dpkg was interrupted (half-way is unpacked): run there: sudo dpkg --configure -a" in refused.stderr
    inside("master-1", "cp /etc/apt/sources.list /run/ && echo nonsense > /etc/apt/sources.list")
    refused = invoke("deploy", "master", good=False)
    assert "Malformed" in refused.stderr or "not known" in refused.stderr
    inside("master-1", "cp /run/sources.list /etc/apt/sources.list")
    dry = invoke("deploy", "--dry", "master", good=False)
    assert dry.returncode == 2
    assert re.search(r"\[master-1\] \+ package conntrack \S+\n", dry.stderr)
    assert inside("master-1", lists) == ""
    inside("master-1", f"systemd-run --collect --quiet python3 -c {shlex.quote(HOLD)}")
    inside("master-1", "until [ -e /run/held ]; do sleep 0.1; done")
    made = invoke("deploy", "master")
    assert re.search(r"waiting up to \d+ s for another apt or dpkg: \S*python3 .*process \d+", made.stderr)
    inside("master-1", "dpkg --status conntrack | grep -x 'Status: install ok installed'")


@pytest.mark.long
def test_ufw(deployed: LabState, plan: Plan, runner: Runner) -> None:
    """It stays in charge of what it was, over a boot and its own reload, and the plan's packets pass."""
    install("gateway", "ufw")
    for command in ("default deny incoming", "default deny routed", "allow 22/tcp", "--force enable"):
        inside("gateway", f"ufw {command}")
    ends = [(network.cidr, plan.gateway_address(network.name)) for network in plan.internal]
    accept = [f"-A ufw-before-input -s {cidr} -d {end} -p tcp ! --syn -j ACCEPT" for cidr, end in ends]
    inside(
        "gateway", "sed -i '/^# End required lines/a " + "\\n".join(accept) + "' /etc/ufw/before.rules && ufw reload"
    )
    inet6, policies = inside("gateway", "ip6tables -S"), inside("gateway", "iptables -S | grep ^-P")
    try:
        invoke("deploy", "gateway")
        for after in ("true", "reboot", "ufw reload", "ufw disable && ufw --force enable"):
            control.reboot("gateway") if after == "reboot" else inside("gateway", after)
            assert runner("verify", "gateway", "jumphost", "lb_nginx", "master")[0] == 0, after
            assert inside("gateway", "ip6tables -S") == inet6
            assert inside("gateway", "iptables -S | grep ^-P") == policies
        assert invoke("drift", "gateway").returncode == 0
    finally:
        inside("gateway", "ufw --force disable")
        purge("gateway", "ufw")
