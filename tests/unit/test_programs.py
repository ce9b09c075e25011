"""What is called on this side is in the table, and what is not there is named in one line.

Seen is a program that is written out as the first word of a list, in the call that runs it or in a variable of the same
file, or that `shutil.which` asks for. Not seen: one that comes from somewhere else (an argument, what a function
returns, another file), or that a shell's script calls. What the tests call is proven in tests/lab/test_minimal_root.py.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from underlay import programs
from underlay.access.target import enter
from underlay.plan import REPO, load
from underlay.programs import BASE, COMMANDS, IMAGE, LAB, OPTIONAL, QCOW2, VM, MissingError

CALLS = {"run", "Popen", "call", "check_call", "check_output", "execv", "execvp", "in_cgroup"}
NAMED = {"which", "_json"}
"""Functions whose first argument is a program."""
IN_TABLE = {"underlay": BASE | COMMANDS | OPTIONAL | IMAGE | QCOW2, "lab": BASE | LAB | VM}


def called(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of each program that a file calls."""
    nodes = list(ast.walk(ast.parse(source)))
    values: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values.setdefault(node.targets[0].id, []).append(node.value)
    for node in nodes:
        if isinstance(node, ast.Call):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            commands = node.args[:2] if function in CALLS else [ast.List(node.args[:1])] if function in NAMED else []
            yield from ((node.lineno, name) for command in commands for name in _programs(command, values))


def _programs(command: ast.expr, values: dict[str, list[ast.expr]]) -> Iterator[str]:
    """The first word of a command; several where a variable or a condition decides."""
    match command:
        case ast.List(elts=[ast.Constant(value=str(name)), *_]) | ast.Tuple(elts=[ast.Constant(value=str(name)), *_]):
            yield name
        case ast.List(elts=[ast.Starred(value=inner), *_]) | ast.BinOp(left=inner):
            yield from _programs(inner, values)
        case ast.IfExp(body=one, orelse=other):
            yield from _programs(one, values)
            yield from _programs(other, values)
        case ast.Name(id=variable):
            others = {name: each for name, each in values.items() if name != variable}  # one may be made of itself
            for each in values.get(variable, ()):
                yield from _programs(each, others)


@pytest.mark.parametrize("folder", IN_TABLE)
def test_what_is_called_has_its_package(folder: str) -> None:
    files = {*(REPO / folder).rglob("*.py")} - {*(REPO / "underlay/remote").rglob("*.py")}  # that runs on the hosts
    found = {f"{path.relative_to(REPO)}:{line}": name for path in files for line, name in called(path.read_text())}
    assert found
    assert {where: name for where, name in found.items() if Path(name).name not in IN_TABLE[folder]} == {}


def test_how_a_call_is_seen() -> None:
    source = """
PING = ["ping", "-n"]
subprocess.run([*PING, "-c", "1"])
run(["ip", "link"] if short else PING + ["-q"])
argv = ["ssh"]
os.execvp(argv[0], argv)
run(in_cgroup(".x", ("mmdebstrap", "y")))
shutil.which("git")
run(command)
"""
    assert sorted({name for _, name in called(source)}) == ["git", "ip", "mmdebstrap", "ping", "ssh"]


def test_what_is_missing_is_named_before_anything_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`publish` without ping: it would stop half-way, with the change made."""
    monkeypatch.setattr(programs, "search_path", lambda: str(tmp_path))
    for name in COMMANDS:
        (tmp_path / name).write_text("")
    (tmp_path / "ping").unlink()
    with pytest.raises(MissingError, match=r"^ping is not here: (sudo )?apt-get install iputils-ping$"):
        enter(load(REPO / "group_data/all.py"))
    (tmp_path / "ssh").unlink()
    (tmp_path / "ssh-keygen").unlink()
    with pytest.raises(MissingError, match=r"^ssh, ssh-keygen, ping are not here: .* openssh-client iputils-ping$"):
        enter(load(REPO / "group_data/all.py"))


def test_a_command_without_its_programs(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "invoke", "status"]
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(argv, cwd=REPO, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.fullmatch("error: .*ping.* not here: .*apt-get install .*iputils-ping.*\n", done.stderr)
