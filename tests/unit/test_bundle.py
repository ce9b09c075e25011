"""What leaves the site in a bundle, and what does not."""

import gzip
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.unit.conftest import Planned
from tests.unit.test_verify import target
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target
from underlay.errors import OperatorError
from underlay.oncall import bundle
from underlay.oncall.redact import LEFT_OUT, redact
from underlay.plan import Host
from underlay.remote import send
from underlay.remote.files import collect

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\nQyNTUxOQAAACA\n-----END OPENSSH PRIVATE KEY-----"
PUBLIC = "AAAAC3NzaC1lZDI1NTE5AAAAIEyn7nLGCYUaJ3jNdPMY2aaDRuzHxBJMI2yeBiBvSQAx"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"a\n{KEY}\nb", f"a\n{LEFT_OUT}\nb"),
        (KEY.replace("\n", "\n+"), LEFT_OUT),
        (json.dumps({"a": KEY, "b": 1}), f'{{"a": "{LEFT_OUT}", "b": 1}}'),
        (KEY[:60], LEFT_OUT),
        (KEY[40:] + "\nb", f"{LEFT_OUT}\nb"),
        ("PrivateKey=yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=", f"PrivateKey={LEFT_OUT}"),
        ("PresharedKey = abc", f"PresharedKey = {LEFT_OUT}"),
        ('{"token": "abc", "who": "ada"}', f'{{"token": {LEFT_OUT}, "who": "ada"}}'),
        ("DB_PASSWORD='a b' next", f"DB_PASSWORD={LEFT_OUT} next"),
        ('proxy_set_header Authorization "Basic dXNlcjpwYXNz";', f'proxy_set_header Authorization "Basic {LEFT_OUT}";'),
        ("authorization: Bearer abc.def", f"authorization: Bearer {LEFT_OUT}"),
        ("deb https://user:secret@deb.example/ ./", f"deb https://{LEFT_OUT}@deb.example/ ./"),
        ("root:$y$j9T$abcdefgh$ijklmnop:19000:0", f"root:{LEFT_OUT}:19000:0"),
        ("ada:$apr1$abcd$efghijkl", f"ada:{LEFT_OUT}"),
        (
            f'from="100.64.0.52" ssh-ed25519 {PUBLIC} ada@laptop',
            'from="100.64.0.52" ssh-ed25519 SHA256:/V4MeXH86UDd9nNPOF2XeqnquQrpURqX6eCeY+n8pZA ada@laptop',
        ),
    ],
)
def test_redact(text: str, left: str) -> None:
    """No secret of any kind that hosts have; all around it stays."""
    assert redact(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "PasswordAuthentication no",
        "ssl_certificate_key /etc/nginx/tls.key;",
        "-A POSTROUTING -s 100.64.0.53/32 -j SNAT --to-source 192.168.0.53",
        "sshd[1]: Failed password for root from 192.0.2.1 port 40000 ssh2",
        "PATH=/usr/bin:/bin echo $PATH $1 ${x}",
    ],
)
def test_no_secret(text: str) -> None:
    """What only looks like one a little stays readable."""
    assert redact(text) == text


def test_fingerprint_is_that_of_ssh(tmp_path: Path) -> None:
    """A colleague can compare it."""
    (tmp_path / "key.pub").write_text(f"ssh-ed25519 {PUBLIC}\n")
    done = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "key.pub")], capture_output=True, text=True, check=True)
    assert redact(f"ssh-ed25519 {PUBLIC}") == f"ssh-ed25519 {done.stdout.split()[1]}"


# --- on the host ----------------------------------------------------------------------------------------------------


def test_collect(tmp_path: Path) -> None:
    """Output and files; what fails, takes too long or is too long says so, and the rest is there all the same."""
    (tmp_path / "a.conf").write_text("one\n")
    (tmp_path / "b.conf").write_bytes(b"x" * 150)
    wanted = {
        "commands": {
            "good": "echo yes",
            "bad": "echo no >&2; exit 3",
            "slow": "echo begun; sleep 30",
            "long": "seq 100",
            "flood": "exec cat /dev/zero",
        },
        "files": [f"{tmp_path}/*.conf", f"{tmp_path}/none", str(tmp_path)],
        "seconds": 1,
        "most": 100,
    }
    done = subprocess.run(
        [sys.executable, *send.argv(json.dumps(wanted))[1:]],
        input=send.line(collect),
        capture_output=True,
        check=True,
    )
    found = json.loads(gzip.decompress(done.stdout))
    assert found.pop("long").startswith("[192 bytes before this were left out]\n")
    flood = found.pop("flood")
    assert flood.endswith("\0\n[cut off after 1 s]\n")
    assert len(flood) < 200
    assert found == {
        "good": "yes\n",
        "bad": "no\n\n[exit code 3]\n",
        "slow": "begun\n\n[cut off after 1 s]\n",
        f"{tmp_path}/a.conf": "one\n",
        f"{tmp_path}/b.conf": "[50 bytes before this were left out]\n" + "x" * 100,
    }


# --- the archive ----------------------------------------------------------------------------------------------------


