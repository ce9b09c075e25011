"""The picture of the site as text: complete, and safe for the notation that it is in."""

import json
from collections.abc import Callable

import pytest

from tests.unit.conftest import Planned
from underlay.plan import Plan
from underlay.report import diagram_text

DRAWN = [diagram_text.mermaid, diagram_text.plantuml]


@pytest.mark.parametrize("draw", DRAWN)
def test_everything_is_in_it(planned: Planned, draw: Callable[[Plan], str]) -> None:
    """Each network, host, NIC and published address is there, and each cable once."""
    plan = planned()
    text = draw(plan)
    for network in plan.networks:
        assert f"<b>{network.name}</b>" in text
        assert str(network.cidr) in text
    for host in plan.hosts:
        assert f"<b>{host.name}</b>" in text
        assert all(f"{nic.nic} {nic.address}" in text for nic in host.interfaces)
        assert host.published is None or str(host.published) in text
    cables = [line for line in text.splitlines() if " --" in line and "network_" in line and "host_" in line]
    assert len(cables) == len(set(cables)) == sum(len(host.interfaces) for host in plan.hosts)


@pytest.mark.parametrize("draw", DRAWN)
def test_no_name_is_a_word_of_the_notation(planned: Planned, draw: Callable[[Plan], str]) -> None:
    """A host may be called `end`, and two names that differ by a hyphen stay two."""
    text = draw(planned(('    "dev": {', '    "end": {'), ('    "images": {', '    "end-1": {')))
    for line in text.splitlines():
        assert "end" not in line.replace("host_end", "").replace("<b>end", "").split()
    assert "host_end_1" in text


def test_title_of_mermaid_is_quoted(planned: Planned) -> None:
    """A site's name may be any text; it can't end the title."""
    title = diagram_text.mermaid(planned(('site = "lab-site"', """site = 'a: "b" # c'"""))).splitlines()[1]
    assert json.loads(title.removeprefix("title: ")) == 'a: "b" # c'
