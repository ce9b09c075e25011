"""How the operator gets in: ports and accounts of the plan, sudo and its password, keys, people's own ssh config."""

import hashlib
import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from netaddr import IPAddress

from tests.unit.conftest import Planned
from underlay.access import hostkeys
from underlay.access.endpoints import Endpoint, endpoints_from
from underlay.access.login import key as keys
from underlay.access.login import own_config, sudo
from underlay.access.ssh_config import TargetError, ssh_config
from underlay.access.target import Target
from underlay.desired.files import authorized_keys
from underlay.doctor.causes.ends import listen
from underlay.doctor.ways import failure_of
from underlay.plan import OUTSIDE, REPO, Host, Plan, PlanError
from underlay.text import command

SECRET = "a p'ss$w\"ord ü"
OPERATOR = 'operator = {"user": "ops", '
LB = '"lb": {"role": "lb_nginx", '
needs_ssh = pytest.mark.skipif(shutil.which("ssh-add") is None, reason="ssh is not installed")


def made(plan: Plan, vantage: Host | None = None) -> Target:
    ends = (*endpoints_from(plan, None), Endpoint(OUTSIDE, IPAddress("192.168.0.1")))
    return Target(plan, "ssh", vantage, ends, Path("config"), Path("known"), None)


# --- the plan -------------------------------------------------------------------------------------------------------


def test_for_all_hosts_and_for_one(planned: Planned) -> None:
    plan = planned(
        (OPERATOR, 'operator = {"user": "admin", "port": 2222, "sudo": "password", '),
        (LB, f'{LB}"user": "root", "port": 22, '),
    )
    logins = {host.name: (host.login.user, host.login.port, host.login.sudo) for host in plan.hosts}
    assert logins.pop("lb") == ("root", 22, None)
    assert set(logins.values()) == {("admin", 2222, "password")}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('"port": "22"', "lb.port: '22' is no port"),
        ('"port": 0', "lb.port: 0 is no port"),
        ('"port": True', "lb.port: True is no port"),
        ('"port": 65536', "lb.port: 65536 is no port"),
        ('"sudo": "yes"', "lb.sudo: "),
        ('"user": "Bob"', "lb.user: 'Bob' is not a user name"),
        ('"user": "root", "sudo": "nopasswd"', "lb.sudo: the account is 'root', which needs no sudo"),
    ],
)
def test_mistakes(planned: Planned, written: str, said: str) -> None:
    with pytest.raises(PlanError) as caught:
        planned((LB, f"{LB}{written}, "))
    assert said in str(caught.value)
    assert ": 1 error; nothing was changed" in str(caught.value)


def test_the_jump_host_is_entered_by_its_own_port(planned: Planned) -> None:
    changes = (
        ('site = "lab-site"\n', 'site = "lab-site"\nforwarding = "planned"\n'),
        ('"published": "192.168.0.52"', '"port": 2222, "published": {"address": "192.168.0.52", "ports": ["tcp/22"]}'),
    )
    with pytest.raises(PlanError, match="add tcp/2222: it is the way in"):
        planned(*changes)


# --- what follows ---------------------------------------------------------------------------------------------------


def test_ssh_is_told(planned: Planned) -> None:
    plan = planned((LB, f'{LB}"user": "root", "port": 2222, '))
    text = ssh_config(plan, endpoints_from(plan, None), Path("KEY"), [Path("KNOWN")], Path("S"))
    assert "Host lb\n    HostName 192.168.0.53\n    User root\n    Port 2222\n" in text
    assert text.count("Port ") == 1
    assert text.count("User ") == 2


def test_a_host_at_another_port_is_known_by_both(planned: Planned, tmp_path: Path) -> None:
    """ssh asks for `[ADDRESS]:PORT`, and people may have written either."""
    plan = planned((LB, f'{LB}"port": 2222, '))
    kind = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "O" * 43
    names = "[100.64.0.53]:2222,[192.168.0.53]:2222,100.64.0.53,192.168.0.53"
    for name in ("[100.64.0.53]:2222", "100.64.0.53", "[192.168.0.53]:2222"):
        (tmp_path / "known").write_text(f"{name} {kind}\n")
        for found in (hostkeys.known_hosts, hostkeys.known_as_published):
            assert found(plan, tmp_path / "known") == f"{names} {kind}\n"
        assert hostkeys.of_host(plan.host("lb"), tmp_path / "known") == [kind]
    (tmp_path / "known").write_text(f"[100.64.0.53]:2223 {kind}\n")
    assert hostkeys.known_hosts(plan, tmp_path / "known") == ""


