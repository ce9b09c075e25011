"""Changes under the guard as an operator makes them: from a process of his own, over ssh, on the deployed site.

What a host is, is one dump (`dump`): rules, links, addresses, routes, policy rules, sysctls, services, and each file
below /etc. Two dumps are equal or they are not.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from lab import control
from lab.process import wait_until
from lab.state import LabState
from tests.lab.commands import CLEAN, inside, invoke
from tests.lab.test_guard_agent import DUMP, differing
from underlay.guard.change import Change, NewFile
from underlay.plan import REPO
from underlay.remote import probe
from underlay.remote.guard import paths, systemd

PLAN = (REPO / "group_data" / "all.py").read_text()
LB_LINE = next(line for line in PLAN.splitlines() if '"lb"' in line)
WEB_LINE = LB_LINE.replace('"lb"', '"web"').replace("lb_nginx", "server").replace(".53", ".54")
MORE = PLAN.replace(LB_LINE, f"{LB_LINE}\n{WEB_LINE}")
"""The plan with one more published host, 192.168.0.54."""

TIMER = 6
SLACK = 15
"""Seconds beyond the timer within which every change has ended."""

pytestmark = pytest.mark.usefixtures("deployed")

APPLY = """
import json, sys
from targets import current
from underlay.guard import runner
from underlay.guard.change import Change, NewFile
host, fields = sys.argv[1], json.loads(sys.argv[2])
fields["files"] = {path: file and NewFile(**file) for path, file in fields["files"].items()}
sys.exit(not runner.run(current(), host, Change(**fields), print))
"""


def start(argv: list[str], **environment: str) -> subprocess.Popen[str]:
    """An operator's command, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *argv],
        cwd=REPO,
        env=CLEAN | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def begin(host: str, change: Change, seconds: float = TIMER) -> subprocess.Popen[str]:
    """Begin a guarded change as an operation does."""
    return start(["-c", APPLY, host, json.dumps(asdict(change))], UNDERLAY_ROLLBACK_SECONDS=str(seconds))


