"""Entries of the connection table, as the tool of the hosts prints them."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from underlay.remote import conntrack
from underlay.remote.conntrack import Connection, parse

SSH = (
    "tcp      6 431999 ESTABLISHED src=192.168.0.105 dst=192.168.0.52 sport=42190 dport=22 packets=6 bytes=400 "
    "src=100.64.0.52 dst=192.168.0.105 sport=22 dport=42190 packets=4 bytes=300 [ASSURED] mark=0 delta-time=12 use=1 "
    "id=1001"
)
DNS = (
    "udp      17 29 src=100.64.32.2 dst=192.168.0.1 sport=5353 dport=53 [UNREPLIED] src=192.168.0.1 dst=192.168.0.51 "
    "sport=53 dport=1025 mark=0 use=1 id=1002"
)
PING = (
    "icmp     1 29 src=100.64.0.52 dst=192.168.0.53 type=8 code=0 id=1001 src=100.64.0.53 dst=192.168.0.52 type=0 "
    "code=0 id=1001 mark=0 use=1 id=1003"
)
GRE = (
    "gre      47 29 src=100.64.0.52 dst=192.168.0.1 srckey=0x0 dstkey=0x0 [UNREPLIED] "
    "src=192.168.0.1 dst=192.168.0.52 srckey=0x0 dstkey=0x0 mark=0 use=1 id=1004"
)
IGMP = "unknown  2 599 src=100.64.0.2 dst=192.168.0.1 [UNREPLIED] src=192.168.0.1 dst=192.168.0.51 mark=0 use=1 id=1005"
TABLE = "".join(f"{line}\n" for line in (SSH, DNS, PING, GRE, IGMP))


def test_translated_tcp() -> None:
    """Asked for, translated to, counted, its age."""
    found = parse(SSH)
    assert found == Connection(
        id=1001,
        protocol="tcp",
        state="ESTABLISHED ASSURED",
        timeout=431999,
        source="192.168.0.105",
        source_port=42190,
        destination="192.168.0.52",
        destination_port=22,
        answered_by="100.64.0.52",
        answered_by_port=22,
        answered_to="192.168.0.105",
        answered_to_port=42190,
        icmp=None,
        packets=10,
        bytes=700,
        age=12,
    )
    assert found.translated == "to 100.64.0.52:22"
    assert found.name == "tcp 192.168.0.105:42190 192.168.0.52:22"


@pytest.mark.parametrize(
    ("line", "name", "translated", "state"),
    [
        (DNS, "udp 100.64.32.2:5353 192.168.0.1:53", "as 192.168.0.51:1025", "UNREPLIED"),
        (PING, "icmp 100.64.0.52:1001 192.168.0.53", "to 100.64.0.53 as 192.168.0.52", ""),
        (GRE, "gre 100.64.0.52 192.168.0.1", "as 192.168.0.52", "UNREPLIED"),
        (IGMP, "unknown 100.64.0.2 192.168.0.1", "as 192.168.0.51", "UNREPLIED"),
    ],
)
def test_other_protocols(line: str, name: str, translated: str, state: str) -> None:
    """Without ports, and with an id of its own beside the entry's."""
    found = parse(line)
    assert (found.name, found.translated, found.state) == (name, translated, state)
    assert (found.packets, found.bytes, found.age) == (None, None, None)
    assert found.id == int(line.rpartition("=")[2])


@pytest.mark.parametrize("line", ["", "tcp 6 1 CLOSE", DNS.replace(" id=1002", ""), "conntrack v1.4.8"])
def test_no_entry(line: str) -> None:
    """What is no entry is never half of one."""
    with pytest.raises(ValueError, match="not an entry"):
        parse(line)


def find(**wanted: Any) -> dict[str, Any]:
    first, *rest = TABLE.encode().splitlines(keepends=True)
    anything: dict[str, Any] = {"hosts": [], "published": [], "protocol": "", "name": "", "id": None, "limit": 10}
    return conntrack.find([first, b"", b"".join(rest)], anything | wanted)


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ({}, [1001, 1002, 1003, 1004, 1005]),
        ({"hosts": ["100.64.0.52", "192.168.0.52"]}, [1001, 1003, 1004]),
        ({"hosts": ["100.64.0.5"]}, []),
        ({"published": ["192.168.0.52"]}, [1001, 1003, 1004]),
        ({"published": ["192.168.0.51"]}, [1002, 1005]),
        ({"name": "udp 100.64.32.2:5353 192.168.0.1:53"}, [1002]),
        ({"name": "udp 100.64.32.2:5353 192.168.0.1:54"}, []),
        ({"id": 1001}, [1001]),
        ({"id": 100}, []),
    ],
)
def test_find(wanted: dict[str, Any], ids: list[int]) -> None:
    """Exactly those that were asked for; an id of an echo is none of an entry."""
    answer = find(**wanted)
    assert [each["id"] for each in answer["found"]] == ids
    assert (answer["entries"], answer["matching"]) == (5, len(ids))


def test_find_a_few() -> None:
    """No more than were asked for leave the host; the rest is counted."""
    answer = find(limit=2)
    assert [each["id"] for each in answer["found"]] == [1001, 1002]
    assert (answer["entries"], answer["matching"]) == (5, 5)
    assert Connection(**answer["found"][0]) == parse(SSH)


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Path]:
    """Makes a `conntrack` of its own that says something and writes down what it was asked."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def make(says: str, code: int) -> Path:
        script = tmp_path / "conntrack"
        script.write_text(f"#!/bin/sh\necho \"$@\" > {tmp_path}/asked\necho '{says}' >&2\nexit {code}\n")
        script.chmod(0o755)
        return tmp_path / "asked"

    return make


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        (SSH, "--orig-src 192.168.0.105 --orig-dst 192.168.0.52 --orig-port-src 42190 --orig-port-dst 22"),
        (PING, "--orig-src 100.64.0.52 --orig-dst 192.168.0.53 --icmp-type 8 --icmp-code 0 --icmp-id 1001"),
    ],
)
def test_delete(tool: Callable[[str, int], Path], line: str, asked: str) -> None:
    """By all that it was opened with, so that it is the one and no other."""
    written = tool("conntrack v1.4.8 (conntrack-tools): 1 flow entries have been deleted.", 0)
    connection = parse(line)
    assert conntrack.delete(connection) == {"deleted": 1}
    assert written.read_text() == f"-D --proto {connection.protocol} {asked}\n"


def test_delete_what_is_gone(tool: Callable[[str, int], Path]) -> None:
    """Nothing to delete is no error; a tool that fails is one."""
    tool("conntrack v1.4.8 (conntrack-tools): 0 flow entries have been deleted.", 1)
    assert conntrack.delete(parse(SSH)) == {"deleted": 0}
    tool("Operation failed: sorry, you must be root", 1)
    with pytest.raises(OSError, match="you must be root"):
        conntrack.delete(parse(SSH))


def test_over_the_wire(capsys: pytest.CaptureFixture[str], tool: Callable[[str, int], Path]) -> None:
    """What a host answers is what a connection is made of, there and back."""
    tool("1 flow entries have been deleted.", 0)
    assert conntrack.main("delete", json.dumps(asdict(parse(PING)))) == 0
    assert json.loads(capsys.readouterr().out) == {"deleted": 1}
    tool("no such file", 1)
    assert conntrack.main("tally", "[]") == 1
    assert "no such file" in capsys.readouterr().err
