"""Does `invoke trace` say where a packet ends? On the deployed site, whole and broken.

1. break one thing by hand
2. trace one packet: the first difference is at the right host, way and step, and says what was broken
3. put it right again by hand
"""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from netaddr import IPAddress

from lab import network
from lab.blueprint import SWITCH
from lab.process import run
from lab.state import LabState
from tests.lab.commands import inside, invoke
from underlay.desired import traffic
from underlay.plan import REPO, Plan

Documents = list[dict[str, Any]]
Call = tuple[str, str, str, int | None]
"""Source, destination, protocol (or empty), port (or None)."""

TRACER = """
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from underlay.trace import run as trace
from targets import current
from underlay.access.sessions import Links, UnreachableError
target = current()
def one(call):
    try:
        return [trace.document(each) for each in trace.make(target, Links(target), *call)]
    except UnreachableError as error:
        return [{"result": str(error), "summary": str(error), "steps": []}]
for line in sys.stdin:
    with ThreadPoolExecutor(6) as pool:
        print(json.dumps(list(pool.map(one, json.loads(line)))), flush=True)
"""


@pytest.fixture(scope="module")
def trace(deployed: LabState) -> Iterator[Callable[..., list[Documents]]]:
    """`trace(CALL, …)`: the traces of each call, all made at once, in a process that stays."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", TRACER], cwd=REPO, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(*calls: Call) -> list[Documents]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(calls) + "\n")
            process.stdin.flush()
            found: list[Documents] = json.loads(process.stdout.readline())
            return found

        yield ask
        process.stdin.close()


def steps(document: dict[str, Any]) -> str:
    """A trace as text, for the message of a test that fails."""
    keys = ("way", "host", "step", "expected", "seen", "verdict")
    rows = [" | ".join(str(step[key]) for key in keys) for step in document["steps"]]
    return "\n".join([document["summary"], *rows])


def test_traffic_table(trace: Callable[..., list[Documents]], deployed: LabState, plan: Plan) -> None:
    """Every row of the traffic table, over TCP, and some over UDP and ICMP: what is seen is what was planned."""
    rows: dict[tuple[str, str], traffic.Flow] = {}
    for flow in traffic.expected(plan, IPAddress(deployed.outside)):
        rows.setdefault((flow.row, flow.source), flow)
    calls: list[Call] = [(str(flow.source_address), str(flow.destination), "tcp", flow.port) for flow in rows.values()]
    calls += [(source, destination, "udp", None) for source, destination, _, _ in calls[:2]]
    calls += [(source, destination, "icmp", None) for source, destination, _, _ in calls[-2:]]
    calls += [("jumphost", "lb", "", None), ("dev", "100.64.64.2", "", None), ("lb", "192.168.0.1", "icmp", None)]
    # There is no API server in the lab.
    inside("master-1", "systemd-run --quiet --collect --unit=test-api python3 -m http.server 6443")
    try:
        found = trace(*calls)
    finally:
        inside("master-1", "systemctl stop test-api")
    for call, documents in zip(calls, found, strict=True):
        assert len(documents) == (2 if call[3] == 6443 else 1)
        for document in documents:
            assert document["result"] == "as planned", steps(document)
            assert {step["verdict"] for step in document["steps"]} == {"as planned"}, steps(document)


@dataclass(frozen=True)
class Breakage:
    """One way to break the site.

    commands, undo: host, command; the host `switch` takes `ip` commands for the cables
    call: what is traced
    where: host, way and step of the first difference
    seen: what the trace must say there, a pattern
    """

    name: str
    commands: tuple[tuple[str, str], ...]
    undo: tuple[tuple[str, str], ...]
    call: Call
    where: tuple[str, str, str]
    seen: str


def rule(name: str, spec: str, call: Call, where: tuple[str, str, str], seen: str, position: str = "") -> Breakage:
    """A rule of the gateway deleted (`position` is where it was), or, with no position, one put on top."""
    table, _, rest = spec.partition(" ")
    chain, _, match = rest.partition(" ")
    delete = ("gateway", f"iptables -t {table} -D {chain} {match}")
    insert = ("gateway", f"iptables -t {table} -I {chain} {position} {match}")
    return Breakage(name, (delete if position else insert,), (insert if position else delete,), call, where, seen)


LB_TO_STORAGE: Call = ("lb", "master-1:storage", "", None)
BREAKAGES = [
    rule(
        "an unmanaged DROP in FORWARD",
        "filter FORWARD -s 100.64.0.53/32 -d 100.64.64.2/32 -m comment --comment x -j DROP",
        LB_TO_STORAGE,
        ("gateway", "request", "filter FORWARD"),
        r"DROPPED by -s 100\.64\.0\.53/32 -d 100\.64\.64\.2/32 .*-j DROP \(not in the plan\)",
    ),
    rule(
        "an unmanaged REJECT of the answer",
        "filter FORWARD -s 100.64.64.2/32 -p tcp -j REJECT",
        LB_TO_STORAGE,
        ("gateway", "answer", "filter FORWARD"),
        r"DROPPED by -s 100\.64\.64\.2/32 -p tcp -j REJECT .*\(not in the plan\)",
    ),
    rule(
        "an unmanaged DROP in INPUT",
        "filter INPUT -p udp -s 192.168.0.105/32 -j DROP",
        ("dev", "gateway", "udp", None),
        ("gateway", "request", "filter INPUT"),
        r"DROPPED by -s 192\.168\.0\.105/32 -p udp -j DROP \(not in the plan\)",
    ),
    rule(
        "an unmanaged DNAT ahead of ours",
        "nat PREROUTING -d 192.168.0.53/32 -p tcp --dport 81 -j DNAT --to-destination 100.64.0.52:22",
        ("dev", "lb", "", 81),
        ("gateway", "request", "nat PREROUTING"),
        r"-d 192\.168\.0\.53/32 .* --to-destination 100\.64\.0\.52:22 \(not in the plan\)",
    ),
    rule(
        "DNAT missing",
        "nat PREROUTING -d 192.168.0.53/32 -j DNAT --to-destination 100.64.0.53",
        ("dev", "192.168.0.53", "icmp", None),
        ("gateway", "request", "nat PREROUTING"),
        "no rule",
        position="1",
    ),
    rule(
        "SNAT missing",
        "nat POSTROUTING -s 100.64.0.53/32 -j SNAT --to-source 192.168.0.53",
        ("lb", "dev", "", None),
        ("gateway", "request", "nat POSTROUTING"),
        r"-s 100\.64\.0\.0/21 -j SNAT --to-source 192\.168\.0\.51 \(.*networks\.mgmt\)",
        position="1",
    ),
    rule(
        "NOTRACK missing",
        "raw PREROUTING -s 100.64.0.0/21 -d 100.64.64.0/21 -j NOTRACK",
        LB_TO_STORAGE,
        ("gateway", "request", "raw PREROUTING"),
        "no rule",
        position="3",
    ),
    Breakage(
        "no forwarding",
        (("gateway", "sysctl -qw net.ipv4.conf.eth3.forwarding=0"),),
        (("gateway", "sysctl -qw net.ipv4.conf.eth3.forwarding=1"),),
        ("master-1:storage", "lb", "udp", None),
        ("gateway", "request", "route"),
        r"no forwarding: net\.ipv4\.conf\.eth3\.forwarding is 0",
    ),
    Breakage(
        "a policy rule missing at the receiver",
        (("master-1", "ip rule del priority 30100 from 100.64.64.2 to 100.64.0.0/21 table 1004"),),
        (("master-1", "ip rule add priority 30100 from 100.64.64.2 to 100.64.0.0/21 table 1004 proto static"),),
        LB_TO_STORAGE,
        ("master-1", "request", "delivered"),
        "dropped by rp_filter on eth2: the way back is eth0",
    ),
    Breakage(
        "a policy rule missing at the source",
        (("master-1", "ip rule del priority 30100 from 100.64.64.2 to 100.64.0.0/21 table 1004"),),
        (("master-1", "ip rule add priority 30100 from 100.64.64.2 to 100.64.0.0/21 table 1004 proto static"),),
        ("master-1:storage", "lb", "", None),
        ("master-1", "request", "policy rule"),
        "30200: from all to all table 254 without its default routes",
    ),
    Breakage(
        "the answer takes another NIC",
        (
            ("master-1", "sysctl -qw net.ipv4.conf.eth2.rp_filter=2"),
            ("master-1", "ip rule add priority 100 from 100.64.64.2 to 100.64.0.53 table 1002"),
        ),
        (
            ("master-1", "ip rule del priority 100"),
            ("master-1", "sysctl -qw net.ipv4.conf.eth2.rp_filter=1"),
        ),
        LB_TO_STORAGE,
        ("master-1", "answer", "policy rule"),
        r"100: from 100\.64\.64\.2 to 100\.64\.0\.53 table 1002",
    ),
    Breakage(
        "a wrong route at the jump host",
        (("jumphost", "ip route add 203.0.113.0/24 via 100.64.0.53"),),
        (("jumphost", "ip route del 203.0.113.0/24"),),
        ("jumphost", "internet", "", None),
        ("jumphost", "request", "route"),
        r"via 100\.64\.0\.53 dev eth0",
    ),
    Breakage(
        "nothing listens",
        (("lb", "systemctl stop nginx"),),
        (("lb", "systemctl start nginx"),),
        ("dev", "lb", "", 80),
        ("lb", "request", "answers"),
        "refused: nothing listens on port 80",
    ),
    Breakage(
        "a cable pulled",
        (("switch", "master-1:eth2 down"), ("gateway", "ip neigh flush dev eth3")),
        (("switch", "master-1:eth2 up"),),
        LB_TO_STORAGE,
        ("gateway", "request", "leaves"),
        r"nothing: 100\.64\.64\.2 does not answer ARP on eth3",
    ),
]


def act(commands: tuple[tuple[str, str], ...]) -> None:
    """Commands in hosts, and on the cables."""
    for host, command in commands:
        if host == "switch":
            alias, state = command.split()
            links = json.loads(run(["ip", "-n", f"{network.PREFIX}{SWITCH}", "-j", "link"]))
            [port] = [link["ifname"] for link in links if link.get("ifalias") == alias]
            run(["ip", "-n", f"{network.PREFIX}{SWITCH}", "link", "set", port, state])
        else:
            inside(host, command)


@contextmanager
def broken(breakage: Breakage) -> Iterator[None]:
    """The site with one thing broken."""
    try:
        act(breakage.commands)
        yield
    finally:
        act(breakage.undo)


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_first_difference(trace: Callable[..., list[Documents]], breakage: Breakage) -> None:
    """The first difference is where the site was broken, and says how."""
    with broken(breakage):
        [[document]] = trace(breakage.call)
    assert document["result"] == "differs", steps(document)
    [first] = [step for step in document["steps"] if step["first_difference"]]
    assert (first["host"], first["way"], first["step"]) == breakage.where, steps(document)
    assert re.fullmatch(breakage.seen, first["seen"]), steps(document)


IN_GATEWAY = ["nsenter", f"--net={network.netns('gateway')}", sys.executable, "-c"]
"""Runs Python of this repo in the gateway's network."""
OUR_TABLES = """
import sys
from underlay.remote.trace.nftables import *
from underlay.remote.trace.watch import TABLE
netlink = Netlink()
netlink.socket.settimeout(5)
netlink.socket.send(message(10 << 8 | 1, REQUEST | DUMP, 0))  # GETTABLE
while True:
    for kind, _, body in netlink.receive():
        if kind == 3:
            sys.exit()
        if (name := string(attributes(body)[1])).startswith(TABLE):
            print(name)
"""
LISTENER = """
import json, socket, struct, sys
from contextlib import suppress
from underlay.remote.trace.nftables import *
from underlay.remote.trace.watch import SO_RCVBUFFORCE
netlink = Netlink()
netlink.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
netlink.socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, NFNLGRP_NFTRACE)
print("ready", flush=True)
sys.stdin.read()
netlink.socket.setblocking(False)
ports = set()
with suppress(BlockingIOError):
    while True:
        for _, _, body in netlink.receive():
            event = attributes(body)
            if 8 in event:
                header = event[8] + event.get(9, b"")
                ports.add(struct.unpack("!HH", header[20:24]))
print(json.dumps(sorted(ports)))
"""


