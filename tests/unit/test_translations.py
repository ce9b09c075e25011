"""Which connections keep a translation that changed, by the rules and by the table as the hosts' tool prints it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_conntrack import tool
from underlay.desired import nat
from underlay.remote import conntrack

__all__ = ["tool"]

NETWORKS = ["-s 100.64.0.0/21 -j SNAT --to-source 192.168.0.51", "-s 100.64.32.0/21 -j SNAT --to-source 192.168.0.51"]
WEB = ["-d 192.168.0.54/32 -j DNAT --to-destination 100.64.0.54", "-s 100.64.0.54/32 -j SNAT --to-source 192.168.0.54"]
LB = ["-d 192.168.0.53/32 -j DNAT --to-destination 100.64.0.53", "-s 100.64.0.53/32 -j SNAT --to-source 192.168.0.53"]
ELSEWHERE = "-d 192.168.0.54/32 -j DNAT --to-destination 100.64.0.53"


def entry(there: str, back: str, protocol: str = "udp") -> str:
    """`SOURCE>DESTINATION` as a connection was opened, and as its answers go."""
    (source, destination), (answered_by, answered_to) = there.split(">"), back.split(">")
    ports = "type=8 code=0 id=7" if protocol == "icmp" else "sport=7000 dport=9000"
    other = ports if protocol == "icmp" else "sport=9000 dport=7000"
    return (
        f"{protocol} 17 29 src={source} dst={destination} {ports} [UNREPLIED] "
        f"src={answered_by} dst={answered_to} {other} mark=0 use=1"
    )


TABLE = {
    "web as the gateway": entry("100.64.0.54>8.8.8.8", "8.8.8.8>192.168.0.51"),
    "web's ping as the gateway": entry("100.64.0.54>8.8.4.4", "8.8.4.4>192.168.0.51", "icmp"),
    "web as itself": entry("100.64.0.54>8.8.8.8", "8.8.8.8>192.168.0.54"),
    "web by a rule of others": entry("100.64.0.54>9.9.9.9", "9.9.9.9>192.168.0.99"),
    "web to the gateway": entry("100.64.0.54>192.168.0.51", "192.168.0.51>100.64.0.54", "tcp"),
    "to web, untranslated": entry("192.168.0.105>192.168.0.54", "192.168.0.54>192.168.0.105"),
    "to web": entry("192.168.0.105>192.168.0.54", "100.64.0.54>192.168.0.105", "tcp"),
    "to what was web's, at lb": entry("192.168.0.105>192.168.0.54", "100.64.0.53>192.168.0.105"),
    "to web, from inside as the gateway": entry("100.64.0.53>192.168.0.54", "192.168.0.54>192.168.0.51"),
    "another to the world": entry("100.64.0.9>8.8.8.8", "8.8.8.8>192.168.0.51"),
    "lb as itself": entry("100.64.0.53>8.8.8.8", "8.8.8.8>192.168.0.53"),
    "the gateway's own": entry("192.168.0.51>192.168.0.54", "192.168.0.54>192.168.0.51", "icmp"),
    "a longer address": entry("100.64.0.5>8.8.8.8", "8.8.8.8>192.168.0.51"),
}


def stale(edited: list[str], wanted: list[str]) -> set[str]:
    """The entries of TABLE that are ended."""
    found = nat.outdated(edited, wanted)
    assert found is not None
    found = json.loads(json.dumps(found))
    ended = set()
    for name, line in TABLE.items():
        _, counts = conntrack.outdated(conntrack.ENDS.findall(line.encode()), found, ["192.168.0.51", "192.168.0.54"])
        if counts:
            [options] = counts
            # What is deleted by them is this one, and what has the same translation.
            pairs = dict(zip(options[::2], options[1::2], strict=True))
            words = re.findall(r"(?:src|dst)=(\S+)", line)
            at = dict(zip(("--orig-src", "--orig-dst", "--reply-src", "--reply-dst"), words, strict=True))
            assert pairs.items() <= at.items()
            ended.add(name)
    return ended


PUBLISHED = {
    *("web as the gateway", "web's ping as the gateway", "to web, untranslated", "to what was web's, at lb"),
    "to web, from inside as the gateway",
}


def test_published() -> None:
    """What it opened leaves as the gateway, what came to its address went nowhere, or to another host."""
    assert stale(WEB, [*LB, *WEB, *NETWORKS]) == PUBLISHED
    assert stale([ELSEWHERE, *WEB], [*LB, *WEB, *NETWORKS]) == PUBLISHED


def test_no_longer_published() -> None:
    """What it opened leaves as an address that is no longer its own, and what comes to that still gets there."""
    assert stale(WEB, [*LB, *NETWORKS]) == {"web as itself", "to web", "to what was web's, at lb"}


def test_another_host_gets_the_address() -> None:
    wanted = [*LB, ELSEWHERE, "-s 100.64.0.53/32 -j SNAT --to-source 192.168.0.54", *NETWORKS]
    assert stale([*WEB, ELSEWHERE], wanted) == {
        *("web as itself", "to web", "to web, untranslated", "to web, from inside as the gateway"),
    }


def test_the_gateway_gets_another_address() -> None:
    """Whoever left as the old one."""
    now = [each.replace("192.168.0.51", "192.168.0.60") for each in NETWORKS]
    assert stale([*NETWORKS, *now], [*LB, *now]) == {
        *("web as the gateway", "web's ping as the gateway", "another to the world", "a longer address"),
        "to web, from inside as the gateway",
    }


def test_nothing_of_ours_changed() -> None:
    assert nat.outdated(["-s 10.0.0.0/8 -j MASQUERADE", "-j KUBE-SERVICES"], [*WEB, *NETWORKS]) is None


def test_a_thousand_hosts() -> None:
    """One pass over the table, one deletion for all connections of a host."""
    many = [f"-s 100.64.{n // 250}.{n % 250 + 1}/32 -j SNAT --to-source 192.168.1.1" for n in range(1000)]
    found = nat.outdated(many, [*many, *NETWORKS])
    assert found is not None
    table = b"".join(
        entry(f"100.64.{n // 250}.{n % 250 + 1}>8.8.{m}.8", f"8.8.{m}.8>192.168.0.51").encode() + b"\n"
        for n in range(1000)
        for m in range(3)
    )
    looked, counts = conntrack.outdated(conntrack.ENDS.findall(table), found)
    assert (looked, len(counts), set(counts.values())) == (3000, 1000, {3})


def test_looks_again(monkeypatch: pytest.MonkeyPatch, tool: Callable[[str, int], Path], tmp_path: Path) -> None:
    """One that a packet brings back is ended, too; one that comes back for ever is told."""
    tool("1 flow entries have been deleted.", 0)
    monkeypatch.setattr(conntrack, "PAUSE", 0)
    found = nat.outdated(WEB, [*WEB, *NETWORKS])
    old, new = TABLE["web as the gateway"], TABLE["web as itself"]

    def tables(*lines: str) -> None:
        rest = list(lines)
        monkeypatch.setattr(
            conntrack, "opened", lambda: conntrack.ENDS.findall((rest.pop(0) if len(rest) > 1 else rest[0]).encode())
        )

    tables(old, new, old, new, new)
    answer: dict[str, Any] = conntrack.renew(found or {})
    assert answer == {"looked": 1, "ended": 2, "left": 0}
    assert (tmp_path / "asked").read_text() == "-D --orig-src 100.64.0.54 --reply-dst 192.168.0.51\n"
    assert conntrack.told(answer) == "2 open connections had the old translation: ended"
    tables(old)
    answer = conntrack.renew(found or {})
    assert (answer["left"], answer["ended"]) == (1, conntrack.LOOKS)
    assert conntrack.told(answer).endswith("; 1 STILL HAVE IT")
    assert conntrack.told({"looked": 9, "ended": 0, "left": 0}) == ""
