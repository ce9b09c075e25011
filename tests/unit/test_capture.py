"""Captured packets, as far as they are decoded, and what a capture that went wrong says."""

import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from underlay.oncall import capture
from underlay.oncall.capture import Capture, CaptureError
from underlay.oncall.pcap import Frame, NotPcapError, Stream, Summary, decode

ETHERNET, COOKED, COOKED_2, RAW = 1, 113, 276, 101
A, B = "192.0.2.1", "192.0.2.2"


def ip(protocol: int, payload: bytes, fragment: int = 0) -> bytes:
    ends = socket.inet_aton(A) + socket.inet_aton(B)
    return struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, fragment, 64, protocol, 0) + ends + payload


def ip6(payload: bytes, protocol: int = 17) -> bytes:
    ends = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    return struct.pack(">IHBB", 6 << 28, len(payload), protocol, 64) + ends + payload


PORTS = struct.pack(">HH", 40000, 443)
ARP = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 1) + bytes(6) + socket.inet_aton(A) + bytes(6) + socket.inet_aton(B)


@pytest.mark.parametrize(
    ("link", "frame", "packet"),
    [
        (ETHERNET, bytes(12) + b"\x08\x00" + ip(6, PORTS), ("tcp", f"{A}:40000", f"{B}:443")),
        (ETHERNET, bytes(12) + b"\x81\x00\x00\x05\x08\x00" + ip(17, PORTS), ("udp", f"{A}:40000", f"{B}:443")),
        (ETHERNET, bytes(12) + b"\x86\xdd" + ip6(PORTS), ("udp", "[2001:db8::1]:40000", "[2001:db8::2]:443")),
        (RAW, ip6(b"\x3a\0" + bytes(6) + b"\x8f" + bytes(27), 0), ("icmp6", "2001:db8::1", "2001:db8::2")),
        (
            RAW,
            ip6(b"\x2c\x01" + bytes(14) + b"\x11\xff\0\1" + bytes(4) + PORTS, 60),
            ("udp", "[2001:db8::1]:40000", "[2001:db8::2]:443"),
        ),
        (RAW, ip6(b"\x3c\xff\0\x08" + bytes(4) + PORTS, 44), ("protocol 60", "2001:db8::1", "2001:db8::2")),
        (RAW, ip6(b"\x11", 0), ("unknown", "?", "?")),
        (ETHERNET, bytes(12) + b"\x08\x06" + ARP, ("arp", A, B)),
        (ETHERNET, bytes(12) + b"\x88\xcc" + bytes(20), ("type 0x88cc", "?", "?")),
        (COOKED, bytes(14) + b"\x08\x00" + ip(1, bytes(8)), ("icmp", A, B)),
        (COOKED_2, b"\x08\x00" + bytes(18) + ip(6, PORTS), ("tcp", f"{A}:40000", f"{B}:443")),
        (RAW, ip(47, bytes(8)), ("gre", A, B)),
        (RAW, ip(17, PORTS, fragment=185), ("udp", A, B)),
        (RAW, ip(6, PORTS)[:22], ("tcp", A, B)),
        (RAW, ip(6, PORTS)[:12], ("unknown", "?", "?")),
        (RAW, b"", ("unknown", "?", "?")),
        (9999, bytes(64), ("unknown", "?", "?")),
    ],
)
def test_decode(link: int, frame: bytes, packet: tuple[str, str, str]) -> None:
    """Every way in which a NIC of Linux hands over packets; what is cut short is never an error."""
    assert decode(link, frame, 1500) == Frame(*packet, length=1500)


