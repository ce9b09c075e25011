"""The status of a site, made of states that are made up."""

import json
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console

from tests.unit.test_verify import target
from underlay.access.answers import UnreadableError
from underlay.access.endpoints import Endpoint
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target
from underlay.compare.difference import Difference, UnitState
from underlay.compare.network import LiveNetwork
from underlay.desired import units
from underlay.desired.routing import host_network
from underlay.desired.ruleset import Rule
from underlay.observe import drift, state
from underlay.observe.health import (
    Clock,
    Conntrack,
    Disk,
    GuardStatus,
    Link,
    Tally,
    Upstream,
)
from underlay.observe.state import HostState
from underlay.oncall import status
from underlay.oncall.status import Status
from underlay.plan import REPO, Host, Plan, load

PLAN = load(REPO / "group_data/all.py")
LAST = {"number": 3, "time": "2026-11-23T04:20:00+00:00", "who": "ada@laptop", "commit": "abc", "what": ["much"]}
WELL = {
    "clock": Clock(0.01, 0.02),
    "uptime": 200_000.0,
    "disks": {"/": Disk(100, 40, 0, 0)},
    "failed_units": (),
    "guard": GuardStatus(None, LAST),
    "conntrack": Conntrack(100, 1000, {"drop": 4, "insert_failed": 5, "early_drop": 6}),
    "tally": Tally(100, {"tcp": 100}, {"192.168.0.51": 1, "192.168.0.52": 7, "192.168.0.53": 0}, {}),
    "upstreams": (Upstream("kubernetes_api", "100.64.0.2:6443", "", 0.001),),
}

RULE = Rule("filter", "INPUT", "-j DROP")

Site = Callable[..., Status]


def made_up(section: str, value: object, _: HostState) -> object:
    if value is None:
        raise UnreadableError(f"{section} can't be read: no")
    return value


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Site:
    """A status of hosts that are all well, but for what is said: `dead` hosts, differences of `lb`, values of all."""

    def make(
        dead: Collection[str] = (),
        different: Collection[Difference] = (),
        gone: Collection[str] = (),
        unplugged: Collection[str] = (),
        at: Target | None = None,
        **changed: object,
    ) -> Status:

        class Some(HostState):
            """Its properties are what was made up."""

        for name, value in (WELL | changed).items():
            setattr(Some, name, property(partial(made_up, name, value)))

        def network(self: HostState) -> LiveNetwork:
            wanted = host_network(PLAN, PLAN.host(self.name))
            return LiveNetwork({}, tuple(each for each in wanted.addresses if each.cidr not in gone), (), ())

        def nics(self: HostState) -> dict[str, Link]:
            names = [nic.nic for nic in PLAN.host(self.name).interfaces]
            return {name: Link(True, name not in unplugged, 1500, "") for name in names}

        Some.network = property(network)  # type: ignore[assignment]
        Some.nics = property(nics)  # type: ignore[assignment]

        def read(_: Links, __: Plan, host: Host, ___: Collection[str], ____: int) -> HostState:
            if host.name in dead:
                raise UnreachableError(f"{host.name} can't be reached at 192.0.2.1: no answer")
            return Some(host.name, {})

        monkeypatch.setattr(state, "read", read)
        monkeypatch.setattr(Links, "open", lambda *_: None)
        monkeypatch.setattr(drift, "of_host", lambda _, host, __: iter(different if host.name == "lb" else ()))
        return status.read(at or workstation(tmp_path))

    return make


def workstation(folder: Path) -> Target:
    """As from a workstation: published addresses, and a jump host for the rest."""
    endpoints = []
    for host in PLAN.hosts:
        outer = host.published or (host.primary.address if host.primary.network == PLAN.enterprise.name else None)
        endpoints.append(Endpoint(host.name, outer or host.primary.address, "" if outer else "jumphost"))
    return replace(target(PLAN, folder), endpoints=tuple(endpoints))


def shown(found: Status, width: int = 100) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(status.page(PLAN, found), highlight=False)
    return capture.get()


def test_all_well(site: Site) -> None:
    """Exit code 0; a row for each host, the table's use, each published address, each upstream; it fits a screen."""
    found = site()
    assert (found.code, found.down, found.attention) == (0, [], [])
    page = shown(found)
    rows = [" ".join(line.split()) for line in page.splitlines()]
    assert "gateway 20 ms right run 2 d 7 h no +0.0 s 40% 2026-11-23 04:20 ada@laptop" in rows
    assert "gateway's connection table: 100 of 1000 used (10%); dropped 4, dropped early 6, not inserted 5" in rows
    assert "192.168.0.52 jumphost 7 none" in rows
    assert "kubernetes_api 100.64.0.2:6443 1 ms" in rows
    assert rows[-1].startswith("all well: 4 hosts, ")
    assert len(rows) <= 24
    json.dumps(found.document())


def test_gateway_dead(site: Site) -> None:
    """What is behind it is said to be behind it: one thing is down, not four."""
    found = site(dead=["gateway", "jumphost", "lb", "master-1"])
    assert found.code == 1
    assert found.down == [
        "gateway can't be reached at 192.0.2.1: no answer",
        "jumphost, lb, master-1: not asked, behind gateway",
    ]
    assert shown(found).count("behind gateway") == 4
    assert (found.conntrack, found.upstreams) == (None, [])