def finish(process: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
    """Exit code and output of a command that must end in time."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        pytest.fail(f"it hangs: {process.communicate()[0]}")
    return process.returncode, output


def kill(process: subprocess.Popen[str]) -> None:
    """`kill -9` of a command with all that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def make(host: str, change: Change, seconds: float = TIMER) -> tuple[int, str]:
    """Make a guarded change; exit code and output."""
    return finish(begin(host, change, seconds), seconds + SLACK)


def dump(host: str) -> str:
    """What a host is."""
    return inside(host, DUMP)


def changed(host: str, before: str) -> str:
    """What of a host differs from before. A probe that was cut off listens until its deadline: that is waited for."""
    wait_until(lambda: dump(host) == before, seconds=probe.DEADLINE + 5, every=0.5)
    return differing(before, dump(host))


def idle(host: str) -> bool:
    """Whether no change is pending on a host."""
    units = f"{systemd.TIMER}.timer {systemd.TIMER}.service {systemd.APPLY}.service"
    return not control.run(host, f"! test -e {paths.PENDING} && ! systemctl -q is-active {units}").returncode


def confirmed(host: str) -> list[dict[str, Any]]:
    """The history of a host, the latest first."""
    found: list[dict[str, Any]] = json.loads(inside(host, f"python3 {paths.COPY} history"))["history"]
    return found


def shown(*arguments: str, code: int = 0, **environment: str) -> list[str]:
    """Of a deploy's output the lines that say what differs."""
    done = invoke("deploy", *arguments, good=False, **environment)
    assert done.returncode == code, done.stdout + done.stderr
    return differences(done.stdout + done.stderr)


def differences(output: str) -> list[str]:
    """Of a deploy's output the lines that say what differs."""
    own = r"Connected|Ready: .*|Loading: .*|Success|No changes|confirmed: .*"
    lines = re.findall(r"^ +(\[[\w-]+\] .*?) *$", output, re.MULTILINE)
    return [line for line in lines if not re.fullmatch(rf"\[\S+\] ({own})", line)]


@pytest.fixture
def more(tmp_path: Path) -> str:
    """The file of the plan with one more published host."""
    return write_plan(tmp_path, MORE)


def write_plan(folder: Path, plan: str, **role_data: str) -> str:
    """Write another plan; what only a role knows is the repo's own unless it is given."""
    (folder / "all.py").write_text(plan)
    for name in ("lb_nginx", "jumphost"):
        (folder / f"{name}.py").write_text(role_data.get(name) or (REPO / "group_data" / f"{name}.py").read_text())
    return str(folder / "all.py")


# --- confirmed, or as it was ----------------------------------------------------------------------------------------


PATH = "/etc/underlay-test.conf"
NEW = "ip address add 100.64.7.7/32 dev eth0; sleep 0.5; ip rule add priority 77 lookup 77"
OLD = f"ip address del 100.64.7.7/32 dev eth0; ip rule del priority 77; rm {PATH}"
PARTS = ["ip address show eth0 | grep 100.64.7.7", "ip rule show priority 77 | grep 77", f"grep new {PATH}"]
HARMLESS = Change(what=("a test",), live=NEW, files={PATH: NewFile("new\n")})


def is_new(host: str) -> bool:
    """Whether a host has all of HARMLESS, or nothing of it; it must not be in between."""
    found = {part: not control.run(host, part).returncode for part in PARTS}
    assert len(set(found.values())) == 1, f"{host} is in between: {found}"
    return all(found.values())


def test_a_confirmed_change_is_kept_and_in_the_history() -> None:
    """1. it is made; 2. the host and the operator's commands tell of it; 3. `invoke rollback` undoes it."""
    before = dump("gateway")
    code, output = make("gateway", HARMLESS, 30)
    try:
        assert code == 0, output
        [latest, *_] = confirmed("gateway")
        assert f"confirmed: change {latest['number']}, " in output
        assert latest["what"] == ["a test"]
        assert idle("gateway")
        assert is_new("gateway")
        [told, *_] = json.loads(invoke("history", "gateway", "--json").stdout)["gateway"]
        assert told == latest
        rows = {row.partition(" ")[0] for row in invoke("history").stdout.splitlines()}
        assert rows >= {"gateway", "jumphost", "lb", "master-1"}
        diff = invoke("history", "gateway", str(latest["number"])).stdout
        assert "+eth0 100.64.7.7/32" in diff
        assert "+priority 77 " in diff
        assert f"+++ {PATH}" in diff
        assert "confirmed: change" in invoke("rollback", "gateway").stdout
        assert differing(before, dump("gateway")) == ""
    finally:
        control.run("gateway", OLD)


LOCKOUTS = {
    "everything dropped": (
        "gateway",
        "iptables -I INPUT -j DROP; iptables -I OUTPUT -j DROP; iptables -P FORWARD DROP",
    ),
    "wrong address": (
        "gateway",
        "ip address flush dev eth0; ip address add 192.168.0.151/24 dev eth0; ip route add default via 192.168.0.1",
    ),
    "sshd stopped": ("lb", "systemctl stop ssh"),
    "routes gone": (
        "master-1",
        "ip route del default; ip route del default table 1000; ip rule flush; ip rule add priority 32766 lookup 100",
    ),
}


def lock_out(name: str) -> None:
    """One of LOCKOUTS: the operator is told in time, and the host is as before."""
    host, live = LOCKOUTS[name]
    before, number = dump(host), len(confirmed(host))
    code, output = make(host, Change(what=(name,), live=live, files={PATH: NewFile("new\n")}))
    assert code == 1, output
    assert re.search(r"^ROLLED BACK( by the host itself)?: \S+", output, re.MULTILINE), output
    assert wait_until(lambda: idle(host), seconds=5, every=0.2)
    assert changed(host, before) == ""
    assert len(confirmed(host)) == number


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name, (host, _) in LOCKOUTS.items() if host == "gateway"])
def test_a_lockout_of_the_gateway_is_undone(name: str) -> None:
    lock_out(name)


def test_lockouts_of_others_are_undone() -> None:
    """Two hosts that are reached independently, at the same time."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lock_out, ["sshd stopped", "routes gone"]))


def test_a_failed_probe_is_undone_at_once() -> None:
    """The way to the gateway stays open, but others' traffic fails: nobody waits for the timer, of a minute here."""
    before = dump("gateway")
    started = time.monotonic()
    code, output = make(
        "gateway", Change(what=("a test",), live="sysctl -qw net.ipv4.ip_forward=0; iptables -t nat -F"), 60
    )
    assert code == 1
    assert "ROLLED BACK: a probe that passed before fails now" in output
    assert time.monotonic() - started < 45
    assert idle("gateway")
    assert changed("gateway", before) == ""


