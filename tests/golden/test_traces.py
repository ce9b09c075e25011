"""The way of a packet as the plan has it, written down step by step: one for each row of the traffic table, and more.

`UPDATE_GOLDEN=1 pytest tests/golden` writes `traces.expected` anew; the difference is then there to be reviewed.
"""

import os
from collections.abc import Iterator
from pathlib import Path as File

from netaddr import IPAddress

from underlay.desired import traffic
from underlay.plan import REPO, Plan, load
from underlay.trace.planned import PROTOCOLS, Packet, Path, ends, path

EXPECTED = File(__file__).with_name("traces.expected")
OUTSIDE = IPAddress("203.0.113.1")
MORE = [
    ("tcp", "images", "dev"),
    ("tcp", "jumphost", "lb"),
    ("tcp", "jumphost", "192.168.0.52"),
    ("tcp", "internet", "192.168.0.53"),
    ("icmp", "master-1", "8.8.8.8"),
    ("tcp", "master-1:storage", "gateway"),
    ("udp", "master-1:traffic", "100.64.0.1"),
    ("tcp", "gateway", "192.168.0.53"),
    ("tcp", "lb", "100.64.32.77"),
    ("tcp", "dev", "100.64.64.2"),
]
"""In one network, one's own published address, from outside, to strangers, to the gateway, and without a way."""


def _paths(plan: Plan) -> Iterator[tuple[str, Path]]:
    rows: set[str] = set()
    for flow in traffic.expected(plan, OUTSIDE):
        if flow.row not in rows:
            rows.add(flow.row)
            yield flow.row, path(plan, "tcp", flow.source, Packet(flow.source_address, flow.destination), OUTSIDE)
    for name, source, destination in MORE:
        protocol = next(each for each in PROTOCOLS if each == name)
        yield f"{name} {source} {destination}", path(plan, protocol, *ends(plan, source, destination, OUTSIDE), OUTSIDE)


def test_traces() -> None:
    """Every step, its words and its line of the plan are as reviewed."""
    lines = []
    for title, found in _paths(load(REPO / "group_data" / "all.py")):
        lines.append(f"=== {title}: {found.source} {found.packet}")
        lines += [
            f"{step.way:<8} {step.host:<9} {step.stage:<16} {step.expected}" + (f"  # {step.plan}" if step.plan else "")
            for step in found.steps
        ]
        lines += [f"end      {found.end}"] if found.end else []
        lines += [f"answer   is {found.translated_answer}"] if found.translated_answer else []
        lines.append("")
    text = "\n".join(lines)
    if os.environ.get("UPDATE_GOLDEN"):
        EXPECTED.write_text(text)
    assert text == EXPECTED.read_text()
