"""A site with many hosts behind one jump host: what is true for one master is true for a hundred, at the first try.

    dev ── gateway ── jumphost ══ master-1, …, master-N

sshd takes ten sessions over one connection, and begins to refuse newcomers when ten have not logged in yet.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import control, machine
from tests.lab.commands import inside
from tests.lab.test_guard import PLAN, confirmed, finish, start, write_plan
from underlay.plan import load

REFUSALS = "no more sessions|MaxStartups"
"""What sshd writes into its journal when it takes no more."""
FEW, SEVERAL, MANY = 12, 20, 100
SCREEN = 60
"""Lines of a page about many hosts that are well."""


class Site:
    """A site in a lab of its own; `hosts` are its masters."""

    def __init__(self, folder: Path, masters: int) -> None:
        self.hosts = [f"master-{number}" for number in range(1, masters + 1)]
        lines = [
            f'    "{host}": {{"role": "master", "default_route": "traffic", "addresses": {{'
            f'"mgmt": "100.64.1.{number}", "traffic": "100.64.33.{number}", "storage": "100.64.65.{number}"}}}},\n'
            for number, host in enumerate(self.hosts[1:], start=2)
        ]
        end = PLAN.rindex("}")
        self.plan = write_plan(folder, PLAN[:end] + "".join(lines) + PLAN[end:])

    def invoke(self, *arguments: str, code: int = 0) -> str:
        """What a command prints, which must end with this exit code."""
        seconds = 120 + 6 * len(self.hosts)
        found, output = finish(start(["-m", "invoke", *arguments], UNDERLAY_PLAN=self.plan), seconds)
        assert found == code, output[-20_000:]
        return output

    def refused(self) -> dict[str, str]:
        """Host → what its sshd refused."""
        hosts = ("gateway", "jumphost", "lb", *self.hosts)
        journals = {host: inside(host, f"journalctl -b -u ssh | grep -E '{REFUSALS}' || true") for host in hosts}
        return {host: lines for host, lines in journals.items() if lines}


@pytest.fixture(
    scope="module",
    params=[FEW, *(pytest.param(count, marks=pytest.mark.long) for count in (SEVERAL, MANY))],
)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, machine_before: object
) -> Iterator[Site]:
    """The gateway is deployed; the jump host is as it was installed, and so are the masters."""
    made = Site(tmp_path_factory.mktemp("many"), request.param)
    limits = machine.neighbours()
    try:
        control.up(load(Path(made.plan)))
        made.invoke("deploy", "gateway")
        yield made
    finally:
        control.down()
        assert machine.neighbours() == limits, "what a large lab needs of the machine is taken back"


@pytest.mark.timeout(1800)
def test_the_first_deploy_is_green_and_true(site: Site) -> None:
    """Through a jump host with sshd's defaults. What a person is told of each host is what its history says."""
    output = site.invoke("deploy", "master")
    told = re.findall(r"\[(master-\d+)\] +confirmed: change (\d+), ([1-9]\d*) probes passed", output)
    numbers = {host: [int(number) for each, number, _ in told if each == host] for host in site.hosts}
    assert all(numbers.values()), output
    assert numbers == {host: [entry["number"] for entry in reversed(confirmed(host))] for host in site.hosts}
    assert site.refused() == {}


def test_a_second_deploy_changes_nothing(site: Site) -> None:
    """And `drift` reads all of them."""
    output = site.invoke("deploy", "master")
    assert "confirmed" not in output
    assert re.search(r"Grand total +([1-9]\d*) +- +- +\1\b", output), output
    read = json.loads(site.invoke("drift", "master", "--json"))
    assert read == {host: {"differences": []} for host in site.hosts}
    assert site.refused() == {}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_all_of_it_is_deployed_and_seen(site: Site) -> None:
    """1. the other roles, nginx with its upstreams too; 2. verify; 3. the doctor and status reach every host."""
    site.invoke("deploy")
    assert "good: all" in site.invoke("verify")
    site.invoke("doctor")
    # What the proxy serves is not there: somebody has to look at that, but not at a host that was not read.
    status = site.invoke("status", code=2)
    assert re.search(r"^0 of \d+ hosts not read", status, re.MULTILINE)
    assert len(status.splitlines()) < SCREEN
    assert site.refused() == {}
