"""What hosts print about how they are, as values."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import astuple

import pytest

from underlay.access.answers import UnreadableError
from underlay.observe import health, state
from underlay.observe.health import Clock, Disk, Link, RuleCounter, Tally
from underlay.observe.state import HostState
from underlay.plan import REPO, load
from underlay.remote import conntrack, send
from underlay.remote.checks import connect

PLAN = load(REPO / "group_data/all.py")
TABLE = """\
tcp      6 431999 ESTABLISHED src=192.168.0.105 dst=192.168.0.52 sport=42190 dport=22 src=100.64.0.52 \
dst=192.168.0.105 sport=22 dport=42190 [ASSURED] mark=0 use=1
tcp      6 117 TIME_WAIT src=100.64.32.2 dst=203.0.113.1 sport=5000 dport=443 packets=6 bytes=400 src=203.0.113.1 \
dst=192.168.0.51 sport=443 dport=5000 packets=4 bytes=300 [ASSURED] mark=0 use=1
tcp      6 117 TIME_WAIT src=100.64.64.2 dst=203.0.113.1 sport=5000 dport=443 src=203.0.113.1 dst=192.168.0.51 \
sport=443 dport=1025 [ASSURED] mark=0 use=1
udp      17 29 src=100.64.0.53 dst=192.168.0.1 sport=5353 dport=53 [UNREPLIED] src=192.168.0.1 dst=192.168.0.53 \
sport=53 dport=5353 mark=0 use=1
icmp     1 29 src=100.64.0.52 dst=192.168.0.53 type=8 code=0 id=7 src=100.64.0.53 dst=192.168.0.52 type=0 code=0 id=7 \
mark=0 use=1
tcp      6 20 CLOSE src=192.168.0.105 dst=192.168.0.51 sport=40000 dport=22 src=192.168.0.51 dst=192.168.0.105 \
sport=22 dport=40000 [ASSURED] mark=0 use=1
"""


def host_state(section: str, text: str) -> HostState:
    return HostState("box", {section: (0, text.splitlines())})


def test_clock() -> None:
    """The time that a command takes on the host does not count; what it needs to get there and back does."""
    there_and_back = [float(each) for each in (100, 160.1, 160.6, 100.7)]
    found = health.clock(*there_and_back)
    assert astuple(found) == pytest.approx((60.0, 0.2))


def test_clock_of_a_state() -> None:
    """It is read from the marks around all other sections."""
    sections = {"begin": (0, ["1000.5"]), "end": (0, ["1001.5"])}
    assert HostState("box", sections, asked=(10.0, 12.0)).clock == Clock(990.0, 1.0)
    with pytest.raises(UnreadableError, match="end of box can't be read"):
        _ = HostState("box", {"begin": (0, ["1000.5"])}, asked=(10.0, 12.0)).clock


def test_uptime() -> None:
    """The first number; the other is the time that the processors were idle."""
    assert host_state("uptime", "350735.47 234388.90\n").uptime == 350735.47


def test_disks() -> None:
    """The worse of bytes and inodes counts; a file system without a number of inodes has none used up."""
    text = "Mounted on 1B-blocks Used Inodes IUsed\n/ 1000 100 10 9\n/var 1000 500 - -\n"
    found = host_state("disks", text).disks
    assert found == {"/": Disk(1000, 100, 10, 9), "/var": Disk(1000, 500, 0, 0)}
    assert [disk.share for disk in found.values()] == [0.9, 0.5]


def test_failed_units() -> None:
    """Names only; none is an empty output."""
    assert host_state("failed units", "nginx.service loaded failed failed A web server\n").failed_units == (
        "nginx.service",
    )
    assert host_state("failed units", "").failed_units == ()


def test_nics() -> None:
    """A NIC that is on and has no cable; the loopback is none."""
    lo = {"ifname": "lo", "flags": ["LOOPBACK", "UP", "LOWER_UP"], "mtu": 65536}
    eth0 = {"ifname": "eth0", "flags": ["BROADCAST", "UP", "NO-CARRIER"], "mtu": 1500, "address": "02:00:00:00:00:01"}
    assert host_state("nics", json.dumps([lo, eth0])).nics == {"eth0": Link(True, False, 1500, "02:00:00:00:00:01")}


def test_guard_that_was_never_there() -> None:
    """A host that no guarded change was made on has nothing pending, and no last change."""
    assert host_state("guard", health.NOTHING_KEPT).guard == health.GuardStatus(None, None)


def test_conntrack() -> None:
    """The statistics are summed over the processors."""
    text = (
        "7\n262144\n"
        "cpu=0   \tfound=1 invalid=2 insert=0 insert_failed=1 drop=1 early_drop=0 error=0 search_restart=0\n"
        "cpu=1   \tfound=1 invalid=0 insert=0 insert_failed=0 drop=2 early_drop=0 error=0 search_restart=0\n"
    )
    found = host_state("conntrack", text).conntrack
    assert (found.count, found.limit, found.share) == (7, 262144, 7 / 262144)
    assert found.statistics == {
        **dict.fromkeys(("insert", "early_drop", "error", "search_restart"), 0),
        "found": 2,
        "invalid": 2,
        "insert_failed": 1,
        "drop": 3,
    }


@pytest.mark.parametrize("size", [1, 200, 10**6])
def test_tally(size: int) -> None:
    """Flows of published addresses either way, hairpins once for each; ports that the gateway translates to."""
    argv = [sys.executable, "-c", f"import sys; sys.stdout.write({TABLE!r})"]
    whole = b"".join(conntrack.blocks(argv, size))
    assert whole.decode() == TABLE
    found = conntrack.tally(conntrack.blocks(argv, size), ["192.168.0.51", "192.168.0.52", "192.168.0.53"])
    assert Tally(**found) == Tally(
        entries=6,
        protocols={"tcp": 4, "udp": 1, "icmp": 1},
        flows={"192.168.0.51": 3, "192.168.0.52": 2, "192.168.0.53": 2},
        ports={"192.168.0.51": {"tcp": 2}, "192.168.0.53": {"udp": 1}},
    )


def test_table_that_cannot_be_read() -> None:
    """It is an error, not an empty table."""
    argv = [sys.executable, "-c", "import sys; print(1); sys.exit('not permitted')"]
    with pytest.raises(OSError, match="failed with 1: not permitted"):
        conntrack.tally(conntrack.blocks(argv), [])


def test_counters() -> None:
    """Rules in their order; the end of a built-in chain is one more; an operator's own chain has no end."""
    text = (
        "# Generated by iptables-save\n*filter\n:FORWARD ACCEPT [3:180]\n:MINE - [0:0]\n"
        "[12:840] -A FORWARD -d 100.64.0.0/21 -j ACCEPT\n[1:2] -A MINE\nCOMMIT\n"
    )
    assert host_state("counters", text).counters == (
        RuleCounter("filter", "FORWARD", None, 3, 180),
        RuleCounter("filter", "FORWARD", "-d 100.64.0.0/21 -j ACCEPT", 12, 840),
        RuleCounter("filter", "MINE", "", 1, 2),
    )


