"""TCP connections, and in words why there is none."""

import json
import socket
from collections.abc import Iterator

import pytest

from underlay.remote.checks import connect

HERE = "127.0.0.1"


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server((HERE, 0)) as listener:
        yield listener


def test_connected(server: socket.socket) -> None:
    """From the address that was asked for."""
    client, why = connect.connect(HERE, server.getsockname()[1], 1, source="127.0.0.2")
    peer, address = server.accept()
    assert (why, address[0]) == ("", "127.0.0.2")
    client.close()
    peer.close()


@pytest.mark.parametrize(
    ("name", "source", "error"),
    [
        (HERE, "", "Connection refused"),
        (HERE, "192.0.2.1", "Cannot assign requested address"),
        ("no-such-name.invalid", "", "no-such-name.invalid can't be resolved to an address"),
    ],
)
def test_not_connected(server: socket.socket, name: str, source: str, error: str) -> None:
    port = server.getsockname()[1]
    server.close()
    client, why = connect.connect(name, port, 1, source)
    assert why == error
    if source:
        assert client.getsockname()[1] == 0


def test_bound_though_nobody_answers(server: socket.socket) -> None:
    port = server.getsockname()[1]
    server.close()
    client, why = connect.connect(HERE, port, 1, "127.0.0.2")
    assert (why, client.getsockname()[0]) == ("Connection refused", "127.0.0.2")
    assert client.getsockname()[1]


def test_silence() -> None:
    """A queue that is full takes nobody, and says nothing."""
    with socket.create_server((HERE, 0), backlog=0) as server:
        ends = [connect.connect(HERE, server.getsockname()[1], 0.2) for _ in range(4)]
    assert ends[-1][1] == "no answer within 0.2 s"


def test_timed(server: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with the name that it was asked under, in their order."""
    good = f"{HERE}:{server.getsockname()[1]}"
    connect.main("1", json.dumps([["a", good], ["b", f"{HERE}:1"]]))
    [[name, end, seconds, error], bad] = json.loads(capsys.readouterr().out)
    assert (name, end, error) == ("a", good, "")
    assert 0 < seconds < 1
    assert bad == ["b", f"{HERE}:1", None, "Connection refused"]
