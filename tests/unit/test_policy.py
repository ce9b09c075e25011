"""Which policy rule a kernel takes for a packet: all forms that CNIs, VPNs and people leave, in a kernel of its own."""

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.namespaces import Inside, namespace
from underlay.plan import REPO
from underlay.remote.trace.policy import chosen, matches

# 10.1.0.1 is the host's address in a network of its own; its table is 1001, as the plan's are.
NETWORK = """
ip link set lo up
ip link add nic0 type veth peer name far
ip link add wg0 type veth peer name wgp
for nic in nic0 far wg0 wgp; do ip link set $nic up; done
ip address add 10.1.0.1/24 dev nic0
ip address add 10.9.1.1/24 dev wg0
ip route add default via 10.1.0.2 dev nic0
ip route add default via 10.1.0.2 dev nic0 table 1001
ip route add default dev wg0 table 51820
ip route add unreachable default table 99
ip route add throw default table 98
ip route add blackhole 10.7.0.0/16 table 97
ip rule add priority 30300 from 10.1.0.1 lookup 1001
"""
OUT = {"source": "10.1.0.1", "destination": "10.7.0.7", "nic": "", "protocol": "tcp", "sport": None, "dport": 22}
IN = {"source": "10.1.0.7", "destination": "10.1.0.1", "nic": "nic0", "protocol": "tcp", "sport": None, "dport": 22}
PROGRAM = (
    "import json, sys; from underlay.remote.trace.policy import taken; print(json.dumps(taken(json.load(sys.stdin))))"
)


@pytest.fixture
def host() -> Iterator[Inside]:
    with namespace("ip") as inside:
        inside("sh", "-e", text=NETWORK)
        yield inside


def taken(host: Inside, *rules: str, packet: dict[str, Any] = OUT) -> dict[str, Any]:
    """What the kernel does with a packet, with further rules (`move LOCAL` is the kernel's own, moved)."""
    for rule in rules:
        host("ip", "rule", "add", *rule.split())
    if any("lookup local" in rule for rule in rules):
        host("ip", "rule", "del", "priority", "0")
    script = f"import sys; sys.path.insert(0, {str(REPO)!r}); {PROGRAM}"
    [answer] = json.loads(host(sys.executable, "-c", script, text=json.dumps([packet])))
    found: dict[str, Any] = answer
    return found


TAKEN = {
    "a plain one": "priority 90 from 10.1.0.1 lookup 51820",
    "a VPN for everything": "priority 100 not from all fwmark 0xca6c lookup 51820",
    "its port": "priority 100 ipproto tcp dport 22 lookup 51820",
    "its ports": "priority 100 ipproto tcp dport 20-30 lookup 51820",
    "of this host": "priority 100 iif lo lookup 51820",
    "a table that says no": "priority 100 to 10.7.0.0/16 lookup 99",
    "a part of a table that says no": "priority 100 to 10.7.0.0/16 lookup 97",
    "a rule that says no": "priority 100 from 10.1.0.0/24 blackhole",
    "prohibited": "priority 100 to 10.7.0.7 prohibit",
    "no mark, of some": "priority 100 fwmark 0/0xf lookup 51820",
}


@pytest.mark.parametrize("rule", TAKEN.values(), ids=list(TAKEN))
def test_taken(host: Inside, rule: str) -> None:
    """It is named, and the arguments that remove it do just that: afterwards the packet goes as before it."""
    before = taken(host)
    assert (before["rule"]["priority"], before["route"]["dev"]) == (30300, "nic0")
    found = taken(host, rule)
    assert found["rule"]["priority"] == int(rule.split()[1])
    host("ip", "rule", "del", *found["arguments"].split())
    assert taken(host) == before


NOT_TAKEN = {
    "a mark": "priority 9 fwmark 0x200/0xf00 lookup 51820",
    "another source": "priority 9 from 10.244.1.7 to 10.0.0.0/8 lookup 51820",
    "another destination": "priority 9 to 10.8.0.0/16 lookup 51820",
    "what comes in": "priority 9 iif wg0 lookup 51820",
    "bound to a NIC": "priority 9 oif wg0 lookup 51820",
    "another protocol": "priority 9 ipproto udp dport 22 lookup 51820",
    "another port": "priority 9 ipproto tcp dport 23 lookup 51820",
    "a TOS": "priority 9 tos 0x10 lookup 51820",
    "not this source": "priority 9 not from 10.1.0.1 lookup 51820",
    "a table without a route": "priority 9 from 10.1.0.1 lookup 96",
    "a table that gives it back": "priority 9 from 10.1.0.1 lookup 98",
    "its default left out": "priority 9 from all lookup 51820 suppress_prefixlength 0",
    "nothing at all": "priority 9 from 10.1.0.1 nop",
    "jumped over": "priority 9 from 10.1.0.1 goto 30300",
    "local, moved": "priority 100 lookup local",
}


@pytest.mark.parametrize("rule", NOT_TAKEN.values(), ids=list(NOT_TAKEN))
def test_not_taken(host: Inside, rule: str) -> None:
    """The packet goes by the host's own rule, and that one is named."""
    found = taken(host, rule)
    assert (found["rule"]["priority"], found["route"]["dev"]) == (30300, "nic0")


UNKNOWN = {
    "whose it is": "priority 9 uidrange 1000-1005 lookup 51820",
    "from which port": "priority 9 ipproto tcp sport 1000-2000 lookup 51820",
    "an end of a VRF": "priority 9 l3mdev",
}


@pytest.mark.parametrize("rule", UNKNOWN.values(), ids=list(UNKNOWN))
def test_not_known(host: Inside, rule: str) -> None:
    """Behind a rule that may have been taken, none is blamed; behind one that certainly was not, one is."""
    assert taken(host, rule, "priority 90 from 10.1.0.1 lookup 51820")["rule"] is None
    host("ip", "rule", "del", "priority", "9")
    assert taken(host, f"{rule} from 10.5.0.0/16")["rule"]["priority"] == 90


def test_what_comes_in(host: Inside) -> None:
    """The host's own address is found by `local`, wherever that stands, unless something comes before it."""
    found = taken(host, "priority 100 lookup local", packet=IN)
    assert (found["rule"]["priority"], found["route"]["type"]) == (100, "2")
    assert taken(host, "priority 50 iif nic0 lookup 51820", packet=IN)["rule"]["priority"] == 50


def test_one_of_two_that_look_alike(host: Inside) -> None:
    """The kernel deletes the first that has all that is named: where that is another one, nothing names this one."""
    same = "priority 90 from 10.1.0.1 lookup 51820"
    found = taken(host, f"{same} fwmark 7", same)
    assert (found["rule"].get("fwmark"), found["arguments"]) == (None, None)


def test_a_rule_with_a_word_of_the_future() -> None:
    """What a selector means that is not known here is not guessed."""
    rule = {"priority": 1, "src": "all", "phase_of_the_moon": "new", "table": "7"}
    assert matches(rule, OUT) is None
    assert chosen([rule], OUT, {"dst": "default", "table": "7"}) is None
    assert matches({**rule, "src": "10.5.0.0", "srclen": 16}, OUT) is False