def our_tables() -> list[str]:
    """The nftables tables on the gateway that a trace has made."""
    return run([*IN_GATEWAY, OUR_TABLES], cwd=REPO).split()


def until(what: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("end", [None, signal.SIGINT, signal.SIGKILL], ids=["by itself", "Ctrl-C", "kill -9"])
def test_nothing_stays(deployed: LabState, end: signal.Signals | None) -> None:
    """While a packet without an answer is waited for, the rules are as before, and however it ends so they are after.

    1. trace what gets no answer, until its table is on the gateway
    2. the rules that deploys, the guard and drift look at are what they were; another rule can be added and deleted
    3. the trace ends, or is ended; soon neither its table nor its agents are there
    """
    before = inside("gateway", "iptables-save | grep -v ^# | sed 's/\\[.*//'")
    argv = [sys.executable, "-m", "invoke", "trace", "dev", "100.64.64.2"]
    with subprocess.Popen(argv, cwd=REPO, start_new_session=True, stdout=subprocess.DEVNULL) as process:
        until(lambda: bool(our_tables()))
        assert inside("gateway", "iptables-save | grep -v ^# | sed 's/\\[.*//'") == before
        inside("gateway", "iptables -I FORWARD -s 192.0.2.1 -j DROP && iptables -D FORWARD -s 192.0.2.1 -j DROP")
        if end:
            assert process.poll() is None, "it ended before it could be ended"
            process.send_signal(end)
    assert process.returncode == {None: 0, signal.SIGINT: 130, signal.SIGKILL: -9}[end]
    until(lambda: not our_tables())
    until(lambda: "python3 -I -S" not in inside("gateway", "ps -e -o args"))


def test_other_traffic_is_not_traced(trace: Callable[..., list[Documents]]) -> None:
    """Of all packets through the gateway, the kernel reports on those of the trace only."""
    pipe = subprocess.PIPE
    with subprocess.Popen([*IN_GATEWAY, LISTENER], cwd=REPO, stdin=pipe, stdout=pipe, text=True) as listener:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        inside("jumphost", "systemd-run --quiet --collect --unit=test-noise ping -i 0.05 -w 30 100.64.64.2")
        try:
            [[document]] = trace(LB_TO_STORAGE)
        finally:
            inside("jumphost", "systemctl stop test-noise")
        seen = {tuple(ports) for ports in json.loads(listener.communicate("")[0])}
    asked = document["destination"]["port"]
    assert len(seen) == 2, seen
    assert {asked in ports for ports in seen} == {True}, seen


def test_command(deployed: LabState) -> None:
    """What a program sees, and what it is told of a mistake."""
    done = invoke("trace", "lb", "8.8.8.8", "--json", good=False)
    assert done.returncode == 2
    [document] = json.loads(done.stdout)
    assert (document["protocol"], document["result"]) == ("icmp", "differs")
    assert "the answer at gateway, arrives: nothing" in document["summary"]
    wrong = invoke("trace", "lbb", "dev", good=False)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.endswith("error: 'lbb' is neither HOST, HOST:NETWORK nor an IPv4 address: did you mean 'lb'?\n")


def test_source_that_is_down(trace: Callable[..., list[Documents]]) -> None:
    """A host that can't be asked to send is told as such."""
    inside("images", "systemctl stop ssh.socket ssh.service")
    try:
        [[document]] = trace(("images", "dev", "", None))
    finally:
        inside("images", "systemctl start ssh.service")
    assert document["summary"].startswith("images can't be reached at 192.168.0.50")
