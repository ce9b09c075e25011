"""The repo as it goes to the deploy machine."""

import os
import re
import shutil
import subprocess
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from tests.unit.conftest import Planned
from underlay.desired.checkout import files, pinned_packages
from underlay.plan import REPO, load


def test_it_is_complete_and_has_nothing_else(planned: Planned) -> None:
    found = files(planned())
    assert {path.split("/")[0] for path in found} == {
        *(
            "CHANGELOG.md",
            "LICENSE",
            "README.md",
            "config.py",
            "inv",
            "inventory.py",
            "pyproject.toml",
            "requirements.txt",
            "targets.py",
        ),
        "tasks.py",
        *("deploys", "docs", "group_data", "templates", "tests", "underlay"),
    }
    assert not [path for path in found if "__pycache__" in path or path.startswith(("tests/unit", "tests/lab"))]
    for path in ("deploys/gateway.py", "underlay/verify/checks.py", "templates/network/link.network.j2"):
        assert found[path] == (REPO / path).read_bytes()


def test_the_plan_in_force_is_its_plan(planned: Planned, tmp_path: Path) -> None:
    """With the real hosts as its target, and otherwise to the letter."""
    plan = planned(("192.168.0.105", "192.168.0.106"))
    over_there = tmp_path / "over-there.py"
    over_there.write_bytes(files(plan)["group_data/all.py"])
    assert load(over_there).target == "ssh"
    assert load(over_there).hosts == plan.hosts
    before, after = plan.source.read_text().splitlines(), over_there.read_text().splitlines()
    changed = [(one, other) for one, other in zip(before, after, strict=True) if one != other]
    assert [one.split("#")[0].strip() for one, _ in changed] == ['target = "lab"']


@pytest.mark.parametrize("line", ["target = 'lab'", 'target="lab"', 'target: str = "lab"', 'target = ("lab")'])
def test_however_the_target_is_written(planned: Planned, tmp_path: Path, line: str) -> None:
    over_there = tmp_path / "over-there.py"
    over_there.write_bytes(files(planned(('target = "lab"', line)))["group_data/all.py"])
    assert load(over_there).target == "ssh"


def test_the_data_of_roles_beside_the_plan_goes_along(planned: Planned, tmp_path: Path) -> None:
    (tmp_path / "jumphost.py").write_text("people_on_call = {}  # mine\n")
    found = files(planned())
    assert found["group_data/jumphost.py"] == b"people_on_call = {}  # mine\n"
    assert found["group_data/lb_nginx.py"] == (REPO / "group_data/lb_nginx.py").read_bytes()


def test_the_key_of_a_package_source_goes_along() -> None:
    assert b"PGP" in files(load(REPO / "tests/golden/good/cluster.py"))["group_data/kubernetes.asc"]


def test_every_package_is_pinned() -> None:
    """By version and by hashes of its files, here and on the jump host; and no file names a place to download from."""
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = re.sub(r"(?m)^#.*\n", "", (REPO / name).read_text())
        assert re.fullmatch(r"([a-z0-9-]+==[0-9][0-9a-z.]*( \\\n    --hash=sha256:[0-9a-f]{64})+\n)+", text), name
    assert len(pinned_packages()) == (REPO / "requirements.txt").read_text().count("==")
    for path in (*REPO.glob("*.t*"), REPO / "inv", REPO / "lab/image.py", *REPO.glob("deploys/*.py")):
        assert not re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host", path.read_text()), path


def wheel(folder: Path, name: str) -> str:
    """A package in a folder; its line of requirements.txt."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", "")
        file.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        file.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return f"{name}==1.0 --hash=sha256:{sha256(path.read_bytes()).hexdigest()}\n"


def test_another_file_of_a_package_is_not_installed(tmp_path: Path) -> None:
    """1. one of two with other hashes; 2. no hashes; 3. one that must be built: none of the two is installed."""
    good, other = (wheel(tmp_path, name) for name in ("good", "other"))
    (tmp_path / "built-1.0.tar.gz").write_bytes(b"")
    built = f"built==1.0 --hash=sha256:{sha256(b'').hexdigest()}\n"
    (tmp_path / "underlay").mkdir()
    for path in (REPO / "inv", *REPO.glob("underlay/*.py")):
        shutil.copy(path, tmp_path / path.relative_to(REPO))
    environment = os.environ | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    for bad in (good + re.sub("[0-9a-f]{64}", "0" * 64, other), "good==1.0\nother==1.0\n", good + built):
        (tmp_path / "requirements.txt").write_text(bad)
        done = subprocess.run(
            [tmp_path / "inv", "--list"], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr.endswith("error: nothing of requirements.txt was installed: see above\n")
        assert not list(tmp_path.glob(".venv/lib/*/site-packages/good*"))
    assert "No matching distribution found for built" in done.stderr  # it was not even looked at
    # The control case: with the right hashes all is there, and only `invoke` is not.
    (tmp_path / "requirements.txt").write_text(good + other)
    subprocess.run([tmp_path / "inv", "--list"], env=environment, capture_output=True, check=False)
    assert len(list(tmp_path.glob(".venv/lib/*/site-packages/*-1.0.dist-info"))) == 2
