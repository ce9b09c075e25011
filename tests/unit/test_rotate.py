"""What is run on a host to change the operator's key, and the key's place here."""

import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from underlay.access import hostkeys
from underlay.access.ssh_config import TargetError
from underlay.oncall import rotate
from underlay.plan import REPO

NEW, OLD, OTHER = (f"ssh-ed25519 {letter * 68} ops@{letter}" for letter in "NOX")
MAIN = "import sys; from underlay.remote.files.login_keys import main; sys.exit(main(*sys.argv[1:]))"


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A host's authorized_keys."""
    path = tmp_path / ".ssh" / "authorized_keys"
    path.parent.mkdir()
    path.write_text(f"{OTHER}\n{OLD}")
    path.chmod(0o600)
    return path


def start(command: str, keys: Path, limit: Callable[[], object] | None = None) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, command, NEW, OLD],
        env={**os.environ, "HOME": str(keys.parents[1])},
        cwd=REPO,
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        preexec_fn=limit,  # noqa: PLW1509 (no threads here)
    )


def run(
    command: str, keys: Path, word: bytes = b"", *, good: bool = True, limit: Callable[[], object] | None = None
) -> bytes:
    """The file after a command that is told `word`; it must succeed unless `good` is False. Nothing else is left."""
    mode = keys.stat().st_mode
    process = start(command, keys, limit)
    _, said = process.communicate(word, 20)
    assert (process.returncode == 0) is good, said
    assert keys.stat().st_mode == mode
    assert list(keys.parent.iterdir()) == [keys]
    return keys.read_bytes()


def replaced(keys: Path, *, good: bool = True) -> bytes:
    return run("replace", keys, b"keep\n", good=good)


def test_added_once_and_the_old_one_removed(keys: Path) -> None:
    """Also behind a last line without its end; a key that is there with options is there."""
    both = f"{OTHER}\n{OLD}\n{NEW}\n".encode()
    assert run("add", keys) == both
    assert run("add", keys) == both
    assert replaced(keys) == f"{OTHER}\n{NEW}\n".encode()
    assert replaced(keys) == f"{OTHER}\n{NEW}\n".encode()
    keys.write_text(f'from="192.0.2.1" {NEW}\n')
    assert run("add", keys) == f'from="192.0.2.1" {NEW}\n'.encode()


ODD = {
    "options": (
        f'from="192.0.2.1",command="echo \\"{NEW}\\" #" {OLD}\n',
        'from="192.0.2.1",command="echo \\"{}\\" #" ',
    ),
    "twice, with other options": (f"no-pty {OLD}\n{OLD}\n", "no-pty "),
    "no newline at its end": (f"# {NEW}\n\n{OLD}", ""),
    "CRLF": (f"{OTHER}\r\n{OLD}\r\n", ""),
    "Latin-1, and what is no line for sshd": (f"{OTHER}\xe9\n# a\r{OLD}\n{OLD}\n", ""),
    "nothing but the key": (OLD, ""),
}


@pytest.mark.parametrize(("text", "options"), ODD.values(), ids=list(ODD))
def test_odd_files(keys: Path, text: str, options: str) -> None:
    """Every other line stays byte for byte, and the new key may do what the old one might, and no more."""
    before = text.encode("latin-1")
    keys.write_bytes(before)
    both = run("add", keys)
    assert both.startswith(before)
    assert both.endswith(f"{NEW}\n".encode())
    assert f"{options.format(NEW)}{NEW}\n".encode() in both[len(before) :]
    lines = [line for line in both.splitlines(keepends=True) if OLD.encode() not in line or line.startswith(b"# a")]
    after = replaced(keys)
    assert after == b"".join(lines) or b"# a\r" in before
    assert OLD.encode() not in after.replace(b"# a\r" + OLD.encode(), b"")
    keys.write_bytes(both)
    assert run("take-away", keys).rstrip(b"\n") == before.rstrip(b"\n")


def test_the_old_key_stays_where_the_new_one_is_not(keys: Path) -> None:
    before = keys.read_bytes()
    assert replaced(keys, good=False) == before
    keys.write_bytes(before + f"\n#{NEW}\n".encode())  # it lets nobody in
    assert OLD.encode() in replaced(keys, good=False)


def test_taken_away_again(keys: Path) -> None:
    keys.write_text(f"{OLD}\n{NEW}\n")
    assert run("take-away", keys) == f"{OLD}\n".encode()
    assert run("take-away", keys) == f"{OLD}\n".encode()
    keys.write_text(f"{NEW}\n")
    assert run("take-away", keys) == b""


