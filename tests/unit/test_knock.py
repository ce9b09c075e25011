"""A handshake by hand: by the router that is named, whatever routes there are."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.unit.namespaces import Inside, namespace
from underlay.access.sessions import Agent, RefusedError
from underlay.remote import send

SERVE = "import socket, time; s = socket.create_server(('0.0.0.0', 80)); print('ready', flush=True); time.sleep(60)"


@pytest.fixture
def hosts() -> Iterator[dict[str, Inside]]:
    """A host, and a router with an address behind it to which the host has no route."""
    with ExitStack() as stack:
        found = {name: stack.enter_context(namespace("ip")) for name in ("host", "router")}
        found["router"]("ip", "link", "add", "lan", "type", "veth", "peer", "up0", "netns", str(found["host"].pid))
        found["router"](
            "sh",
            "-e",
            text="ip link set lo up; ip link set lan up; ip address add 192.0.2.1/24 dev lan;"
            "ip address add 198.51.100.7/32 dev lo",
        )
        found["host"]("sh", "-e", text="ip link set lo up; ip link set up0 up; ip address add 192.0.2.9/24 dev up0")
        argv = [*found["router"].enter, sys.executable, "-c", SERVE]
        server = stack.enter_context(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
        stack.callback(server.kill)
        assert server.stdout is not None
        server.stdout.readline()
        yield found


@pytest.fixture
def agent(hosts: dict[str, Inside]) -> Iterator[Agent]:
    agent = Agent("host", [*hosts["host"].enter, sys.executable, *send.argv("host")[1:]])
    yield agent
    agent.close()


def test_an_address_that_no_route_leads_to(hosts: dict[str, Inside], agent: Agent) -> None:
    def call(to: str, port: int = 80, router: str = "192.0.2.1") -> list[str | int]:
        return ["192.0.2.9", to, port, router]

    [plain] = agent.ask("connect", [["192.0.2.9", "198.51.100.7", 80, "read soon"]])
    assert plain[2] == "Network is unreachable"
    calls = [call("198.51.100.7"), call("192.0.2.1"), call("198.51.100.7", 81), call("198.51.100.8")]
    calls.append(call("198.51.100.7", router="192.0.2.2"))
    before = hosts["host"]("ip", "route")
    assert agent.ask("knock", calls) == [True, True, False, False, False]
    assert hosts["host"]("ip", "route") == before
    # Nobody waits for the rest of the connection.
    assert hosts["router"]("ss", "-Htn", "state", "syn-recv") == ""


def test_what_it_can_not_do(agent: Agent) -> None:
    with pytest.raises(RefusedError, match=r"no NIC has 192\.0\.2\.77"):
        agent.ask("knock", [["192.0.2.77", "198.51.100.7", 80, "192.0.2.1"]])


def test_without_root(hosts: dict[str, Inside]) -> None:
    nobody = ["setpriv", "--reuid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    agent = Agent("host", [*hosts["host"].enter, *nobody, sys.executable, *send.argv("host")[1:]])
    with pytest.raises(RefusedError, match="Operation not permitted"):
        agent.ask("knock", [["192.0.2.9", "198.51.100.7", 80, "192.0.2.1"]])
    agent.close()
