"""What filters packets beside a host's iptables: read in a real kernel, and told."""

import json
import sys
from typing import Any

import pytest

from tests.unit.namespaces import Inside, namespace
from underlay.compare.difference import UnitState
from underlay.compare.filters import Filters, unmanaged
from underlay.facts import filters

LOOK = """
import json
from underlay.remote.trace import filters
print(json.dumps([list(filters.parallel()), list(filters.chains()), filters.policies()]))
"""
NATIVE = """
table inet block {
  set bad {
    type ipv4_addr
    elements = { 198.51.100.1 }
  }
  chain deny {
    ip saddr @bad drop
    jump further
  }
  chain further {
    reject
  }
  chain far {
    drop
  }
  chain fwd1 {
    type filter hook forward priority 5; policy accept;
    tcp dport 6443 goto deny
  }
  chain in {
    type filter hook input priority 0; policy drop;
    accept
  }
  chain counts {
    type filter hook output priority 0; policy accept;
    counter
  }
  chain maps {
    type filter hook output priority 7; policy accept;
    ip daddr vmap { 192.0.2.1 : drop }
  }
}
table ip mine {
  chain pre {
    type nat hook prerouting priority -100;
    ip daddr 192.0.2.1 dnat to 192.0.2.2
  }
}
table arp mine {
  chain in {
    type filter hook input priority 0;
    arp saddr ip 192.0.2.1 drop
  }
}
table ip6 other {
  chain in {
    type filter hook input priority 0; policy drop;
  }
}
"""


def look(inside: Inside) -> Any:
    return json.loads(inside(sys.executable, "-c", LOOK))


def test_native_chains() -> None:
    """Base chains that may hold IPv4 packets up, by way of other chains too; those of iptables are none of them."""
    with namespace("nft", "iptables-nft") as inside:
        assert look(inside) == [[], [], []]
        inside("nft", "-f", "-", text=NATIVE)
        inside("iptables-nft", "-A", "FORWARD", "-s", "192.0.2.0/24", "-j", "DROP")
        inside("iptables-nft", "-P", "INPUT", "DROP")
        tables, chains, policies = look(inside)
        assert tables == []
        assert [(*list(each.values())[:6], tuple(each["does"])) for each in chains] == [
            ("inet", "block", "fwd1", "forward", 5, "accept", ("drops", "rejects")),
            ("inet", "block", "in", "input", 0, "drop", ()),
            ("inet", "block", "maps", "output", 7, "accept", ("decides by a map",)),
            ("ip", "mine", "pre", "prerouting", -100, "accept", ("translates",)),
            ("arp", "mine", "in", "input", 0, "accept", ("drops",)),
        ]
        assert policies == [["filter", "INPUT"]]


def test_legacy_tables() -> None:
    """Those that are there are read; looking makes none."""
    with namespace("iptables-legacy", "iptables-nft") as inside:
        for _ in range(2):
            assert look(inside)[0] == []
        assert inside("cat", "/proc/net/ip_tables_names") == ""
        inside("iptables-legacy", "-P", "FORWARD", "DROP")
        inside("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.1", "-m", "comment", "--comment", "a b", "-j", "DROP")
        [[program, table, chains]] = look(inside)[0]
        assert (program, table) == ("iptables-legacy", "filter")
        assert chains["FORWARD"] == ["DROP", []]
        assert chains["INPUT"] == ["ACCEPT", ['-s 192.0.2.1/32 -m comment --comment "a b" -j DROP']]


def test_told() -> None:
    """What may decide about a packet is unmanaged, in the words in which its own program has it."""
    answer = {
        "tables": [
            ["iptables-legacy", "filter", {"FORWARD": ["DROP", ["-s 192.0.2.1/32 -j X"]], "X": ["-", ["-j DROP"]]}],
            ["arptables-legacy", "filter", {"INPUT": ["ACCEPT", ["-j DROP -s 192.0.2.1"]], "mine": ["-", ["-j DROP"]]}],
            ["iptables-legacy", "nat", "there is no iptables-legacy-save here"],
        ],
        "chains": [
            {
                "family": "inet",
                "table": "t",
                "chain": "c",
                "hook": "forward",
                "priority": 5,
                "policy": "drop",
                "does": ["rejects"],
            }
        ],
        "policies": [["filter", "INPUT"]],
        "units": {"firewalld.service": ["active", "enabled"], "nftables.service": ["inactive", "disabled"]},
        "nft": False,
    }
    found = filters.parse([json.dumps(answer)])
    assert found.firewalld == UnitState("active", "enabled")
    assert {each.kind for each in unmanaged(found)} == {"unmanaged"}
    assert [each.what for each in unmanaged(found)] == [
        "firewalld.service is active and enabled",
        "nftables chain inet t c (forward, priority 5) policy drop, rejects",
        "iptables -t filter -P INPUT DROP",
        "iptables-legacy -t nat can't be read: there is no iptables-legacy-save here",
        "iptables-legacy -t filter -P FORWARD DROP",
        "iptables-legacy -t filter -A FORWARD -s 192.0.2.1/32 -j X",
        "arptables-legacy -t filter -A INPUT -j DROP -s 192.0.2.1",
        "arptables-legacy -t filter -A mine -j DROP",
    ]


@pytest.mark.parametrize(("active", "enabled"), [("active", "disabled"), ("inactive", "enabled"), ("activating", "")])
def test_on(active: str, enabled: str) -> None:
    """A service counts if it runs, or will after a boot."""
    unit = UnitState(active, enabled)
    assert Filters(units={"firewalld.service": unit}).firewalld == unit


@pytest.mark.parametrize(("active", "enabled"), [("inactive", "disabled"), ("failed", "masked"), ("inactive", "")])
def test_off(active: str, enabled: str) -> None:
    off = Filters(units={"firewalld.service": UnitState(active, enabled)})
    assert off.firewalld is None
    assert list(unmanaged(off)) == []
