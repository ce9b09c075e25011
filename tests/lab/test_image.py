"""A master from nothing: its disk is what `invoke image` writes, and boots a kernel of its own, in the lab."""

import os
import platform
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import blueprint, control, host, network
from lab.process import CommandError, run, wait_until
from lab.state import LabState
from tests.lab.commands import inside, invoke, pyinfra
from tests.lab.conftest import SUITE, Snapshot
from tests.lab.test_lab_lifecycle import leftovers
from underlay.plan import ROLES, Plan, plan_file

HOST = "master-1"
PATIENCE = "120"
"""Seconds until a change is undone: in software emulation a second is ten."""


@pytest.fixture(scope="session")
def lab(plan: Plan, machine_before: Snapshot) -> Iterator[LabState]:
    """As everywhere, but for the master: that is a machine of its own."""
    try:
        yield control.up(plan, SUITE, vms=[HOST])
    finally:
        control.down()


@pytest.fixture(scope="session")
def deployed(lab: LabState) -> LabState:
    for role in ROLES:
        pyinfra(f"deploys/{role}.py", "-y", UNDERLAY_ROLLBACK_SECONDS=PATIENCE)
    return lab


def test_a_first_boot(lab: LabState) -> None:
    """A kernel of its own, its first address, one account with the operator's key, the host key that is known."""
    assert inside(HOST, "systemctl is-system-running") == "running\n"
    assert inside(HOST, "uname -r").strip() != platform.release()
    assert inside(HOST, "ip -o -4 address show dev eth0 | awk '{print $4}'") == "100.64.0.2/21\n"
    assert inside(HOST, "awk -F: '$3 >= 1000 && $3 < 60000 {print $1}' /etc/passwd") == "ops\n"
    key = host.keys(HOST).with_suffix(".pub").read_text().split()
    assert inside(HOST, "cat /etc/ssh/ssh_host_*_key.pub").split()[:2] == key[:2]
    assert inside(HOST, "ls /etc/ssh/ssh_host_*_key | wc -l") == "1\n"
    assert inside(HOST, "cloud-init status --format json | grep -c '\"errors\": \\[\\]'") != "0\n"


def test_its_root_fills_the_disk_it_is_on(lab: LabState) -> None:
    """The disk is only as large as it must be; on a larger one the last partition is the one that can grow."""
    assert inside(HOST, "lsblk -nro PARTLABEL /dev/vda").split() == ["bios", "efi", "cidata", "root"]
    assert inside(HOST, "findmnt -no SOURCE /") == "/dev/vda4\n"
    assert inside(HOST, "findmnt -no SOURCE /boot/efi") == "/dev/vda2\n"


def test_commands_in_it(lab: LabState) -> None:
    """As in the others: words, input, output, exit code, and an end if it takes too long."""
    done = control.run(HOST, ["sh", "-c", 'cat; echo "$1" >&2; exit 3', "-", "a  b"], stdin="in\n", timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "in\n", "a  b\n")
    with pytest.raises(CommandError, match="took too long"):
        control.run(HOST, "sleep 60", timeout=2)
    assert invoke("lab.run", HOST, "echo said; exit 4", good=False).returncode == 4


def test_deployed_like_the_others(deployed: LabState) -> None:
    invoke("verify")
    invoke("drift")
    invoke("deploy", "--dry")  # exit code 0: nothing would change


def test_a_boot_brings_it_back(deployed: LabState) -> None:
    """A power cut, then a boot that the host asks for itself."""
    before = inside(HOST, "cat /proc/sys/kernel/random/boot_id")
    control.reboot(HOST)
    between = inside(HOST, "cat /proc/sys/kernel/random/boot_id")
    assert between != before
    invoke("verify")
    control.run(HOST, "systemctl reboot", timeout=30)
    assert wait_until(
        lambda: control.status().state == "up" and _boot_id() not in (None, between), seconds=600, every=2
    )
    host.wait_ready(blueprint.load().machine(HOST))
    invoke("verify")


def _boot_id() -> str | None:
    try:
        return inside(HOST, "cat /proc/sys/kernel/random/boot_id")
    except (CommandError, AssertionError):
        return None


def test_off_and_on(lab: LabState) -> None:
    control.power_off(HOST)
    assert host.system_state(HOST) == "off"
    assert ports() == set()
    control.power_on(HOST)
    assert host.system_state(HOST) == "running"


def test_nothing_is_left(lab: LabState) -> None:
    """Of a machine that was killed, and of a lab that is taken down."""
    leader = host.leader(HOST)
    assert leader is not None
    os.kill(leader, signal.SIGKILL)
    assert wait_until(lambda: host.leader(HOST) is None, seconds=10)
    control.down()
    assert leftovers() == []


def ports() -> set[str]:
    drawn = blueprint.load()
    links = run(["ip", "-n", network.netns("switch").name, "-br", "link"]).split()
    return set(network.ports(drawn.machine(HOST), drawn)) & {each.partition("@")[0] for each in links}


def test_another_build_gives_the_same_bytes(plan: Plan, tmp_path: Path) -> None:
    """By the command, with the host key of the first one, in another folder."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "id")])
    text = plan_file().read_text()
    old = '"key": "~/.ssh/id_ed25519", "known_hosts": "~/.ssh/known_hosts"'
    assert old in text
    site = tmp_path / "plan.py"
    site.write_text(text.replace(old, f'"key": "{tmp_path / "id"}", "known_hosts": "{tmp_path / "known"}"'))
    images: list[Path] = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        if images:
            for path in images[0].parent.glob("*.hostkey*"):
                (folder / path.name).write_bytes(path.read_bytes())
                (folder / path.name).chmod(0o600)
        images.append(folder / "lb.raw")
        run(
            ["nice", "./inv", "image", "lb", "--output", str(images[-1])],
            env={"UNDERLAY_PLAN": str(site)},
            cwd=control.CHECKOUT,
            timeout=1500,
        )
        assert sorted(path.name for path in folder.iterdir()) == ["lb.hostkey", "lb.hostkey.pub", "lb.raw"]
    run(["cmp", *map(str, images)])
