"""The gateway's rules among those of others: native ones, odd ones, busy ones, and what others load at boot.

Whatever we do, theirs are what they were: live, in their files, and after a boot.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import control
from lab.process import wait_until
from tests.lab.commands import CLEAN, inside, invoke, pyinfra
from underlay.desired.files import RULES
from underlay.plan import REPO
from underlay.remote.guard.paths import COPY, PENDING
from underlay.remote.guard.systemd import TIMER

pytestmark = pytest.mark.usefixtures("deployed")

PLAN = (REPO / "group_data" / "all.py").read_text()
LB_LINE = next(line for line in PLAN.splitlines() if '"lb"' in line)


@pytest.fixture
def more(tmp_path: Path) -> Iterator[str]:
    """A plan with one more published host; afterwards the gateway is deployed from the repo's."""
    another = LB_LINE.replace('"lb"', '"web"').replace(".53", ".54")
    (tmp_path / "all.py").write_text(PLAN.replace(LB_LINE, LB_LINE + another))
    yield str(tmp_path / "all.py")
    pyinfra("deploys/gateway.py", "-y")


@pytest.fixture
def native() -> Iterator[Callable[[], str]]:
    """Somebody blocks two addresses with nft, in the chain that iptables uses; gives what nft shows of it."""
    inside("gateway", "apt-get update -qq && apt-get install -qq -y --no-install-recommends nftables >/dev/null 2>&1")
    inside("gateway", "iptables -A INPUT -s 198.51.100.250 -j DROP; iptables -D INPUT 1")
    inside("gateway", "nft 'add rule ip filter INPUT ip saddr { 198.51.100.1, 198.51.100.2 } counter drop'")
    assert "-A INPUT -j DROP" in inside("gateway", "iptables-save").splitlines(), "printed right, it is no trap"

    def shown() -> str:
        return inside("gateway", "nft -s list chain ip filter INPUT")

    yield shown
    inside("gateway", "nft flush chain ip filter INPUT")


