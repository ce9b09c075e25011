"""A backup: what is in it, and what a restore does to a host."""

import grp
import gzip
import io
import json
import os
import pwd
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_verify import target
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target
from underlay.errors import OperatorError
from underlay.oncall import backup
from underlay.plan import REPO, load
from underlay.remote import send
from underlay.remote.files import restore

PLAN = load(REPO / "group_data/all.py")
ME = pwd.getpwuid(os.getuid()).pw_name
MINE = grp.getgrgid(os.getgid()).gr_name


def packed(files: dict[str, bytes], mode: int = 0o640, folders: tuple[str, ...] = ()) -> bytes:
    """A packed tar, as a host makes it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name in folders:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.uname, member.gname = tarfile.DIRTYPE, 0o750, ME, MINE
            archive.addfile(member)
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uname, member.gname = len(text), mode, ME, MINE
            archive.addfile(member, io.BytesIO(text))
    return content.getvalue()


Replace = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture
def on_host(tmp_path: Path) -> Replace:
    """Runs what a host runs, below a folder."""

    def run(content: bytes, write: bool = True) -> "subprocess.CompletedProcess[bytes]":
        wanted = {
            "write": write,
            "prefixes": [f"{tmp_path}/keys/", f"{tmp_path}/state/"],
            "state": f"{tmp_path}/state",
            "own": [f"{tmp_path}/state/history", f"{tmp_path}/state/record"],
        }
        argv = [sys.executable, *send.argv(json.dumps(wanted))[1:]]
        return subprocess.run(argv, input=send.line(restore) + content, capture_output=True, check=False)

    return run


def answer(done: "subprocess.CompletedProcess[bytes]") -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return {Path(path).name: what for path, what in json.loads(done.stdout)}


def test_replace(on_host: Replace, tmp_path: Path) -> None:
    """What is new or differs is written, with its mode; a dry run only says so; the second run finds all the same."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "b").write_text("old")
    (tmp_path / "keys" / "own").write_text("stays")
    (tmp_path / "keys" / "c").write_text("C")
    (tmp_path / "keys" / "c").chmod(0o640)
    content = packed(
        {f"{tmp_path}/keys/{name}": name.upper().encode() for name in "abc"} | {f"{tmp_path}/state/history/1/e": b"E"},
        folders=(f"{tmp_path}/state/history",),
    )
    expected = {"a": "new", "b": "differs", "c": "same", "e": "new"}
    assert answer(on_host(content, write=False)) == expected
    assert (tmp_path / "keys" / "b").read_text() == "old"
    assert not (tmp_path / "state").exists()
    assert answer(on_host(content)) == expected
    found = {path.name: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"a": "A", "b": "B", "c": "C", "e": "E", "own": "stays"}
    assert (tmp_path / "keys" / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "state" / "history").stat().st_mode & 0o777 == 0o750
    assert set(answer(on_host(content)).values()) == {"same"}


def test_mode_counts(on_host: Replace, tmp_path: Path) -> None:
    """A private key that others may read is not the same."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "a").write_text("A")
    (tmp_path / "keys" / "a").chmod(0o644)
    assert answer(on_host(packed({f"{tmp_path}/keys/a": b"A"}, mode=0o600))) == {"a": "differs"}
    assert (tmp_path / "keys" / "a").stat().st_mode & 0o777 == 0o600


def test_history_of_its_own(on_host: Replace, tmp_path: Path) -> None:
    """A host that has one keeps it whole; its keys are brought back all the same."""
    (tmp_path / "state/history/2").mkdir(parents=True)
    (tmp_path / "state/history/2/e").write_text("newer")
    content = packed(
        {f"{tmp_path}/keys/a": b"A", f"{tmp_path}/state/history/1/e": b"E", f"{tmp_path}/state/record": b"R"}
    )
    assert answer(on_host(content)) == {"a": "new", "e": "kept", "record": "kept"}
    assert not (tmp_path / "state/history/1").exists()
    assert (tmp_path / "keys" / "a").read_text() == "A"


@pytest.mark.parametrize("name", ["etc/passwd", "{}/keys/../../x", "{}/keysother", "/etc/shadow"])
def test_other_places(on_host: Replace, tmp_path: Path, name: str) -> None:
    """An archive that was tampered with reaches nothing else, and nothing of it is written."""
    content = packed({f"{tmp_path}/keys/a": b"A", name.format(tmp_path): b"evil"})
    done = on_host(content)
    assert done.returncode == 1
    assert b"does not belong into a backup" in done.stderr
    assert not (tmp_path / "keys").exists()


def test_links_are_refused(on_host: Replace, tmp_path: Path) -> None:
    """So is a link in it."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        member = tarfile.TarInfo(f"{tmp_path}/keys/a")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/shadow"
        archive.addfile(member)
    assert b"is no file" in on_host(content.getvalue()).stderr


def test_link_on_the_host(on_host: Replace, tmp_path: Path) -> None:
    """A link that stands where a file belongs is replaced; what it leads to is not."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "elsewhere").write_text("A")
    (tmp_path / "keys" / "a").symlink_to(tmp_path / "elsewhere")
    assert answer(on_host(packed({f"{tmp_path}/keys/a": b"B"}))) == {"a": "differs"}
    assert (tmp_path / "elsewhere").read_text() == "A"
    assert not (tmp_path / "keys" / "a").is_symlink()


# --- the archive ----------------------------------------------------------------------------------------------------


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Target:
    """Hosts with one key each; the lb is down, and the jump host's tar fails."""

    def run(_: Links, name: str, __: str, **___: Any) -> "subprocess.CompletedProcess[bytes]":
        if name == "lb":
            raise UnreachableError("lb can't be reached at 192.0.2.1: no answer")
        if name == "jumphost":
            return subprocess.CompletedProcess([], 2, b"", b"tar: no space\n")
        content = packed({"/etc/ssh/ssh_host_ed25519_key": name.encode()}, 0o600)
        return subprocess.CompletedProcess([], 0, content, b"")

    monkeypatch.setattr(Links, "open", lambda *_: None)
    monkeypatch.setattr(Links, "run", run)
    return target(PLAN, tmp_path)


