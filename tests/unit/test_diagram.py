"""The picture of the site: complete, readable however the site grows, and current in the docs."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from underlay.plan import REPO, Plan, load
from underlay.report import diagram

SITE = REPO / "group_data" / "all.py"
SVG = "{http://www.w3.org/2000/svg}"
Area = tuple[float, float, float, float]
"""Left, top, right, bottom."""

GROWN = """
    "monitor": {"role": "server", "addresses": {"mgmt": "100.64.0.54"}, "published": "192.168.0.54"},
    "a-host-with-a-name-that-goes-on-and-on": {"role": "server", "addresses": {"storage": "100.64.64.200"}},
    "both": {"role": "server", "addresses": {"enterprise": "192.168.0.200", "storage": "100.64.64.201"}},
    "master-2": {"role": "master", "addresses": {"mgmt": "100.64.0.3", "backup": "100.64.96.3"}},
    "master-3": {"role": "master", "addresses": {"storage": "100.64.64.4", "traffic": "100.64.32.4"}},
}

zones = {
    "cloud-management": {"network": "mgmt", "cidr": "100.64.0.0/20"},
    "published-services": {"network": "mgmt", "cidr": "100.64.128.0/20"},
}
"""


@pytest.fixture(params=["site", "grown"])
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> Plan:
    if request.param == "site":
        return load(SITE)
    fourth = (REPO / "tests" / "golden" / "good" / "fourth-network.py").read_text()
    grown = tmp_path / "grown.py"
    grown.write_text(fourth.rstrip().removesuffix("}") + GROWN)
    return load(grown)


def areas(root: ET.Element) -> Iterator[tuple[str, Area]]:
    for element in root.iter(f"{SVG}text"):
        x, y, size = (float(element.attrib[name]) for name in ("x", "y", "font-size"))
        text = element.text or ""
        width = len(text) * size * 0.56
        if element.get("text-anchor") == "middle":
            x -= width / 2
        yield text, (x, y - size * 0.8, x + width, y + size * 0.2)


def lines(root: ET.Element) -> Iterator[Area]:
    """The NICs' lines: `M x start V end`."""
    for element in root.iter(f"{SVG}path"):
        if " V" in (path := element.attrib["d"]) and "H" not in path and not element.get("transform"):
            start, end = path.removeprefix("M").split(" V")
            x, y = map(float, start.split())
            yield x - 1, min(y, float(end)), x + 1, max(y, float(end))


def overlap(one: Area, other: Area) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_every_network_host_and_address_is_in_the_picture(plan: Plan) -> None:
    texts = " ".join(text for text, _ in areas(ET.fromstring(diagram.svg(plan))))
    for network in plan.networks:
        assert f"{network.name} {network.cidr}" in texts
    for zone in plan.zones:
        assert f"{zone.name} {zone.cidr}" in texts
    for host in plan.hosts:
        assert host.name in texts
        assert all(str(nic.address) in texts for nic in host.interfaces)
    for host in plan.published:
        assert f"{host.published} {host.name}" in texts


def live(plan: Plan) -> dict[str, diagram.Live]:
    """Every host is something else, and every other NIC is broken; of one host nothing is known."""
    words = {"good": "as planned", "attention": "12 differences from the plan", "bad": "can't be reached"}
    states: list[diagram.State] = ["good", "attention", "bad"]
    found = {}
    for index, host in enumerate(plan.hosts[1:]):
        state = states[index % 3]
        broken = {nic.network: "switched off" for nic in host.interfaces[index % 2 :: 2]}
        found[host.name] = diagram.Live(state, words[state], broken)
    return found


def test_state_is_told_in_words_and_marks(plan: Plan) -> None:
    """Each host has the word of its state and a mark, each broken NIC its own: colour alone would not do."""
    found = live(plan)
    root = ET.fromstring(diagram.svg(plan, found))
    texts = [text for text, _ in areas(root)]
    for state in ("good", "attention", "bad"):
        word = next(each.word for each in found.values() if each.state == state)
        assert texts.count(word) >= sum(each.state == state for each in found.values())
    assert "not known" in texts
    assert sum(text.endswith(" · switched off") for text in texts) == sum(len(each.nics) for each in found.values())
    marks = [each for each in root.iter(f"{SVG}circle") if each.get("class") == "mark"]
    assert len(marks) == len(plan.hosts) + 4


def test_every_colour_has_one_for_the_dark(plan: Plan) -> None:
    """A page with a dark ground finds all of them."""
    root = ET.fromstring(diagram.svg(plan, live(plan)))
    used = {each.get(name, "none") for each in root.iter() for name in ("fill", "stroke")}
    assert used - {"none"} <= diagram.DARK.keys()


@pytest.mark.parametrize("now", [False, True])
def test_nothing_overlaps_and_nothing_is_cut_off(plan: Plan, now: bool) -> None:
    root = ET.fromstring(diagram.svg(plan, live(plan) if now else None))
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    texts = list(areas(root))
    for (one, one_area), (other, other_area) in combinations(texts, 2):
        assert not overlap(one_area, other_area), f"{one!r} over {other!r}"
    for text, area in texts:
        assert overlap(area, (0, 0, width, height))
        assert area[2] < width, f"{text!r} is cut off"
        assert area[3] < height, f"{text!r} is cut off"
        assert not any(overlap(area, line) for line in lines(root)), f"a line goes through {text!r}"


def test_each_nic_and_each_published_host_has_its_line(plan: Plan) -> None:
    root = ET.fromstring(diagram.svg(plan))
    # One circle at the end of each, and at the upstream router's and the legend's.
    assert len(list(root.iter(f"{SVG}circle"))) == sum(len(host.interfaces) for host in plan.hosts) + 2
    arrows = [path for path in root.iter(f"{SVG}path") if path.get("marker-end")]
    assert len(arrows) == len(plan.published) + 1


def test_a_screen_reader_has_a_title_and_a_description(plan: Plan) -> None:
    root = ET.fromstring(diagram.svg(plan))
    assert [root.find(f"{SVG}{name}") is not None for name in ("title", "desc")] == [True, True]
    assert root.attrib["aria-labelledby"] == "title description"
    assert "jumphost has 100.64.0.52 in mgmt and is published as 192.168.0.52" in (root.findtext(f"{SVG}desc") or "")


def test_the_picture_in_the_docs_is_current() -> None:
    current = (REPO / "docs" / "site.svg").read_text()
    assert current == diagram.svg(load(SITE)), "the plan or its picture changed: invoke topology > docs/site.svg"