def test_an_authority_speaks_for_hosts(planned: Planned, tmp_path: Path) -> None:
    """For the deploy machine and for published addresses, too; not if it is revoked."""
    plan, key = planned(), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "O" * 43
    known = tmp_path / "known"
    known.write_text(f"@cert-authority 100.64.0.5? {key} the CA\n")
    lines = [f"@cert-authority {name},{outside} {key}" for name, outside in JUMP_AND_LB.items()]
    assert hostkeys.known_hosts(plan, known).splitlines() == lines
    published = [f"@cert-authority {outside} {key}" for outside in JUMP_AND_LB.values()]
    assert hostkeys.known_as_published(plan, known).splitlines() == published
    known.write_text(f"{known.read_text()}100.64.0.53 {key.replace('O', 'M')}\n")
    assert hostkeys.of_host(plan.host("lb"), known) == [], "another key than the known one may be signed, too"
    known.write_text(f"{known.read_text()}@revoked * {key}\n")
    assert "@cert-authority" not in hostkeys.known_hosts(plan, known)


JUMP_AND_LB = {"100.64.0.52": "192.168.0.52", "100.64.0.53": "192.168.0.53"}


def test_homes_are_where_the_host_says(planned: Planned) -> None:
    plan = planned((LB, f'{LB}"user": "root", '))
    assert authorized_keys(plan.gateway) == "~ops/.ssh/authorized_keys"
    line = f"f={authorized_keys(plan.host('lb'))}; echo $f"
    home = os.path.expanduser("~root")
    assert subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout == (
        f"{home}/.ssh/authorized_keys\n"
    )


def test_sshd_is_let_listen_where_the_plan_says(planned: Planned, tmp_path: Path) -> None:
    lb = planned((LB, f'{LB}"port": 2222, ')).host("lb")
    config = tmp_path / "sshd_config"
    config.write_text("Port 22\nPort 2222\nListenAddress 10.0.0.1\nX 1\n")
    line = listen(lb).replace("/etc/ssh/sshd_config.d/*.conf", "").replace("/etc/ssh/sshd_config", str(config))
    subprocess.run(["sh", "-c", line], check=True)
    assert config.read_text() == "Port 2222\n# Port 22\n# Port 2222\n# ListenAddress 10.0.0.1\nX 1\n"


# --- sudo -----------------------------------------------------------------------------------------------------------


def test_how_root_is_become(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sudo, "password", lambda user: f"that of {user}")
    plan = planned((LB, f'{LB}"user": "root", '), ('"role": "master",', '"role": "master", "sudo": "password",'))
    target = made(plan)
    assert sudo.root(target, "gateway") == (("sudo", "-n"), b"")
    assert sudo.root(target, OUTSIDE) == (("sudo", "-n"), b"")
    assert sudo.root(target, "lb") == ((), b"")
    words, stdin = sudo.root(target, "master-1")
    assert stdin == b"that of ops\n" + sudo.END
    assert not any("that of" in word for word in words)
    assert sudo.root(made(plan, plan.host("master-1")), "master-1") == (("sudo", "-n"), b""), "on the host itself"


FAKE = {"asks": "read -r line; echo \"$line\" >> '{folder}/asked'", "does not ask": ":"}


@pytest.mark.parametrize("kind", FAKE)
@pytest.mark.parametrize("shell", [each for each in ("dash", "bash") if shutil.which(each)])
def test_the_command_reads_what_is_its_own(tmp_path: Path, kind: str, shell: str) -> None:
    """Whether sudo takes the password or not: a command reads its stdin, all of it, and not a byte more."""
    fake = tmp_path / "sudo"
    options = '[ "$1 $2 $3 $4" = "-S -k -p " ] || exit 9; shift 4'
    fake.write_text(f'#!/bin/{shell}\n{options}\n{FAKE[kind].format(folder=tmp_path)}\nexec "$@"\n')
    fake.chmod(0o755)
    root, mine = sudo.Root(sudo.WITH_PASSWORD), b"first\n\0\xff\nlast without an end"
    line = root.line("sh", "-c", 'cat; echo "$1" >&2', "sh", "an 'argument'")
    done = subprocess.run(
        [shell, "-c", line],
        input=f"{SECRET}\n".encode() + sudo.END + mine,
        capture_output=True,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        check=True,
    )
    assert (done.stdout, done.stderr) == (mine, b"an 'argument'\n")
    if kind == "asks":
        assert (tmp_path / "asked").read_text() == f"{SECRET}\n"


