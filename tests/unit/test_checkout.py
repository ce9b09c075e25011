"""The repo as it goes to the deploy machine."""

import re
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


def test_every_package_is_pinned() -> None:
    packages = pinned_packages()
    assert packages
    assert all(re.fullmatch(r"[A-Za-z0-9_.\[\]-]+==[0-9][0-9A-Za-z.]*", package) for package in packages)
