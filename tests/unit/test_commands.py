"""What all commands have in common: help that tells the exit codes, and one table of them."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invoke import Exit

import tasks
from tests.unit.conftest import Planned
from tests.unit.test_inventory import target
from underlay.access.sessions import UnreachableError
from underlay.commands import parameters
from underlay.commands.site import deploy, drift, plan
from underlay.errors import OperatorError, exit_code, report_and_exit
from underlay.observe.drift import Line
from underlay.oncall import publish
from underlay.plan import REPO

COMMANDS = REPO / "underlay" / "commands"
DIFFERENCE = Line("lb", "missing", "live", "a rule")
UNMANAGED = Line("lb", "unmanaged", "live", "a rule")


def test_one_file_a_command() -> None:
    """Each is in the file of its name, is one that `./inv` has, and tells its exit codes."""
    files = {path.stem.replace("_", "-") for path in COMMANDS.glob("*/*.py")} - {"--init--", "dry-run"}
    own = {name: task for name, task in tasks.namespace.tasks.items() if task.__module__.startswith("underlay.")}
    assert set(own) == files | {"restore", "unpublish"}
    for name, task in own.items():
        assert "Exit code" in str(task.__doc__), name
        assert task.__module__.rpartition(".")[2] in {name.replace("-", "_"), "backup", "publish"}


@pytest.mark.parametrize(
    ("wrong", "unread", "code"), [([], [], 0), ([], ["lb"], 1), (["x"], [], 2), (["x"], ["lb"], 2)]
)
def test_what_is_wrong_counts_for_more(wrong: list[str], unread: list[str], code: int) -> None:
    assert exit_code(wrong=wrong, unread=unread) == code


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [(OperatorError("no such host"), 1, "error: no such host\n"), (KeyboardInterrupt(), 130, "interrupted\n")],
)
def test_mistake_and_ctrl_c(error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end, report_and_exit():
        raise error
    assert (end.value.code, capsys.readouterr().err) == (code, said)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        ({"lb": [], "gateway": [UNMANAGED]}, 0),
        ({"lb": "can't be reached", "gateway": [UNMANAGED]}, 1),
        ({"lb": [UNMANAGED, DIFFERENCE]}, 2),
        ({"lb": [DIFFERENCE], "gateway": "can't be reached"}, 2),
    ],
)
def test_drift(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, found: dict[str, list[Line] | str], code: int
) -> None:
    """What others put there is no drift; drift counts although another host could not be read."""
    monkeypatch.setattr(drift, "current", lambda: target(planned()))
    monkeypatch.setattr("underlay.observe.drift.read", lambda *_: found)
    with pytest.raises(Exit) as end:
        drift.drift.body(None, json=True)
    assert end.value.code == code


@pytest.mark.parametrize(("ends", "code"), [((0, 0, 0, 0), 0), ((0, 2, 0, 0), 2), ((0, 1), 1), ((2, 1), 2)])
def test_dry_deploy(
    planned: Planned,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ends: tuple[int, ...],
    code: int,
) -> None:
    """Of all roles: whether something would change; one that can't be looked at ends it, and what was seen counts."""
    codes = iter(ends)
    _run_with(monkeypatch, planned, lambda: next(codes))
    with pytest.raises(Exit) as end:
        deploy.deploy.body(None, dry=True)
    assert end.value.code == code
    assert capsys.readouterr().out.count("\n=== ") == len(ends)


def test_deploy_that_fails(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever pyinfra ends with: 1, and later roles are left alone."""
    _run_with(monkeypatch, planned, lambda: 2)
    with pytest.raises(Exit) as end:
        deploy.deploy.body(None)
    assert (end.value.code, "the deploy of gateway failed" in str(end.value)) == (1, True)


def test_a_broken_file_of_a_later_role_stops_before_the_first(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "jumphost.py").write_text("people_on_call = 1")
    _run_with(monkeypatch, planned, lambda: pytest.fail("pyinfra was started"))
    with pytest.raises(SystemExit) as end:
        deploy.deploy.body(None)
    assert end.value.code == 1
    assert "jumphost.py: 1 error; nothing was changed" in capsys.readouterr().err


def test_a_bad_file_of_a_role_is_a_bad_plan(
    planned: Planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lb_nginx.py").write_text('web_services = {"a": {"upstreams": ["lb:80"]}}')
    monkeypatch.setenv("UNDERLAY_PLAN", str(planned().source))
    with pytest.raises(SystemExit) as end:
        plan.plan.body(None)
    assert end.value.code == 1
    assert "the proxy itself" in capsys.readouterr().err


def _run_with(monkeypatch: pytest.MonkeyPatch, planned: Planned, code: Callable[[], int]) -> None:
    class Done:
        stdout = json.dumps({})

        def __init__(self, *_: object, **__: object) -> None:
            self.returncode = code()

    monkeypatch.setattr(deploy, "current", lambda: target(planned()))
    monkeypatch.setattr("subprocess.run", Done)


@pytest.mark.parametrize(
    ("deployed", "verified", "code", "back"),
    [
        (0, [], 0, False),
        (1, [], 1, False),
        (0, ["no answer"], 2, True),
        (0, UnreachableError("gateway can't be reached"), 1, True),
        (0, KeyboardInterrupt(), 130, True),
    ],
)
def test_publish(
    planned: Planned,
    monkeypatch: pytest.MonkeyPatch,
    deployed: int,
    verified: list[str] | BaseException,
    code: int,
    back: bool,
) -> None:
    """What its verification finds wrong is 2, what could not be tried is 1; both are rolled back, and so is Ctrl-C."""
    rolled: list[int] = []

    class Gateway:
        def __init__(self, *_: object) -> None: ...

        def others(self, _: object) -> dict[str, str]:
            return {}

        def changes(self) -> int:
            return 7

        def announce(self, *_: object) -> None: ...

        def renew(self, *_: object) -> dict[str, int]:
            return {"looked": 3, "ended": 0, "left": 0}

    def verify(*_: object) -> list[str]:
        if isinstance(verified, BaseException):
            raise verified
        return verified

    monkeypatch.setattr(publish, "_Gateway", Gateway)
    monkeypatch.setattr(publish, "_deploy", lambda *_: deployed)
    monkeypatch.setattr(publish, "_verify", verify)
    monkeypatch.setattr(publish, "_roll_back", lambda _, before, __: rolled.append(before))
    plan = planned()
    assert publish.publish(target(plan), plan.host("lb"), None, (), dry=False) == code
    assert rolled == [7] * back


def test_published_with_other_ports(planned: Planned) -> None:
    plan = planned()
    with pytest.raises(publish.PublishError, match=r"lb is published with all ports, not tcp/80: change .*\.published"):
        publish.publish(target(plan), plan.host("lb"), None, ("tcp/80",), dry=False)


@pytest.mark.parametrize("answer", ["y\n", "n\n", ""])
def test_confirmed(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Only a yes at a terminal is one."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def ask(stdin: Any) -> bool:
        monkeypatch.setattr("sys.stdin", stdin)
        try:
            parameters.confirmed("sure?")
        except OperatorError:
            return False
        return True

    assert ask(Terminal(answer)) == (answer == "y\n")
    assert not ask(io.StringIO(answer))


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h", 3600)])
def test_durations(text: str, seconds: int) -> None:
    assert parameters.duration(text, 86400) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "5 m", "1.5h", "5d", "25h", "9" * 5000, "\u0665m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(OperatorError):
        parameters.duration(text, 86400)