ASKS = """
import hashlib, os, subprocess, sys
from pathlib import Path
from underlay.access.login import sudo
known = sudo.password("ops")
print(hashlib.sha256(known.encode()).hexdigest())
if sys.argv[1:]:
    again = [sys.executable, "-c", sys.argv[1]]
    subprocess.run(again, pass_fds=sudo.shared_files(), check=True)
shown = Path("/proc/self/cmdline").read_bytes() + os.fsencode(str(os.environ))
print(known.encode() in shown, flush=True)
"""


def test_it_is_asked_once_on_the_terminal() -> None:
    """And the processes of the command share it; it is in no environment and no argument."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(REPO)
        os.execv(sys.executable, [sys.executable, "-c", ASKS, ASKS])
    said, end = b"", time.monotonic() + 20
    while b"for sudo" not in said and time.monotonic() < end:
        said += os.read(terminal, 1000)
    time.sleep(0.2)  # until it is not echoed any more
    os.write(terminal, f"{SECRET}\n".encode())
    with suppress(OSError):  # its end
        while piece := os.read(terminal, 1000):
            said += piece
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    text, digest = said.decode(), hashlib.sha256(SECRET.encode()).hexdigest()
    assert text.count("Password of ops for sudo: ") == 1
    assert text.split()[-4:] == [digest, digest, "False", "False"]
    assert SECRET not in text


def test_without_a_terminal_it_is_not_asked() -> None:
    code = "from underlay.access.login import sudo; sudo.password('ops')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO,
        input=f"{SECRET}\n",
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert "there is no terminal to ask for it: run this on a terminal" in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize(
    ("how", "said", "told"),
    [
        (
            "password",
            "Sorry, try again.\nsudo: no password was provided\nsudo: 1 incorrect password attempt",
            "wrong password",
        ),
        (
            "password",
            "ops is not in the sudoers file.",
            "as root there: echo 'ops ALL=(ALL:ALL) ALL' > /etc/sudoers.d/ops",
        ),
        ("nopasswd", "sudo: a password is required", '"sudo": "password" in the plan'),
        ("nopasswd", "sudo: a password is required", "echo 'ops ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/ops"),
        ("nopasswd", "env: 'sudo': No such file or directory", "apt-get install -y sudo"),
        ("nopasswd", "sudo: /etc/sudo.conf is owned by uid 1, should be 0", "lb: sudo: /etc/sudo.conf is owned"),
    ],
)
def test_a_refusal_says_what_to_do(planned: Planned, how: str, said: str, told: str) -> None:
    host = planned((LB, f'{LB}"sudo": "{how}", ')).host("lb")
    found = sudo.refusal(host, said)
    assert found.startswith("ops can't become root on lb: ")
    assert told in found


@pytest.mark.parametrize(
    "said",
    [
        ["Sorry, try again.", "sudo: no password was provided", "sudo: 1 incorrect password attempt"],
        ["debug1: Authenticated to 100.64.0.53", "sudo: a password is required"],
        ["ops is not in the sudoers file."],
        ["bash: line 1: sudo: command not found"],
    ],
)
def test_the_doctor_knows_a_refusal(said: list[str]) -> None:
    found = failure_of(said, jump=False)
    assert (found.why, found.said) == ("sudo", said[-1])


def test_what_is_not_sudos_is_no_refusal(planned: Planned) -> None:
    assert sudo.refusal(planned().host("lb"), "Connection closed by 192.168.0.53 port 22") == ""


# --- keys -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The socket of an agent, which has nothing yet."""
    path = f"{tmp_path}/agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 10
    while not os.path.exists(path) and time.monotonic() < end:
        time.sleep(0.01)
    monkeypatch.setenv("SSH_AUTH_SOCK", path)
    yield path
    process.terminate()
    process.wait()