@pytest.mark.long
def test_power_off_in_the_middle_ends_in_time() -> None:
    """1. the gateway loses its power while it changes; 2. the operator's command ends; 3. booted, it is as before."""
    before = dump("gateway")
    change = Change(what=("a test",), live="touch /run/changing; sleep 5", files={PATH: NewFile("new\n")})
    process = begin("gateway", change)
    try:
        assert wait_until(lambda: not control.run("gateway", "test -e /run/changing").returncode, seconds=20, every=0.1)
        begun = time.monotonic()
        control.power_off("gateway")
        code, output = finish(process, TIMER + SLACK)
    finally:
        control.power_on("gateway")
    assert time.monotonic() - begun < TIMER + SLACK
    assert code == 1
    assert "gateway can't be reached" in output
    assert wait_until(lambda: dump("gateway") == before, seconds=10, every=0.5)


# --- two operators --------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_second_operator_is_refused_until_the_deadline(more: str) -> None:
    """1. a change waits; a second one and a deploy are refused; 2. nobody confirms the first: then the second works."""
    before = dump("gateway")
    first = begin("gateway", Change(what=("a test",), live="sleep 3", files={PATH: NewFile("first\n")}), 40)
    try:
        assert wait_until(lambda: not idle("gateway"), seconds=20, every=0.1)
        # He went home: the change stays pending until its deadline.
        kill(first)
        pending = json.loads(inside("gateway", f"python3 {paths.COPY} status"))["pending"]
        code, output = make("gateway", HARMLESS)
        assert code == 1
        assert f"a change of {pending['who']} is pending on this host since {pending['since']}" in output
        deploy = invoke("deploy", "gateway", good=False, UNDERLAY_PLAN=more)
        assert deploy.returncode == 1
        assert (
            f"a change of {pending['who']} is pending on this host since {pending['since']}"
            in deploy.stdout + deploy.stderr
        )
        assert not is_new("gateway")
        assert "192.168.0.54" not in inside("gateway", "ip address; iptables-save")
    finally:
        assert wait_until(lambda: idle("gateway"), seconds=60, every=0.2)
    assert differing(before, dump("gateway")) == ""
    code, output = make("gateway", HARMLESS)
    inside("gateway", OLD)
    assert code == 0, output
    assert differing(before, dump("gateway")) == ""


# --- open connections -----------------------------------------------------------------------------------------------


FLOWS = """
import asyncio, json, sys, time
listen, groups, status = json.loads(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
rounds, broken, slowest = {}, [], 0.0
async def serve(reader, writer):
    try:
        while data := await reader.read(64): writer.write(data)
    except OSError: pass
    writer.close()
async def flow(number, source, destination, port):
    global slowest
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(destination, port, local_addr=(source, 0)), 10)
        while True:
            begun = time.monotonic()
            writer.write(b"%08d" % rounds.setdefault(number, 0))
            if await asyncio.wait_for(reader.readexactly(8), 60) != b"%08d" % rounds[number]: raise OSError("mixed up")
            slowest = max(slowest, time.monotonic() - begun)
            rounds[number] += 1
            await asyncio.sleep(0.25)
    except Exception as error:
        broken.append(f"{source} -> {destination}:{port}: {error!r}")
async def main():
    for port in listen: await asyncio.start_server(serve, "0.0.0.0", port, backlog=200)
    await asyncio.sleep(1)
    ends = [end for *end, count in groups for _ in range(count)]
    tasks = [asyncio.create_task(flow(number, *end)) for number, end in enumerate(ends)]
    while True:
        await asyncio.sleep(0.25)
        with open(status, "w") as file:
            json.dump({"flows": len(tasks), "rounds": rounds, "broken": broken, "slowest": slowest}, file)
asyncio.run(main())
"""
PORT = 7000
LIFE = 900
"""Seconds after which the programs of the flows stop by themselves."""


