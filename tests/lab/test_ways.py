"""Hosts are entered as people have them: other ports, accounts, sudo with a password, homes, a bastion in front.

dev ── images (a bastion) ── gateway: port 2222, sudo with a password
                             jumphost: port 2200
                             lb: another account, sudo with its password, a home elsewhere
                             master-1: root
"""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lab import control, network, state
from lab.host import PASSWORD
from lab.process import wait_until
from tests.lab.commands import CLEAN, inside, paste
from tests.lab.test_guard import PLAN, confirmed, write_plan
from underlay.plan import REPO, load

WAYS = {
    '"role": "gateway",': '"role": "gateway", "port": 2222, "sudo": "password",',
    '"role": "jumphost",': '"role": "jumphost", "port": 2200,',
    '"role": "lb_nginx",': '"role": "lb_nginx", "user": "admin", "sudo": "password",',
    '"role": "master",': '"role": "master", "user": "root",',
}
HOME = "/srv/people/admin"
ASKED = "for sudo: "


class Site:
    """A site in a lab of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = PLAN
        for old, new in WAYS.items():
            assert self.text.count(old) == 1
            self.text = self.text.replace(old, new)
        self.plan = write_plan(folder, self.text)

    def with_operator(self, **keys: str) -> str:
        """Another plan of the site, with further keys of the operator."""
        folder = self.folder / "other"
        folder.mkdir(exist_ok=True)
        line = next(line for line in self.text.splitlines() if line.startswith("operator = "))
        return write_plan(folder, self.text.replace(line, f"operator = { ({'user': 'ops'} | keys)!r}"))

    def invoke(
        self,
        *arguments: str,
        code: int | None = 0,
        passwords: tuple[str, ...] = (PASSWORD, PASSWORD),
        plan: str = "",
        within: str = "",
    ) -> str:
        """What a command prints on a terminal, with these answers where it asks for passwords.

        code: what it must end with; within: the host in whose network it runs, which is else up to the target
        """
        environment = CLEAN | {"UNDERLAY_PLAN": plan or self.plan}
        network_of = ["ip", "netns", "exec", f"{network.PREFIX}{within}"] if within else []
        argv = [*network_of, sys.executable, "-m", "invoke", *arguments]
        found, output = at_terminal(argv, passwords, environment)
        assert code in (None, found), output[-20_000:]
        assert PASSWORD not in output
        return output


def at_terminal(argv: list[str], passwords: tuple[str, ...], environment: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of a command on a terminal of its own."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(REPO)
        os.execvpe(argv[0], argv, environment)
    output, answers, end = "", list(passwords), time.monotonic() + 280
    with suppress(OSError):  # its end
        while time.monotonic() < end:
            if not select.select([terminal], [], [], 1)[0]:
                continue
            piece = os.read(terminal, 4096)
            if not piece:
                break
            output += piece.decode(errors="replace")
            if output.endswith(ASKED) and answers:
                time.sleep(0.2)  # until it is not echoed any more
                os.write(terminal, f"{answers.pop(0)}\n".encode())
        else:
            os.kill(pid, signal.SIGKILL)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output).replace(
        "\r", ""
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, machine_before: object) -> Iterator[Site]:
    """Nothing is deployed; the account of the load balancer has its home elsewhere."""
    made = Site(tmp_path_factory.mktemp("ways"))
    try:
        control.up(load(Path(made.plan)), os.environ.get("UNDERLAY_SUITE"))
        inside("lb", f"mkdir -p {Path(HOME).parent} && usermod -d {HOME} -m admin")
        yield made
    finally:
        control.down()


@pytest.fixture(scope="module")
def deployed(site: Site) -> Site:
    """All of it is deployed, while somebody looks for the password in the lists of processes."""
    with watched() as seen:
        output = site.invoke("deploy")
    assert seen == []
    assert output.count(ASKED) == 2, "once for each account"
    return site


@contextmanager
def watched() -> Iterator[list[str]]:
    """Where the password is seen meanwhile: in arguments or environments of this machine, and of all hosts in it."""
    seen: list[str] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            for folder in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    with suppress(OSError):
                        if PASSWORD.encode() in (text := (folder / name).read_bytes()):
                            seen.append(f"{name}: {text!r}")

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


# --- refused before anything changes --------------------------------------------------------------------------------


def failures(host: str) -> int:
    return int(inside(host, "journalctl -b _COMM=sudo | grep -c 'authentication failure' || true"))


def test_a_wrong_password_is_tried_once(site: Site) -> None:
    output = site.invoke("deploy", "gateway", code=1, passwords=("wrong", PASSWORD))
    fix = "try again with the password that ops has on gateway"
    assert f"ops can't become root on gateway: wrong password: {fix}" in output
    assert failures("gateway") == 1
    assert inside("gateway", "ls /var/lib/underlay 2>/dev/null || true") == ""


def test_no_right_to_sudo(site: Site) -> None:
    inside("gateway", "mv /etc/sudoers.d/ops /etc/ops")
    try:
        output = site.invoke("deploy", "gateway", code=1)
        fix = re.search(r"sudo gives it no right to that: as root there: (.*)", output)
        assert fix, output
        inside("gateway", fix[1])
        site.invoke("deploy", "gateway", "--dry", code=2)
    finally:
        inside("gateway", "mv /etc/ops /etc/sudoers.d/ops")


def test_nobody_there_to_be_asked(site: Site) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "deploy", "gateway"],
        cwd=REPO,
        env=CLEAN | {"UNDERLAY_PLAN": site.plan},
        input=f"{PASSWORD}\n",
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert done.returncode == 1
    assert "there is no terminal to ask for it: run this on a terminal" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_python(site: Site) -> None:
    """It is said before anything changes, with the command that installs it."""
    inside("gateway", "mv /usr/bin/python3 /usr/bin/python3.off")
    try:
        output = site.invoke("deploy", "gateway", code=1)
    finally:
        inside("gateway", "mv /usr/bin/python3.off /usr/bin/python3")
    told = "gateway: there is no Python 3.10 or later: ./inv ssh gateway 'sudo apt-get install -y python3'"
    assert told in output
    assert inside("gateway", "ls /var/lib/underlay 2>/dev/null || true") == ""


# --- the site, through them -----------------------------------------------------------------------------------------


def causes(site: Site, plan: str = "") -> list[dict[str, Any]]:
    """What the doctor finds."""
    output = site.invoke("doctor", "--json", code=None, plan=plan)
    found: list[dict[str, Any]] = json.loads("{" + output.partition("{")[2].rpartition("}")[0] + "}")["findings"]
    return found


@pytest.mark.long
@pytest.mark.timeout(600)
def test_deployed_and_good(deployed: Site) -> None:
    assert "good: all" in deployed.invoke("verify")
    assert deployed.invoke("drift").count(ASKED) == 2
    assert "can't be reached" not in deployed.invoke("status", code=None)
    assert causes(deployed) == []
    text = (Path(inside("lb", f"readlink -f {HOME}/.ssh/authorized_keys").strip()).name, inside("lb", "ls /home"))
    assert text == ("authorized_keys", "")
    assert "underlay-deploy-machine" in inside("lb", f"cat {HOME}/.ssh/authorized_keys")
    assert "underlay-deploy-machine" in inside("master-1", "cat /root/.ssh/authorized_keys")
    assert PASSWORD not in inside("lb", "journalctl -b; cat /var/log/auth.log 2>/dev/null; grep -r . /var/lib/underlay")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_change_and_its_rollback(deployed: Site, tmp_path: Path) -> None:
    before = [each["number"] for each in confirmed("gateway")]
    assert "confirmed" in deployed.invoke("change", "gateway", "ip address add 100.64.7.7/32 dev eth1")
    assert "100.64.7.7" in inside("gateway", "ip -4 -o address show eth1")
    deployed.invoke("rollback", "gateway")
    assert "100.64.7.7" not in inside("gateway", "ip -4 -o address show eth1")
    assert len(confirmed("gateway")) == len(before) + 2
    assert "ROLLED BACK" in deployed.invoke("change", "lb", "ip address flush dev eth0", code=1)
    pcap = tmp_path / "it.pcap"
    deployed.invoke("capture", "lb", "--seconds", "2", "--output", str(pcap))
    assert pcap.read_bytes()[:4] in (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4", b"\x0a\x0d\x0d\x0a")
    assert "as planned" in deployed.invoke("trace", "lb", "master-1:storage")
    archive = tmp_path / "kept.tar"
    deployed.invoke("backup", "--output", str(archive))
    deployed.invoke("restore", str(archive), "lb", "--dry")
    deployed.invoke("rotate-key", "--deploy-machine")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_doctor_knows_of_sudo(deployed: Site) -> None:
    inside("lb", "mv /etc/sudoers.d/admin /etc/admin")
    try:
        [cause] = causes(deployed)
        assert (cause["id"], cause["host"]) == ("sudo-refused", "lb")
        paste(cause["fix"])
        assert "good: all" in deployed.invoke("verify", "lb_nginx")
    finally:
        inside("lb", "mv /etc/admin /etc/sudoers.d/admin")


# --- through a bastion ----------------------------------------------------------------------------------------------


BASTION = """\
Host bastion
    HostName 192.168.0.50
    User ops
    IdentityFile {key}
    IdentitiesOnly yes
    UserKnownHostsFile {known}
    StrictHostKeyChecking yes
