"""Pages of runbooks as what is executed of them, and that all pages can be."""

import re
from pathlib import Path

import pytest

from tests.lab.runbook import Command, Edit, LabStep, RunbookError, difference, edited, read
from underlay.plan import REPO

FOLDER = REPO / "docs" / "runbooks"
PAGES = [path for path in sorted(FOLDER.glob("*.md")) if path.name != "README.md"]

PAGE = """\
# A title

## Symptom

<!-- lab: run gateway "ip link set eth0 down" -->

```console
$ ./inv first
$ ./inv second \\
> --option
one
…
```

```diff
--- a/group_data/all.py
+++ b/group_data/all.py
@@ -1 +1 @@
 same
-old
+new
```

## Check

<!-- exit: 2 -->
```console
$ ./inv third
```
"""


def page(folder: Path, text: str) -> Path:
    """A page in a file."""
    path = folder / "page.md"
    path.write_text(text)
    return path


def test_what_is_executed(tmp_path: Path) -> None:
    found = read(page(tmp_path, PAGE))
    assert (found.title, found.sections) == ("A title", ("Symptom", "Check"))
    assert found.steps == (
        LabStep(5, "run", ("gateway", "ip link set eth0 down")),
        Command(8, "./inv first"),
        Command(9, "./inv second \\\n--option", ["one", "…"]),
        Edit(16, "group_data/all.py", "same\nold\n", "same\nnew\n"),
        Command(28, "./inv third", exit=2),
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("```diff", "```sh", "15: a block of the kind 'sh' is not executed"),
        ("```diff", "```", "15: a block of the kind '' is not executed"),
        ("$ ./inv first", "./inv first", "8: a block of commands begins with"),
        ("<!-- exit: 2 -->\n", "<!-- exits: 2 -->\n", "26: neither"),
        ("```console\n$ ./inv third\n```\n", "", "26: an exit code without a block"),
        ("third\n```", "third", "27: the block does not end"),
        ("+++ b/group_data/all.py", "+++ b/README.md", "16: a change has one line"),
        ("## Check", "## Surprise", "a page has a title"),
        ("## Symptom", "## Undo", "a page has a title"),
    ],
)
def test_a_page_that_cannot_be_executed(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(RunbookError, match=f"page.md: ?{message}"):
        read(page(tmp_path, PAGE.replace(old, new)))


def test_a_change_fits_once() -> None:
    edit = Edit(1, "group_data/all.py", "b\n", "c\n")
    assert edited("a\nb\n", edit) == "a\nc\n"
    for text in ("a\n", "b\nb\n"):
        with pytest.raises(RunbookError, match=r"1: the change of group_data/all\.py fits"):
            edited(text, edit)


@pytest.mark.parametrize(
    ("expected", "seen", "same"),
    [
        ([], "", True),
        ([], "a\n", False),
        (["a"], "a  \n", True),
        (["a"], "", False),
        (["a", "…"], "a\n", True),
        (["a", "…", "d"], "a\nb\nc\nd\n", True),
        (["a", "…", "d"], "a\nb\nc\n", False),
        (["…", "all … checks, in … s"], "x\nall 201 checks, in 2.1 s\n", True),
        (["all … checks"], "all 201\nchecks\n", False),
        (["a.c"], "abc\n", False),
    ],
)
def test_outputs_are_compared(expected: list[str], seen: str, same: bool) -> None:
    assert (difference(expected, seen) == "") is same


def test_a_difference_shows_what_is_missing_and_what_came() -> None:
    shown = difference(["same …", "…", "old"], "same 1\nnew\n")
    assert re.findall("^[ +-][a-z].*", shown, re.MULTILINE) == [" same 1", "-old", "+new"]


@pytest.mark.parametrize("path", PAGES, ids=[path.stem for path in PAGES])
def test_every_page_ends_with_a_proof(path: Path) -> None:
    """It can be read, and its last command is a verification that is green; so the next page can begin."""
    found = read(path)
    assert "Symptom" in found.sections
    assert "Check" in found.sections
    last = [step for step in found.steps if isinstance(step, Command)][-1]
    assert last.text.startswith("./inv verify")
    assert last.exit == 0
    assert last.output[-1] == "good: all … checks, in … s"


def test_the_index_has_every_page() -> None:
    linked = re.findall(r"\]\((\S+\.md)\)", (FOLDER / "README.md").read_text())
    assert sorted(set(linked)) == [path.name for path in PAGES]
