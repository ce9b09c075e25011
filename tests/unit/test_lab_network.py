"""The lab's namespaces, on a machine where others have some, too."""

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab import blueprint, machine
from lab.process import LabError
from tests.unit.conftest import Planned
from underlay.plan import REPO

# In a mount namespace of its own, where /run is empty: nobody's /run/netns is touched.
BESIDE_OTHERS = """
import subprocess
from lab import network

subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
ours = network.netns("gateway")
network.create("gateway")
for other in ("other", "another"):
    subprocess.run(["ip", "netns", "add", other], check=True)
with open("/proc/self/mounts") as mounts:
    assert f"tmpfs {network.NETNS_DIR} " in mounts.read()
network.create("lb")
for name in ("gateway", "lb"):
    network.remove(network.netns(name))
    network.remove(network.netns(name))
    network.create(name)
assert [path.name for path in network.namespaces()] == [network.netns(name).name for name in ("gateway", "lb")]
for path in network.namespaces():
    network.remove(path)
assert network.namespaces() == []
for other in ("other", "another"):
    subprocess.run(["ip", "netns", "exec", other, "true"], check=True)
    subprocess.run(["ip", "netns", "delete", other], check=True)
"""


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip")
def test_namespaces_that_others_have_mounted_once_more() -> None:
    """`ip netns add` makes /run/netns a mount of its own; the lab's are made and removed as before, theirs stay."""
    argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", BESIDE_OTHERS]
    done = subprocess.run(argv, cwd=REPO, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_the_end_of_a_process_is_waited_for() -> None:
    """Also that of a dead one, until whoever started it has asked for its end."""
    with subprocess.Popen(["sleep", "0.3"]) as process, ThreadPoolExecutor(1) as pool:
        begin = time.monotonic()

        def ask_late() -> None:
            time.sleep(0.6)
            process.wait()

        pool.submit(ask_late)
        machine.wait_for_end([process.pid])
        assert time.monotonic() - begin > 0.6
        assert not Path(f"/proc/{process.pid}").exists()


def test_a_process_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GONE_SECONDS", 0.1)
    monkeypatch.setattr(machine, "ENDED_SECONDS", 0.1)
    with pytest.raises(LabError, match=f"do not end: ps {os.getpid()}"):
        machine.wait_for_end([os.getpid()])


def test_the_address_of_the_lab_s_internet_is_not_the_site_s(planned: Planned) -> None:
    plan = planned(
        ('"storage": {"cidr": "100.64.64.0/21"}', '"storage": {"cidr": "203.0.113.0/24"}'),
        ('"storage": "100.64.64.1"', '"storage": "203.0.113.2"'),
        ('"storage": "100.64.64.2"', '"storage": "203.0.113.3"'),
    )
    with pytest.raises(LabError, match=r"networks\.storage\.cidr: 203\.0\.113\.1 is the lab's internet"):
        blueprint.draw(plan)