def run_flows(host: str, unit: str, listen: list[int], groups: list[tuple[str, str, int, int]]) -> None:
    """Listen and connect on a host, in a unit of systemd; `groups`: from, to, port, how many."""
    argv = [
        "systemd-run",
        "--quiet",
        "--collect",
        f"--unit={unit}",
        f"--property=RuntimeMaxSec={LIFE}",
        "python3",
        "-c",
    ]
    done = control.run(host, [*argv, FLOWS, json.dumps(listen), json.dumps(groups), f"/run/{unit}.json"])
    assert done.returncode == 0, done.stderr


class Flows:
    """Connections through the gateway, all the time in use."""

    def __init__(self, hosts: list[str]) -> None:
        self.hosts = hosts

    def read(self) -> dict[str, Any]:
        """Host → its status."""
        return {host: json.loads(inside(host, "cat /run/flows.json")) for host in self.hosts}

    def _rounds(self) -> list[int]:
        found = self.read()
        assert {host: each["broken"] for host, each in found.items() if each["broken"]} == {}
        return [each["rounds"].get(str(n), 0) for each in found.values() for n in range(each["flows"])]

    def go_on(self, since: str) -> None:
        """None is broken, and each one carries data now."""
        before = self._rounds()
        assert len(before) >= 100
        assert wait_until(
            lambda: all(now > then for then, now in zip(before, self._rounds(), strict=True)), seconds=60, every=0.5
        ), f"a connection is silent since {since}: {self.read()}"


@pytest.fixture
def flows(lab: LabState) -> Iterator[Flows]:
    """More than a hundred connections of every kind."""
    outside = lab.outside
    groups = {
        "internet": [],
        "lb": [
            ("100.64.0.53", outside, PORT, 15),
            *(("100.64.0.53", f"100.64.{net}.2", PORT, 5) for net in (0, 32, 64)),
        ],
        "jumphost": [("100.64.0.52", outside, PORT, 15), ("100.64.0.52", "100.64.64.2", PORT, 5)],
        "master-1": [
            *((f"100.64.{net}.2", outside, PORT, 5) for net in (0, 32, 64)),
            *((f"100.64.{net}.2", "100.64.0.53", PORT, 3) for net in (0, 32, 64)),
        ],
        "dev": [
            *(("192.168.0.105", f"192.168.0.{each}", PORT, 12) for each in (52, 53)),
            ("192.168.0.105", "192.168.0.53", 6443, 12),
        ],
    }
    try:
        for host, each in groups.items():
            run_flows(host, "flows", [PORT, 6443] if host == "master-1" else [PORT], each)
        time.sleep(2)
        yield Flows([host for host, each in groups.items() if each])
    finally:
        for host in groups:
            control.run(host, "systemctl stop flows doomed")


def tracked(which: str) -> set[str]:
    """The gateway's table of the flows' connections whose lines have a pattern; without what moves by itself."""
    lines = inside("gateway", "conntrack -L -p tcp -o id 2>/dev/null").splitlines()
    return {
        re.sub(r"^tcp +6 \d+ ", "", line)
        for line in lines
        if re.search(r"ESTABLISHED .*port=(7000|6443) ", line) and re.search(which, line)
    }