def test_jump_host_dead(site: Site) -> None:
    """So is what is behind the jump host."""
    found = site(dead=["jumphost", "master-1"])
    assert found.down == [
        "jumphost can't be reached at 192.0.2.1: no answer",
        "master-1: not asked, behind jumphost",
    ]


def test_two_dead(site: Site, tmp_path: Path) -> None:
    """From the jump host nothing is behind the gateway: each is down itself."""
    inside = target(PLAN, tmp_path)
    found = site(dead=["gateway", "lb"], at=inside)
    assert [line.split()[0] for line in found.down] == ["gateway", "lb"]


@pytest.mark.parametrize(
    ("changed", "attention"),
    [
        (
            {"different": [Difference("missing", RULE), Difference("unmanaged", RULE)]},
            ["lb: 1 difference from the plan: ./inv drift lb_nginx"],
        ),
        ({"different": [Difference("unmanaged", RULE)]}, []),
        (
            {"different": [Difference("stopped", units.NGINX, UnitState("failed", "enabled"))]},
            [
                'lb: nginx.service is failed and enabled: ./inv ssh lb "sudo systemctl status nginx.service"',
                "lb: 1 difference from the plan: ./inv drift lb_nginx",
            ],
        ),
        ({"gone": ["100.64.0.53/21"]}, ["lb: address missing: eth0 100.64.0.53/21"]),
        (
            {"unplugged": ["eth2"]},
            [f"{name}: eth2 has no carrier: cable or switch" for name in ("gateway", "master-1")],
        ),
        (
            {"conntrack": Conntrack(801, 1000, {})},
            ["the gateway's connection table is 80% full (801 of 1000): ./inv flows"],
        ),
        ({"conntrack": Conntrack(800, 1000, {})}, []),
        (
            {"tally": Tally(1, {}, {}, {"192.168.0.51": {"tcp": 60000, "udp": 5}})},
            ["60000 of 64512 NAT ports of 192.168.0.51 in use (tcp): ./inv flows --published 192.168.0.51"],
        ),
        (
            {"upstreams": (Upstream("grafana", "100.64.0.2:3000", "Connection refused", None),)},
            ["proxy: no connection to 100.64.0.2:3000 for grafana: Connection refused"],
        ),
    ],
)
def test_attention(site: Site, changed: dict[str, object], attention: list[str]) -> None:
    """Each thing that needs somebody is a line with what to do next, and exit code 2."""
    found = site(**changed)
    assert found.attention == attention
    assert found.code == (2 if attention else 0)
    for line in attention:
        assert f"LOOK  {line}" in shown(found, 200)


@pytest.mark.parametrize(
    ("changed", "attention"),
    [
        (
            {"failed_units": ("cron.service",)},
            'cron.service has failed: ./inv ssh {} "sudo systemctl status cron.service"',
        ),
        ({"disks": {"/": Disk(100, 10, 100, 95)}}, 'a disk is 95% full: ./inv ssh {} "df -h; df -i"'),
        ({"clock": Clock(-86400.0, 0.02)}, "its clock is -1 d 0 h from this one"),
        ({"clock": Clock(4.0, 0.1)}, "its clock is +4.0 s from this one"),
        (
            {"guard": GuardStatus({"who": "ada@laptop", "left": 12.3}, None)},
            "a change of ada@laptop waits for its confirmation, else undone in 12 s",
        ),
    ],
)
def test_attention_of_each_host(site: Site, changed: dict[str, object], attention: str) -> None:
    """What is wrong with a host is told with its name."""
    found = site(**changed)
    names = [host.name for host in found.hosts]
    assert found.attention == [f"{name}: {attention.format(name)}" for name in names]
    assert found.code == 2


def test_clock_that_may_be_right(site: Site) -> None:
    """A slow way there and back says little about a clock."""
    assert site(clock=Clock(4.0, 6.0)).code == 0


@pytest.mark.parametrize(
    "part", ["clock", "uptime", "disks", "failed_units", "guard", "conntrack", "tally", "upstreams"]
)
def test_unread_is_not_well(site: Site, part: str) -> None:
    """What could not be read is unknown, and exit code 1; what is wrong beside it is 2, and shown all the same."""
    found = site(**{part: None})
    assert found.code == 1
    assert site(**{part: None}, gone=["100.64.0.53/21"]).code == 2
    assert f"{part} can't be read: no" in found.down
    assert "gateway" in shown(found)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.9, "59 s"), (61, "1 min"), (3700, "1 h 1 min"), (90000, "1 d 1 h")]
)
def test_duration(seconds: float, text: str) -> None:
    """In units that a person thinks in."""
    assert status.duration(seconds) == text


def test_many_published_addresses(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with the most flows are shown, the rest is counted: a screen is a screen."""
    monkeypatch.setattr(status, "MOST", 2)
    page = shown(site())
    assert "192.168.0.53" not in page.replace("100.64", "")
    assert "1 more" in page