@pytest.fixture
def shell() -> Callable[[str], str]:
    """Runs a command as a host would."""

    def run(command: str) -> str:
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True, timeout=30)
        return done.stdout

    return run


def test_commands_of_every_host(shell: Callable[[str], str]) -> None:
    """What a shell of this machine prints is read: the commands fit their parsers."""
    commands = health.commands(PLAN, PLAN.host("master-1"))
    names = {"uptime", "disks"}
    found = HostState("here", {name: (0, shell(commands[name]).splitlines()) for name in names})
    assert found.uptime > 0
    assert found.disks["/"].size > 0


def test_upstreams(shell: Callable[[str], str]) -> None:
    """The proxy's upstreams, each with what it is for; nothing listens on these here, and that is said."""
    [(name, end), *_] = health.upstreams_of(PLAN)
    assert (name, end) == ("kubernetes_api", "100.64.0.2:6443")
    command = send.command(connect, "1", json.dumps([["api", "127.0.0.1:1"]]))
    [found] = host_state("upstreams", shell(command)).upstreams
    assert (found.name, found.address, found.error, found.seconds) == ("api", "127.0.0.1:1", "Connection refused", None)


@pytest.mark.parametrize("section", sorted(health.HEALTH))
def test_unknown_is_never_fine(section: str) -> None:
    """What failed, or makes no sense, is an error."""
    found: list[dict[str, tuple[int, list[str]]]] = [{}, {section: (1, ["no"])}, {section: (0, ["nonsense {"])}]
    for said in found:
        with pytest.raises(UnreadableError):
            getattr(HostState("box", said), section.replace(" ", "_"))


def test_everything_is_a_section_of_some_role() -> None:
    """What can be asked for is what hosts are asked."""
    cluster = load(REPO / "tests/golden/good/cluster.py")
    commands = {name for host in cluster.hosts for name in state._commands(cluster, host)}
    assert commands - {name for host in PLAN.hosts for name in state._commands(PLAN, host)} == {"node"}
    assert commands | {state.ANSWERS, state.BOOT} == state.ALL
