"""`invoke publish` and `unpublish` where something is wrong; that they work is in docs/runbooks/add-published-host.md.

dev, images        192.168.0.0/24
────────┬──────────────────────
     gateway  (…, .54 → 100.64.0.54, which nobody has)
"""

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import control
from tests.lab.commands import inside, invoke
from tests.lab.test_guard import LB_LINE, PLAN, WEB_LINE, confirmed, dump, write_plan

pytestmark = pytest.mark.usefixtures("deployed")

SERVER_LINE = WEB_LINE.replace(', "published": "192.168.0.54"', "")
WITH_SERVER = PLAN.replace(LB_LINE, f"{LB_LINE}\n{SERVER_LINE}")
TAKEN = "ip address {} 192.168.0.54/24 dev eth0"


@pytest.fixture
def before() -> Iterator[str]:
    """The gateway as it is; whatever the test leaves, it is so again."""
    found = dump("gateway")
    yield found
    if dump("gateway") != found:
        invoke("deploy", "gateway")


def test_the_line_that_it_takes(before: str, tmp_path: Path) -> None:
    """1. the diff, with an address that nobody has; 2. unpublish: the same line the other way round."""
    path = write_plan(tmp_path, WITH_SERVER)
    inside("images", TAKEN.format("add"))
    try:
        taken = invoke("publish", "web", good=False, UNDERLAY_PLAN=path)
    finally:
        inside("images", TAKEN.format("del"))
    assert taken.returncode == 2
    assert '"published": "192.168.0.55"' in taken.stdout
    done = invoke("publish", "web", good=False, UNDERLAY_PLAN=path)
    assert done.returncode == 2
    assert [line for line in done.stdout.splitlines() if line[1:5] == "    "] == [
        f" {LB_LINE}",
        f"-{SERVER_LINE}",
        f"+{WEB_LINE}",
        " " + PLAN[PLAN.index(LB_LINE) :].splitlines()[1],
    ]
    write_plan(tmp_path, WITH_SERVER.replace(SERVER_LINE, WEB_LINE))
    back = invoke("unpublish", "web", good=False, UNDERLAY_PLAN=path)
    assert back.returncode == 2
    assert f"-{WEB_LINE}\n+{SERVER_LINE}\n" in back.stdout
    assert dump("gateway") == before


@pytest.mark.long
def test_what_goes_wrong_changes_nothing(before: str, tmp_path: Path) -> None:
    """1. another machine has the address: refused; 2. nobody answers behind it: rolled back."""
    path = write_plan(tmp_path, WITH_SERVER.replace(SERVER_LINE, WEB_LINE))
    number = confirmed("gateway")[0]["number"]
    inside("images", TAKEN.format("add"))
    try:
        taken = invoke("publish", "web", good=False, UNDERLAY_PLAN=path)
    finally:
        inside("images", TAKEN.format("del"))
    assert taken.returncode == 1
    assert re.search(r"another machine of network 'enterprise' has 192\.168\.0\.54: MAC 02:", taken.stderr), taken
    assert confirmed("gateway")[0]["number"] == number
    silent = invoke("publish", "web", good=False, UNDERLAY_PLAN=path)
    assert silent.returncode == 2, silent
    assert "WRONG 192.168.0.54 does not answer a ping from here" in silent.stdout
    assert "gateway is as before" in silent.stdout
    assert confirmed("gateway")[0]["what"] == [f"back to the state before change {number + 1}"]
    assert dump("gateway") == before


FLOW = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind((sys.argv[1], int(sys.argv[2])))
    while True:
        try:
            s.sendto(b"still there", (sys.argv[3], int(sys.argv[4])))
        except OSError:
            pass
        time.sleep(0.1)
"""
SINK = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind((sys.argv[1], int(sys.argv[2])))
    while True:
        _, (address, _) = s.recvfrom(100)
        with open(f"/run/{sys.argv[3]}", "w") as file:
            file.write(f"{address} {time.time()}")
"""


def start(host: str, unit: str, program: str, *arguments: object) -> None:
    """A program on a host that runs until its unit is stopped."""
    inside(host, shlex.join(["systemd-run", "-q", f"--unit={unit}", "python3", "-c", program, *map(str, arguments)]))