def new_key(path: Path, phrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", phrase, "-f", path], check=True)
    return path


@needs_ssh
def test_a_key_that_ssh_can_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    assert keys.problem(new_key(tmp_path / "plain")) == ""
    assert keys.problem(tmp_path / "none") == f"the key {tmp_path}/none can't be read: set operator.key in the plan"


@needs_ssh
def test_a_passphrase_needs_an_agent(tmp_path: Path, agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key(tmp_path / "my key", "phrase")
    fix = f"the agent at {agent} does not have it: {command('ssh-add', key)}, then again"
    assert keys.problem(key) == f"the key {key} has a passphrase, and {fix}"
    askpass = tmp_path / "askpass"
    askpass.write_text("#!/bin/sh\necho phrase\n")
    askpass.chmod(0o755)
    variables = {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
    subprocess.run(["ssh-add", "-q", key], env=os.environ | variables, check=True, stdin=subprocess.DEVNULL)
    assert keys.problem(key) == ""
    monkeypatch.delenv("SSH_AUTH_SOCK")
    assert "there is no agent (SSH_AUTH_SOCK is not set)" in keys.problem(key)
    assert keys.problem(key, agent) == "", "one that a person's own configuration names"
    for private in (key, key.with_name("my key.pub")):
        key.unlink(missing_ok=True)
        assert keys.problem(private, agent) == "", "only its public part is here"
        assert "only the public part is here, and there is no agent" in keys.problem(private)


SK = (
    "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIEx1LK39orYd"
    "koIItbdAcU5v1lge2zrbVgw046cLrKLkAAAABHNzaDo= me\n"
)


@needs_ssh
def test_a_security_key_is_touched(tmp_path: Path) -> None:
    assert not keys.wants_touch(new_key(tmp_path / "plain"))
    assert not keys.wants_touch(tmp_path / "none")
    (tmp_path / "id.pub").write_text(SK)
    assert keys.wants_touch(tmp_path / "id")
    assert keys.wants_touch(tmp_path / "id.pub")


# --- a person's own configuration -----------------------------------------------------------------------------------

OWN = """\
Host bastion
    HostName 10.0.0.1
Host 192.168.0.5? !192.168.0.53
    ProxyJump me@first:2200,bastion
Match host 192.168.0.53
    ProxyCommand nc %h %p
Host gateway
    IdentityAgent "/run/my agent"
Host *
    User somebody
    Port 99
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    RemoteCommand rm -rf /
    ForwardAgent yes
    Ciphers aes128-ctr
"""


@needs_ssh
def test_the_way_is_taken_from_it_and_nothing_else(planned: Planned, tmp_path: Path) -> None:
    config = tmp_path / "my %config"
    config.write_text(OWN)
    plan = planned()
    ends = [*endpoints_from(plan, None)]
    found = {name: dict(settings) for name, settings in own_config.read(config, ends, Path("/run/s")).items()}
    jump = (
        f"ssh -F '{tmp_path}/my %%config' -oControlMaster=auto -oControlPath=/run/s/%%C -oControlPersist=30 "
        "-J me@first:2200 ssh://bastion -W '[%h]:%p'"
    )
    ciphers = {"ciphers": "aes128-ctr"}
    assert found["gateway"] == {"proxycommand": jump, "identityagent": '"/run/my agent"', **ciphers}
    assert found["jumphost"] == {"proxycommand": jump, **ciphers}
    assert found["lb"] == {"proxycommand": "nc %h %p", **ciphers}
    assert found["dev"] == found["*"] == ciphers
    assert "master-1" not in found, "it is behind the jump host"
    text = ssh_config(
        plan, ends, Path("KEY"), [Path("KNOWN")], Path("S"), own_config.read(config, ends, Path("/run/s"))
    )
    (tmp_path / "ours").write_text(text)
    argv = ["ssh", "-G", "-F", str(tmp_path / "ours"), "gateway"]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    told = dict(line.partition(" ")[::2] for line in said)
    assert told["proxycommand"] == jump
    assert told["identityagent"] == "/run/my agent"
    assert (told["user"], told["port"], told["stricthostkeychecking"]) == ("ops", "22", "true")
    assert (told["forwardagent"], "remotecommand" in told) == ("no", False)


@needs_ssh
def test_one_that_ssh_can_not_read(planned: Planned, tmp_path: Path) -> None:
    ends = [*endpoints_from(planned(), None)]
    with pytest.raises(TargetError, match=r"none is no file that can be read: set operator.ssh_config in the plan"):
        own_config.read(tmp_path / "none", ends, tmp_path)
    (tmp_path / "bad").write_text("Host *\n  Nonsense yes\n")
    with pytest.raises(TargetError, match=r"bad can't be read by ssh: .*line 2"):
        own_config.read(tmp_path / "bad", ends, tmp_path)
