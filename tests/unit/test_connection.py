"""How pyinfra reaches hosts, with a worker that is made up: its commands run on this machine, without sudo."""

import subprocess
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import Config, FactBase, Host, State, StringCommand
from pyinfra.api import inventory as pyinfra_inventory

from underlay.access.sessions import UnreachableError
from underlay.guard import runner
from underlay.operations import connection


class Greeting(FactBase[list[str]]):
    """What a file says."""

    def command(self, path: str) -> str:
        """+ path: the file"""
        return f"cat {path}"

    def process(self, output: list[str]) -> list[str]:
        return output


class Worker:
    """Counts what is asked."""

    def open(self, hosts: list[str]) -> None:
        assert hosts == []

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.dead = ""

    def connect(self, _: str) -> str | None:
        return self.dead or None

    def shell(self, _: str, command: str, stdin: bytes, seconds: float) -> tuple[int, bytes, bytes]:
        self.asked.append(command)
        if self.dead:
            raise UnreachableError(self.dead)
        try:
            done = subprocess.run(["sh", "-c", command], input=stdin, capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    made = Worker()
    monkeypatch.setattr(runner, "worker", lambda _: made)
    monkeypatch.setattr(connection, "current", lambda: None)
    return made


@pytest.fixture
def host(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Host:
    before = pyinfra_inventory.get_execution_connectors
    connection.install(None, [])  # type: ignore[arg-type]
    state = State(pyinfra_inventory.Inventory((["box"], {})), Config())  # type: ignore[no-untyped-call]
    monkeypatch.setattr(pyinfra_inventory, "get_execution_connectors", before)
    found: Host = state.inventory.get_host("box")
    found.connect()
    assert found.connected
    return found


def files(folder: Path, **contents: str) -> list[connection.Fact]:
    for name, content in contents.items():
        (folder / name).write_text(content)
    return [(Greeting, {"path": str(folder / name)}) for name in contents]


def ask(host: Host, facts: list[connection.Fact]) -> list[Any]:
    return [host.get_fact(fact, **arguments) for fact, arguments in facts]


def test_what_is_read_ahead_is_one_round_trip(worker: Worker, host: Host, tmp_path: Path) -> None:
    """Whatever it is: marks like our own, empty lines, nothing at all."""
    facts = files(tmp_path, one="1\n2\n", two="@@ x\n@@ = 0\nlast\n", three="\n\n", four="")
    connection.read_ahead(host, facts)
    assert ask(host, facts) == [["1", "2"], ["@@ x", "@@ = 0", "last"], ["", ""], None]
    assert len(worker.asked) == 1
    ask(host, facts)
    assert len(worker.asked) == 1


@pytest.mark.parametrize("odd", ["no newline", "@@ a mark without its end\n", "@@ = 0\n"])
def test_what_is_read_ahead_is_true_or_asked_anew(odd: str, host: Host, tmp_path: Path) -> None:
    facts = files(tmp_path, one="1\n", two=odd, three="3\n")
    connection.read_ahead(host, facts)
    assert ask(host, facts) == [["1"], [odd.rstrip()], ["3"]]


@pytest.mark.parametrize("what", ["a command", "a file", "a guarded change", "a minute"])
def test_what_was_read_ahead_is_asked_anew_after(
    what: str, worker: Worker, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = files(tmp_path, one="old\n")
    connection.read_ahead(host, facts)
    if what == "a command":
        host.run_shell_command(StringCommand("true"))
    elif what == "a file":
        host.put_file(BytesIO(b""), str(tmp_path / "other"))
    elif what == "a guarded change":
        connection.forget(host)
    else:
        monkeypatch.setattr(connection, "FRESH", 0)
    files(tmp_path, one="new\n")
    assert ask(host, facts) == [["new"]]


def test_a_fact_that_failed_ahead_is_asked_again_and_fails(worker: Worker, host: Host, tmp_path: Path) -> None:
    facts = files(tmp_path, one="1\n")
    missing: connection.Fact = (Greeting, {"path": str(tmp_path / "missing")})
    connection.read_ahead(host, [missing, *facts])
    assert ask(host, facts) == [["1"]]
    assert len(worker.asked) == 1
    with pytest.raises(Exception, match="No hosts remaining"):
        ask(host, [missing])
    assert len(worker.asked) == 2


@pytest.mark.parametrize("length", [10, 200_000, 3_000_000])
def test_a_command_of_any_length(host: Host, length: int, tmp_path: Path) -> None:
    """One argument of a program is 128 KiB at most; a command that reads stdin must not read the rest of the script."""
    text = f"cat\necho {'x' * length} | wc -c\necho done"
    assert host.run_shell_command(StringCommand(text))[1].stdout_lines == [str(length + 1), "done"]
    failed, output = host.run_shell_command(StringCommand(f"set -e\n: {'x' * length}\necho no >&2\nexit 3"))
    assert (failed, output.stderr_lines) == (False, ["no"])


def test_input_exit_codes_and_odd_bytes(host: Host) -> None:
    good, output = host.run_shell_command(
        StringCommand("cat; printf 'caf\\351\\n'; exit 4"), _stdin="a", _success_exit_codes=[4]
    )
    assert (good, output.stdout_lines) == (True, ["a", "caf\N{REPLACEMENT CHARACTER}"])


def test_silence_is_an_error_in_time(host: Host) -> None:
    with pytest.raises(OSError, match=r"no answer within 0\.5 s|no answer within 0 s"):
        host.run_shell_command(StringCommand("sleep 20"), _timeout=0.5)


def test_a_command_that_does_not_say_how_long_it_takes_has_a_deadline(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "SECONDS", 0.5)
    with pytest.raises(OSError, match="no answer within"):
        host.run_shell_command(StringCommand("sleep 20"))


def test_a_file_is_written_whole_or_not_at_all(
    worker: Worker, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "it's here"
    content = bytes(range(256)) * 1000
    assert host.put_file(BytesIO(content), str(there))
    assert there.read_bytes() == content
    whole = worker.shell
    monkeypatch.setattr(worker, "shell", lambda host, command, stdin, seconds: whole(host, command, stdin[:9], seconds))
    assert not host.put_file(BytesIO(b"something new"), str(there))
    assert there.read_bytes() == content
    assert list(tmp_path.iterdir()) == [there]
    back = BytesIO()
    assert host.get_file(str(there), back)
    assert back.getvalue() == content


def test_a_host_that_cannot_be_reached(worker: Worker, host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.disconnect()
    worker.dead = "box can't be reached at 192.0.2.1: no answer"
    host.connect()
    assert not host.connected
    assert worker.dead in caplog.text
    with pytest.raises(OSError, match="can't be reached"):
        host.run_shell_command(StringCommand("true"))