def last(host: str, name: str) -> str:
    """Where the packets come from that a sink gets now; empty if none come."""
    time.sleep(1)
    address, when = inside(host, f"cat /run/{name} 2>/dev/null || echo nobody 0").split()
    return address if time.time() - float(when) < 0.8 else ""


@pytest.mark.long
def test_flows_from_before_take_the_new_translation(before: str, tmp_path: Path) -> None:
    """
    UDP flows that never pause, from inside and to the published address; one of another host beside them.

    1. published: the world sees the published address, and what comes to it gets in
    2. no longer published: the world sees the gateway's, and nothing gets in
    """
    path = write_plan(tmp_path, WITH_SERVER.replace(SERVER_LINE, WEB_LINE))
    other = "conntrack -L -p udp --orig-src 100.64.0.53 --orig-port-dst 9001 -o id 2>/dev/null | grep -o 'id=.*'"
    inside("lb", "ip address add 100.64.0.54/21 dev eth0")
    try:
        start("dev", "sink-world", SINK, "192.168.0.105", 9000, "world")
        start("lb", "sink-web", SINK, "100.64.0.54", 9002, "web")
        start("lb", "flow-out", FLOW, "100.64.0.54", 7000, "192.168.0.105", 9000)
        start("lb", "flow-other", FLOW, "100.64.0.53", 7001, "192.168.0.105", 9001)
        start("dev", "flow-in", FLOW, "192.168.0.105", 7002, "192.168.0.54", 9002)
        assert last("dev", "world") == "192.168.0.51"
        assert last("lb", "web") == ""
        untouched = inside("gateway", other)
        done = invoke("publish", "web", UNDERLAY_PLAN=path)
        assert (last("dev", "world"), last("lb", "web")) == ("192.168.0.54", "192.168.0.105")
        found = re.search(r"good: none of the (\d+) connections of web has an old translation", done.stdout)
        assert found, done.stdout
        assert int(found[1]) >= 2
        assert re.search(r"[1-9]\d* open connections had the old translation: ended", done.stderr)
        write_plan(tmp_path, WITH_SERVER)
        done = invoke("unpublish", "web", UNDERLAY_PLAN=path)
        assert (last("dev", "world"), last("lb", "web")) == ("192.168.0.51", "")
        assert "good: none of the " in done.stdout
        assert inside("gateway", other) == untouched
    finally:
        for host, units in (("lb", "sink-web flow-out flow-other"), ("dev", "sink-world flow-in")):
            control.run(host, f"systemctl stop {units}; rm -f /run/world /run/web")
        control.run("lb", "ip address del 100.64.0.54/21 dev eth0")
        for host in ("gateway", "jumphost"):  # another machine may have it next
            inside(host, "ip neighbour flush to 100.64.0.54")
    assert dump("gateway") == before


@pytest.mark.long
def test_a_host_without_a_login(before: str, tmp_path: Path) -> None:
    """
    1. published, although a neighbour remembers another machine; 2. again: nothing to change;
    3. no longer published, but another machine answers: told; 4. nobody answers: good.
    """
    path = write_plan(tmp_path, WITH_SERVER.replace(SERVER_LINE, WEB_LINE))
    inside("lb", "ip address add 100.64.0.54/21 dev eth0")
    try:
        inside("dev", "ip neigh replace 192.168.0.54 lladdr 02:00:00:00:00:99 dev eth0 nud reachable")
        assert "good: web answers a ping" in invoke("publish", "web", UNDERLAY_PLAN=path).stdout
        number = confirmed("gateway")[0]["number"]
        invoke("publish", "web", UNDERLAY_PLAN=path)
        assert confirmed("gateway")[0]["number"] == number
        write_plan(tmp_path, WITH_SERVER)
        inside("images", TAKEN.format("add"))
        try:
            answered = invoke("unpublish", "web", good=False, UNDERLAY_PLAN=path)
        finally:
            inside("images", TAKEN.format("del"))
        assert answered.returncode == 2, answered
        assert "WRONG 192.168.0.54 still answers a ping from here" in answered.stdout
        done = invoke("unpublish", "web", "--address", "192.168.0.54", UNDERLAY_PLAN=path)
        assert "good: 192.168.0.54 is no longer published" in done.stdout
    finally:
        control.run("lb", "ip address del 100.64.0.54/21 dev eth0")
        for host in ("gateway", "jumphost"):  # another machine may have it next
            inside(host, "ip neighbour flush to 100.64.0.54")
    assert dump("gateway") == before
