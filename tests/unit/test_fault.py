"""The fault catalogue: its files, and what is said about one that can't be used."""

import re
from pathlib import Path

import pytest

from lab import blueprint, fault
from lab.process import LabError
from underlay.plan import REPO, load

PLAN = load(REPO / "group_data/all.py")
GOOD = """\
what = "it does not work"
where = "lb"
inject = "false"
heal = "true"
finding = "service-down"
on = "lb"
fix = '.*'
"""


def test_catalogue() -> None:
    """Every file can be used, and there are enough of them."""
    found = fault.catalogue()
    assert len(found) > 40
    assert sum(not each.slow for each in found.values()) >= 25
    for each in found.values():
        re.compile(each.fix)
        re.compile(each.advice)
        assert each.proof or each.unproven, f"{each.name}: what shows from outside that something is broken?"
        assert len(each.what) < 110, each.name
        assert "\n" not in each.what


def test_variables() -> None:
    """Every variable that a fault uses is one of the plan's, or its own."""
    known = fault.variables(PLAN, blueprint.draw(PLAN)) | {"outside": "", "known_hosts": "", "ssh": ""}
    assert known["master_1_storage"] == "100.64.64.2"
    assert known["master_1_storage_port"] == "p5-2"
    assert known["storage_bridge"] == "br3"
    assert known["lb_published"] == "192.168.0.53"
    for each in fault.catalogue().values():
        script = f"{each.inject}\n{each.heal}\n{each.proof}"
        own = set(re.findall(r"\b(\w+)=|\bread (?:-r )?(\w+)|\bfor (\w+) in", script))
        used = set(re.findall(r"\$\{?([A-Za-z_]\w*)", script))
        assert used <= known.keys() | {name for names in own for name in names}, each.name


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("what = ", "can't be read: Invalid value"),
        (GOOD + 'colour = "red"\n', "colour: Extra inputs are not permitted"),
        (GOOD.replace('heal = "true"\n', ""), "it has either power_off = true, or both inject and heal"),
        (GOOD + "power_off = true\n", "it has either power_off = true, or both inject and heal"),
        (GOOD.replace('on = "lb"', "on = 1"), "on: Input should be a valid string"),
        (GOOD.replace("it does not work", ""), "what: String should have at least 1 character"),
        (GOOD + 'proof = "true"\nunproven = "why"\n', "it has either proof, or unproven: why there can be none"),
        (GOOD + "boots = true\n", "boots = true needs a proof"),
        (GOOD.replace("'.*'", "''"), "without a fix it has advice"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, error: str) -> None:
    """One line: which file, where, what."""
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(LabError) as caught:
        fault.catalogue(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/bad.toml: ")
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unknown() -> None:
    """The one that was meant is named."""
    with pytest.raises(LabError, match="did you mean 'nginx-stopped'"):
        fault.find("nginx-stoped")
