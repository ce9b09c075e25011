"""The agent on its own: what it makes of packets, and what a kernel tells it, in a network that is thrown away."""

import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from underlay.access.sessions import Agent, UnreachableError
from underlay.remote import checksum, send
from underlay.remote import trace as trace_agent
from underlay.remote.trace import watch
from underlay.remote.trace.matcher import Matcher

HERE, THERE = "127.0.0.1", "127.0.0.2"


def ip(protocol: int, source: str, destination: str, transport: bytes) -> bytes:
    """An IPv4 packet."""
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(transport), 0, 0, 64, protocol, 0) + ends + transport


def tcp(source: int, destination: int, flags: int = 2) -> bytes:
    """A TCP header."""
    return struct.pack("!HHIIBBHHH", source, destination, 0, 0, 0x50, flags, 0, 0, 0)


REQUEST = ip(6, HERE, THERE, tcp(20001, 80))


@pytest.mark.parametrize(
    ("packet", "note"),
    [
        (REQUEST, ("request", HERE, THERE, "", 64)),
        (ip(6, THERE, HERE, tcp(80, 20001, 0x12)), ("answer", THERE, HERE, "", 64)),
        (ip(6, THERE, HERE, tcp(80, 20001, 0x14)), ("answer", THERE, HERE, "reset", 64)),
        (ip(1, "127.0.0.9", HERE, b"\3\1\0\0\0\0\0\0" + REQUEST), ("error", "127.0.0.9", HERE, "3/1", 64)),
        (ip(1, "127.0.0.9", HERE, b"\3\1\0\0\0\0\0\0" + ip(6, HERE, THERE, tcp(20002, 80))), None),
        (ip(1, HERE, THERE, struct.pack("!BBHHH", 8, 0, 0, 20001, 1)), None),
        (ip(6, HERE, THERE, tcp(20001, 81)), None),
        (ip(17, HERE, THERE, tcp(20001, 80)), None),
        (b"\x60" + REQUEST[1:], None),
        (REQUEST[:24], None),
    ],
    ids=["request", "answer", "reset", "error", "error of others", "echo", "port", "protocol", "version", "cut off"],
)
def test_which_packets_are_ours(packet: bytes, note: tuple[str, str, str, str, int] | None) -> None:
    """A packet of the connection is told from all others, and the way it goes."""
    assert Matcher("tcp", [20001, 80]).note(packet) == note


def test_checksum() -> None:
    """A packet with its checksum in place sums up to nothing."""
    echo = struct.pack("!BBHHH", 8, 0, 0, 7, 1) + b"odd"
    assert checksum(echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]) == 0


Ask = Callable[..., Any]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """`ask(REQUEST, …)` of an agent in a network of its own, with nothing but a loopback."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    for tool in ("unshare", "iptables"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    argv = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *send.argv()]
    agent = Agent("here", argv, trace_agent)
    assert agent.hello == {"root": True}
    yield lambda key, *value: agent.ask(key, value)
    agent.close()


def rules(ask: Ask, *commands: str) -> None:
    """`iptables` commands."""
    for code, _, error in ask("run", *([["iptables", *command.split()], ""] for command in commands)):
        assert code == 0, error


def chain(seen: dict[str, Any], way: str, stage: str) -> dict[str, Any]:
    """What a packet met in a chain."""
    [found] = [each for each in seen["chains"] if (each["way"], f"{each['table']} {each['chain']}") == (way, stage)]
    return dict(found)


def follow(ask: Ask, protocol: str) -> tuple[str | None, dict[str, Any]]:
    """One connection over the loopback: why there was no answer, and what was seen."""
    port = 0 if protocol == "icmp" else ask("listen", protocol, THERE)
    ask("watch", protocol, [ask("reserve", protocol, HERE), port], [])
    return ask("send", THERE, port), ask("seen")


@pytest.mark.parametrize("protocol", ["tcp", "udp", "icmp"])
def test_a_connection(ask: Ask, protocol: str) -> None:
    """Both ways are seen at the NIC, at each hook, and in each chain with the rules they met, as iptables has them."""
    rules(ask, "-N MINE", "-A MINE -s 127.0.0.0/8 -j ACCEPT", "-A INPUT -s 192.0.2.1 -j DROP", "-A INPUT -j MINE")
    before = ask("run", [["iptables-save"], ""])
    error, seen = follow(ask, protocol)
    assert error is None
    assert {tuple(packet) for packet in seen["packets"]} == {
        (direction, "lo", way, *ends, "", 64)
        for direction in ("in", "out")
        for way, ends in (("request", (HERE, THERE)), ("answer", (THERE, HERE)))
    }
    for way in ("request", "answer"):
        assert chain(seen, way, " input")["policy"] == "accept"
        assert chain(seen, way, "filter INPUT")["rules"] == [
            ["INPUT", "-j MINE", "jump"],
            ["MINE", "-s 127.0.0.0/8 -j ACCEPT", "accept"],
        ]
    # Counters aside, iptables does not see that it is watched.
    assert [len(text) for _, text, _ in ask("run", [["iptables-save"], ""])] == [len(text) for _, text, _ in before]


def test_a_dropped_packet(ask: Ask) -> None:
    """It ends in the chain that dropped it, by that rule."""
    rules(ask, "-t mangle -A PREROUTING -d 127.0.0.2 -p udp -j DROP")
    error, seen = follow(ask, "udp")
    assert error is not None
    assert "no answer" in error
    assert chain(seen, "request", "mangle PREROUTING")["rules"] == [
        ["PREROUTING", "-d 127.0.0.2/32 -p udp -j DROP", "drop"]
    ]
    assert not [each for each in seen["chains"] if each["chain"] == "input"]
    assert [packet[:3] for packet in seen["packets"]] == [["out", "lo", "request"], ["in", "lo", "request"]]


def test_nobody_listens(ask: Ask) -> None:
    """A refusal is told from silence."""
    ask("watch", "tcp", [ask("reserve", "tcp", HERE), 9], [])
    assert ask("send", THERE, 9) == "Connection refused"
    assert ["out", "lo", "answer", THERE, HERE, "reset", 64] in ask("seen")["packets"]


def test_an_address_that_is_not_there(ask: Ask) -> None:
    """A host can't send from an address that it does not have."""
    with pytest.raises(UnreachableError, match="assign"):
        ask("reserve", "tcp", "192.0.2.1")


