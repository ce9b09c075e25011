"""`invoke flows` on the deployed site: connections are shown, and one of them is killed."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab import control
from lab.process import wait_until
from tests.lab.commands import inside, invoke

pytestmark = pytest.mark.usefixtures("deployed")
HOLD = """\
import socket, time
held = [socket.create_connection(("192.168.0.50", 80)) for _ in range(2)]
time.sleep(600)
"""


@pytest.fixture
def held() -> Iterator[list[dict[str, Any]]]:
    """Two connections from the jump host to the package repository, as `flows` has them."""
    control.run("jumphost", ["systemd-run", "-q", "--unit=hold", "python3", "-c", HOLD])
    try:
        assert wait_until(lambda: len(ports()) == 2, seconds=10)
        yield listed("--host", "jumphost")
    finally:
        control.run("jumphost", "systemctl stop hold")


def ports() -> set[tuple[str, int]]:
    rows = inside("jumphost", "ss -Htn state established dst 192.168.0.50").splitlines()
    return {("192.168.0.50", int(row.split()[2].rpartition(":")[2])) for row in rows}


def listed(*arguments: str) -> list[dict[str, Any]]:
    found = json.loads(invoke("flows", "--json", "--limit", "500", *arguments).stdout)
    assert found["matching"] == len(found["connections"]) <= found["entries"]
    ours = ports()
    return [each for each in found["connections"] if (each["destination"], each["source_port"]) in ours]


def tracked(flow: dict[str, Any]) -> bool:
    return f"src=100.64.0.52 dst=192.168.0.50 sport={flow['source_port']} " in inside("gateway", "conntrack -L")


def test_shown_and_killed(held: list[dict[str, Any]]) -> None:
    """What it was opened as and what NAT makes of it; killed by its name, it goes, and it alone."""
    one, other = held
    assert one["source"] == "100.64.0.52"
    assert one["translated"] == f"as 192.168.0.52:{one['answered_to_port']}"
    assert one["state"] == "ESTABLISHED ASSURED"
    assert {each["id"] for each in listed("--published", "jumphost")} == {one["id"], other["id"]}
    refused = invoke("flows", "--kill", str(one["id"]), good=False)
    assert refused.returncode == 1
    assert one["name"].split()[1] in refused.stdout  # it is shown first
    assert "say --yes" in refused.stderr
    assert tracked(one)
    assert f"killed {one['name']}" in invoke("flows", "--kill", one["name"], "--yes").stdout
    assert not tracked(one)
    assert tracked(other)
    gone = invoke("flows", "--kill", str(one["id"]), "--yes", good=False)
    assert (gone.returncode, "no connection" in gone.stderr) == (1, True)