@pytest.mark.long
def test_open_connections_live_on(flows: Flows, tmp_path: Path) -> None:
    """
    Of more than a hundred connections none breaks over
    1. a deploy that changes nothing; 2. rules in another order, put right; 3. another nginx configuration;
    4. changes that wreck the rules, undone because a command fails, a probe fails, nobody confirms;
    5. one more published host, taken back by `invoke rollback`, and published again;
    6. the published host removed: its own connections end, and only those.
    """
    flows.go_on("the beginning")
    invoke("deploy", "gateway")
    flows.go_on("a deploy without changes")

    before = dump("gateway")
    [first] = inside("gateway", "iptables -t nat -S POSTROUTING | sed -n 's/^-A POSTROUTING //;2p'").splitlines()
    inside("gateway", f"iptables -t nat -D POSTROUTING 1; iptables -t nat -I POSTROUTING 3 {first}")
    swapped = dump("gateway")
    assert swapped != before
    invoke("deploy", "gateway")
    assert differing(before, dump("gateway")) == ""
    flows.go_on("rules in another order")

    services = (REPO / "group_data" / "lb_nginx.py").read_text().replace("10g", "11g")
    other = write_plan(tmp_path, MORE, lb_nginx=services)
    invoke("deploy", "lb_nginx", UNDERLAY_PLAN=other)
    assert "11g" in inside("lb", "cat /etc/nginx/nginx.conf")
    flows.go_on("an nginx reload")
    invoke("deploy", "lb_nginx")
    flows.go_on("an nginx reload back")

    # Not all rules of the table: without any, iptables takes its hook away, and the kernel resets connections.
    cut = "iptables -t nat -D POSTROUTING 1; iptables -t nat -D PREROUTING 1; iptables -P FORWARD DROP"
    wreck = f"{cut}; sysctl -qw net.ipv4.ip_forward=0; sleep 1"
    for live, why in (
        (f"{wreck}; false", "the change was rolled back: the live change failed"),
        (wreck, "ROLLED BACK: a probe that passed before fails now"),
        (f"{wreck}; iptables -I INPUT ! -i lo -j DROP", "ROLLED BACK.*: gateway can't be reached"),
    ):
        code, output = make("gateway", Change(what=("a test",), live=live), 20)
        assert (code, bool(re.search(why, output))) == (1, True), output
        assert changed("gateway", before) == ""
        flows.go_on(f"a rollback: {why}")

    # An address for the new host, on a host that is there.
    inside("lb", "ip address add 100.64.0.54/21 dev eth0")
    try:
        invoke("deploy", "gateway", UNDERLAY_PLAN=other)
        flows.go_on("one more published host")
        invoke("rollback", "gateway", "2")
        assert differing(before, dump("gateway")) == ""
        flows.go_on("`invoke rollback`")
        invoke("deploy", "gateway", UNDERLAY_PLAN=other)
        flows.go_on("one more published host, again")
        run_flows("dev", "doomed", [], [("192.168.0.105", "192.168.0.54", PORT, 3)])
        run_flows("lb", "doomed", [], [("100.64.0.54", "100.64.0.1", 22, 0), ("100.64.0.54", "192.168.0.1", PORT, 2)])
        assert wait_until(lambda: len(tracked(r"192\.168\.0\.54")) == 5, seconds=10, every=0.3)
        # A packet of theirs would make a new entry, which is translated no more.
        for host in ("dev", "lb"):
            inside(host, "systemctl kill --signal=STOP doomed")
        time.sleep(0.5)
        all_others = tracked("") - tracked(r"192\.168\.0\.54")
        invoke("deploy", "gateway")
        assert tracked(r"192\.168\.0\.54|100\.64\.0\.54 ") == set()
        assert len(all_others) >= 70
        assert tracked("") ^ all_others == set()
        assert differing(before, dump("gateway")) == ""
        flows.go_on("a published host removed")
    finally:
        for host in ("dev", "lb"):
            control.run(host, "systemctl kill --signal=KILL doomed")
        inside("lb", "ip address del 100.64.0.54/21 dev eth0")
        invoke("deploy", "gateway")
    assert differing(before, dump("gateway")) == ""
    flows.go_on("the last deploy")


# --- drift, history, rollback, dry run ------------------------------------------------------------------------------


def drift(*arguments: str, **environment: str) -> tuple[int, dict[str, list[tuple[str, str, str]]], dict[str, str]]:
    """`invoke drift --json`: exit code, host → (kind, where, what) of each difference, host → why it was not read."""
    done = invoke("drift", *arguments, "--json", good=False, **environment)
    found = json.loads(done.stdout)
    told = {
        host: [(one["kind"], one["where"], one["what"]) for one in each["differences"]]
        for host, each in found.items()
        if "differences" in each
    }
    return done.returncode, told, {host: each["error"] for host, each in found.items() if "error" in each}


