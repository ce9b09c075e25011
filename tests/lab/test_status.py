"""`invoke status` on the deployed site: what it shows of a healthy one, a wrong one, and one without a gateway."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys

import pytest

from lab import control
from lab.process import wait_until
from tests.lab.commands import CLEAN, inside, invoke
from underlay.plan import REPO

pytestmark = pytest.mark.usefixtures("deployed")

LISTEN = """\
import socket, time
servers = [socket.create_server(("", port)) for port in (6443, 3000, 9090, 5000)]
time.sleep(600)
"""


def look(*arguments: str) -> tuple[int, str]:
    done = invoke("status", *arguments, good=False)
    return done.returncode, done.stdout


def test_all_well() -> None:
    """With something behind the proxy all is well: each host, the gateway's connections, each upstream, in time."""
    control.run("master-1", ["systemd-run", "-q", "--unit=upstreams", "python3", "-c", LISTEN])
    try:
        assert wait_until(lambda: ":5000" in inside("master-1", "ss -Hltn"), seconds=10)
        code, output = look()
        assert code == 0, output
        found = json.loads(look("--json")[1])
    finally:
        control.run("master-1", "systemctl stop upstreams")
    last = re.search(r"^all well: 4 hosts, .* in (\d+\.\d) s$", output, re.MULTILINE)
    assert last, output
    assert float(last[1]) < 8
    assert len(output.splitlines()) <= 24
    for host in ("gateway", "jumphost", "lb", "master-1"):
        assert re.search(rf"^{host} +\d+ ms +right +run +\S.* no +[+-]0\.\d s +\d+% +20\d\d-", output, re.MULTILINE), (
            output
        )
    assert found["code"] == 0
    assert 0 < found["conntrack"]["count"] <= found["tally"]["entries"] + 50
    # At least the connection that this was asked over.
    assert found["tally"]["flows"]["192.168.0.52"] >= 1
    assert [each["error"] for each in found["upstreams"]] == [""] * 4
    assert {host["drift"] for host in found["hosts"]} == {0}


def test_attention() -> None:
    """A changed sysctl, a unit that failed and upstreams that are not there: each is told, exit code 2."""
    inside("master-1", "sysctl -qw net.ipv4.conf.eth2.rp_filter=0; systemd-run -q --unit=broken false || true")
    try:
        code, output = look()
    finally:
        inside("master-1", "sysctl -qw net.ipv4.conf.eth2.rp_filter=1; systemctl reset-failed broken")
    assert code == 2, output
    looks = re.findall(r"^LOOK  (.*)$", output, re.MULTILINE)
    assert "master-1: 1 difference from the plan: ./inv drift master" in looks
    assert [line for line in looks if line.startswith("master-1: broken.service has failed: ")]
    assert "proxy: no connection to 100.64.0.2:6443 for kubernetes_api: Connection refused" in looks
    assert not re.search(r"^DOWN", output, re.MULTILINE)


def test_gateway_dead() -> None:
    """One thing is down, and what is behind it is said to be behind it; in bounded time; exit code 1."""
    control.power_off("gateway")
    try:
        code, output = look()
    finally:
        control.power_on("gateway")
    assert code == 1, output
    assert re.findall(r"^(\S+) +behind gateway", output, re.MULTILINE) == ["jumphost", "lb", "master-1"]
    down = re.findall(r"^DOWN  (.*)$", output, re.MULTILINE)
    assert len(down) == 2, output
    assert down[0].startswith("gateway can't be reached at 192.168.0.51: ")
    last = re.search(r"^4 of 4 hosts not read, 0 to look at; .* in (\d+\.\d) s$", output, re.MULTILINE)
    assert last, output
    assert float(last[1]) < 10


def test_watch() -> None:
    """On a terminal it goes on until Ctrl-C, and that is its good end; without one it is refused."""
    code, _ = look("--watch")
    assert code == 1
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "invoke", "status", "--watch"]
    with subprocess.Popen(
        argv, cwd=REPO, env=CLEAN | {"TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL
    ) as process:
        os.close(theirs)
        try:
            seen = b""
            while b"to look at" not in seen and select.select([ours], [], [], 60)[0]:
                seen += os.read(ours, 4096)
            assert b"to look at" in seen
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 0
        finally:
            process.kill()
    os.close(ours)
