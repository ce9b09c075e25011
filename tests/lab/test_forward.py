"""A deployed site is switched to planned forwarding and back; verify proves each, and misses each of its rules.

dev, images (has a route to storage)   192.168.0.0/24
────────┬──────────────────────
     gateway
────────┴──────────────────────
   storage: master-1
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import control
from tests.lab.commands import inside, invoke
from tests.lab.test_guard import PLAN, dump, write_plan

pytestmark = pytest.mark.usefixtures("deployed")

SITE = 'site = "lab-site"\n'
PLANNED = PLAN.replace(SITE, f'{SITE}forwarding = "planned"\n').replace(
    '"published": "192.168.0.53"', '"published": {"address": "192.168.0.53", "ports": ["tcp/80", "tcp/6443"]}'
)
REACHED = "timeout 2 bash -c ': < /dev/tcp/100.64.64.2/22'"


@pytest.fixture
def route() -> Iterator[None]:
    """A host of the LAN has a route to the storage network."""
    inside("images", "ip route add 100.64.64.0/21 via 192.168.0.51")
    yield
    inside("images", "ip route del 100.64.64.0/21")


def wrong(output: str) -> set[str]:
    return set(re.findall(r"^ \w+ +(\S.*?) +WRONG", output, re.MULTILINE))


@pytest.mark.usefixtures("route")
def test_planned_and_back(tmp_path: Path) -> None:
    path = write_plan(tmp_path, PLANNED)
    before = dump("gateway")
    assert control.run("images", REACHED).returncode == 0
    try:
        invoke("deploy", "gateway", UNDERLAY_PLAN=path)
        assert control.run("images", REACHED).returncode != 0
        for role in ("gateway", "lb_nginx", "master"):  # the jump host has the repo's own plan
            done = invoke("verify", role, UNDERLAY_PLAN=path)
            assert "Forwarding is planned" in done.stdout
            assert "NOT CHECKED" not in done.stdout
        # From the record, as a boot does.
        rules = inside("gateway", "iptables-save | grep -v '^[#:]'")
        inside("gateway", "iptables -F FORWARD; iptables -t raw -F; systemctl restart underlay-firewall")
        assert inside("gateway", "iptables-save | grep -v '^[#:]'") == rules
        broken = {
            "master": ("iptables -D FORWARD -i eth0 -o eth3 -j DROP", "traffic: outside to inside, must not"),
            "lb_nginx": ("iptables -I FORWARD -p tcp -j ACCEPT", "traffic: ports that are not published, must not"),
        }
        for role, (command, row) in broken.items():
            inside("gateway", command)
            found = invoke("verify", role, good=False, UNDERLAY_PLAN=path)
            assert found.returncode == 2, found.stdout
            assert row in wrong(found.stdout), found.stdout
            inside("gateway", "iptables -D FORWARD -p tcp -j ACCEPT || true; systemctl restart underlay-firewall")
        assert invoke("drift", "gateway", UNDERLAY_PLAN=path).returncode == 0
    finally:
        invoke("deploy", "gateway")
    assert dump("gateway") == before
    assert control.run("images", REACHED).returncode == 0
