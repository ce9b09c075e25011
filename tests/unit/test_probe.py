"""The agent on its own: started on this machine, on addresses of the loopback."""

import base64
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from underlay.access.sessions import Agent, UnreachableError
from underlay.plan import REPO
from underlay.remote import probe, send

HERE, THERE = "127.0.0.1", "127.0.0.2"
ARGV = [sys.executable, *send.argv("me")[1:]]


@pytest.fixture
def agent() -> Iterator[Agent]:
    agent = Agent("me", ARGV)
    yield agent
    agent.close()


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A listener that accepts nobody by itself."""
    with socket.create_server((HERE, 0)) as listener:
        yield listener


def test_listener_tells_as_what_one_is_seen(agent: Agent) -> None:
    """Whoever connects is told who answered and which source address was seen."""
    [[port, told, error]] = agent.ask("connect", [[THERE, HERE, agent.port, "read"]])
    assert (told, error) == (["me", THERE], None)
    assert port > 0


def test_many_connections_at_once(agent: Agent) -> None:
    """Results come in the order of the calls, each with a port of its own."""
    sources = [f"127.0.1.{number}" for number in range(1, 101)]
    results = agent.ask("connect", [[source, HERE, agent.port, "read"] for source in sources])
    assert [told for _, told, _ in results] == [["me", source] for source in sources]


def test_nobody_listens(agent: Agent, server: socket.socket) -> None:
    """A refused connection is told as such, and does not disturb the others."""
    port = server.getsockname()[1]
    server.close()
    refused, good = agent.ask("connect", [[HERE, HERE, port, "read"], [HERE, HERE, agent.port, "read"]])
    assert refused[1:] == [None, "Connection refused"]
    assert good[1] == ["me", HERE]


def test_address_that_the_host_does_not_have(agent: Agent) -> None:
    """A source address that is not there is an error of that connection alone."""
    [[port, told, error]] = agent.ask("connect", [["192.0.2.1", HERE, agent.port, "read"]])
    assert (port, told) == (0, None)
    assert "assign" in error


def test_silence(agent: Agent, server: socket.socket) -> None:
    """A connection that nobody answers ends after its own deadline."""
    begin = time.monotonic()
    [[_, told, error]] = agent.ask("connect", [[HERE, HERE, server.getsockname()[1], "read"]])
    assert (told, error) == (None, f"no answer within {probe.PATIENCE} s")
    assert time.monotonic() - begin < probe.PATIENCE + 2


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", "without a word"),
        (b"SSH-2.0-x\r\n", "something else"),
        (b"[" * 400, "something else"),
        (b'["a"]', "something else"),
        (b"1", "something else"),
        (b"x" * 30_000_000, "something else"),
    ],
)
def test_somebody_else_answers(agent: Agent, server: socket.socket, said: bytes, error: str) -> None:
    """What is not a listener of ours is not mistaken for one."""

    def answer() -> None:
        client, _ = server.accept()
        with client, suppress(OSError):
            client.sendall(said)

    threading.Thread(target=answer, daemon=True).start()
    [[_, told, seen]] = agent.ask("connect", [[HERE, HERE, server.getsockname()[1], "read"]])
    assert told is None
    assert error in seen


def test_peers_of_a_real_service(agent: Agent, server: socket.socket) -> None:
    """A held connection shows at the service with the sender's address and port, until the agent ends."""
    service = server.getsockname()[1]
    [[port, told, error]] = agent.ask("connect", [[THERE, HERE, service, "hold"]])
    assert (told, error) == (None, None)
    assert [service, THERE, port] in agent.ask("peers", [service])
    assert agent.ask("peers", [1]) == []
    accepted, _ = server.accept()
    agent.close()
    assert accepted.recv(1) == b""


def test_peers_over_ipv6_sockets(agent: Agent) -> None:
    """A service that listens on an IPv6 socket has its IPv4 peers there."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        service = server.getsockname()[1]
        [[port, _, _]] = agent.ask("connect", [[THERE, HERE, service, "hold"]])
        assert [service, THERE, port] in agent.ask("peers", [service])


def test_further_listener(agent: Agent, server: socket.socket) -> None:
    """A listener on a given port answers like the first; one on a busy port is refused."""
    port = server.getsockname()[1]
    assert agent.ask("free", port) is False
    with pytest.raises(UnreachableError, match="in use"):
        agent.ask("serve", port)
    server.close()
    assert agent.ask("free", port) is True
    assert agent.ask("serve", port) is True
    assert agent.ask("connect", [[HERE, HERE, port, "read"]])[0][1] == ["me", HERE]


def test_further_listeners_share_their_port(agent: Agent, server: socket.socket) -> None:
    """That of another check is not taken for the real service, and its end is not ours."""
    port = server.getsockname()[1]
    server.close()
    other = Agent("other", [*ARGV[:-1], "other"])
    assert other.ask("serve", port) is True
    assert agent.ask("free", port) is True
    assert agent.ask("serve", port) is True
    other.close()
    assert agent.ask("connect", [[HERE, HERE, port, "read"]])[0][1] == ["me", HERE]


TABLE = """\
tcp      6 117 TIME_WAIT src=10.0.0.1 dst=10.0.0.2 sport=1000 dport=2000 src=10.0.0.2 dst=10.9.9.9 sport=2000 dport=1000
tcp      6 9 SYN_SENT src=10.0.0.3 dst=10.0.0.4 sport=1 dport=2 [UNREPLIED] src=10.0.0.4 dst=10.0.0.3 sport=2 dport=1
"""


@pytest.fixture
def conntrack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a program of that name into the way."""

    def install(body: str) -> None:
        path = tmp_path / "conntrack"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return install


