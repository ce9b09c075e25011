"""A change of the operator's key that can't go on changes nothing; that it works is in docs/runbooks/rotate-keys.md."""

import signal
import subprocess
import sys
import time

import pytest

from lab import control
from lab.state import LabState
from tests.lab.commands import CLEAN, inside, invoke
from underlay.plan import REPO

FOLDER = "~ops/.ssh"
KEYS = f"{FOLDER}/authorized_keys"
FULL = f"""
cp -a {FOLDER} /run/kept
mount -t tmpfs -o size=8k,mode=700,uid=$(id -u ops),gid=$(id -g ops) tmpfs {FOLDER}
cp -a /run/kept/. {FOLDER}/
dd if=/dev/zero of={FOLDER}/fill bs=4k 2>/dev/null || true
"""


@pytest.mark.parametrize(
    ("fault", "undo", "said"),
    [
        (
            "systemctl stop ssh",
            "systemctl start ssh",
            "lb: ssh: connect to host 192.168.0.53 port 22: Connection refused",
        ),
        (
            f"chown root: {KEYS}; chmod 644 {KEYS}",
            f"chmod 600 {KEYS}; chown ops: {KEYS}",
            "lb: ~/.ssh/authorized_keys: Operation not permitted",
        ),
        (FULL, f"umount {FOLDER}; rm -r /run/kept", "lb: ~/.ssh/authorized_keys: No space left on device"),
        (
            f"chown root: {FOLDER}; chmod 755 {FOLDER}",
            f"chmod 700 {FOLDER}; chown ops: {FOLDER}",
            "lb: ~/.ssh/authorized_keys: Permission denied",
        ),
        (
            # It takes the new key, and then it lets nobody in with it.
            "echo 'AuthorizedKeysFile /run/other' > "
            f"/etc/ssh/sshd_config.d/00-test.conf; cat {KEYS} > /run/other; systemctl reload ssh",
            "rm /etc/ssh/sshd_config.d/00-test.conf /run/other; systemctl reload ssh",
            "lb: ops@192.168.0.53: Permission denied (publickey",
        ),
    ],
    ids=["a host is down", "a host does not take it", "a disk is full", "a folder is not ours", "it is not used"],
)
def test_nothing_changes_unless_every_host_takes_the_new_key(
    deployed: LabState, fault: str, undo: str, said: str
) -> None:
    key = deployed.key.read_text()
    before = [inside(host, f"cat {KEYS}") for host in ("gateway", "lb", "master-1")]
    inside("lb", fault)
    try:
        done = invoke("rotate-key", good=False)
    finally:
        control.run("lb", undo)
    assert done.returncode == 1
    assert said in done.stdout
    assert "nothing" in done.stdout
    assert [inside(host, f"cat {KEYS}") for host in ("gateway", "lb", "master-1")] == before
    assert deployed.key.read_text() == key
    assert not deployed.key.with_name("key.new").exists()


def test_killed_while_the_old_key_is_out(deployed: LabState) -> None:
    """The hosts put it back by themselves; a second try goes through."""
    key = deployed.key.read_text()
    old = deployed.key.with_name(f"{deployed.key.name}.pub").read_text().split()[1]
    # It stops where every host has taken the old key out, and has not been told to keep it so.
    script = "import sys, time; from targets import current; from underlay.oncall import rotate\n"
    script += "rotate._swap = lambda *_: (print('now', flush=True), time.sleep(60)); rotate.rotate(current(), None)"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=REPO, env=CLEAN, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert any(line == "now\n" for line in process.stdout)
    assert old not in inside("gateway", f"cat {KEYS}")
    process.send_signal(signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 20
    while any(old not in inside(host, f"cat {KEYS}") for host in ("gateway", "lb", "master-1")):
        assert time.monotonic() < end, "a host did not put the old key back"
        time.sleep(0.2)
    assert deployed.key.read_text() == key
    invoke("ssh", "lb", "true")
    for path in (deployed.key.with_name("key.new"), deployed.key.with_name("key.new.pub")):
        path.unlink()


def test_odd_files(deployed: LabState) -> None:
    """A link, CRLF, no newline at its end, options and comments: all of it is there afterwards, but for the old key."""
    old = deployed.key.with_name(f"{deployed.key.name}.pub").read_text().split()[1]
    inside("lb", f"cd {FOLDER} && mv authorized_keys real && ln -s real authorized_keys && chmod 400 real")
    inside("gateway", f"cd {FOLDER} && sed -i 's/$/\\r/' authorized_keys && printf '# \\351 no end' >> authorized_keys")
    inside("master-1", f"cd {FOLDER} && sed -i 's#^ssh-ed25519 {old}#no-pty,environment=\"A=b c\" &#' authorized_keys")
    odd = f"grep -ac \"$(printf '\\r')\" {KEYS}; grep -ac '^# ' {KEYS}"
    ends, comments = inside("gateway", odd).split()
    before = inside("gateway", f"base64 -w0 {KEYS}")
    try:
        invoke("rotate-key")
        new = deployed.key.with_name(f"{deployed.key.name}.pub").read_text().split()[1]
        assert inside("lb", f"stat -c '%F %a %U' {KEYS} {FOLDER}/real").splitlines() == [
            "symbolic link 777 root",
            "regular file 400 ops",
        ]
        assert f'no-pty,environment="A=b c" ssh-ed25519 {new} ' in inside("master-1", f"cat {KEYS}")
        assert inside("gateway", f"base64 -w0 {KEYS}") != before
        # Of the lines with CRLF one is gone.
        assert inside("gateway", odd).split() == [str(int(ends) - 1), comments]
        hosts = ("gateway", "lb", "master-1")
        assert {inside(host, f"grep -ac {old} {KEYS} || true").strip() for host in hosts} == {"0"}
        # The deploy machine's own line, too: as a confirmed change, and the link stays one.
        inside("lb", f"sed -i '/underlay-deploy-machine/d' {FOLDER}/real")
        invoke("deploy", "lb_nginx")
        assert inside("lb", f"stat -c '%F %a %U' {KEYS} {FOLDER}/real; grep -c deploy-machine {KEYS}").splitlines() == [
            "symbolic link 777 root",
            "regular file 400 ops",
            "1",
        ]
    finally:
        control.run("lb", f"cd {FOLDER} && chmod 600 real && mv real authorized_keys")
        control.run("gateway", f"cd {FOLDER} && sed -i 's/\\r$//; /^# /d' authorized_keys")
        control.run("master-1", f"cd {FOLDER} && sed -i 's/^no-pty[^ ]* c\" //' authorized_keys")