def pcap(*frames: bytes, order: str = "<") -> bytes:
    head = struct.pack(f"{order}IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, RAW)
    return head + b"".join(struct.pack(f"{order}IIII", 1, 2, len(each), len(each) + 100) + each for each in frames)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_stream(order: str, size: int) -> None:
    """The stream may come in any pieces, from a host of either byte order; what counts is the length on the wire."""
    data = pcap(ip(6, PORTS), ip(1, bytes(8)), order=order)
    stream = Stream()
    found = [packet for at in range(0, len(data), size) for packet in stream.feed(data[at : at + size])]
    assert [(each.protocol, each.length) for each in found] == [("tcp", 124), ("icmp", 128)]


def test_a_packet_without_an_end() -> None:
    """The host says how long it is: what is longer than tcpdump keeps is not waited for."""
    data = pcap(ip(6, PORTS)) + struct.pack("<IIII", 0, 0, 2**31, 2**31)
    with pytest.raises(NotPcapError, match="a packet of 2147483648 bytes"):
        list(Stream().feed(data))


def test_no_pcap() -> None:
    """Something else on the connection is told as such."""
    with pytest.raises(NotPcapError, match="not a capture: it begins with 57656c63"):
        list(Stream().feed(b"Welcome to this host, friend"))


def test_conversations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways are one; the largest first; there is an end to how many are kept."""
    monkeypatch.setattr("underlay.oncall.pcap.MOST", 2)
    summary = Summary()
    for packet in (Frame("tcp", "a", "b", 10), Frame("tcp", "b", "a", 20), Frame("udp", "a", "b", 100)):
        summary.add(packet)
    for number in range(3):
        summary.add(Frame("tcp", f"c{number}", "d", 1))
    assert (summary.packets, summary.bytes) == (6, 133)
    assert summary.top(3) == [(("udp", "a", "b"), 1, 100), (("tcp", "a", "b"), 2, 30), (("others", "", ""), 3, 3)]


# --- what runs on the host ------------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., "subprocess.Popen[bytes]"]:
    """Runs what a host runs, with a tcpdump that writes down its arguments, its process, and what was asked of it."""
    (tmp_path / "tcpdump").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\necho $$ > {tmp_path}/pid\n'
        "echo 'tcpdump: listening on any' >&2\nprintf HEAD\nexec sleep 60\n"
    )
    (tmp_path / "tcpdump").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def start(*arguments: str) -> "subprocess.Popen[bytes]":
        argv = ["/bin/sh", "-c", capture.SCRIPT, "capture", *arguments]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


def gone(tmp_path: Path) -> bool:
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not Path(f"/proc/{pid}").exists():
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("asked", "connection", "filter_"),
    [
        ("", "", None),
        ("arp", "", "arp"),
        (
            "",
            "192.0.2.9 4000 192.0.2.1 22",
            "not (tcp and host 192.0.2.9 and port 4000 and host 192.0.2.1 and port 22)",
        ),
        (
            "arp or tcp",
            "192.0.2.9 4000 192.0.2.1 22",
            "(arp or tcp) and not (tcp and host 192.0.2.9 and port 4000 and host 192.0.2.1 and port 22)",
        ),
    ],
)
def test_filter(
    host: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path, asked: str, connection: str, filter_: str | None
) -> None:
    """Its own connection is always left out; on the machine itself there is none."""
    with host("eth1", "30", asked, connection) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.read(4) == b"HEAD"
        # The operator's end goes, in whatever way.
        process.stdin.close()
        assert process.wait(10) != 0
    assert gone(tmp_path)
    words = ["-i", "eth1", "-p", "-n", "-U", "-w", "-", "--", *([filter_] if filter_ else [])]
    assert (tmp_path / "arguments").read_text().splitlines() == words


def test_timeout_that_does_not_pass_it_on(host: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path) -> None:
    """On a busy host timeout(1) may be ended before it knows its child: tcpdump ends all the same."""
    (tmp_path / "timeout").write_text(
        "#!/usr/bin/python3\nimport os, subprocess, sys\nos.setpgid(0, 0)\nsubprocess.run(sys.argv[3:])\n"
    )
    (tmp_path / "timeout").chmod(0o755)
    with host("any", "30", "", "") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.read(4) == b"HEAD"
        process.stdin.close()
        assert process.wait(10) != 0
    assert gone(tmp_path)


def test_ends_by_itself(host: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path) -> None:
    """After its time, also if the operator's end just went silent."""
    with host("any", "0.5", "", "") as process:
        assert process.wait(10) == 124
        assert gone(tmp_path)


def test_no_tcpdump(
    host: Callable[..., "subprocess.Popen[bytes]"], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that lacks it says so."""
    monkeypatch.setenv("PATH", "/nowhere")
    with host("any", "5", "", "") as process:
        assert process.communicate(timeout=10)[1] == b"there is no tcpdump\n"
        assert process.returncode == 1


# --- what is made of how it ended -----------------------------------------------------------------------------------

COUNTS = ["tcpdump: listening on any, link-type LINUX_SLL2", "5 packets captured", "2 packets dropped by kernel"]


def test_good_end() -> None:
    """It ends with its counts: the end by time is no error."""
    found = Capture("gateway", "any", "x.pcap", seconds=10.0)
    capture._judge(found, 124, COUNTS)
    assert (found.dropped, found.interrupted, found.broken) == (2, "", False)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tcpdump: data link type LINUX_SLL2", "tcpdump: can't parse filter expression: syntax error"], 1),
        (["tcpdump: ethx: No such device exists", "(No such device exists)"], 0),
        (["(no promiscuous mode)", "tcpdump: can't parse filter expression: syntax error"], 1),
        (["there is no tcpdump"], 0),
    ],
)
def test_nothing_captured(words: list[str], told: int) -> None:
    """A wrong filter or NIC is one line, with the host and tcpdump's own words."""
    with pytest.raises(CaptureError) as error:
        capture._judge(Capture("gateway", "any", "x.pcap"), 1, words)
    assert str(error.value) == f"gateway: {words[told]}"


def test_connection_that_breaks() -> None:
    """What came until then is kept, and why there is no more is told."""
    found = Capture("gateway", "any", "x.pcap", seconds=3.0)
    capture._judge(found, 255, ["tcpdump: listening on any", "Connection to gateway closed by remote host."])
    assert found.broken
    assert "the connection to gateway broke: Connection to gateway closed by remote host." in found.interrupted


def test_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """What was captured, how fast, with whom, what was dropped, and where it is."""
    found = Capture("gateway", "any", "x.pcap", seconds=2.0, dropped=3)
    found.summary.add(Frame("tcp", f"{A}:40000", f"{B}:443", 200))
    capture.show(found, Console(width=120))
    output = capsys.readouterr().out
    assert "1 packets, 200 bytes in 2.0 s; 0 packets/s, 100 bytes/s; 3 packets dropped by the kernel" in output
    assert "in x.pcap" in output
    assert found.document()["conversations"] == [
        {"protocol": "tcp", "ends": [f"{A}:40000", f"{B}:443"], "packets": 1, "bytes": 200}
    ]
