"""Nothing that runs as root goes where others can write: files and links that somebody has put there lead nowhere."""

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyinfra.api import StringCommand

from tests.unit.test_connection import Worker, host, worker  # noqa: F401 (fixtures)
from underlay.access import ssh_config
from underlay.access.ssh_config import TargetError, private_folder
from underlay.facts.access import AccountKeys
from underlay.operations import access
from underlay.operations.files import tree
from underlay.plan import REPO

NOBODY = 65534
OURS = [path for name in ("underlay", "deploys") for path in (REPO / name).rglob("*.py")]


@pytest.mark.parametrize("file", OURS, ids=lambda file: str(file.relative_to(REPO)))
def test_no_program_of_ours_names_such_a_place(file: Path) -> None:
    """But for the fallback of an operator who is not root, in a folder whose owner is looked at."""
    found = re.findall(
        r".*(?:/tmp\b|/dev/shm|/var/tmp|get_temp_filename|FileUploadCommand|files\.put).*", file.read_text()
    )
    allowed = {
        "ssh_config.py": ["/tmp"],
        "connection.py": ["/tmp"],
        "tree.py": ["/tmp"],
        "host.py": ["it is looked at"],
        "system.py": ["they are looked at"],
        "build.py": ["has a name that nobody can guess", "/tmp may be memory"],
    }.get(file.name, [])
    assert [line for line in found if not any(each in line for each in allowed)] == []


def test_the_repo_is_a_part_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No file is in between, whatever its size."""
    folder = tmp_path / "there"
    monkeypatch.setattr(tree, "host", SimpleNamespace(get_fact=lambda *_, **__: {"old": "x"}))
    files = {"a/b": b"one\n", "run": os.urandom(300_000)}
    [command] = tree.present._inner(folder=str(folder), files=files, executable=["run"], ignore=[])
    assert isinstance(command, StringCommand)
    folder.mkdir()
    (folder / "old").touch()
    subprocess.run(["sh"], input=command.get_raw_value().encode(), check=True)
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == files
    assert os.access(folder / "run", os.X_OK)


@pytest.mark.parametrize("planted", ["a link", "a file", "a pipe", "a link to nothing"])
def test_an_upload_follows_nothing(planted: str, worker: Worker, host: object, tmp_path: Path) -> None:  # noqa: F811
    """What is there is replaced, and nobody else can read what was written."""
    there, target = tmp_path / "pyinfra-0123", tmp_path / "shadow"
    for path in (there, there.with_name("pyinfra-0123.upload")):
        match planted:
            case "a link":
                target.write_text("secret")
                path.symlink_to(target)
            case "a link to nothing":
                path.symlink_to(target)
            case "a file":
                path.write_text("theirs")
                path.chmod(0o666)
            case "a pipe":
                os.mkfifo(path)
    source = tmp_path / "source"
    source.write_text("ours")
    assert host.put_file(str(source), str(there))  # type: ignore[attr-defined]
    assert (there.is_symlink(), there.read_text(), there.stat().st_mode & 0o777) == (False, "ours", 0o600)
    if planted.startswith("a link"):
        assert (target.read_text() if target.exists() else "") == ("secret" if planted == "a link" else "")


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / f"underlay-{os.geteuid()}"


def test_a_folder_that_is_a_link(runtime: Path, tmp_path: Path) -> None:
    """What it leads to is left alone, also where it is our own."""
    own = tmp_path / "own"
    own.mkdir(0o755)
    runtime.symlink_to(own)
    with pytest.raises(TargetError, match=r"belongs to somebody else: delete it$"):
        private_folder("site")
    assert (own.stat().st_mode & 0o777, list(own.iterdir())) == (0o755, [])
    runtime.unlink()
    folder = private_folder("site")
    folder.rmdir()
    folder.symlink_to(own)
    with pytest.raises(TargetError):
        private_folder("site")


def test_a_folder_of_others(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mode is not changed before it is refused; root's is never where others make folders first."""
    runtime.mkdir(0o777)
    runtime.chmod(0o777)
    runtime.rename(runtime.with_name(f"underlay-{NOBODY}"))
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    monkeypatch.setattr(ssh_config, "_runtime", lambda: runtime.parent)
    with pytest.raises(TargetError):
        private_folder("site")
    assert runtime.with_name(f"underlay-{NOBODY}").stat().st_mode & 0o777 == 0o777
    monkeypatch.undo()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert str(ssh_config._runtime()) == "/var/run"


