"""Imports go one way: a part of the library imports only parts that stand before it, wherever the import stands."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ci
from underlay.plan import REPO

LAYERS = (
    *("text", "errors", "programs", "console", "plan", "desired", "compare", "remote", "access", "image", "facts"),
    *("nodes", "observe", "guard", "operations", "verify", "trace", "doctor", "report", "oncall", "adopt", "commands"),
)
FILES = sorted((REPO / "underlay").rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """The modules that a file imports, also within functions and under conditions."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: imports are absolute here"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def part(module: str) -> str:
    """`underlay.plan.model` → `plan`."""
    return f"{module}..".split(".")[1]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(REPO)))
def test_one_way(file: Path) -> None:
    own = part(str(file.relative_to(REPO).with_suffix("")).replace("/", "."))
    for module in imported(file):
        assert module.split(".")[0] not in ("lab", "tests", "deploys", "tasks", "targets", "benchmarks"), module
        if module.startswith("underlay."):
            assert LAYERS.index(part(module)) <= LAYERS.index(own), f"{own} stands before {module}"
    assert "TYPE_CHECKING" not in file.read_text(), "hides a circle"


def test_every_part_has_its_place() -> None:
    """And no folder of the library is a heap."""
    parts = {path.stem for path in (REPO / "underlay").iterdir()} - {"__init__", "__pycache__"}
    assert parts == set(LAYERS)
    for folder in {file.parent for file in FILES}:
        names = [path for path in folder.iterdir() if path.name not in ("__init__.py", "__pycache__")]
        assert len(names) <= (len(LAYERS) if folder.name == "underlay" else 10), folder


def test_every_room_imports_within_itself_one_way() -> None:
    """No circle between files of one folder."""
    uses = {
        str(file.relative_to(REPO).with_suffix("")).replace("/", ".").removesuffix(".__init__"): set(imported(file))
        for file in FILES
    }

    def reach(module: str, seen: tuple[str, ...]) -> None:
        assert module not in seen, " → ".join((*seen, module))
        for name in uses[module]:
            found = next((each for each in (name, name.rpartition(".")[0]) if each in uses and each != module), None)
            if found and found not in done:
                reach(found, (*seen, module))
        done.add(module)

    done: set[str] = set()
    for module in uses:
        if module not in done:
            reach(module, ())


def test_every_file_of_tests_runs_in_some_stage() -> None:
    stages = {word for stage in (*ci.QUICK, *ci.IN_LABS, *ci.LONG) for word in stage.command}
    files = {str(path.relative_to(REPO)) for path in (REPO / "tests/lab").glob("test_*.py")}
    assert files == {word for word in stages if word.startswith("tests/lab/")}
