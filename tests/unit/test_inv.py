"""`./inv` itself, with a Python that only says how it was called."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from underlay.plan import REPO

SAYS = """\
#!/bin/sh
case $1 in */tasks.py) pwd; printf '<%s>' "$@";; esac
"""


@pytest.fixture
def called(tmp_path: Path) -> Path:
    """A folder that has `repo`, a copy of what `inv` needs, and is not in it."""
    repo = tmp_path / "the repo"
    (repo / "underlay").mkdir(parents=True)
    for name in ("inv", "requirements.txt", "underlay/programs.py"):
        shutil.copy(REPO / name, repo / name)
    for path in (repo / ".venv/bin/python", tmp_path / "bin/python3"):
        path.parent.mkdir(parents=True)
        path.write_text(SAYS)
        path.chmod(0o755)
    (tmp_path / "bin/inv").symlink_to("../link")
    (tmp_path / "link").symlink_to("the repo/inv")
    (tmp_path / "here").mkdir()
    return tmp_path


@pytest.mark.parametrize("way", ["../the repo/inv", "../link", "inv"])
def test_it_is_called_from_anywhere(called: Path, way: str) -> None:
    """Also through links in PATH; the caller's folder stays, so what it names is there, and so are all words."""
    here = called / "here"
    environment = {"PATH": f"{called}/bin:/usr/bin:/bin", "CDPATH": str(called)}
    for _ in ("makes .venv", "has it"):
        argv = [way, "bundle", "--output", "a b", ""]
        done = subprocess.run(argv, cwd=here, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        repo = called / "the repo"
        said = f"{here}\n<{repo}/tasks.py><bundle><--output><a b><>"
        assert done.stdout.decode() == said


def test_a_plan_in_the_callers_folder(tmp_path: Path) -> None:
    """Whatever the command starts elsewhere reads the same one."""
    shutil.copy(REPO / "group_data/all.py", tmp_path / "mine.py")
    code = "import os; from underlay.plan import load; print(load().source, os.environ['UNDERLAY_PLAN'])"
    argv = [sys.executable, "-c", code]
    environment = {**os.environ, "UNDERLAY_PLAN": "mine.py", "PYTHONPATH": str(REPO)}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path}/mine.py {tmp_path}/mine.py\n"


@pytest.mark.parametrize(
    "name",
    [
        *("pyinfra-debug.log", ".pytest_cache/x", "tests/__pycache__/x.pyc", ".hypothesis/x", ".venv/x", "report.html"),
        *("backup-lab-site-20261123-043000.tar", "lab-site-20261123-043000.tar.gz", "gateway-20261123-043000.pcap"),
    ],
)
def test_what_is_no_part_of_the_repo(name: str, tmp_path: Path) -> None:
    """What our tools and commands leave is not committed by mistake; a backup has private keys."""
    # Not all checkouts are git's.
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    shutil.copy(REPO / ".gitignore", tmp_path)
    done = subprocess.run(["git", "check-ignore", "-q", "--no-index", name], cwd=tmp_path, check=False)
    assert done.returncode == 0
