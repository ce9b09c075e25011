"""The hosts that a pyinfra command gets, and the data files that it does not run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.conftest import Planned
from underlay.access.target import Target
from underlay.desired import checkout
from underlay.errors import OperatorError
from underlay.operations.inventory import certain, check_choice, groups, wanted_roles
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


@pytest.mark.parametrize(
    "words", ["--limit lbb", "--limit=lb --limit=lbb", "--exclude lbb", "--exclude=gateway", "--limit all"]
)
def test_a_choice_of_no_host(words: str, planned: Planned) -> None:
    """pyinfra says so, and ends well: with nothing done, or with the host that was to be left out."""
    with pytest.raises(OperatorError, match="is no host of this command: it has lb"):
        check_choice(words.split(), groups(target(planned()), ["deploys/lb_nginx.py"]))


@pytest.mark.parametrize("words", ["--limit lb", "--limit=l*", "--exclude lb_nginx", "-y -- --limit x"])
def test_a_choice_of_some(words: str, planned: Planned) -> None:
    check_choice(words.split(), groups(target(planned()), ["deploys/lb_nginx.py"]))


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
    assert data == {}, "the connector makes each command root's"


def test_each_host_has_data_of_its_own(planned: Planned) -> None:
    found = groups(target(planned()), ["pyinfra"])
    found["gateway"][0][1]["_sudo"] = False
    assert found["jumphost"][0][1] == {}


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


INVENTORY = ("pyinfra", "inventory.py", "debug-inventory")


@pytest.fixture
def copy(tmp_path: Path, planned: Planned) -> Path:
    """This repo in a folder, with target ssh and a key; nothing is connected to."""
    key = tmp_path / "key"
    key.write_text("")
    folder = tmp_path / "copy"
    plan = planned(('"key": "~/.ssh/id_ed25519"', f'"key": "{key}"'), ('"~/.ssh/known_hosts"', f'"{key}"'))
    for path, content in checkout.files(plan).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("UNDERLAY_")}
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=clean | {"UNDERLAY_TARGET": "ssh", "PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


SIDE_EFFECTS = (
    'open({!r}, "w")',
    '__import__("os").system("touch " + {!r})',
    "import pathlib; x = pathlib.Path({!r}).touch()",
)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("all.py", SIDE_EFFECTS[0], INVENTORY),
        ("jumphost.py", SIDE_EFFECTS[1], INVENTORY),
        ("lb_nginx.py", SIDE_EFFECTS[2], ("invoke", "plan")),
        ("lb_nginx.py", SIDE_EFFECTS[0], ("invoke", "deploy", "--dry", "gateway")),
    ],
)
def test_no_data_file_is_run(copy: Path, tmp_path: Path, name: str, code: str, words: tuple[str, ...]) -> None:
    """Whoever's it is: it is refused, with one error and the line, also by what does not need the role."""
    path = copy / "group_data" / name
    path.write_text(path.read_text() + code.format(str(tmp_path / "effect")))
    done = run(copy, *words)
    assert done.returncode == 1
    assert done.stderr.count("error: ") == 1, done.stderr
    assert f"group_data/{name}: " in done.stderr
    assert "the file: is not plain data" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not (tmp_path / "effect").exists()


def test_no_file_beside_the_data_is_run(copy: Path, tmp_path: Path) -> None:
    """Also not the repo's own plan and data while others are in force, nor what pyinfra would take for data.

    The control case: pyinfra by itself runs them, in every folder that it looks for them in.
    """
    other = tmp_path / "other.py"
    other.write_text((copy / "group_data/all.py").read_text())
    for name in ("jumphost.py", "lb_nginx.py"):
        (tmp_path / name).write_text((copy / "group_data" / name).read_text())
    (tmp_path / "more").mkdir()
    files = [*(copy / "group_data").iterdir(), tmp_path / "more/all.py", copy / "group_data/__init__.py"]
    files += [copy / "group_data/foo.py", copy / "host_data/gateway.py", copy / "group_data/gateway.py"]
    for number, path in enumerate(files):
        path.parent.mkdir(exist_ok=True)
        path.write_text(SIDE_EFFECTS[0].format(str(tmp_path / f"effect-{number}")))
    more = ("--group-data", str(tmp_path / "more"))
    done = run(copy, *INVENTORY, *more, UNDERLAY_PLAN=str(other))
    assert (done.returncode, list(tmp_path.glob("effect*"))) == (0, []), done.stderr
    assert run(copy, "invoke", "plan", UNDERLAY_PLAN=str(other)).returncode == 0
    run(copy, "pyinfra", "@local", "debug-inventory")
    run(tmp_path, "pyinfra", "copy/inventory.py", "debug-inventory", PYTHONPATH=str(copy), UNDERLAY_PLAN=str(other))
    assert not list(tmp_path.glob("effect*"))
    (copy / "config.py").unlink()
    run(copy, "pyinfra", "@local", "debug-inventory")
    assert list(tmp_path.glob("effect*"))