Host 192.168.0.5? !192.168.0.50
    ProxyJump bastion
"""


@contextmanager
def cut_off() -> Iterator[None]:
    """The workstation reaches the bastion, and none of the site's hosts."""
    there = [f"192.168.0.{number}/32" for number in (51, 52, 53)]
    inside("dev", "; ".join(f"ip route add blackhole {each}" for each in there))
    try:
        yield
    finally:
        inside("dev", "; ".join(f"ip route del blackhole {each}" for each in there))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_bastion_in_front(deployed: Site) -> None:
    there = state.load()
    assert there is not None
    own = deployed.folder / "ssh_config"
    own.write_text(BASTION.format(key=there.key, known=there.known_hosts))
    plan = deployed.with_operator(ssh_config=str(own))
    with cut_off():
        assert "can't be reached" in deployed.invoke("status", code=1)
        assert "192.168.0.50" in deployed.invoke("ssh", "jumphost", "echo $SSH_CONNECTION", plan=plan)
        assert "0 of 4 hosts not read" in deployed.invoke("status", code=None, plan=plan)
        assert "confirmed" in deployed.invoke("change", "master-1", "true", plan=plan)
    # Its own traffic is part of what these look at.
    for role in ("gateway", "lb_nginx", "master"):  # the jump host has the other plan
        assert "good: all" in deployed.invoke("verify", role, plan=plan)
    found = {each["id"] for each in causes(deployed, plan)} - {"path-slow"}  # where this machine is busy
    assert found == {"repo-differs"}