@pytest.fixture
def site(planned: Planned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Target:
    """Hosts that say something made up; the lb is down."""

    def run(_: Links, name: str, __: str, **___: Any) -> "subprocess.CompletedProcess[bytes]":
        if name == "lb":
            raise UnreachableError("lb can't be reached at 192.0.2.1: no answer")
        said = {"system": f"I am {name}", "journal": KEY, "/etc/hosts": "here"}
        return subprocess.CompletedProcess([], 0, gzip.compress(json.dumps(said).encode()), b"")

    monkeypatch.setattr(Links, "open", lambda *_: None)
    monkeypatch.setattr(Links, "run", run)
    for name in ("_status", "_drift", "_history"):
        monkeypatch.setattr(bundle, name, lambda *_: "made up")
    return target(planned(), tmp_path)


def test_archive(site: Target, tmp_path: Path) -> None:
    """Each host's texts, redacted; the plan; a host that is down is noted; only its owner may read it."""
    path = tmp_path / "b.tar.gz"
    found = bundle.write(site, path)
    assert found.hosts == {
        "gateway": "",
        "jumphost": "",
        "lb": "lb can't be reached at 192.0.2.1: no answer",
        "master-1": "",
    }
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        texts = {member.name: archive.extractfile(member).read().decode() for member in archive}  # type: ignore[union-attr]
    assert texts["b/hosts/gateway/system.txt"] == "I am gateway"
    assert texts["b/hosts/gateway/journal.txt"] == LEFT_OUT
    assert texts["b/hosts/gateway/files/etc/hosts"] == "here"
    assert "lb: lb can't be reached at 192.0.2.1: no answer" in texts["b/README.txt"]
    assert not [name for name in texts if name.startswith("b/hosts/lb/")]
    assert texts["b/plan/plan.py"] == site.plan.source.read_text()
    assert "192.168.0.51" in texts["b/plan.txt"]
    assert {"b/status.txt", "b/drift.json", "b/history.json", "b/versions.txt"} < set(texts)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "/../../x",
            "/etc/hosts/../../x",
            "../x",
            "x/../../y",
            "/etc//hosts",
            "/etc/shadow",
            "/etc/ssh/ssh_host_rsa_key",
        ),
        *("/etc/sysctl.d/x/y", "/etc/sysctl.d/\x1b[2J", "", "other", "/etc/hosts\n"),
    ],
)
def test_a_host_that_names_other_files(
    site: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A name in the archive is a file where a colleague unpacks it: that host is left out, the others are in it."""

    def run(_: Links, host: str, __: str, **___: Any) -> "subprocess.CompletedProcess[bytes]":
        said = {"system": host, "/etc/sysctl.d/a.conf": "b"} | ({name: "x"} if host == "lb" else {})
        return subprocess.CompletedProcess([], 0, gzip.compress(json.dumps(said).encode()), b"")

    monkeypatch.setattr(Links, "run", run)
    path = tmp_path / "b.tar.gz"
    found = bundle.write(site, path)
    assert found.hosts.pop("lb").startswith("lb was reached, but not read: nobody asked for")
    assert set(found.hosts.values()) == {""}
    with tarfile.open(path) as archive:
        names = archive.getnames()
    assert not [each for each in names if "lb/" in each or ".." in each or each.startswith("/")]
    assert "b/hosts/gateway/files/etc/sysctl.d/a.conf" in names


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"text", gzip.compress(b"[" * 100_000), gzip.compress(b'{"system": 1}')),
        *(
            gzip.compress(b'{"system": "x"}')[:-9],
            gzip.compress(b'{"system": "\\ud800"}'),
            gzip.compress(b" " * 10_001),
        ),
    ],
    ids=["nothing", "text", "nested", "a number", "cut off", "half a character", "a bomb"],
)
def test_a_host_that_says_something_else(
    site: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    """Odd, cut off, or more than fits once it is unpacked."""

    def run(_: Links, host: str, __: str, **___: Any) -> "subprocess.CompletedProcess[bytes]":
        good = gzip.compress(json.dumps({"system": host}).encode())
        return subprocess.CompletedProcess([], 0, content if host == "lb" else good, b"")

    monkeypatch.setattr(bundle, "UNPACKED", 10_000)
    monkeypatch.setattr(Links, "run", run)
    found = bundle.write(site, tmp_path / "b.tar.gz")
    assert found.hosts.pop("lb").startswith("lb was reached, but not read: ")
    assert set(found.hosts.values()) == {""}


def test_never_overwrites(site: Target, tmp_path: Path) -> None:
    """A file that is there stays as it is."""
    path = tmp_path / "b.tar.gz"
    path.write_text("mine")
    with pytest.raises(OperatorError, match="is there already"):
        bundle.write(site, path)
    assert path.read_text() == "mine"
    with pytest.raises(OperatorError, match="can't be written: No such file"):
        bundle.write(site, tmp_path / "no" / "such")


@pytest.mark.parametrize("role", ["gateway", "jumphost", "lb_nginx", "master"])
def test_no_file_with_secrets_is_asked_for(site: Target, monkeypatch: pytest.MonkeyPatch, role: str) -> None:
    """Redaction is the second line: keys, shadow and the like are not read in the first place."""
    asked: list[str] = []

    def argv(argument: str) -> list[str]:
        asked.append(argument)
        return []

    monkeypatch.setattr(send, "argv", argv)
    [host] = site.plan.hosts_of(role)
    if host.name == "lb":
        host = Host(**{**dict(host), "name": "other"})
    bundle._collect(Links(site), host)
    files = json.loads(asked[0])["files"]
    assert files
    for word in ("ssh_host", "shadow", "/etc/ssl", "id_", "/etc/ssh/*"):
        assert not [each for each in files if word in each], word
