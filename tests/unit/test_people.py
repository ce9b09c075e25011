"""The people on call: which accounts are ours, and which names can't be theirs; the deploy machine's key."""

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyinfra.api import FunctionCommand
from pyinfra.api.exceptions import PyinfraError

from tests.unit.conftest import Planned
from underlay.access import hostkeys
from underlay.facts import access as facts
from underlay.facts.access import Accounts, LoginKeys, OnCallAccounts, machine_public
from underlay.operations import access
from underlay.plan import PlanError, roles
from underlay.remote.files.login_keys import added, lines_of, replaced

HOST = Accounts(
    uids={"root": 0, "systemd-network": 998, "ops": 1000, "ada": 1001, "eve": 1002, "old": 1003, "moved": 1004},
    groups=frozenset({"root", "ops", "ada", "eve", "old", "moved", "printers", "underlay-oncall"}),
    members=frozenset({"ada", "old"}),
    recorded={"ada": 1001, "gone": 1009, "moved": 1010, "systemd-network": 998},
)


def test_only_what_a_deploy_made_is_ours() -> None:
    """Not an account of the system, not one that has another UID by now, not one that is only in the group."""
    assert HOST.made == ["ada"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("systemd-network", "an account of this name is there, and no deploy made it: give the person"),
        ("root", "an account of this name is there, and no deploy made it: give the person"),
        ("ops", "an account of this name is there, and no deploy made it: give the person"),
        ("eve", "an account of this name is there, and no deploy made it: give the person"),
        ("moved", "an account of this name is there, and no deploy made it: give the person"),
        ("printers", "a group of this name is there: give the person"),
        ("old", "say so there: echo 'old 1003' | sudo tee -a /var/lib/underlay/on-call"),
    ],
)
def test_accounts_of_others_are_refused_by_name(name: str, why: str) -> None:
    [refused, *_] = HOST.refusals(["ada", "new", name], "ops")
    assert refused.startswith(f"{name}: ")
    assert why in refused


@pytest.mark.parametrize("name", ["root", "ops", "systemd-network", "old"])
def test_a_member_of_the_group_that_no_deploy_made(name: str) -> None:
    """It is refused, and not removed; only one that may be a person's has a way to be ours."""
    host = Accounts(HOST.uids, HOST.groups, frozenset({"ada", name}), HOST.recorded)
    assert name not in host.made
    [refused] = host.refusals(["ada"], "ops")
    assert refused.startswith(
        f"{name} is in the group underlay-oncall, and no deploy made this account: take it out (sudo "
    )
    assert ("say so there" in refused) == (name == "old")
    assert HOST.refusals(["ada", "new"], "ops")[1:] == []


def test_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the host's own files, members by their first group too."""
    record = tmp_path / "on-call"
    monkeypatch.setattr(facts, "RECORD", str(record))
    (tmp_path / "getent").write_text(
        '#!/bin/sh\ncase $1 in passwd) echo "root:x:0:0::/root:/bin/sh"; echo "ada:x:1001:1001:::"; '
        'echo "bo:x:1002:990:::";;'
        ' group) echo "underlay-oncall:x:990:ada"; echo "ada:x:1001:";; esac\n[ $# = 1 ]\n'
    )
    (tmp_path / "getent").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def read() -> Accounts:
        command = OnCallAccounts().command(["ada", "new"])
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
        return OnCallAccounts().process(done.stdout.splitlines())

    assert read().members == {"ada", "bo"}
    assert read().made == []
    record.write_text("ada 1001\n")
    assert read().made == ["ada"]


