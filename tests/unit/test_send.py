"""How programs get to a host."""

import io
import os
import subprocess
import zipfile
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from underlay.plan import REPO
from underlay.remote import send

FILES = {
    "underlay/__init__.py": "",
    "underlay/remote/__init__.py": "",
    "underlay/remote/unused.py": "",
    "underlay/remote/words.py": 'import json\nWORDS = json.loads(\'["a", "b"]\')\n',
    "underlay/remote/late.py": "from underlay.remote.words import (\n    WORDS,\n)\n",
    "underlay/remote/plain.py": """\
import os, sys
from underlay.remote import words
def main(*arguments):
    import underlay.remote.late
    print(*arguments, *words.WORDS, sys.stdin.read(), end="")
    return 3 if arguments else None
""",
    "underlay/remote/whole/__init__.py": "NAME = 'whole'\n",
    "underlay/remote/whole/part.py": "from underlay.remote.whole import NAME\n",
    "underlay/remote/whole/__main__.py": """\
import sys
from underlay.remote.whole import part
def main(*arguments):
    print(part.NAME, *arguments)
    if arguments: open(arguments[0], "wb").write(open(sys.path[0], "rb").read())
""",
}


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(send, "ROOT", tmp_path)


def module(name: str) -> ModuleType:
    found = ModuleType(f"underlay.remote.{name}")
    if name == "whole":
        found.__path__ = []
    return found


def run(argv: list[str], stdin: bytes = b"") -> tuple[int, str]:
    done = subprocess.run(argv, input=stdin, capture_output=True, check=False, cwd="/", timeout=30)
    assert not done.stderr, done.stderr.decode()
    return done.returncode, done.stdout.decode()


def test_what_is_imported_goes_along_and_nothing_else() -> None:
    packed = zipfile.ZipFile(io.BytesIO(send.packed(module("plain"))))
    names = ("", "late.py", "plain.py", "words.py")
    assert set(packed.namelist()) == {
        *("__main__.py", "underlay/__init__.py", "underlay/remote/__init__.py"),
        *(f"underlay/remote/{name}" for name in names if name),
    }


def test_over_a_connection() -> None:
    """The rest of its stdin is the program's, byte for byte."""
    assert run(send.argv("x", "y z"), send.line(module("plain")) + "ä\n1".encode()) == (3, "x y z a b ä\n1")
    assert run(send.argv(), send.line(module("plain"))) == (0, "a b ")


def test_as_a_command_of_a_script() -> None:
    command = send.command(module("plain"), "it's", "$HOME")
    assert "\n" not in command
    assert run(["sh", "-c", f"{command}; echo $?"], b"not read") == (0, "it's $HOME a b 3\n")


def test_a_command_that_takes_too_long() -> None:
    plain = module("plain")
    (send.ROOT / "underlay/remote/plain.py").write_text("import time\ndef main():\n    time.sleep(60)\n")
    assert run(["sh", "-c", send.command(plain, seconds=0.3)]) == (124, "")


def test_a_package_that_stays_on_the_host(tmp_path: Path) -> None:
    """It finds its own zip, and that runs as it is."""
    kept = tmp_path / "kept"
    whole = module("whole")
    assert run(send.argv(str(kept)), send.line(whole)) == (0, f"whole {kept}\n")
    assert kept.read_bytes() == send.packed(module("whole"))
    assert run(["python3", "-I", "-S", str(kept)]) == (0, "whole\n")


def test_nothing_is_left(tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*")), os.listdir("/tmp")
    run(send.argv(), send.line(module("plain")))
    assert (sorted(tmp_path.rglob("*")), os.listdir("/tmp")) == before


PROGRAMS = {path.stem for path in (REPO / "underlay/remote").glob("*.py") if "\ndef main(" in path.read_text()}


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_programs_need_python_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on hosts imports what goes along and the standard library only."""
    monkeypatch.setattr(send, "ROOT", REPO)
    (tmp_path / "zip").write_bytes(send.packed(import_module(f"underlay.remote.{name}")))
    code = f"import sys; sys.path.insert(0, sys.argv[1]); import underlay.remote.{name}"
    assert run(["python3", "-I", "-S", "-c", code, str(tmp_path / "zip")]) == (0, "")
