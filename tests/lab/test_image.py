"""A master from nothing: its disk is what `invoke image` writes, and boots a kernel of its own, in the lab.

It is cabled as in a rack: a bond of two NICs with a VLAN for each of two networks, a third VLAN on another NIC.
"""

import json
import os
import platform
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import blueprint, control, host, network, vm
from lab.process import CommandError, run, wait_until
from lab.state import LabState
from tests.lab import commands
from tests.lab.commands import PLANNED, inside, invoke, pyinfra
from tests.lab.conftest import SUITE, Snapshot
from tests.lab.test_lab_lifecycle import leftovers
from underlay.plan import REPO, Plan, load

pytestmark = pytest.mark.timeout(3000)
HOST = "master-1"
NICS = {
    "mgmt": {"bond": ["eth0", "eth1"], "vlan": 10},
    "traffic": {"bond": ["eth0", "eth1"], "vlan": 20},
    "storage": {"nic": "eth2", "vlan": 30, "mtu": 1400},
}
LINKS = "ip -o link | sed 's/ qlen.*//' | sort; ls /etc/systemd/network"
PATIENCE = "120"
"""Seconds until a change is undone: in software emulation a second is ten."""


@pytest.fixture(scope="session")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    """The repo's, with that cabling; commands take it, too."""
    text = (REPO / "group_data/all.py").read_text()
    old = '"default_route": "traffic"'
    assert text.count(old) == 1
    path = tmp_path_factory.mktemp("plan") / "all.py"
    path.write_text(text.replace(old, f'{old}, "nics": {NICS}'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(commands.CLEAN, "UNDERLAY_PLAN", str(path))
        yield load(path)


@pytest.fixture(scope="session")
def lab(plan: Plan, machine_before: Snapshot) -> Iterator[LabState]:
    """As everywhere, but for the master: that is a machine of its own."""
    try:
        yield control.up(plan, SUITE, vms=[HOST])
    finally:
        control.down()


@pytest.fixture(scope="session")
def deployed(lab: LabState) -> LabState:
    for role in PLANNED:
        pyinfra(f"deploys/{role}.py", "-y", UNDERLAY_ROLLBACK_SECONDS=PATIENCE)
    return lab


def test_a_first_boot(lab: LabState) -> None:
    """A kernel of its own, its first address, one account with the operator's key, the host key that is known."""
    assert inside(HOST, "systemctl is-system-running") == "running\n"
    assert inside(HOST, "uname -r").strip() != platform.release()
    assert inside(HOST, "ip -o -4 address show scope global | awk '{print $2, $4}'") == "bond0.10 100.64.0.2/21\n"
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


def test_cabled_as_planned(deployed: LabState) -> None:
    """What the first boot made is used, what it did not make was made; sizes are the plan's."""
    shown = inside(HOST, "ip -o -d link show type vlan; ip -o -d link show type bond; ls /etc/systemd/network")
    for words in ("bond0.10@bond0", "bond0.20@bond0", "eth2.30@eth2", "mtu 1400", "mode active-backup"):
        assert words in shown
    assert "05-underlay-bond0.netdev" not in shown
    assert "05-underlay-bond0.10.netdev" not in shown
    assert "05-underlay-bond0.20.netdev" in shown
    assert "mtu 1500" in inside(HOST, "ip link show eth2")


def test_a_leg_without_a_signal(deployed: LabState) -> None:
    """The bond goes on by the other; each of these tells."""
    inside(HOST, "ip link set bond0 type bond active_slave eth0")
    vm.set_signal(HOST, 0, False)
    try:
        assert "100.64.0.2/21" in invoke("ssh", HOST, "ip -4 address").stdout
        said = invoke("verify", "master", good=False)
        assert "eth0, a leg of bond0, with a signal" in said.stdout
        said = json.loads(invoke("doctor", "--json", good=False).stdout)
        # In software emulation a host may answer later than the doctor waits, which then says so.
        unread = [each for each in said["unread"] if HOST in each and "too long" in each]
        assert [each["id"] for each in said["findings"]] == ([] if unread else ["bond-leg"]), said
        assert "eth0" in invoke("status", HOST, good=False).stdout
    finally:
        vm.set_signal(HOST, 0, True)
    assert wait_until(lambda: "NO-CARRIER" not in inside(HOST, "ip link show eth0"), seconds=20)
    invoke("verify", "master")


def test_what_is_not_confirmed_goes_again(deployed: LabState) -> None:
    """A deploy of a plan with another number for the VLAN by which the host is reached."""
    before = inside(HOST, LINKS)
    text = Path(commands.CLEAN["UNDERLAY_PLAN"]).read_text()
    path = Path(commands.CLEAN["UNDERLAY_PLAN"]).with_name("more.py")
    path.write_text(text.replace("'vlan': 10", "'vlan': 11"))
    done = pyinfra("deploys/master.py", "-y", good=False, UNDERLAY_PLAN=str(path), UNDERLAY_ROLLBACK_SECONDS=PATIENCE)
    assert done.returncode != 0, done.stdout
    assert wait_until(lambda: inside(HOST, LINKS) == before, seconds=300, every=3), inside(HOST, LINKS)
    invoke("verify", "master")


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


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two disks of the load balancer, raw and qcow2, by the command, in folders of their own, with one host key."""
    base = tmp_path_factory.mktemp("built")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(base / "id")])
    text = (REPO / "group_data/all.py").read_text()
    old = '"key": "~/.ssh/id_ed25519", "known_hosts": "~/.ssh/known_hosts"'
    assert old in text
    site = base / "plan.py"
    site.write_text(text.replace(old, f'"key": "{base / "id"}", "known_hosts": "{base / "known"}"'))
    images: list[Path] = []
    for kind in ("raw", "qcow2"):
        folder = base / kind
        folder.mkdir()
        if images:
            for path in images[0].parent.glob("*.hostkey*"):
                (folder / path.name).write_bytes(path.read_bytes())
                (folder / path.name).chmod(0o600)
        images.append(folder / f"lb.{kind}")
        command = ["nice", "./inv", "image", "lb", "--format", kind, "--output", str(images[-1])]
        command += ["--suite", SUITE] if SUITE else []
        run(command, env={"UNDERLAY_PLAN": str(site)}, cwd=control.CHECKOUT, timeout=1500)
        assert sorted(path.name for path in folder.iterdir()) == ["lb.hostkey", "lb.hostkey.pub", images[-1].name]
    return images


def test_another_build_gives_the_same_bytes(built: list[Path]) -> None:
    """Also as a qcow2."""
    raw, qcow2 = map(str, built)
    run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", raw, qcow2])


def test_secure_boot(built: list[Path], tmp_path: Path) -> None:
    """UEFI takes only what is signed, by Debian's shim: from the firmware to a login."""
    firmware = Path("/usr/share/OVMF")
    variables = tmp_path / "variables"
    variables.write_bytes((firmware / "OVMF_VARS_4M.ms.fd").read_bytes())
    console = tmp_path / "console"
    argv = ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-machine", "q35,smm=on", "-cpu", "max", "-smp", "2"]
    argv += ["-m", "1024", "-nodefaults", "-display", "none", "-vga", "std", "-serial", f"file:{console}"]
    argv += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    for path, more in ((firmware / "OVMF_CODE_4M.secboot.fd", ",readonly=on"), (variables, "")):
        argv += ["-drive", f"if=pflash,format=raw,file={path}{more}"]
    argv += ["-drive", f"file={built[0]},format=raw,if=virtio,snapshot=on"]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as process:
        try:
            assert wait_until(lambda: "lb login:" in _said(console) or process.poll() is not None, seconds=600, every=2)
        finally:
            process.kill()
    said = _said(console)
    assert "lb login:" in said, said[-3000:]
    assert "secure boot enabled" in said.lower(), said[:6000]


def _said(console: Path) -> str:
    return console.read_text(errors="replace") if console.exists() else ""