def test_only_this_connection(ask: Ask) -> None:
    """Another connection to the same port is not seen."""
    port = ask("listen", "tcp", THERE)
    ask("watch", "tcp", [ask("reserve", "tcp", HERE), port], [])
    ask("run", [["python3", "-c", f"import socket; socket.create_connection(('{THERE}', {port}))"], ""])
    seen = ask("seen")
    assert seen["packets"] == seen["chains"] == []


THINGS = """
ip link add nic0 type veth peer name far
ip link set nic0 up
ip link set far up
ip address add 192.0.2.1/24 dev nic0
ip neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev nic0 nud permanent
tc qdisc add dev nic0 root tbf rate 1mbit burst 3000 latency 50ms
ip xfrm policy add src 0.0.0.0/0 dst 192.0.2.7/32 dir out action block
ip xfrm policy add src 192.0.2.0/24 dst 192.0.2.1 dir in tmpl src 0.0.0.0 dst 0.0.0.0 proto esp mode transport
ip link add link nic0 name mv0 type macvlan mode passthru
iptables-legacy -A OUTPUT -d 127.0.0.2 -p udp -j DROP
"""


def test_what_is_around(ask: Ask) -> None:
    """Neighbours, queues, IPsec policies, rules of an older iptables that were met, and what the kernel counted."""
    for line in THINGS.strip().splitlines():
        [(code, _, error)] = ask("run", [line.split(), ""])
        assert code == 0, error
    port = ask("listen", "udp", THERE)
    ask("watch", "udp", [ask("reserve", "udp", HERE), port], ["nic0"])
    assert ask("send", THERE, port) is not None
    found = ask("seen")["around"]
    [[nic, mac, flags, program]] = found["links"]
    assert (nic, program, "UP" in flags) == ("nic0", "", True)
    assert len(mac) == len("02:00:00:00:00:09")
    assert ["192.0.2.9", "nic0", "02:00:00:00:00:09", ["PERMANENT"]] in found["neighbours"]
    assert [each[:3] for each in found["qdiscs"]] == [["nic0", "tbf", "root"]]
    assert found["policies"] == ["src 0.0.0.0/0 dst 192.0.2.7/32 dir out", "src 192.0.2.0/24 dst 192.0.2.1/32 dir in"]
    assert ["nic0", "macvlan", "mv0"] in found["ports"]
    assert found["legacy"] == [["iptables-legacy", "filter", "OUTPUT", "-d 127.0.0.2/32 -p udp -j DROP"]]
    assert found["counters"]
    assert ask("heard", ["nic0", "192.0.2.9"]) == {"nic0": {"192.0.2.9": []}}
    assert ["out", "nic0", "request", "0.0.0.0", "192.0.2.9", mac] in ask("seen")["around"]["arp"]


@pytest.mark.parametrize(
    ("code", "word"),
    [(0, "drop"), (1, "accept"), (3, "queue"), (0x5_0003, "queue"), (0xFFFFFFFD, "jump"), (0xFFFFFFFF, "continue")],
)
def test_words_for_verdicts(code: int, word: str) -> None:
    assert watch.verdict(code) == word


def test_which_route_is_taken(ask: Ask) -> None:
    """One that leads nowhere is named as `ip route del` takes it."""
    for line in ("ip route add blackhole 192.0.2.0/24", "ip route add unreachable 198.51.100.0/24 metric 7"):
        [(code, _, error)] = ask("run", [line.split(), ""])
        assert code == 0, error
    packet = {"source": "", "destination": "192.0.2.7", "nic": "", "protocol": "tcp", "sport": None, "dport": 22}
    found = ask("taken", packet, packet | {"destination": "198.51.100.1"}, packet | {"destination": "203.0.113.1"})
    assert [each["line"] for each in found] == [
        "blackhole 192.0.2.0/24 table 254",
        "unreachable 198.51.100.0/24 metric 7 table 254",
        None,
    ]