def test_with_the_environment_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sudo -E`: their folder is theirs."""
    if os.geteuid():
        pytest.skip("needs root")
    os.chown(tmp_path, NOBODY, NOBODY)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert str(ssh_config._runtime()) == "/var/run"


@pytest.mark.parametrize("name", ["run", "nosuch/run"])
def test_a_folder_of_nobody(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that begins where the command is called, or a folder in one that is not there, is not made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", name if name == "run" else str(tmp_path / name))
    assert str(ssh_config._runtime()) in ("/var/run", "/tmp")


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home of `nobody`, who owns it; beside it a folder of root's with keys."""
    if os.geteuid():
        pytest.skip("another account needs root")
    base = Path(tempfile.mkdtemp(dir="/var/tmp"))
    base.chmod(0o755)
    for name in ("bin", "home", "root"):
        (base / name).mkdir()
    (base / "root" / "authorized_keys").write_text("root's\n")
    (base / "root" / "authorized_keys").chmod(0o600)
    (base / "bin" / "getent").write_text(f"#!/bin/sh\necho nobody:x:{NOBODY}:{NOBODY}::{base}/home:/bin/sh\n")
    (base / "bin" / "getent").chmod(0o755)
    os.chown(base / "home", NOBODY, NOBODY)
    monkeypatch.setenv("PATH", f"{base}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(access, "host", SimpleNamespace(get_fact=lambda *_, **__: "of somebody else"))
    yield base / "home"
    shutil.rmtree(base)


def a_link_to_the_folder(home: Path) -> None:
    (home / ".ssh").symlink_to(home.parent / "root")


def a_link_to_the_file(home: Path) -> None:
    (home / ".ssh").mkdir()
    os.chown(home / ".ssh", NOBODY, NOBODY)
    (home / ".ssh" / "authorized_keys").symlink_to(home.parent / "root" / "authorized_keys")


def a_link_to_a_new_file(home: Path) -> None:
    (home / ".ssh").mkdir()
    os.chown(home / ".ssh", NOBODY, NOBODY)
    (home / ".ssh" / "authorized_keys").symlink_to(home.parent / "root" / "new")


@pytest.mark.parametrize("plant", [a_link_to_the_folder, a_link_to_the_file, a_link_to_a_new_file])
def test_links_in_a_home_lead_root_nowhere(plant: Callable[[Path], None], home: Path, tmp_path: Path) -> None:
    """Neither to write nor to read; in a home without them it works."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = key.with_name("key.pub").read_text().strip()
    [command] = access.account_keys._inner(account="nobody", keys=[public])
    root = home.parent / "root"
    before = {path.name: (path.read_text(), path.stat().st_uid, path.stat().st_mode) for path in root.iterdir()}
    plant(home)
    assert subprocess.run(["sh", "-c", command.get_raw_value()], capture_output=True, check=False).returncode != 0
    assert {path.name: (path.read_text(), path.stat().st_uid, path.stat().st_mode) for path in root.iterdir()} == before
    assert root.stat().st_uid == 0
    read = f"{AccountKeys().command('nobody')}; true"
    assert subprocess.run(["sh", "-c", read], capture_output=True, check=True).stdout.strip() == b""
    ssh = home / ".ssh"
    ssh.unlink() if ssh.is_symlink() else shutil.rmtree(ssh)
    subprocess.run(["sh", "-c", command.get_raw_value()], check=True)
    file = home / ".ssh" / "authorized_keys"
    assert (file.read_text(), file.stat().st_uid, file.stat().st_mode & 0o777) == (f"{public}\n", NOBODY, 0o600)


def test_the_removal_follows_no_link(home: Path) -> None:
    """Of `~/.ssh`, which leads to a folder of root's."""
    a_link_to_the_folder(home)
    [command] = access.removed._inner(account="nobody")
    [line] = [line for line in command.get_raw_value().splitlines() if "authorized_keys" in line]
    subprocess.run(["sh", "-c", line], capture_output=True, check=True)
    assert (home.parent / "root" / "authorized_keys").read_text() == "root's\n"
    assert shlex.split(line)[:3] == ["setsid", "-w", "runuser"]