# --- keys and certificates ------------------------------------------------------------------------------------------

CERTIFIED = """\
cat > /etc/ssh/ssh_host_ed25519_key-cert.pub
echo '{ca}' > /etc/ssh/userca.pub
printf 'HostCertificate /etc/ssh/ssh_host_ed25519_key-cert.pub\\nTrustedUserCAKeys /etc/ssh/userca.pub\\n' \\
    > /etc/ssh/sshd_config.d/02-ca.conf
systemctl reload ssh
"""


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_agent_and_certificates(deployed: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on real hosts: nobody has the operator's key there, and no host key is known, only who signs them."""

    def keygen(*words: str) -> None:
        subprocess.run(["ssh-keygen", "-q", *words], check=True, cwd=tmp_path)

    for name, phrase in (("hosts", ""), ("users", ""), ("id", "phrase")):
        keygen("-t", "ed25519", "-N", phrase, "-f", name)
    keygen("-s", "users", "-I", "me", "-n", "ops,admin,root", "id.pub")
    for host in load(Path(deployed.plan)).hosts:
        public = tmp_path / f"{host.name}.pub"
        public.write_text(inside(host.name, "cat /etc/ssh/ssh_host_ed25519_key.pub"))
        addresses = [*(nic.address for nic in host.interfaces), *([host.published] if host.published else [])]
        keygen("-s", "hosts", "-h", "-I", host.name, "-n", ",".join(map(str, addresses)), str(public))
        script = CERTIFIED.format(ca=(tmp_path / "users.pub").read_text().strip())
        certificate = (tmp_path / f"{host.name}-cert.pub").read_text()
        assert control.run(host.name, script, stdin=certificate).returncode == 0
    authority = (tmp_path / "hosts.pub").read_text()
    (tmp_path / "known").write_text(f"@cert-authority 192.168.0.*,100.64.*,[*]:2200,[*]:2222 {authority}")
    plan = deployed.with_operator(key=f"{tmp_path}/id", known_hosts=f"{tmp_path}/known")
    monkeypatch.setitem(CLEAN, "UNDERLAY_TARGET", "ssh")
    monkeypatch.delitem(CLEAN, "SSH_AUTH_SOCK", raising=False)
    assert "has a passphrase, and there is no agent" in deployed.invoke("status", code=1, plan=plan, within="dev")
    socket = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        assert wait_until(socket.exists, seconds=10)
        monkeypatch.setitem(CLEAN, "SSH_AUTH_SOCK", str(socket))
        (tmp_path / "askpass").write_text("#!/bin/sh\necho phrase\n")
        (tmp_path / "askpass").chmod(0o755)
        answers = {"SSH_ASKPASS": f"{tmp_path}/askpass", "SSH_ASKPASS_REQUIRE": "force"}
        subprocess.run(["ssh-add", "-q", tmp_path / "id"], env=CLEAN | answers, check=True, stdin=subprocess.DEVNULL)
        deployed.invoke("deploy", "jumphost", plan=plan, within="dev")
        assert "@cert-authority" in inside("jumphost", "cat /etc/ssh/ssh_known_hosts")
        assert "good: all" in deployed.invoke("verify", plan=plan, within="dev")
        (tmp_path / "id").unlink()
        assert "0 of 4 hosts not read" in deployed.invoke("status", code=None, plan=plan, within="dev")
        at_work = "cd /opt/underlay && UNDERLAY_TARGET=ssh .venv/bin/python -m invoke status"
        assert "0 of 4 hosts not read" in deployed.invoke("lab.run", "jumphost", at_work, code=None)
    finally:
        agent.terminate()
        agent.wait()
