"""What the doctor sends to a host, tried in a network of its own."""

import ast
import json
import socket
import struct
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tests.unit.conftest import Planned
from tests.unit.namespaces import namespace
from underlay.access.endpoints import endpoints_from
from underlay.doctor import gather
from underlay.doctor.survey import Failure
from underlay.plan import REPO
from underlay.remote import arp, send, survey
from underlay.remote.survey import connections
from underlay.remote.survey.neighbours import echo_request

PAIR = """\
link add left type veth peer name right address 02:00:00:00:00:02
link set left address 02:00:00:00:00:01
link add far type veth peer name farther address 02:00:00:00:00:04
"""


def ask(inside: object, request: object) -> dict[str, object]:
    answer = inside(*send.argv(), text=send.line(survey).decode() + json.dumps(request))  # type: ignore[operator]
    found: dict[str, object] = json.loads(answer)
    return found


def test_neighbours() -> None:
    """Who answers for an address, on its own NIC or on another one; nobody on a NIC that is down or not there."""
    with namespace("ip", "python3") as inside:
        inside("ip", "-batch", "-", text=PAIR)
        inside("sh", "-c", "ip netns list >/dev/null 2>&1 || true")
        for command in (
            "link set lo up",
            "address add 192.0.2.1/24 dev left",
            "address add 192.0.2.2/24 dev right",
            "link set left up",
            "link set right up",
        ):
            inside("ip", *command.split())
        # Both ends are in one namespace: right answers for all addresses there, left's own included.
        pairs = [
            ["left", "192.0.2.2", False],
            ["left", "192.0.2.9", True],
            ["far", "192.0.2.2", False],
            ["none", "192.0.2.2", True],
        ]
        found = ask(inside, {"arp": pairs})["arp"]
    assert found["left"]["192.0.2.2"] == ["02:00:00:00:00:02"]  # type: ignore[index]
    assert found["left"]["192.0.2.9"] == []  # type: ignore[index]
    assert not found["far"].get("192.0.2.2")  # type: ignore[index]
    assert "none" not in found  # type: ignore[operator]


def test_an_answer_is_needed() -> None:
    """A ping that nobody answers tells nothing; one over the loopback passes whole."""
    with namespace("ip", "python3") as inside:
        inside("ip", "link", "set", "lo", "mtu", "1500", "up")
        found = ask(inside, {"echo": [["lo", "127.0.0.1", "127.0.0.1"], ["none", "127.0.0.1", "127.0.0.1"]]})
    assert found == {"echo": {"lo": [1500, 1500], "none": [0, 0]}}


def test_connect() -> None:
    """A listener, a closed port, one that takes connections and does not answer, and our own probe."""
    quiet, probe = socket.create_server(("127.0.0.1", 0)), socket.create_server(("127.0.0.1", 0))
    closed = socket.create_server(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in (quiet, closed)]
    closed.close()
    with quiet:
        found = connections.errors([["127.0.0.1", ports[0], False], ["127.0.0.1", ports[1], False]])
        assert found == {f"127.0.0.1:{ports[0]}": "", f"127.0.0.1:{ports[1]}": "Connection refused"}
        assert "does not answer within" in connections.error_of("127.0.0.1", ports[0], True)
    probe.close()


@pytest.mark.parametrize("size", [28, 100, 1499, 1500])
def test_echo_request(size: int) -> None:
    """The packet has the size that was asked for, and its checksum is right (RFC 1071)."""
    packet = echo_request(7, size)
    assert len(packet) == size - 20
    padded = packet + b"\0" * (len(packet) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    assert total == 0xFFFF


def test_question() -> None:
    """An ARP probe names no sender's address: nobody learns anything from it (RFC 5227)."""
    frame = arp.packet(arp.REQUEST, b"\2\0\0\0\0\1", "0.0.0.0", "192.0.2.7")
    assert frame[:6] == b"\xff" * 6
    assert frame[28:32] == bytes(4)
    assert frame[38:42] == socket.inet_aton("192.0.2.7")


SERVER = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("127.0.0.2", 53))
    print("ready", flush=True)
    question, client = server.recvfrom(512)
    server.sendto(question[:2] + bytes([0x81, 0x85]) + question[4:], client)
"""


def test_name_servers() -> None:
    """An answer is one, whatever it says; no answer and no listener are told, each server by itself."""
    script = f"""
import subprocess, sys
sys.path.insert(0, {str(REPO)!r})
from underlay.remote.survey import connections
server = subprocess.Popen([sys.executable, "-c", {SERVER!r}], stdout=subprocess.PIPE)
server.stdout.readline()
print([connections.silence(address) for address in ("127.0.0.2", "127.0.0.3", "192.0.2.1")])
"""
    with namespace("ip", "python3") as inside:
        inside("ip", "link", "set", "lo", "up")
        inside("ip", "-batch", "-", text=PAIR)
        for command in (
            "address add 192.0.2.2/24 dev left",
            "link set left up",
            "link set right up",
            "neighbour add 192.0.2.1 lladdr 02:00:00:00:00:02 dev left",
        ):
            inside("ip", *command.split())
        found = ast.literal_eval(inside(sys.executable, "-c", script))
    assert found == ["", "Connection refused", f"no answer within {connections.PATIENCE} s"]


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        ("", "mute"),
        ("Connection refused", "refused"),
        ("timed out", "silent"),
        ("No route to host", "silent"),
    ],
)
def test_what_a_jump_host_sees_of_a_host_behind_it(planned: Planned, seen: str, why: str) -> None:
    """ssh waits for a greeting through it, whether somebody took the connection or not."""
    plan = planned()
    asking: Any = object.__new__(gather._Surveyor)
    asking.plan = plan
    ends = {each.name: each for each in endpoints_from(plan, plan.host("dev"))}
    asking.target = SimpleNamespace(endpoints=ends.values(), endpoint=ends.get)
    asking.door = SimpleNamespace(request=lambda *_, **__: {})
    asking._ask = lambda *_: SimpleNamespace(connect={"100.64.0.2:22": seen}, login=None)
    failures = {"master-1": Failure("mute", "Connection timed out during banner exchange")}
    asking._at_the_jump_host(None, failures)
    assert failures["master-1"].why == why
