"""The hosts that a pyinfra command gets."""

from pathlib import Path

import pytest

from tests.unit.conftest import Planned
from underlay.access.target import Target
from underlay.operations.inventory import certain, groups, wanted_roles
from underlay.plan import ROLES, Plan

MASTER = '    "master-1": {'
MASTER_0 = '    "master-0": {"role": "master", "addresses": {"mgmt": "100.64.0.9"}},\n'


def target(plan: Plan) -> Target:
    return Target(plan, "ssh", None, (), Path("/run/ssh_config"), Path("/known_hosts"), None)


@pytest.mark.parametrize(
    ("command", "roles"),
    [
        ("pyinfra inventory.py deploys/gateway.py -y", ("gateway",)),
        ("pyinfra inventory.py ./deploys/master.py /repo/deploys/lb_nginx.py", ("lb_nginx", "master")),
        ("pyinfra inventory.py exec -- uptime", ROLES),
        ("pyinfra inventory.py other/gateway.py", ROLES),
        ("pyinfra inventory.py deploys/other.py", ROLES),
        ("pyinfra inventory.py debug-inventory", ROLES),
    ],
)
def test_only_the_roles_that_a_command_names(command: str, roles: tuple[str, ...]) -> None:
    assert wanted_roles(command.split()) == roles


def test_the_hosts_of_each_role(planned: Planned) -> None:
    """In the plan's order; hosts without a deploy are in no group."""
    found = groups(target(planned((MASTER, MASTER_0 + MASTER))), ["pyinfra"])
    assert {role: [name for name, _ in hosts] for role, hosts in found.items()} == {
        "gateway": ["gateway"],
        "jumphost": ["jumphost"],
        "lb_nginx": ["lb"],
        "master": ["master-0", "master-1"],
    }


def test_a_role_without_hosts_is_no_group(planned: Planned) -> None:
    found = groups(target(planned(('"role": "lb_nginx"', '"role": "server"'))), ["pyinfra"])
    assert list(found) == ["gateway", "jumphost", "master"]


def test_commands_are_roots_and_guarded_changes_have_their_own_deadlines(planned: Planned) -> None:
    """A `_timeout` here would be upon those, too; that of commands is the connector's (test_connection.py)."""
    [(_, data)] = groups(target(planned()), ["pyinfra"])["gateway"]
    assert data == {"_sudo": True}


def test_each_host_has_data_of_its_own(planned: Planned) -> None:
    found = groups(target(planned()), ["pyinfra"])
    found["gateway"][0][1]["_sudo"] = False
    assert found["jumphost"][0][1]["_sudo"] is True


@pytest.mark.parametrize(
    ("argv", "hosts"),
    [
        (["pyinfra", "inventory.py", "deploys/gateway.py", "-y"], ["gateway"]),
        (["pyinfra", "inventory.py", "deploys/master.py", "--limit", "master-1"], []),
        (["pyinfra", "inventory.py", "debug-inventory"], []),
    ],
)
def test_hosts_that_are_connected_to_early(planned: Planned, argv: list[str], hosts: list[str]) -> None:
    """Only those that pyinfra itself will connect to."""
    assert certain(target(planned()), argv) == hosts
