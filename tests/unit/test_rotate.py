"""What is run on a host to change the operator's key."""

import os
import subprocess
from pathlib import Path

import pytest

from underlay.oncall import rotate

NEW, OLD, OTHER = (f"ssh-ed25519 {letter * 68} ops@{letter}" for letter in "NOX")


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A host's authorized_keys."""
    path = tmp_path / ".ssh" / "authorized_keys"
    path.parent.mkdir()
    path.write_text(f"{OTHER}\n{OLD}")
    path.chmod(0o600)
    return path


def run(script: str, keys: Path, good: bool = True) -> list[str]:
    """The lines of the file after a script; it must succeed unless `good` is False."""
    argv = ["sh", "-c", script, "sh", NEW, OLD]
    done = subprocess.run(argv, env={**os.environ, "HOME": str(keys.parents[1])}, capture_output=True, check=False)
    assert (done.returncode == 0) is good, done.stderr
    assert keys.stat().st_mode & 0o777 == 0o600
    assert list(keys.parent.iterdir()) == [keys]
    return keys.read_text().splitlines()


def test_added_once_and_the_old_one_removed(keys: Path) -> None:
    """Also behind a last line without its end; a key that is there with options is there."""
    assert run(rotate.ADD, keys) == [OTHER, OLD, NEW]
    assert run(rotate.ADD, keys) == [OTHER, OLD, NEW]
    assert run(rotate.REMOVE_OLD, keys) == [OTHER, NEW]
    assert run(rotate.REMOVE_OLD, keys) == [OTHER, NEW]
    keys.write_text(f'from="192.0.2.1" {NEW}\n')
    assert run(rotate.ADD, keys) == [f'from="192.0.2.1" {NEW}']


def test_the_old_key_stays_where_the_new_one_is_not(keys: Path) -> None:
    assert run(rotate.REMOVE_OLD, keys, good=False) == [OTHER, OLD]


def test_taken_away_again(keys: Path) -> None:
    keys.write_text(f"{OLD}\n{NEW}\n")
    assert run(rotate.REMOVE_NEW, keys) == [OLD]
    assert run(rotate.REMOVE_NEW, keys) == [OLD]
    keys.write_text(f"{NEW}\n")
    assert run(rotate.REMOVE_NEW, keys) == []
