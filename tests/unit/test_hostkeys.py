"""Host keys that are known beforehand, and the deploy machine's own."""

import subprocess
from pathlib import Path

import pytest
from paramiko import ECDSAKey, HostKeys
from paramiko.hostkeys import HostKeyEntry

from tests.unit.conftest import Planned
from underlay.access import hostkeys
from underlay.access.target import Target

ED25519 = "AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43
OTHER = "AAAAC3NzaC1lZDI1NTE5AAAAI" + "B" * 43


@pytest.fixture
def target(planned: Planned, tmp_path: Path) -> Target:
    return Target(planned(), "ssh", None, (), tmp_path / "ssh_config", tmp_path / "known_hosts", None)


def test_a_host_is_known_by_all_of_its_addresses(target: Target) -> None:
    """In the file it has the one by which a workstation reaches it; others of the file are none of the plan's hosts."""
    target.known_hosts.write_text(
        f"192.168.0.52 ssh-ed25519 {ED25519}\n100.64.0.2 ssh-ed25519 {OTHER}\n192.0.2.1 ssh-ed25519 {OTHER}\n"
    )
    assert hostkeys.known_hosts(target.plan, target.known_hosts).splitlines() == [
        f"100.64.0.52,192.168.0.52 ssh-ed25519 {ED25519}",
        f"100.64.0.2,100.64.32.2,100.64.64.2 ssh-ed25519 {OTHER}",
    ]


def test_hashed_names(target: Target) -> None:
    """What Debian's ssh writes by default (HashKnownHosts)."""
    target.known_hosts.write_text(f"{HostKeys.hash_host('192.168.0.52')} ssh-ed25519 {ED25519}\n")
    assert hostkeys.known_hosts(target.plan, target.known_hosts) == f"100.64.0.52,192.168.0.52 ssh-ed25519 {ED25519}\n"
    assert "192.168.0.52" not in target.known_hosts.read_text()


def test_every_kind_of_key_once(target: Target) -> None:
    ecdsa = HostKeyEntry(["192.168.0.53", "lb"], ECDSAKey.generate()).to_line() or ""
    text = f"192.168.0.53 ssh-ed25519 {ED25519}\n100.64.0.53 ssh-ed25519 {ED25519}\n{ecdsa}# a comment\n\n"
    target.known_hosts.write_text(text)
    lines = hostkeys.known_hosts(target.plan, target.known_hosts).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["100.64.0.53,192.168.0.53", "ecdsa-sha2-nistp256"],
        ["100.64.0.53,192.168.0.53", "ssh-ed25519"],
    ]
    assert lines[0].split()[2] == ecdsa.split()[2]


def test_a_published_host_is_known_at_any_published_address(planned: Planned, target: Target) -> None:
    """By the key of its internal address, also where the file has the key of another host for the published one."""
    target.known_hosts.write_text(
        f"100.64.0.52 ssh-ed25519 {ED25519}\n192.168.0.52 ssh-ed25519 {OTHER}\n100.64.0.2 ssh-ed25519 {OTHER}\n"
    )
    plan = planned(('"published": "192.168.0.53"', '"published": "192.168.0.99"'))
    assert hostkeys.known_as_published(plan, target.known_hosts) == f"192.168.0.52 ssh-ed25519 {ED25519}\n"
    target.known_hosts.write_text(f"100.64.0.53 ssh-ed25519 {OTHER}\n")
    assert hostkeys.known_as_published(plan, target.known_hosts) == f"192.168.0.99 ssh-ed25519 {OTHER}\n"


def test_no_known_hosts(target: Target) -> None:
    assert hostkeys.known_hosts(target.plan, target.known_hosts) == ""


def test_the_deploy_machine_logs_in_from_its_own_addresses(target: Target) -> None:
    assert (
        hostkeys.machine_key(target.plan, f"ssh-ed25519 {ED25519}")
        == f'from="100.64.0.52" ssh-ed25519 {ED25519} underlay-deploy-machine'
    )


def test_another_kind_of_host_key(target: Target) -> None:
    target.known_hosts.write_text(HostKeyEntry(["192.168.0.52"], ECDSAKey.generate()).to_line() or "")
    assert "ecdsa" in hostkeys.known_hosts(target.plan, target.known_hosts)


def test_ssh_finds_what_was_written(target: Target, tmp_path: Path) -> None:
    target.known_hosts.write_text(f"192.168.0.52 ssh-ed25519 {ED25519}\n")
    written = tmp_path / "written"
    written.write_text(hostkeys.known_hosts(target.plan, target.known_hosts))
    for name in ("100.64.0.52", "192.168.0.52"):
        found = subprocess.run(["ssh-keygen", "-F", name, "-f", written], capture_output=True, text=True, check=False)
        assert ED25519 in found.stdout, name