NAMES = [
    "systemd-network",
    "www-data",
    "nobody",
    "_apt",
    "_chrony",
    "messagebus",
    "sudo",
    "underlay-oncall",
    "debian-exim",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_system_is_an_error_of_the_plan(name: str, planned: Planned, tmp_path: Path) -> None:
    (tmp_path / "jumphost.py").write_text(f'people_on_call = {{"{name}": []}}\n')
    with pytest.raises(PlanError, match=f"line 1: .*'{name}' is an account or a group of the system"):
        roles.jumphost(planned())


KEY = "ssh-ed25519 " + "A" * 68


def test_what_the_jump_host_says_is_a_key_or_an_error() -> None:
    assert machine_public("") is None
    assert machine_public(f"{KEY} a comment\n") == KEY
    for odd in (f'from="*" {KEY}', f"{KEY}\n{KEY}\n", f"ssh-rsa {'A' * 68}", "Load key: Permission denied", f"{KEY}'"):
        with pytest.raises(ValueError, match="no key that it could log in with"):
            machine_public(odd)


NEW = f'from="100.64.0.52" ssh-ed25519 {"N" * 68} {hostkeys.MARK}'
OLD = f"ssh-ed25519 {'O' * 68}"
OPS = f"ssh-ed25519 {'X' * 68} ops@laptop"


def test_the_line_of_the_deploy_machine_takes_the_place_of_all_its_earlier_ones() -> None:
    """The key in use, whatever its comment, and others with its mark: the host key of an earlier version, say."""
    host_key = f'from="100.64.0.52" ssh-ed25519 {"H" * 68} {hostkeys.MARK}\r\n'
    before = f'# {hostkeys.MARK}\n{OPS}\nfrom="192.0.2.1" {OLD} renamed\n{host_key}'.encode()
    both = added(before, NEW.encode(), OLD.encode())
    assert both == before + NEW.encode() + b"\n", "with its own options, not those of the old one"
    after = replaced(both, NEW.encode(), OLD.encode(), hostkeys.MARK.encode())
    assert lines_of(after) == [f"# {hostkeys.MARK}\n".encode(), f"{OPS}\n".encode(), f"{NEW}\n".encode()]


class Jumphost:
    """Answers what is read of the jump host and of the gateway, by what the command looks at."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.public = b""
        self.error: str | None = None

    def connect(self, _: str) -> str | None:
        return self.error

    def shell(self, name: str, command: str, _: bytes, __: float) -> tuple[int, bytes, bytes]:
        self.asked.append(name)
        if "ssh-keygen" in command:
            return 0, self.public, b""
        text = f"{OPS}\n{HOST_KEY_LINE}\n"
        return 0, f"/home/ops/.ssh/authorized_keys\nthere\n{base64.b64encode(text.encode()).decode()}\n".encode(), b""


HOST_KEY_LINE = f'from="100.64.0.52" ssh-ed25519 {"H" * 68} {hostkeys.MARK}'


@pytest.fixture
def jumphost(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jumphost]:
    made, target = Jumphost(), SimpleNamespace(plan=planned())
    own = LoginKeys("/home/ops/.ssh/authorized_keys", f"{OPS}\n")
    here = SimpleNamespace(
        name="jumphost",
        print_prefix="",
        noop=lambda _: None,
        get_fact=lambda fact, **_: own if fact.__name__ == "AuthorizedKeys" else [],
    )
    monkeypatch.setattr(access, "host", here)
    monkeypatch.setattr("underlay.operations.current_host", here)
    monkeypatch.setattr(access, "current", lambda: target)
    monkeypatch.setattr("underlay.guard.runner.worker", lambda _: made)
    access._public.clear()
    yield made
    access._public.clear()


def test_the_key_of_the_jump_host_takes_the_place_of_its_host_key(jumphost: Jumphost) -> None:
    """One change on each host: there is no moment with both, or with none. Nothing while there is no key."""
    names = ["jumphost", "gateway"]
    assert list(access.deploy_machine._inner(names=names)) == []
    jumphost.public = f"{KEY}\n".encode()
    changes = [each for each in access.deploy_machine._inner(names=names) if isinstance(each, FunctionCommand)]
    line = f'from="100.64.0.52" {KEY} {hostkeys.MARK}'
    assert [each.args[1] for each in changes] == ["", "gateway"]
    assert {file.content for each in changes for file in each.args[0].files.values()} == {f"{OPS}\n{line}\n"}
    asked = len(jumphost.asked)
    list(access.deploy_machine._inner(names=["jumphost"]))
    assert len(jumphost.asked) == asked, "the key is read once, whatever the number of hosts"


@pytest.mark.parametrize("says", [b'from="*" ssh-ed25519 AAAA\n', f"{KEY}\n{KEY}\n".encode(), b"\xff\n"])
def test_a_jump_host_that_says_something_else(says: bytes, jumphost: Jumphost) -> None:
    jumphost.public = says
    with pytest.raises(PyinfraError, match="can't be read: the jump host shows no key"):
        list(access.deploy_machine._inner(names=["jumphost"]))


def test_a_jump_host_that_is_down(jumphost: Jumphost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The load balancer can be deployed all the same; that its keys were left alone is told."""
    told: list[str] = []
    monkeypatch.setattr(access, "tell", told.extend)
    jumphost.error = "jumphost can't be reached at 192.0.2.1: no answer"
    assert list(access.deploy_machine._inner(names=["jumphost"])) == []
    assert told == [f"who may log in from the jump host is left as it is: {jumphost.error}"]


def test_a_gateway_that_is_down(jumphost: Jumphost, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jump host's own line is made, and somebody on call is removed there all the same."""
    jumphost.public = f"{KEY}\n".encode()
    monkeypatch.setattr(jumphost, "connect", lambda name: f"{name} is down" if name == "gateway" else None)
    changes = list(access.deploy_machine._inner(names=["gateway", "jumphost"]))
    assert [each.args[1] for each in changes if isinstance(each, FunctionCommand)] == [""]


def test_another_key_once_somebody_was_removed(jumphost: Jumphost) -> None:
    assert jumphost.error is None
    assert list(access.rotated._inner(removed=[])) == []
    assert len(list(access.rotated._inner(removed=["ada"]))) == 1
