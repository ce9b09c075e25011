"""Data files are read without being run, and every value knows its line."""

from pathlib import Path

import pytest

from underlay.plan import literals
from underlay.plan.literals import Literals, Problem, dotted, shown


def read(tmp_path: Path, text: str) -> Literals:
    path = tmp_path / "data.py"
    path.write_text(text)
    return literals.read(path)


def test_values_and_their_lines(tmp_path: Path) -> None:
    found = read(tmp_path, '"""Docs."""\n\na: int = 1\nb = {\n    "x": [1, -2],\n    "y": (None, "s"),\n}\n')
    assert found.values == {"a": 1, "b": {"x": [1, -2], "y": [None, "s"]}}
    assert found.problems == []
    assert (found.line("a"), found.line("b", "y"), found.line("b", "y", "1")) == (3, 6, 6)


def test_a_line_that_is_not_known_is_that_of_the_nearest_parent(tmp_path: Path) -> None:
    found = read(tmp_path, '\nb = {\n    "x": {},\n}\n')
    assert (found.line("b", "x", "none", "such"), found.line("none")) == (3, 1)


def test_code_is_not_run_but_reported(tmp_path: Path) -> None:
    found = read(tmp_path, f'import os\nx = open({str(tmp_path / "made")!r}, "w")\ny = {{"a": x, **x, 1: 2}}\n')
    assert not (tmp_path / "made").exists()
    assert [(problem.line, problem.where, problem.what) for problem in found.problems] == [
        (1, "the file", "is not plain data"),
        (2, "x", "is not plain data"),
        (3, "y.a", "is not plain data"),
        (3, "y", "has a key that is not a text"),
        (3, "y", "has a key that is not a text"),
    ]


def test_what_is_one_of_the_problems_is_known_as_broken(tmp_path: Path) -> None:
    found = read(tmp_path, 'x = {"a": f(), "b": 1, "c": {**f(), "d": 1}}\n')
    assert found.is_broken("x", "a")
    assert found.is_broken("x", "a", "below")
    assert found.is_broken("x", "c", "missing")
    assert not found.is_broken("x", "c", "d")
    assert not found.is_broken("x", "b")
    assert not found.is_broken("x", "missing")
    assert not found.is_broken("missing")


def test_the_first_of_two_keys_counts_and_the_second_is_reported(tmp_path: Path) -> None:
    found = read(tmp_path, 'a = 1\na = 2\nb = {"x": 1,\n"x": 2}\n')
    assert found.values == {"a": 1, "b": {"x": 1}}
    assert [(problem.line, problem.what) for problem in found.problems] == [
        (2, "is there twice (first on line 1)"),
        (4, "is there twice (first on line 3)"),
    ]


@pytest.mark.parametrize(
    "content",
    [b"a = (", b"\0", b"a = '\xff'", b"# coding: nonsense\n", b"\x7fELF\1\2", b"a = " + b"-" * 100_000 + b"1"],
    ids=["unclosed", "null", "not UTF-8", "unknown encoding", "binary", "nested too deeply"],
)
def test_what_is_not_python_is_a_syntax_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.py"
    path.write_bytes(content)
    with pytest.raises(SyntaxError):
        literals.read(path)


@pytest.mark.parametrize("value", ["{[]}", "{{}: 1}", "{1: 2} | {}", "f'{1}'", "1 + 'a'", "1 + 1"])
def test_odd_values_are_not_plain_data(tmp_path: Path, value: str) -> None:
    found = read(tmp_path, f"a = {value}\n")
    assert [problem.line for problem in found.problems] == [1]
    assert found.is_broken("a")


def test_odd_keys_are_shown_as_they_are_written() -> None:
    assert dotted(("hosts", "master-1", "a.b", "c\n\ud800")) == r"hosts.master-1.'a.b'.'c\n\ud800'"


def test_long_values_are_cut() -> None:
    assert shown("x" * 1000) == "'" + "x" * 58 + "…"
    assert shown(1 << 100_000) == "the number"


def test_long_lines_are_folded() -> None:
    text = str(Problem(7, "hosts.lb", "word " * 40, "fix"))
    assert max(map(len, text.splitlines())) <= 120
    assert text.splitlines()[1].startswith("      word")
