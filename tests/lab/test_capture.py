"""`invoke capture` on the deployed site: packets arrive, and nothing stays on the host, however it ends."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.process import wait_until
from tests.lab.commands import CLEAN, inside, invoke
from underlay.oncall.pcap import Frame, Stream
from underlay.plan import REPO

pytestmark = pytest.mark.usefixtures("deployed")


def processes() -> str:
    return inside("gateway", "pgrep -a 'tcpdump|timeout' || true; pgrep -xa cat || true")


@contextmanager
def capturing(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """`invoke capture gateway …`, from when tcpdump listens."""
    argv = [sys.executable, "-m", "invoke", "capture", "gateway", *arguments]
    with subprocess.Popen(
        argv, cwd=REPO, env=CLEAN, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        while (line := process.stderr.readline()) and "capturing on" not in line:
            pass
        assert line, process.stdout
        try:
            yield process
        finally:
            process.kill()


def read(path: Path) -> list[Frame]:
    return list(Stream().feed(path.read_bytes()))


def test_captured(tmp_path: Path) -> None:
    """The packets of a ping through the gateway are in the file, on both of its NICs; those of our own ssh are not."""
    path = tmp_path / "gateway.pcap"
    with capturing("--seconds", "4", "--output", str(path), "--json") as process:
        inside("jumphost", "ping -c 3 -i 0.2 192.168.0.50")
        inside("dev", "ping -c 1 192.168.0.51")
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    summary = json.loads(output)
    packets = read(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert summary["packets"] == len(packets) > 0
    assert (summary["interrupted"], summary["dropped"]) == ("", 0)
    ends = [(each.source, each.destination) for each in packets if each.protocol == "icmp"]
    assert ends.count(("100.64.0.52", "192.168.0.50")) == 3
    assert ends.count(("192.168.0.52", "192.168.0.50")) == 3
    mine = {each.source for each in packets if each.destination == "192.168.0.51:22"}
    assert not mine, "the capture captures itself"
    assert processes() == ""


def test_filter_and_nic(tmp_path: Path) -> None:
    """A filter narrows it, and a wrong one is one clear line, leaving no file."""
    path = tmp_path / "gateway.pcap"
    with capturing("--seconds", "3", "--nic", "eth0", "--filter", "icmp or arp", "--output", str(path)) as process:
        inside("jumphost", "ping -c 1 192.168.0.50; curl -s 192.168.0.50 >/dev/null || true")
        output, _ = process.communicate(timeout=60)
    assert {each.protocol for each in read(path)} <= {"icmp", "arp"}
    assert "192.168.0.52" in output
    assert f"in {path}" in output
    wrong = invoke("capture", "gateway", "--filter", "no such thing", "--output", str(tmp_path / "x.pcap"), good=False)
    assert wrong.returncode == 1
    assert "error: gateway: tcpdump: can't parse filter expression" in wrong.stderr
    assert wrong.stderr.count("\n") == 2  # where commands go, and the error
    assert not (tmp_path / "x.pcap").exists()


def test_operator_killed(tmp_path: Path) -> None:
    """Killed without a chance to clean up, long before its time: the host ends it all the same, and has no file."""
    with capturing("--seconds", "300", "--output", str(tmp_path / "x.pcap")) as process:
        assert "tcpdump" in processes()
        process.kill()
        process.wait()
        assert wait_until(lambda: processes() == "", seconds=15), processes()
    assert inside("gateway", "find /tmp /var/tmp /root /home -name '*pcap*'") == ""