@pytest.mark.long
def test_drift_and_dry_run_tell_what_differs() -> None:
    """
    1. as deployed: nothing, exit code 0; only somebody else's: shown, still 0;
    2. missing, ours from an earlier plan, out of order: each named, exit code 2; nothing was changed;
    3. a dry run shows lines of every host, and the deploy then the same ones, in the same order, and fixes it all;
    4. a host that is off: exit code 1, the others still told; with drift on one of those: 2.
    """
    code, told, errors = drift()
    assert (code, errors, {host for host, each in told.items() if each}) == (0, {}, set()), told
    unmanaged = "INPUT -s 203.0.113.9/32 -j DROP"
    extra = "FORWARD -s 100.64.9.9/32 -j ACCEPT"
    try:
        inside("gateway", f"iptables -A {unmanaged}")
        code, told, _ = drift("gateway")
        assert (code, told["gateway"]) == (0, [("unmanaged", "live", f"rule -t filter -A {unmanaged}")])
        rules = inside("gateway", "iptables -t nat -S POSTROUTING | sed -n 's/^-A POSTROUTING //p'").splitlines()
        inside(
            "gateway",
            f"iptables -A {extra}; sed -i '0,/^-I FORWARD/s||-A {extra}\\n&|' /var/lib/underlay/rules.v4;"
            f"iptables -t nat -D POSTROUTING {rules[-1]};"
            f"iptables -t nat -D POSTROUTING 1; iptables -t nat -I POSTROUTING 2 {rules[0]}",
        )
        inside("master-1", "ip rule add priority 30250 from 192.0.2.1 lookup 1001")
        inside("jumphost", "echo >> /etc/ssh/sshd_config.d/05-underlay.conf")
        inside("lb", "systemctl stop nginx; sed -i '$d' /etc/nginx/nginx.conf")
        hosts = ("gateway", "jumphost", "lb", "master-1")
        before = [dump(host) for host in hosts]
        code, told, errors = drift()
        assert [dump(host) for host in hosts] == before
        assert (code, errors) == (2, {})
        gateway = told["gateway"]
        assert ("unmanaged", "live", f"rule -t filter -A {unmanaged}") in gateway
        assert ("extra", "live", f"rule -t filter -A {extra}") in gateway
        assert ("missing", "live", f"rule -t nat -A POSTROUTING {rules[-1]}") in gateway
        assert [kind for kind, _, what in gateway if what.endswith((rules[0], rules[1]))] == ["out of order"]
        assert ("extra", "at boot", f"rule -t filter -A {extra}") in gateway
        assert ("differs", "/var/lib/underlay/rules.v4", "the file is not as planned") in gateway
        assert len(gateway) == 6
        assert [kind for kind, *_ in told["master-1"]] == ["extra"]
        assert told["jumphost"] == [
            ("differs", "/etc/ssh/sshd_config.d/05-underlay.conf", "the file is not as planned")
        ]
        assert [kind for kind, *_ in told["lb"]] == ["differs", "stopped"]
        dry = shown("--dry", code=2)
        assert [dump(host) for host in hosts] == before
        assert shown() == dry
        assert {line.split("]")[0][1:] for line in dry} == set(hosts)
        control.power_off("lb")
        code, told, errors = drift()
        assert code == 1
        assert "lb can't be reached" in errors["lb"]
        assert told == {
            "gateway": [("unmanaged", "live", f"rule -t filter -A {unmanaged}")],
            "jumphost": [],
            "master-1": [],
        }
        inside("master-1", "ip rule add priority 30250 from 192.0.2.1 lookup 1001")
        code, told, errors = drift()
        assert (code, list(errors), [kind for kind, *_ in told["master-1"]]) == (2, ["lb"], ["extra"])
    finally:
        control.power_on("lb")
        invoke("deploy")
        inside("gateway", f"iptables -D {unmanaged}")


@pytest.mark.long
def test_rollback_from_the_history(more: str) -> None:
    """1. a deploy; 2. back: as before it, to the byte; 3. drift tells what is missing; 4. a deploy brings it back."""
    before = dump("gateway")
    invoke("deploy", "gateway", UNDERLAY_PLAN=more)
    published = dump("gateway")
    assert published != before
    assert "confirmed: change" in invoke("rollback", "gateway", "2").stdout
    assert differing(before, dump("gateway")) == ""
    code, told, _ = drift("gateway", UNDERLAY_PLAN=more)
    assert code == 2
    assert {kind for kind, *_ in told["gateway"]} == {"missing", "differs"}
    invoke("deploy", "gateway", UNDERLAY_PLAN=more)
    assert differing(published, dump("gateway")) == ""
    invoke("rollback", "gateway", "2")
    assert differing(before, dump("gateway")) == ""
    assert confirmed("gateway")[0]["restore"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rollback", "gateway", "1000"), "error: '1000' is out of range: give a number from 1 to 50"),
        (("rollback", "gatewy"), "error: unknown host 'gatewy': did you mean 'gateway'?"),
        (("rollback", "gateway", "soon"), "error: 'soon' is not a number"),
        (("history", "gateway", "1000"), r"error: gateway: no confirmed change 1000 here: there are \d+ to \d+"),
    ],
)
def test_a_mistake_is_one_clear_error(arguments: tuple[str, ...], message: str) -> None:
    done = invoke(*arguments, good=False)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if not line.startswith("site ")]
    assert re.fullmatch(message.replace("?", r"\?"), line), done.stderr


