"""Who may log in: the file of an account, and the deploy machine's line in the operator's."""

import base64
import os
import pwd
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from underlay.access.hostkeys import with_key
from underlay.facts.access import AccountKeys, AuthorizedKeys, LoginKeys
from underlay.guard.change import Change, NewFile
from underlay.operations import access

MARK = "underlay-deploy-machine"
KEY = f'from="100.64.0.52" ssh-ed25519 AAAA {MARK}'
OTHER = "ssh-ed25519 BBBB ops@laptop"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"{KEY}\n"),
        (OTHER, f"{OTHER}\n{KEY}\n"),
        (f"{OTHER}\n", f"{OTHER}\n{KEY}\n"),
        (f"{OTHER}\n{KEY}\n", f"{OTHER}\n{KEY}\n"),
        (f"{KEY}", f"{KEY}\n"),
        (f"ssh-ed25519 OLD {MARK}\n{OTHER}\r\n", f"{KEY}\n{OTHER}\r\n"),
        (f"{OTHER}\nssh-ed25519 OLD {MARK}\r\nssh-ed25519 X {MARK}\n", f"{OTHER}\n{KEY}\n"),
        (f"# the {MARK}\n\n{OTHER}\udce9", f"# the {MARK}\n\n{OTHER}\udce9\n{KEY}\n"),
    ],
    ids=["nothing", "no end", "others", "there", "there, no end", "another, CRLF", "twice", "a comment, Latin-1"],
)
def test_the_deploy_machine(before: str, after: str) -> None:
    """One line of ours; every other line byte for byte."""
    assert with_key(before, KEY, MARK) == after
    assert with_key(after, KEY, MARK) == after


def test_bytes_of_others_stay() -> None:
    """From the host to the host, whatever they are."""
    content = f"# \xe9\n{OTHER}\n".encode("latin-1")
    lines = ["/real/authorized_keys", "there", base64.b64encode(content).decode()]
    found = AuthorizedKeys().process(lines)
    assert found.path == "/real/authorized_keys"
    request = Change(what=(), files={found.path: NewFile(found.content or "", "")}).request()
    file = request["change"]["files"][found.path]
    assert (base64.b64decode(file["content"]), file["mode"]) == (content, "")
    assert AuthorizedKeys().process(["/none"]) == LoginKeys("/none", None)


def read(fact: Any, **arguments: str) -> Any:
    done = subprocess.run(
        ["sh", "-c", fact.command(**arguments)], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    return fact.process(done.stdout.splitlines())


def test_read(tmp_path: Path) -> None:
    """Where a link leads to; nothing, one that leads nowhere, an empty file."""
    path, real = tmp_path / "a b", tmp_path / "real"
    assert read(AuthorizedKeys(), path=str(path)) == LoginKeys(str(path), None)
    path.symlink_to(real)
    assert read(AuthorizedKeys(), path=str(path)) == LoginKeys(str(real), None)
    real.write_text("")
    assert read(AuthorizedKeys(), path=str(path)) == LoginKeys(str(real), "")
    real.write_text(f"{OTHER}\n")
    assert read(AuthorizedKeys(), path=str(path)) == LoginKeys(str(real), f"{OTHER}\n")
    assert read(AccountKeys(), account="nobody-of-that-name") == ""


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs the operation's commands for an account whose home is a folder of the test."""
    (tmp_path / "bin").mkdir()
    name = pwd.getpwuid(os.geteuid()).pw_name
    getent = tmp_path / "bin" / "getent"
    getent.write_text(f"#!/bin/sh\necho {name}:x:0:0::{tmp_path}:/bin/sh\n")
    getent.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    unlike = SimpleNamespace(get_fact=lambda *_, **__: "of somebody else")
    monkeypatch.setattr("underlay.operations.access.host", unlike)

    def run(*keys: str, limit: str = "unlimited") -> int:
        [command] = access.account_keys._inner(account=name, keys=list(keys))
        return subprocess.run(
            ["bash", "-c", f"ulimit -f {limit}; exec sh -c {shlex.quote(command.get_raw_value())}"],
            capture_output=True,
            check=False,
        ).returncode

    return run


def public(folder: Path, name: str) -> str:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)], check=True)
    return (folder / f"{name}.pub").read_text().strip()


def test_people(account: Callable[..., int], tmp_path: Path) -> None:
    """New keys; then, with a full disk or a line that is no key, still those; then none."""
    first, second = public(tmp_path, "first"), public(tmp_path, "second")
    path = tmp_path / ".ssh" / "authorized_keys"
    assert account(first) == 0
    assert path.read_text() == f"{first}\n"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert account(second, limit="0") != 0
    assert account(second, "ssh-ed25519 AAAA no key") != 0
    assert [each.name for each in path.parent.iterdir()] == ["authorized_keys"]
    assert path.read_text() == f"{first}\n"
    path.rename(tmp_path / "real")
    path.symlink_to(tmp_path / "real")
    assert account(first, second) == 0
    assert (path.is_symlink(), path.read_text()) == (True, f"{first}\n{second}\n")
    assert account() == 0
    assert path.read_text() == ""