def test_archive(site: Target, tmp_path: Path) -> None:
    """Each host's files; who is missing is noted; only its owner may read it."""
    path = tmp_path / "b.tar"
    found = backup.write(site, path)
    assert found.hosts == {
        "gateway": 1,
        "jumphost": "jumphost was reached, but can't be read: tar: no space",
        "lb": "lb can't be reached at 192.0.2.1: no answer",
        "master-1": 1,
    }
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(fileobj=io.BytesIO(backup.load(path, PLAN, PLAN.host("master-1")))) as archive:
        assert archive.getnames() == ["/etc/ssh/ssh_host_ed25519_key"]
    with pytest.raises(OperatorError, match="nothing of lb: lb can't be reached"):
        backup.load(path, PLAN, PLAN.host("lb"))
    with pytest.raises(OperatorError, match="nothing of dev: it has gateway, jumphost"):
        backup.load(path, PLAN, PLAN.host("dev"))


def test_other_site(site: Target, tmp_path: Path) -> None:
    """The backup of another site is refused: its hosts may have the same names."""
    path = tmp_path / "b.tar"
    backup.write(site, path)
    with pytest.raises(OperatorError, match="of the site 'lab-site', and the plan's is 'other'"):
        backup.load(path, PLAN.model_copy(update={"site": "other"}), PLAN.host("gateway"))


@pytest.mark.parametrize(
    "content", [None, b"", b"no archive at all", packed({"a": b"b"})], ids=["none", "empty", "text", "other"]
)
def test_no_backup(tmp_path: Path, content: bytes | None) -> None:
    """A wrong file is one line."""
    path = tmp_path / "b.tar"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(OperatorError, match=r"can't be read: No such file|is no backup of"):
        backup.load(path, PLAN, PLAN.host("gateway"))


def test_every_path_may_be_put_back() -> None:
    """What is kept of a host is what a restore takes."""
    prefixes = tuple(backup.prefixes(PLAN.gateway))
    for path in backup.paths(PLAN.gateway):
        assert f"{path.replace('*', 'ed25519_key')}/".startswith(prefixes), path


def made(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o600, link: str = "") -> bytes:
    """A host's part, with one more member."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for each, its_kind in (("/etc/ssh/ssh_host_rsa_key", tarfile.REGTYPE), (name, kind)):
            member = tarfile.TarInfo(each)
            member.type, member.mode, member.linkname = its_kind, mode, link
            archive.addfile(member)
    return content.getvalue()


KEYS = "/etc/ssh/ssh_host_"
BAD_PARTS = {
    **{name: made(name) for name in ("/etc/shadow", f"{KEYS}/../../x", "../../x", "x", "/", "/etc//ssh/ssh_host_x")},
    "symlink": made(f"{KEYS}x", tarfile.SYMTYPE, link="/etc/shadow"),
    "hardlink": made(f"{KEYS}x", tarfile.LNKTYPE, link="/etc/shadow"),
    "device": made(f"{KEYS}x", tarfile.CHRTYPE),
    "pipe": made(f"{KEYS}x", tarfile.FIFOTYPE),
    "sparse": made(f"{KEYS}x", tarfile.GNUTYPE_SPARSE),
    "setuid": made(f"{KEYS}x", mode=0o4755),
    "no tar": b"no tar",
    "packed nothing": gzip.compress(b"x" * 1000),
    "a bomb": gzip.compress(bytes(100_001)),
}


@pytest.mark.parametrize("content", BAD_PARTS.values(), ids=BAD_PARTS)
def test_what_does_not_belong_into_a_backup(
    site: Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes
) -> None:
    """A bad host is not in it, and why; and an archive that somebody changed is refused before a host is asked."""
    good = packed({"/etc/ssh/ssh_host_rsa_key": b"key"})

    def run(_: Links, name: str, __: str, **___: Any) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.CompletedProcess([], 0, content if name == "lb" else good, b"")

    monkeypatch.setattr(backup, "UNPACKED", 100_000)
    monkeypatch.setattr(Links, "run", run)
    found = backup.write(site, tmp_path / "b.tar")
    assert str(found.hosts.pop("lb")).startswith("the files of lb can't be read: ")
    assert set(found.hosts.values()) == {1}
    with tarfile.open(tmp_path / "changed.tar", "w") as archive:
        backup._add(archive, backup.MANIFEST, json.dumps({"site": PLAN.site, "hosts": {"lb": 1}}).encode())
        backup._add(archive, "lb.tar.gz", content)
    with pytest.raises(OperatorError, match="is no backup of"):
        backup.load(tmp_path / "changed.tar", PLAN, PLAN.host("lb"))


@pytest.mark.parametrize("manifest", ["[]", "[" * 100_000, '{"site": [], "hosts": {}}', '{"site": "x"}', "NaN"])
def test_an_odd_manifest(tmp_path: Path, manifest: str) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as archive:
        backup._add(archive, backup.MANIFEST, manifest.encode())
    with pytest.raises(OperatorError, match="is no backup of"):
        backup.load(tmp_path / "b.tar", PLAN, PLAN.host("lb"))