# --- a large site ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_thousand_published_hosts(tmp_path: Path) -> None:
    """1. the gateway gets a thousand more; 2. a second run changes nothing; 3. the repo's own plan again, as before."""
    before = dump("gateway")
    large = PLAN.replace("192.168.0.0/24", "192.168.0.0/21")
    lines = [
        f'    "web-{n}": {{"role": "server", "addresses": {{"mgmt": "100.64.{4 + n // 250}.{1 + n % 250}"}}, '
        f'"published": "192.168.{4 + n // 250}.{1 + n % 250}"}},\n'
        for n in range(1000)
    ]
    end = large.rindex("}")
    plan = write_plan(tmp_path, large[:end] + "".join(lines) + large[end:])
    try:
        begun = time.monotonic()
        invoke("deploy", "gateway", "--rollback-after", "120", UNDERLAY_PLAN=plan)
        made = time.monotonic()
        assert shown("gateway", UNDERLAY_PLAN=plan) == []
        compared = time.monotonic()
        assert inside("gateway", "iptables -t nat -S PREROUTING | grep -c DNAT").strip() == "1002"
        # The installer's file has the gateway's address with the smaller prefix: that stays beside the plan's.
        assert inside("gateway", "ip -4 -o address show eth0 | wc -l").strip() == "1004"
        assert drift("gateway", UNDERLAY_PLAN=plan)[0] == 0
        print(f"1,000 published hosts: made in {made - begun:.1f} s, compared in {compared - made:.1f} s")
    finally:
        invoke("deploy", "gateway", "--rollback-after", "120")
    assert differing(before, dump("gateway")) == ""


# --- soak -----------------------------------------------------------------------------------------------------------


def watched(host: str, change: Change, soak: int) -> subprocess.Popen[str]:
    """Begin a change that is watched for longer than its timer runs."""
    argv = ["-c", APPLY, host, json.dumps(asdict(change))]
    return start(argv, UNDERLAY_ROLLBACK_SECONDS=str(TIMER), UNDERLAY_SOAK_SECONDS=str(soak))


def test_a_change_is_watched_for_longer_than_its_timer() -> None:
    """It is pending all the time, and confirmed in the end."""
    before = dump("lb")
    process = watched("lb", Change(what=("a test",), live="ip route add 203.0.113.0/26 dev eth0"), 2 * TIMER)
    assert wait_until(lambda: not idle("lb"), seconds=SLACK)
    time.sleep(1.5 * TIMER)
    assert not idle("lb")
    assert dump("lb") != before
    code, output = finish(process, 2 * TIMER + SLACK)
    assert (code, "confirmed: change" in output) == (0, True), output
    inside("lb", "ip route del 203.0.113.0/26 dev eth0")


@pytest.mark.long
def test_what_shows_later_is_undone() -> None:
    """Something that cuts the way some seconds after the change looked good."""
    before = dump("lb")
    # Not in the background: that ends with the change.
    later = "systemd-run -q --on-active=5 --timer-property=AccuracySec=1s ip route replace unreachable 192.168.0.0/24"
    code, output = finish(watched("lb", Change(what=("a test",), live=later), 5 * TIMER), 6 * TIMER + SLACK)
    assert (code, "ROLLED BACK" in output) == (1, True), output
    assert changed("lb", before) == ""


@pytest.mark.long
def test_an_operator_who_goes_while_it_is_watched() -> None:
    """The host undoes it when the time of the last look is over."""
    before = dump("lb")
    process = watched("lb", Change(what=("a test",), live="ip route add 203.0.113.0/26 dev eth0"), 10 * TIMER)
    assert wait_until(lambda: not idle("lb"), seconds=SLACK)
    time.sleep(1.5 * TIMER)
    assert not idle("lb")
    kill(process)
    assert wait_until(lambda: idle("lb"), seconds=TIMER + SLACK)
    assert changed("lb", before) == ""
