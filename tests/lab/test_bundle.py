"""`invoke bundle` on the deployed site: everything is in it but secrets, and who was down is noted."""

import json
import tarfile
from pathlib import Path

import pytest

from lab import control
from lab.state import RUNTIME
from tests.lab.commands import inside, invoke

pytestmark = pytest.mark.usefixtures("deployed")
PLANTED = "-----BEGIN PRIVATE KEY-----\nTGFiIGtleSB0aGF0IG11c3Qgbm90IGxlYXZlIHRoZSBzaXRl\n-----END PRIVATE KEY-----\n"
WIREGUARD = "/etc/systemd/network/99-test.netdev"


def secrets() -> set[str]:
    """Every line of key material that the lab has, and what was planted."""
    files = [RUNTIME / "key", *(path for path in (RUNTIME / "keys").iterdir() if path.suffix != ".pub")]
    lines = {line for path in files for line in path.read_text().splitlines() if "KEY--" not in line}
    return {line for line in lines if len(line) > 20} | {PLANTED.splitlines()[1], "hunter2", "wireguardSecret="}


def test_bundle(tmp_path: Path) -> None:
    """Configuration, live state, logs, versions, history, drift and plan; no secret; a host that is down is noted."""
    path = tmp_path / "bundle.tar.gz"
    control.run("lb", "cat >> /var/log/nginx/error.log", stdin=f"{PLANTED}password: hunter2\n")
    control.run("gateway", f"cat > {WIREGUARD}", stdin="[WireGuard]\nPrivateKey=wireguardSecret=\n")
    inside("master-1", "systemctl stop ssh.socket 2>/dev/null; systemctl stop ssh; pkill -f '^sshd.*ops' || true")
    try:
        done = invoke("bundle", "--output", str(path), "--json", good=False)
    finally:
        control.run("master-1", "systemctl start ssh")
        control.run("gateway", f"rm {WIREGUARD}")
        control.run("lb", "truncate -s 0 /var/log/nginx/error.log")
    assert done.returncode == 2, done.stderr
    found = json.loads(done.stdout)["hosts"]
    assert "master-1 can't be reached" in found.pop("master-1")
    assert set(found.values()) == {""}
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        files = {member.name.partition("/")[2]: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    everything = b"\n".join(files.values()).decode()
    assert len(secrets()) > 20
    for secret in secrets():
        assert secret not in everything
    # What was planted was there, and stands for itself.
    assert "[left out]" in files["hosts/lb/files/var/log/nginx/error.log"].decode()
    assert "PrivateKey=[left out]" in files[f"hosts/gateway/files{WIREGUARD}"].decode()
    assert "master-1: master-1 can't be reached" in files["README.txt"].decode()
    assert "SHA256:" in files["hosts/gateway/files/home/ops/.ssh/authorized_keys"].decode()
    assert "AAAAC3Nza" not in everything
    parts = {
        "plan/all.py": "hosts = {",
        "plan.txt": "Gateway rules, table nat",
        "status.txt": "gateway's connection table",
        "drift.json": "can't be reached",
        "history.json": '"number": 1',
        "versions.txt": "pyinfra 3.",
        "hosts/gateway/iptables.txt": "-j SNAT --to-source",
        "hosts/gateway/conntrack.txt": "ESTABLISHED",
        "hosts/gateway/journal.txt": "systemd-networkd[",
        "hosts/gateway/files/var/lib/underlay/rules.v4": "-j DNAT",
        "hosts/lb/files/etc/nginx/nginx.conf": "upstream kubernetes_api",
        "hosts/jumphost/sshd.txt": "passwordauthentication no",
        "hosts/jumphost/packages.txt": "openssh-server",
    }
    for name, text in parts.items():
        assert text in files[name].decode(), name
