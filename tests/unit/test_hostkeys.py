"""Host keys that are known beforehand, and the deploy machine's own."""

import subprocess
from pathlib import Path
from time import monotonic

import pytest
from paramiko import ECDSAKey, HostKeys
from paramiko.hostkeys import HostKeyEntry

from tests.unit.conftest import Planned
from underlay.access import hostkeys
from underlay.access.ssh_config import TargetError
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


ODD = b"\n".join(
    (
        b"",
        b"   # a comment",
        b"\t",
        b"100.64.0.2",
        b"100.64.0.2 ssh-ed25519",
        b"@cert-authority 100.64.0.2,100.64.0.52 ssh-ed25519 %(other)s ca",
        b"@cert-authority",
        b"@unknown 100.64.0.2 ssh-ed25519 %(other)s",
        b"100.64.0.2 ssh-ed25519 %(cut)s",
        b"100.64.0.2 ssh-ed25519 ====",
        b"100.64.0.2 ssh-ed25519 not/base64!",
        b"100.64.0.2 ssh-rsa %(other)s",
        b"100.64.0.2 ssh-ed25519-\xff %(other)s",
        b"100.64.0.2 1024 35 1237",
        b"|1|not base64|= ssh-ed25519 %(other)s",
        b"|2|AAAA|AAAA ssh-ed25519 %(other)s",
        b"|1|AAAA ssh-ed25519 %(other)s",
        b"\xff\xfe\xe4 ssh-ed25519 %(other)s M\xfcller",
        b"[100.64.0.2]:2222 ssh-ed25519 %(other)s",
        b"!100.64.0.2,100.64.* ssh-ed25519 %(jump)s not the master",
        b"  100.64.0.2\tssh-ed25519  %(master)s  M\xfcller\x00\x1b[2J\r",
        b"%(long)s ssh-ed25519 %(other)s",
        b"192.168.0.53 ssh-ed25519 %(other)s",
        b"@revoked * ssh-ed25519 %(revoked)s",
        b"192.168.0.52 ssh-ed25519 %(revoked)s",
        b"192.168.0.5? ssh-ed25519 %(published)s",
    )
)
KEYS = {
    name: f"AAAAC3NzaC1lZDI1NTE5AAAAI{letter * 43}"
    for name, letter in zip(("other", "jump", "master", "revoked", "published"), "OJMRP", strict=True)
}


def odd(end: bytes = b"") -> bytes:
    """A file with all that ssh skips, and with what it takes; `end` is that of its last line."""
    words = {**KEYS, "cut": KEYS["other"][:40], "long": "x" * 100_000}
    return ODD % {name.encode(): word.encode() for name, word in words.items()} + end


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("lines", [b"\n", b"\r\n"])
def test_a_file_that_others_write(target: Target, end: bytes, lines: bytes) -> None:
    """What ssh can't read it skips, to the end of the line; an authority is found by the file itself."""
    target.known_hosts.write_bytes(odd(end).replace(b"\n", lines))
    written = hostkeys.known_hosts(target.plan, target.known_hosts).splitlines()
    assert {line.split()[0].partition(",")[0]: line.split()[2] for line in written} == {
        **dict.fromkeys(("192.168.0.50", "192.168.0.51"), KEYS["published"]),
        **dict.fromkeys(("100.64.0.52", "100.64.0.53"), KEYS["jump"]),
        "100.64.0.2": KEYS["master"],
    }


def test_as_ssh_finds_them(target: Target) -> None:
    """Each address of the plan, asked of ssh-keygen, that is no judge of keys: only of whose they are."""
    target.known_hosts.write_bytes(odd())
    known = hostkeys._load(target.known_hosts)
    for host in target.plan.hosts:
        for name in hostkeys.addresses(host):
            argv = ["ssh-keygen", "-F", name, "-f", str(target.known_hosts)]
            found = subprocess.run(argv, capture_output=True, check=False).stdout.decode("latin-1").splitlines()
            rows = [line.split() for line in found if not line.startswith(("#", "@"))]
            theirs = {row[2] for row in rows if len(row) > 2 and hostkeys.is_key(row[1].encode(), row[2].encode())}
            assert {key for keys in known.keys(name).values() for key in keys} == theirs, name


def test_each_key_of_a_host(target: Target) -> None:
    """While a key is changed there are two, and ssh takes both; what is revoked it takes for none of its names."""
    old, new = KEYS["other"], KEYS["master"]
    target.known_hosts.write_text(f"100.64.0.52 ssh-ed25519 {old}\n100.64.0.52,x ssh-ed25519 {new}\n")
    assert hostkeys.known_as_published(target.plan, target.known_hosts).split()[2::3] == [old, new]
    with target.known_hosts.open("a") as file:
        file.write(f"@revoked 192.168.0.52 ssh-ed25519 {old}")
    assert hostkeys.known_as_published(target.plan, target.known_hosts).split()[2::3] == [new]


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 1000, b"\xff\xfe" + "100.64.0.2 x\n".encode("utf-16-le"), b"@\n|\n!\n,\n"]
)
def test_a_file_without_a_key(target: Target, content: bytes) -> None:
    target.known_hosts.write_bytes(content)
    assert hostkeys.known_hosts(target.plan, target.known_hosts) == ""


def test_a_file_that_is_none(target: Target) -> None:
    """One line: ssh would call every host a stranger."""
    target.known_hosts.mkdir()
    with pytest.raises(TargetError, match="known_hosts can't be read: Is a directory"):
        hostkeys.known_hosts(target.plan, target.known_hosts)


def test_a_large_file(target: Target) -> None:
    """Of a workstation that knows thousands of hosts."""
    rows = [f"10.{n >> 8}.{n & 255}.1,host-{n}.* ssh-ed25519 {KEYS['other']}\n" for n in range(5000)]
    rows += [f"{HostKeys.hash_host(f'host-{n}')} ssh-ed25519 {KEYS['other']}\n" for n in range(5000)]
    target.known_hosts.write_text("".join([*rows, f"100.64.0.52 ssh-ed25519 {KEYS['jump']}\n"]))
    began = monotonic()
    assert KEYS["jump"] in hostkeys.known_as_published(target.plan, target.known_hosts)
    assert monotonic() - began < 30
