"""Further nodes: the lines that the plan takes, and how `./inv add` shows them."""

import subprocess
from pathlib import Path

import pytest

from tests.unit.conftest import Planned
from underlay.commands.cluster import add as command
from underlay.plan import REPO, MistakeError, Plan, load, load_text
from underlay.plan.parts.further import with_nodes

CLUSTER = load(REPO / "tests/golden/good/cluster.py")
NO_ZONES = "zones = {}"


def added(plan: Plan, role: str, *names: str) -> list[str]:
    """The addresses of further nodes, each host's with blanks between."""
    new = load_text(with_nodes(plan, role, names), plan.source)
    assert new.hosts[: len(plan.hosts)] == plan.hosts
    return [" ".join(str(nic.address) for nic in new.host(name).interfaces) for name in names]


def test_a_node_has_one_number_behind_those_of_its_role() -> None:
    assert added(CLUSTER, "worker", "worker-3", "worker-4") == [
        "100.64.0.13 100.64.32.13 100.64.64.13",
        "100.64.0.14 100.64.32.14 100.64.64.14",
    ]
    assert added(CLUSTER, "master", "master-4", "master-5")[0] == "100.64.0.5 100.64.32.5 100.64.64.5"


def test_a_number_is_free_in_all_networks(planned: Planned) -> None:
    """One that a host of another role has in one of them is passed over."""
    plan = planned(('"dev":', '"nas": {"role": "server", "addresses": {"storage": "100.64.64.3"}},\n    "dev":'))
    assert added(plan, "worker", "worker-1") == ["100.64.0.4 100.64.32.4 100.64.64.4"]


def test_the_first_of_a_role_is_like_a_master(planned: Planned) -> None:
    new = load_text(with_nodes(planned(), "worker", ["worker-1"]), planned().source).host("worker-1")
    assert (new.role, new.default_network) == ("worker", "traffic")
    assert [nic.network for nic in new.interfaces] == ["mgmt", "traffic", "storage"]


def test_a_zone_that_is_named_for_them_is_where_they_are(planned: Planned) -> None:
    plan = planned((NO_ZONES, 'zones = {"workers": {"network": "traffic", "cidr": "100.64.34.0/23"}}'))
    assert added(plan, "worker", "w-1", "w-2") == [
        "100.64.2.0 100.64.34.0 100.64.66.0",
        "100.64.2.1 100.64.34.1 100.64.66.1",
    ]


def test_a_range_that_is_kept_for_others_is_passed_over(planned: Planned) -> None:
    plan = planned((NO_ZONES, 'zones = {"printers": {"network": "mgmt", "cidr": "100.64.0.0/28"}}'))
    assert added(plan, "worker", "w") == ["100.64.0.16 100.64.32.16 100.64.64.16"]
    wide = planned((NO_ZONES, 'zones = {"grow": {"network": "mgmt", "cidr": "100.64.0.0/20"}}'))
    assert added(wide, "worker", "w") == ["100.64.0.3 100.64.32.3 100.64.64.3"]


def test_addresses_stay_when_hosts_go(planned: Planned) -> None:
    """What goes leaves a gap: nobody moves, and the next one is behind all."""
    line = '    "%s": {"role": "worker", "addresses": {"mgmt": "100.64.0.%d"}},\n}\n'
    last = '"default_route": "traffic",\n    },\n}\n'
    plan = planned((last, last[:-2] + (line % ("w-1", 11))[:-2] + line % ("w-3", 13)))
    assert added(plan, "worker", "w-4") == ["100.64.0.14"]


def test_what_can_t_be_added(planned: Planned, tmp_path: Path) -> None:
    with pytest.raises(MistakeError, match=r"lb is in the plan already: .*hosts.lb"):
        with_nodes(planned(), "worker", ["lb"])
    full = planned((NO_ZONES, 'zones = {"worker": {"network": "mgmt", "cidr": "100.64.0.2/32"}}'))
    with pytest.raises(MistakeError, match="no number is free in all of mgmt, traffic, storage"):
        with_nodes(full, "worker", ["w"])
    none = planned(('"role": "master"', '"role": "server"'))
    with pytest.raises(MistakeError, match="no node to take the networks from"):
        with_nodes(none, "worker", ["w"])


def test_git_takes_what_the_command_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.py").write_text((REPO / "group_data/all.py").read_text())
    monkeypatch.setenv("UNDERLAY_PLAN", str(tmp_path / "plan.py"))
    command.add.body(None, ["worker-1", "worker-2"])
    diff = capsys.readouterr().out
    done = subprocess.run(["git", "apply"], cwd="/", input=diff, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [host.name for host in load(tmp_path / "plan.py").hosts_of("worker")] == ["worker-1", "worker-2"]


@pytest.mark.parametrize(
    ("names", "role", "said"),
    [
        ([], "worker", "no name is given"),
        (["w"], "gateway", "unknown role 'gateway': the roles are master, worker"),
        (["W"], "worker", "the plan with these lines: 1 error; nothing was changed"),
        (["dev"], "worker", "dev is in the plan already"),
    ],
)
def test_a_mistake_is_one_report(names: list[str], role: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        command.add.body(None, names, role)
    told = capsys.readouterr()
    assert (end.value.code, told.out) == (1, "")
    assert told.err.startswith(f"error: {said}")


def test_the_files_beside_a_plan_count_for_its_text_too() -> None:
    """The key of its package source is beside the file, wherever the text is looked at."""
    text = CLUSTER.source.read_text()
    assert load_text(text, CLUSTER.source) == CLUSTER