def full() -> None:
    """No byte can be written to a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


@pytest.mark.parametrize("command", ["add", "replace", "take-away"])
def test_full_disk(keys: Path, command: str) -> None:
    """It is as it was, and that is told."""
    keys.write_text(f"{OTHER}\n{OLD}\n" + ("" if command == "add" else f"{NEW}\n"))
    before = keys.read_bytes()
    assert run(command, keys, b"keep\n", good=False, limit=full) == before


@pytest.mark.parametrize("word", [b"", b"keep", b"no\n"], ids=["it ends", "half a word", "another word"])
def test_put_back_unless_it_is_kept(keys: Path, word: bytes) -> None:
    """On a full disk, too."""
    keys.write_text(f"{OLD}\n{NEW}\n")
    before = keys.read_bytes()
    process = start("replace", keys)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"replaced\n"
    assert keys.read_text() == f"{NEW}\n"
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))
    process.stdin.write(word)
    process.communicate(timeout=20)
    assert (process.returncode, keys.read_bytes()) == (1, before)
    assert list(keys.parent.iterdir()) == [keys]


@pytest.mark.parametrize("end", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_put_back_when_its_connection_dies(keys: Path, end: signal.Signals) -> None:
    """As sshd or the kernel end it; what somebody else wrote meanwhile stays."""
    keys.write_text(f"{OLD}\n{NEW}\n")
    process = start("replace", keys)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    with keys.open("a") as file:
        file.write(f"{OTHER}\n")
    process.send_signal(end)
    process.communicate(timeout=20)
    assert keys.read_text() == f"{NEW}\n{OTHER}\n{OLD}\n"


def test_a_link_stays_one(keys: Path) -> None:
    real = keys.with_name("elsewhere").resolve()
    keys.rename(real)
    keys.symlink_to(real.name)
    start("add", keys).communicate(timeout=20)
    assert keys.is_symlink()
    assert real.read_text() == f"{OTHER}\n{OLD}\n{NEW}\n"


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere"), lambda _: None])
def test_no_file(keys: Path, make: Callable[[Path], None]) -> None:
    """A folder, a link to nothing, nothing: told, and left alone."""
    keys.unlink()
    make(keys)
    process = start("add", keys)
    _, said = process.communicate(timeout=20)
    assert (process.returncode, said.count(b"\n")) == (1, 1)


def test_read_only(keys: Path) -> None:
    """A mode is kept, whatever it is."""
    keys.chmod(0o400)
    assert NEW.encode() in run("add", keys)
    assert stat.S_IMODE(keys.stat().st_mode) == 0o400


def test_here(tmp_path: Path) -> None:
    """The new key is in the old one's place, which is kept; another time, too."""
    old = tmp_path / "key"
    for number in (1, 2, 3):
        new = tmp_path / "key.new"
        for path, text in ((new, f"private {number}"), (tmp_path / "key.new.pub", f"public {number}")):
            path.write_text(text)
        if number == 1:
            new.rename(old)
            (tmp_path / "key.new.pub").rename(tmp_path / "key.pub")
            continue
        kept = rotate._swap(old, new)
        assert [(path.name, path.read_text()) for path in sorted(tmp_path.iterdir())] == [
            ("key", f"private {number}"),
            ("key.old", f"private {number - 1}"),
            ("key.old.pub", f"public {number - 1}"),
            ("key.pub", f"public {number}"),
        ]
        assert kept.name == "key.old"


def test_there_is_a_key_all_the_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended after any of its steps, there is a private key in place, and no public one of another."""
    pairs = {"key": "old", "key.pub": "old", "key.new": "new", "key.new.pub": "new"}
    steps = 0

    def counted(name: str) -> None:
        real = getattr(Path, name)

        def step(path: Path, *arguments: object, **options: object) -> object:
            nonlocal steps
            if path.is_relative_to(tmp_path):
                steps -= 1
                if steps < 0:
                    raise KeyboardInterrupt
            return real(path, *arguments, **options)

        monkeypatch.setattr(Path, name, step)

    for name in ("unlink", "hardlink_to", "replace"):
        counted(name)
    for number in range(11):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, text in pairs.items():
            (folder / name).write_text(text)
        steps = number
        with pytest.raises(KeyboardInterrupt):
            rotate._swap(folder / "key", folder / "key.new")
        private = (folder / "key").read_text()
        public = folder / "key.pub"
        assert private in ("old", "new")
        assert not public.exists() or public.read_text() == private


def test_a_key_that_can_t_be_made(tmp_path: Path) -> None:
    """One line, and nothing left of it."""
    with pytest.raises(TargetError, match="can't be made, nothing was changed"):
        rotate._make(tmp_path / "nowhere" / "key")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"%s M\xfcller\r\n", "%s M\ufffdller"),
        (b"\n  %s\tops  at home \n", "%s ops at home"),
        (b"%s", "%s"),
        (b"", None),
        (b"---- BEGIN SSH2 PUBLIC KEY ----\n", None),
        (b"ssh-ed25519 AAAA", None),
        (b"\xff\xfe\0s\0s", None),
    ],
)
def test_a_public_key_that_others_wrote(tmp_path: Path, content: bytes, line: str | None) -> None:
    """Its comment may be in any encoding; a file without a key is told, with what makes one."""
    key = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 43}"
    (tmp_path / "id.pub").write_bytes(content.replace(b"%s", key.encode()))
    if line is None:
        with pytest.raises(TargetError, match=r"id\.pub is not one public key: `ssh-keygen -y -f .* makes it"):
            hostkeys.public_line(tmp_path / "id")
    else:
        assert hostkeys.public_line(tmp_path / "id") == line.replace("%s", key)


def test_a_key_that_is_not_there_is_told_before_any_host_is_asked(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="is no file: name a private key with --new"):
        rotate._given(tmp_path / "none")
