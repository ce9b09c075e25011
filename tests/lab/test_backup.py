"""`invoke backup` and `restore` on the deployed site: a host that was installed anew is itself again."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import blueprint, control, host, machine
from lab.image import image
from lab.process import wait_until
from lab.state import LabState
from tests.lab.commands import inside, invoke
from underlay.remote.guard.paths import COPY

pytestmark = pytest.mark.usefixtures("deployed")
HOST = "master-1"
FINGERPRINT = "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
# Also ends the connections that were opened with the old key.
OTHER_KEY = (
    "rm -f /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; "
    "systemctl restart ssh; pkill -f '^sshd.*ops' || true"
)
KEYS = "/home/ops/.ssh/authorized_keys"
COLLEAGUE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEyn7nLGCYUaJ3jNdPMY2aaDRuzHxBJMI2yeBiBvSQAx a-colleague"


def fingerprint() -> str:
    return inside(HOST, FINGERPRINT).split()[1]


def history() -> list[object]:
    found: list[object] = json.loads(inside(HOST, f"python3 {COPY} history"))["history"]
    return found


@contextmanager
def backed_up(path: Path) -> Iterator[tuple[str, list[object]]]:
    """A backup of the site, with something on a host that is in no repo; its host key, and its history."""
    inside(HOST, f"echo '{COLLEAGUE}' >> {KEYS}")
    try:
        assert "only you may read it" in invoke("backup", "--output", str(path)).stdout
        assert path.stat().st_mode & 0o777 == 0o600
        yield fingerprint(), history()
    finally:
        inside(HOST, f"sed -i /a-colleague/d {KEYS}")


def restored(path: Path) -> None:
    """Without its key's fingerprint it is refused, with it the host is brought back; then ssh knows it again."""
    refused = invoke("restore", str(path), HOST, "--yes", good=False)
    assert refused.returncode == 1
    assert f"{HOST} shows another host key than the known one" in refused.stderr
    wrong = invoke("restore", str(path), HOST, "--yes", "--host-key", "SHA256:other", good=False)
    assert wrong.returncode == 1
    assert f"shows the host key {fingerprint()}, not SHA256:other" in wrong.stderr
    dry = invoke("restore", str(path), HOST, "--dry", "--json", "--host-key", fingerprint(), good=False)
    assert dry.returncode == 2
    shown = json.loads(dry.stdout)
    assert shown["/etc/ssh/ssh_host_ed25519_key"] == "differs"
    assert COLLEAGUE not in inside(HOST, f"cat {KEYS}"), "a dry run changes nothing"
    invoke("restore", str(path), HOST, "--yes", "--host-key", fingerprint())


def test_round_trip(tmp_path: Path) -> None:
    """Host key, history and keys of a host are gone, and come back."""
    path = tmp_path / "backup.tar"
    with backed_up(path) as (key, entries):
        inside(HOST, f"rm -r /var/lib/underlay; sed -i /a-colleague/d {KEYS}; {OTHER_KEY}")
        try:
            restored(path)
            assert (fingerprint(), history()) == (key, entries)
            assert COLLEAGUE in inside(HOST, f"cat {KEYS}")
        finally:
            # However it went: the host has the key that the lab knows.
            for source in (host.keys(HOST), host.keys(HOST).with_suffix(".pub")):
                file = f"/etc/ssh/ssh_host_ed25519_key{source.suffix}"
                mode = f"{source.stat().st_mode & 0o777:o}"
                control.run(HOST, f"cat > {file}; chmod {mode} {file}", stdin=source.read_text())
            control.run(HOST, "systemctl restart ssh")


@pytest.mark.long
def test_fresh_disk(lab: LabState, tmp_path: Path) -> None:
    """The same with a disk that was never used: restored and deployed, the host is what it was."""
    path = tmp_path / "backup.tar"
    with backed_up(path) as (key, entries):
        drawn = blueprint.load()
        control.power_off(HOST)
        machine.unmount_below(host.HOSTS / HOST)
        shutil.rmtree(host.HOSTS / HOST)
        host.make_disk(drawn.machine(HOST), drawn, image(lab.suite), lab.key.with_suffix(".pub"))
        control.power_on(HOST)
        inside(HOST, OTHER_KEY)
        assert wait_until(lambda: ":22" in inside(HOST, "ss -Hltn"), seconds=10)
        restored(path)
        invoke("deploy", "master")
        assert fingerprint() == key
        assert history()[2:] == entries  # the deploy is two changes more: the network, and sshd
        same = json.loads(invoke("restore", str(path), HOST, "--json").stdout)
        assert "differs" not in same.values()
        invoke("drift", "master")
