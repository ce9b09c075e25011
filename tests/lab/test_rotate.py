"""A change of the operator's key that can't go on changes nothing; that it works is in docs/runbooks/rotate-keys.md."""

import pytest

from lab import control
from lab.state import LabState
from tests.lab.commands import inside, invoke

KEYS = "~ops/.ssh/authorized_keys"


@pytest.mark.parametrize(
    ("fault", "undo", "said"),
    [
        (
            "systemctl stop ssh",
            "systemctl start ssh",
            "lb: ssh: connect to host 192.168.0.53 port 22: Connection refused",
        ),
        (f"chown root: {KEYS}; chmod 644 {KEYS}", f"chmod 600 {KEYS}; chown ops: {KEYS}", "lb: sh: 1: cannot create "),
    ],
    ids=["a host is down", "a host does not take it"],
)
def test_nothing_changes_unless_every_host_takes_the_new_key(
    deployed: LabState, fault: str, undo: str, said: str
) -> None:
    key = deployed.key.read_text()
    before = [inside(host, f"cat {KEYS}") for host in ("gateway", "master-1")]
    inside("lb", fault)
    try:
        done = invoke("rotate-key", good=False)
    finally:
        control.run("lb", undo)
    assert done.returncode == 1
    assert said in done.stdout
    assert "nothing" in done.stdout
    assert [inside(host, f"cat {KEYS}") for host in ("gateway", "master-1")] == before
    assert deployed.key.read_text() == key