def guard(command: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(inside("gateway", f"python3 {COPY} {command}"))
    return found


def test_a_rollback_writes_no_rule_of_others(native: Callable[[], str], more: str) -> None:
    """By `invoke rollback`, and by the host's own timer when the operator is gone: the way in stays open."""
    before = native()
    pyinfra("deploys/gateway.py", "-y", UNDERLAY_PLAN=more)
    assert "192.168.0.54" in inside("gateway", "iptables-save")
    # What others put in between stays, too.
    inside("gateway", "iptables -I FORWARD 2 -s 203.0.113.7 -j DROP")
    invoke("rollback", "gateway")
    assert "192.168.0.54" not in inside("gateway", "iptables-save")
    assert "203.0.113.7" in inside("gateway", "iptables -S FORWARD")
    inside("gateway", "iptables -D FORWARD -s 203.0.113.7 -j DROP")
    assert native() == before

    argv = [sys.executable, "-m", "invoke", "deploy", "gateway"]
    environment = CLEAN | {"UNDERLAY_PLAN": more, "UNDERLAY_ROLLBACK_SECONDS": "300"}
    with subprocess.Popen(
        argv, cwd=REPO, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as operator:
        assert wait_until(lambda: "192.168.0.54" in inside("gateway", "iptables-save"), seconds=60, every=0.05)
        os.killpg(operator.pid, signal.SIGKILL)
    inside("gateway", f"systemctl start {TIMER}.service")  # what the timer runs at its end
    assert wait_until(lambda: control.run("gateway", f"test -e {PENDING}").returncode != 0, seconds=60, every=0.2)
    last = guard("status")["last_rollback"]
    assert isinstance(last, dict)
    assert last["problems"] == []
    assert "192.168.0.54" not in inside("gateway", "iptables-save")
    assert native() == before
    assert invoke("drift", "gateway", good=False).returncode in (0, 2), "it can be reached"


def test_a_table_that_iptables_can_t_show(more: str) -> None:
    """It is named, by the deploy, by drift and by verify, and nothing is done to it."""
    inside("gateway", "apt-get update -qq && apt-get install -qq -y --no-install-recommends nftables >/dev/null 2>&1")
    before = inside("gateway", "nft -s list ruleset")
    inside("gateway", "nft 'add rule ip filter FORWARD iifname wt0 ct state established,related counter accept'")
    try:
        there = inside("gateway", "nft -s list ruleset")
        done = pyinfra("deploys/gateway.py", "-y", good=False, UNDERLAY_PLAN=more)
        assert done.returncode != 0
        assert "iptables can't show table filter" in done.stdout + done.stderr
        for command in ("drift", "verify"):
            done = invoke(command, good=False)
            assert done.returncode != 0
            assert "iptables can't show table filter" in " ".join((done.stdout + done.stderr).split()), command
        assert inside("gateway", "nft -s list ruleset") == there
    finally:
        handle = inside("gateway", "nft -a list chain ip filter FORWARD | grep wt0 | sed 's/.*handle //'")
        inside("gateway", f"nft delete rule ip filter FORWARD handle {handle}")
    assert inside("gateway", "nft -s list ruleset") == before


BUSY = """\
iptables -N f2b; iptables -I INPUT -p tcp -m multiport --dports 22 -j f2b
i=0; while [ $i -lt 250 ]; do
  i=$((i+1)); iptables -w -I f2b 1 -s 198.51.100.$i -j REJECT; iptables -w -I FORWARD 1 -s 198.51.100.$i -j DROP
  sleep 0.3; iptables -w -D FORWARD -s 198.51.100.$i -j DROP
done
"""


@pytest.mark.long
def test_a_busy_host(more: str) -> None:
    """Others change their chain, and ours, three times a second: deploys are done, and their rules are all there."""
    inside("gateway", f"nohup sh -c '{BUSY}' >/dev/null 2>&1 & echo $! > /run/busy")
    try:
        for _ in range(2):
            pyinfra("deploys/gateway.py", "-y", UNDERLAY_PLAN=more)
            pyinfra("deploys/gateway.py", "-y")
    finally:
        inside("gateway", "pkill -f 'iptables -N f2[b]'; sleep 1; true")
    chain = inside("gateway", "iptables -S f2b").splitlines()
    assert len(chain) > 10
    assert [rule.split()[3] for rule in chain[1:]] == [f"198.51.100.{n}/32" for n in range(len(chain) - 1, 0, -1)]
    inside("gateway", "iptables -D INPUT -p tcp -m multiport --dports 22 -j f2b; iptables -F f2b; iptables -X f2b")
    left = "iptables -S FORWARD | grep -e '-s 198.51.100' | sed s/-A/-D/"
    inside("gateway", f"{left} | while read rule; do iptables $rule; done")
    assert invoke("drift", "gateway").returncode == 0


THEIRS = """\
*nat
:PREROUTING ACCEPT [0:0]
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -d 192.168.0.54 -j DNAT --to 100.64.0.54
-A POSTROUTING -s 100.64.0.54 -j SNAT --to 192.168.0.54
-A POSTROUTING -s 172.30.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*filter
-A FORWARD -s 203.0.113.8 -m comment --comment "ticket [2024:17], a \\"friend\\" of $(nobody)" -j DROP
COMMIT
"""
BROKEN = THEIRS.replace("*filter\n", "*filter\n-A INPUT -m set --match-set badnets src -j DROP\n")


def boot_file(text: str) -> None:
    control.run("gateway", "cat > /etc/iptables/rules.v4", stdin=text)


@pytest.mark.parametrize(
    "theirs",
    [
        pytest.param(THEIRS, id="loads", marks=pytest.mark.long),
        pytest.param(BROKEN, id="does not load"),
        pytest.param(THEIRS[:-300], id="cut off", marks=pytest.mark.long),
    ],
)
def test_what_others_load_at_boot(theirs: str, more: str) -> None:
    """Their file is theirs, to the byte, and loaded as ever; ours are in place behind it, none that was withdrawn."""
    inside("gateway", "apt-get update -qq; mkdir -p /etc/iptables; echo > /etc/iptables/rules.v4")
    inside("gateway", "DEBIAN_FRONTEND=noninteractive apt-get install -qq -y iptables-persistent >/dev/null 2>&1")
    boot_file(theirs)
    try:
        pyinfra("deploys/gateway.py", "-y", UNDERLAY_PLAN=more)
        pyinfra("deploys/gateway.py", "-y")
        assert inside("gateway", "cat /etc/iptables/rules.v4") == theirs
        told = invoke("drift", "gateway").stdout
        assert ("netfilter-persistent.service can't load" in told) == (theirs != THEIRS), told
        control.reboot("gateway")
        saved = inside("gateway", "iptables-save")
        assert "192.168.0.54" not in saved
        assert ("203.0.113.8" in saved) == (theirs == THEIRS)
        assert ("172.30.0.0/16" in saved) == (theirs == THEIRS)
        assert invoke("verify", "gateway").returncode == 0
        # Whoever loads a firewall anew takes ours along, and they come back.
        inside("gateway", "iptables -t nat -F; systemctl restart netfilter-persistent || true")
        assert wait_until(lambda: invoke("drift", "gateway", good=False).returncode == 0, seconds=20, every=1)
        assert inside("gateway", "cat /etc/iptables/rules.v4") == theirs
    finally:
        inside("gateway", "apt-get purge -qq -y iptables-persistent netfilter-persistent >/dev/null 2>&1")
        inside("gateway", "rm -rf /etc/iptables")
        control.reboot("gateway")


@pytest.mark.long
def test_our_file_cut_off(more: str) -> None:
    """verify, drift and the doctor tell, while all works still; a deploy writes it anew."""
    inside("gateway", f"truncate -s 800 {RULES}")
    assert invoke("verify", "gateway", good=False).returncode == 2
    assert "at boot" in invoke("drift", "gateway", good=False).stdout
    found = json.loads(invoke("doctor", "--json", good=False).stdout)
    assert [each["id"] for each in found["findings"]] == ["boot-differs"]
    control.reboot("gateway")
    assert "failed" in inside("gateway", "systemctl is-active underlay-firewall || true")
    assert "underlay-firewall" in invoke("verify", "gateway", good=False).stdout
    pyinfra("deploys/gateway.py", "-y")
    assert invoke("verify", "gateway").returncode == 0