def test_connection_table(conntrack: Callable[[str], None]) -> None:
    """An entry is found by the way in which it was opened, not by that of its answers."""
    conntrack(f"cat <<'END'\n{TABLE}END")
    agent = Agent("me", ARGV)
    flows = [
        ["10.0.0.1", 1000, "10.0.0.2", 2000],
        ["10.0.0.2", 2000, "10.9.9.9", 1000],
        ["10.0.0.3", 1, "10.0.0.4", 2],
        ["10.0.0.1", 1000, "10.0.0.2", 2001],
    ]
    assert agent.ask("tracked", flows) == [True, False, True, False]
    agent.close()


def test_a_long_connection_table_is_read_to_its_end(conntrack: Callable[[str], None]) -> None:
    """Also if the first entry is all that was asked for: nobody writes into a closed pipe."""
    conntrack(f"printf '%s\n' '{TABLE.splitlines()[0]}'; exec seq 100000")
    agent = Agent("me", ARGV)
    assert agent.ask("tracked", [["10.0.0.1", 1000, "10.0.0.2", 2000]]) == [True]
    agent.close()


def test_connection_table_that_cannot_be_read(conntrack: Callable[[str], None]) -> None:
    """A table that can't be read is an error, never an empty one."""
    conntrack("exit 1")
    agent = Agent("me", ARGV)
    with pytest.raises(UnreachableError, match="conntrack -L failed with 1"):
        agent.ask("tracked", [])
    agent.close()


def test_web_request(agent: Agent, server: socket.socket) -> None:
    """Status and body come back; without an answer the status is 0."""
    port = server.getsockname()[1]
    server.close()
    [[status, body]] = agent.ask("get", [[HERE, port, "name/"]])
    assert status == 0
    assert "refused" in body


def test_ends_with_its_stdin(agent: Agent) -> None:
    """When the operator is gone, killed even, nothing of the agent is left."""
    port = agent.port
    agent.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HERE, port))


def test_ends_at_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends by itself in time although its stdin stays open."""
    shutil.copytree(REPO / "underlay", tmp_path / "underlay")
    copy = tmp_path / "underlay/remote/probe.py"
    copy.write_text(copy.read_text().replace("DEADLINE = 30", "DEADLINE = 1"))
    monkeypatch.setattr(send, "ROOT", tmp_path)
    process = subprocess.Popen(ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(base64.b64encode(send.packed.__wrapped__(probe)) + b"\n")
    process.stdin.flush()
    assert "port" in json.loads(process.stdout.readline())
    assert process.wait(5) != 0
    process.stdin.close()
    process.stdout.close()


def test_one_that_is_asked_lives_on() -> None:
    """With many hosts the first agents wait for the last ones: what counts is the time since the last request."""
    agent = Agent("me", [*ARGV, "2"])
    for _ in range(5):
        time.sleep(0.6)
        assert agent.ask("free", agent.port) is False
    assert agent._process.wait(5) != 0
    agent.close()


def test_host_without_python() -> None:
    """What the other end said is what a person is told."""
    with pytest.raises(UnreachableError, match=r"box: the probe does not work there: .*python3: not found"):
        Agent("box", ["sh", "-c", "echo 'sh: python3: not found' >&2; exit 127"])


@pytest.mark.parametrize(("said", "told"), [("", "no answer in time"), ("echo 'out of memory' >&2; ", "out of memory")])
def test_program_that_hangs(said: str, told: str) -> None:
    """It is given up in time, though something else holds its stderr, as a shared connection does."""
    begin = time.monotonic()
    agent = Agent("box", ["sh", "-c", f"echo '{{}}'; {said}sleep 30 & wait"])
    with pytest.raises(UnreachableError, match=f"box: the probe does not work there: {told}"):
        agent.ask("peers", [], seconds=0.2)
    with pytest.raises(UnreachableError, match=f"box: the probe does not work there: {told}"):
        agent.ask("peers", [])
    agent.close()
    assert time.monotonic() - begin < 10
