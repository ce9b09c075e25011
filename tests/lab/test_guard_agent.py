"""Can a change hurt? On the deployed site, changes that cut off their host, and ends at every moment.

Nothing here needs a way to the hosts: commands run as root inside them, whatever became of their network. What a host
is, is one dump (`DUMP`): rules, addresses, routes, policy rules, sysctls, services, listeners, and each file below /etc
with its digest, mode and owner. Two dumps are equal or they are not.

Moments: a copy of the agent is sent that is killed, or stops for the power cut, right before its n-th durable step or
program. How many there are is counted in a run that goes through.
"""

import base64
import difflib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import Any

import pytest

from lab import control, flavour
from lab.process import wait_until
from lab.state import LabState
from tests.lab.commands import inside
from tests.lab.conftest import HOSTS as KIND
from tests.program import edited
from underlay.desired.files import RULES
from underlay.remote import guard as guard_program
from underlay.remote import send
from underlay.remote.guard import paths, systemd

TABLE = "changes that hurt, and ends at every moment:"
PROGRAM = send.packed(guard_program)
TOKENS = count(1)
HOSTS = ("gateway", "jumphost", "lb", "master-1")

DUMP = r"""
if command -v iptables-save >/dev/null; then iptables-save | sed -e '/^#/d' -e 's/\[[0-9]*:[0-9]*\]//'; fi
ip -o link | sed -e 's/ state [A-Z]*//' -e 's/@if[0-9]*//'
ip -4 -o address | sed 's/valid_lft.*//'
ip -4 route show table all
ip -4 rule
sysctl net.ipv4.ip_forward net.ipv4.conf
for unit in ssh systemd-networkd nginx; do echo "$unit $(systemctl is-active $unit)"; done
ss -Htln | awk '{print "listens", $4}' | sort
find /etc -path '*underlay-guard*' -o -printf '%p %M %u:%g %l\n' | sort
find /etc -type f -not -path '*underlay-guard*' -print0 | sort -z | xargs -0 sha256sum 2>&1 || true
"""
"""All that a change may touch, as text. In the middle of one a file may go before it is read: that differs, too."""

FAULT = """
def fault(command, number, what, marker):
    import atexit, os, subprocess, sys

    if sys.argv[1] != command or os.path.exists(marker):
        return
    count = 0

    def watched(function):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count == number:
                open(marker, "w").close()
                os.kill(os.getpid(), what)
            return function(*arguments, **options)

        return call

    if not number:
        atexit.register(lambda: print(count, file=open(marker, "w")))
    os.fsync, os.replace, os.rename = watched(os.fsync), watched(os.replace), watched(os.rename)
    subprocess.run = watched(subprocess.run)
"""
MARKER = "/var/tmp/fault-{}"
KILL, STOP = 9, 19


def file(content: str, mode: str = "644") -> dict[str, str]:
    """A file of a request."""
    return {"content": base64.b64encode(content.encode()).decode(), "mode": mode}


class Guard:
    """The guard of one host, as an operator's machine uses it."""

    def __init__(self, host: str) -> None:
        self.host = host

    def begin(
        self, change: dict[str, Any], seconds: float = 30, program: bytes = PROGRAM, **more: Any
    ) -> tuple[str, dict[str, Any]]:
        """Begin a change: its token and the answer."""
        token = f"token-{next(TOKENS)}"
        request: dict[str, Any] = {
            "token": token,
            "who": f"tester of {self.host}",
            "commit": "0123abc",
            "what": ["a test"],
        }
        request |= {"seconds": seconds, "change": change, **more}
        stdin = f"{base64.b64encode(program).decode()}\n{json.dumps(request)}"
        return token, self._answer(send.argv("begin"), stdin)

    def ask(self, *command: str) -> dict[str, Any]:
        """Run a command of the copy on the host."""
        return self._answer(["python3", str(paths.COPY), *command])

    def _answer(self, argv: list[str], stdin: str | None = None) -> dict[str, Any]:
        done = control.run(self.host, argv, stdin=stdin, timeout=120)
        if done.returncode not in (0, 1):
            return {"error": f"killed: {done.returncode}"}
        answer: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == ("error" in answer), done
        return answer

    def dump(self) -> str:
        """What the host is."""
        return inside(self.host, DUMP)

    def settle(self, seconds: float = 25) -> None:
        """Wait until nothing is pending and no timer runs."""
        units = f"{systemd.TIMER}.timer {systemd.TIMER}.service {systemd.APPLY}.service"
        idle = f"! test -e {paths.PENDING} && ! systemctl -q is-active {units}"
        assert wait_until(lambda: not control.run(self.host, idle).returncode, seconds=seconds, every=0.2), (
            f"{self.host} does not settle: {self.ask('status')}"
        )

    def put_back(self) -> None:
        """Undo the last confirmed change, by the history."""
        token, answer = self.begin({"restore": self.ask("status")["last"]["number"]})
        assert answer.get("state") == "pending", answer
        assert self.ask("confirm", token)["state"] == "confirmed"


def with_fault(command: str, number: int, what: int = KILL) -> bytes:
    """An agent that meets its end at a moment; with the number 0, one that counts the moments."""
    call = f"fault({command!r}, {number}, {what}, {MARKER.format(command)!r})\n"
    start = "from underlay.remote.guard.__main__ import main\n"
    return edited(PROGRAM, start, f"{FAULT}\n{call}{start}")


def differing(before: str, after: str) -> str:
    """What of two dumps differs; empty if nothing."""
    return "\n".join(difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0))


# What others have made on each host before anything begins.
FOREIGN = {
    "gateway": [
        "iptables -t nat -N DOCKER",
        "iptables -t nat -A DOCKER -p tcp --dport 8080 -j DNAT --to 172.17.0.2:80",
        "iptables -t nat -I PREROUTING 1 -m addrtype --dst-type LOCAL -j DOCKER",
        "iptables -N f2b && iptables -A f2b -j RETURN",
        "iptables -I INPUT -p tcp --dport 22 -m comment --comment 'kept [1:2] by others' -j f2b",
        "ip address add 172.17.0.1/16 dev eth1 && ip address add 172.17.0.9/32 dev lo",
        "ip route add 10.9.0.0/16 via 100.64.0.9 && ip route append 10.9.0.0/16 via 100.64.0.8",
        "ip route add blackhole 10.8.0.0/16",
        "sysctl -qw net.ipv4.conf.eth3.forwarding=0 net.ipv4.conf.all.accept_redirects=1",
        "chown 7:7 /etc/issue && chmod 4600 /etc/issue",
    ],
    "jumphost": [
        "ip route add 10.9.0.0/16 nexthop via 100.64.0.9 dev eth0 weight 1 nexthop via 100.64.0.8 dev eth0 weight 2",
    ],
    "lb": ["ip address add 100.64.0.200/32 dev eth0", "ip address add 10.7.0.1 peer 10.7.0.2/32 dev eth0"],
    "master-1": [
        "ip route add 10.244.1.0/24 via 100.64.32.9",
        "ip rule add priority 30100 from 10.244.0.0/16 lookup main",
        "ip rule add priority 100 fwmark 0x80000/0xc0000 lookup 2004",
        "ip route add local default dev lo table 2004",
        "ip rule add priority 30100 to 10.96.0.0/12 prohibit",
        "ip link set eth2 mtu 1450",
    ],
}


@pytest.fixture(scope="module", autouse=True)
def site(deployed: LabState) -> Iterator[None]:
    """The hosts with things of others; afterwards they are as they were deployed."""
    for host, commands in FOREIGN.items():
        inside(host, " && ".join(commands))
    yield
    inside("gateway", "chown 0:0 /etc/issue; chmod 644 /etc/issue")
    for host in HOSTS:
        # But for the program: it puts the gateway's rules in place at boot.
        inside(host, f"find {paths.GUARD} -mindepth 1 -not -path {paths.COPY} -delete")
        inside(host, f"rm -f {systemd.BOOT_UNIT} {systemd.BOOT_WANTED} /var/tmp/fault-*")
        control.reboot(host, patience=60)


def at_once(work: Callable[[str], list[tuple[str, str]]], hosts: tuple[str, ...] = HOSTS) -> dict[str, str]:
    """Work on several hosts at once; what was wrong, by the name of the case, empty if nothing."""
    with ThreadPoolExecutor() as pool:
        return {name: wrong for found in pool.map(work, hosts) for name, wrong in found}


# --- lockouts -------------------------------------------------------------------------------------------------------

NETWORK = "/etc/systemd/network/05-underlay-{}.network"
SSHD = "/etc/ssh/sshd_config.d/00-test.conf"
LOCKOUTS: dict[str, dict[str, dict[str, Any]]] = {
    "gateway": {
        "everything dropped in INPUT": {"live": "iptables -I INPUT -j DROP"},
        "no SNAT, no DNAT": {"live": "iptables -t nat -F"},
        "FORWARD flushed, its policy DROP": {"live": "iptables -F; iptables -P FORWARD DROP; iptables -X"},
        "dropped in a table that was not there": {"live": "iptables -t mangle -A PREROUTING -j DROP"},
        "forwarding off, at boot too": {
            "live": "sysctl -qw net.ipv4.ip_forward=0",
            "files": {"/etc/sysctl.d/zz-underlay.conf": file("net.ipv4.ip_forward = 0\n", "600")},
        },
        "a wrong address on the enterprise NIC": {
            "live": "ip address flush dev eth0; ip address add 192.168.0.99/24 dev eth0",
            "files": {
                NETWORK.format("eth0"): file("[Match]\nName=eth0\n[Network]\nAddress=192.168.0.99/24\n"),
                "/etc/issue": None,
            },
            "activate": "networkctl reload",
        },
        "networkd takes everything away": {
            "live": "for nic in 0 1 2 3; do ip route flush dev eth$nic; done",
            "files": {
                "/etc/systemd/networkd.conf.d/underlay.conf": None,
                **{NETWORK.format(f"eth{nic}"): None for nic in range(4)},
                "/etc/systemd/network/01-none.network": file("[Match]\nName=eth*\n[Network]\nDescription=none\n"),
            },
            "activate": "systemctl restart systemd-networkd",
        },
    },
    "jumphost": {
        "sshd does not start": {
            "files": {SSHD: file("NoSuchKeyword yes\n", "600"), "/etc/new/folder/with/a.conf": file("x\n")},
            "activate": "systemctl restart ssh || true",
        },
        "sshd stopped": {"live": "systemctl stop ssh"},
        "sshd on another port": {"files": {SSHD: file("Port 2222\n")}, "activate": "systemctl restart ssh"},
        "sshd stopped and masked": {
            "live": "systemctl -q mask --now ssh",
            "touches": ["/etc/systemd/system/ssh.service"],
        },
        "default route gone": {"live": "ip route del default; ip route del default table 1000"},
        "the only NIC down": {"live": "ip link set eth0 down"},
    },
    "lb": {
        "another address": {"live": "ip address del 100.64.0.53/21 dev eth0; ip address add 100.64.0.54/21 dev eth0"},
        "the operator's network unreachable": {
            "live": "ip route add unreachable 192.168.0.0/24; ip route replace blackhole default metric 0"
        },
        "a change that hangs": {"live": "ip link set eth0 mtu 600; ip route flush table main; sleep 1000"},
        "nginx broken": {
            "files": {"/etc/nginx/nginx.conf": file("broken\n")},
            "activate": "systemctl restart nginx || true",
        },
        "systemd reloaded meanwhile": {
            "live": "ip route del default; ip route del default table 1000; systemctl daemon-reload"
        },
    },
    "master-1": {
        "a policy table without its connected route": {"live": "ip route del 100.64.0.0/21 table 1002"},
        "policy rules gone": {"live": "ip rule del priority 30200; ip rule del from 100.64.64.2 to 100.64.0.0/21"},
        "all policy rules flushed": {"live": "ip rule flush; ip rule add priority 1 prohibit"},
        "another rp_filter everywhere": {
            "live": "for nic in all eth0 eth1 lo; do sysctl -qw net.ipv4.conf.$nic.rp_filter=2; done"
        },
        "two NICs down": {"live": "ip link set eth0 down; ip link set eth2 down"},
        "all NICs' files wrong": {
            "files": {NETWORK.format(f"eth{nic}"): file(f"[Match]\nName=eth{nic}\n") for nic in range(3)},
            "activate": "networkctl reload; systemctl restart systemd-networkd",
        },
    },
}


@pytest.fixture(scope="module")
def lockouts(table: list[str]) -> dict[str, str]:
    """Each lockout, begun and left alone: what differs afterwards."""

    def work(host: str) -> list[tuple[str, str]]:
        guard = Guard(host)
        before = guard.dump()
        found = []
        for name, change in LOCKOUTS[host].items():
            if KIND not in (None, flavour.DEFAULT) and _by_networkd(change):
                continue  # it was not collected
            started = time.monotonic()
            touches = change.get("touches", [])
            for seconds in (2, 10):  # on a busy machine, the look at it may come after the rollback
                token, answer = guard.begin(change, seconds, touches=touches)
                hurt = name == "a change that hangs" or (answer["state"] == "pending" and guard.dump() != before)
                guard.settle()
                if hurt:
                    break
            took = time.monotonic() - started
            wrong = differing(before, guard.dump()) or ("" if hurt else "it changed nothing")
            last = guard.ask("status")["last_rollback"]
            if last["token"] != token or last["problems"]:
                wrong += f"\n{answer}\n{last}"
            found.append((name, wrong))
            table.append(f"  lockout    {host:<9} {name}: {'WRONG' if wrong else 'as before'} after {took:.1f} s")
        return found

    return at_once(work)


def _by_networkd(change: dict[str, Any]) -> bool:
    return "network" in change.get("activate", "")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.networkd] if _by_networkd(change) else [])
        for cases in LOCKOUTS.values()
        for name, change in cases.items()
    ],
)
def test_lockout_is_undone(lockouts: dict[str, str], name: str) -> None:
    """1. dump; 2. begin a change that cuts off its host, timer 2 s; 3. nobody confirms; 4. the same dump."""
    assert lockouts[name] == ""


# --- ends at every moment -------------------------------------------------------------------------------------------


def change_of(host: str) -> dict[str, Any]:
    """A change of everything, live and for the next boot."""
    path = "/etc/systemd/network/50-installer.network.d/50-underlay.conf"
    network = inside(host, f"cat {path}")
    address = "198.51.100.7/32"
    change: dict[str, Any] = {
        "live": f"ip address add {address} dev eth0; ip route add 203.0.113.64/26 dev eth0 proto static scope link;"
        "ip rule add priority 500 from 198.51.100.7 lookup main proto static;"
        "sysctl -qw net.ipv4.conf.eth0.log_martians=1",
        "files": {
            path: file(
                network.replace("[Network]\n", f"[Network]\nAddress={address}\n", 1)
                + "\n[Route]\nDestination=203.0.113.64/26\nScope=link\n"
                + "\n[RoutingPolicyRule]\nPriority=500\nFrom=198.51.100.7\nTable=254\n"
            ),
            "/etc/sysctl.d/zz-test.conf": file("net.ipv4.conf.eth0.log_martians = 1\n", "640"),
            "/etc/issue": None,
        },
        "activate": "networkctl reload",
    }
    if host == "gateway":
        rules = "-A FORWARD -s 198.51.100.7/32 -j ACCEPT"
        saved = inside(host, f"cat {RULES}")
        change["live"] = f"iptables {rules}; {change['live']}"
        before, table, own = saved.partition("*filter\n")
        change["files"] |= {RULES: file(before + table + own.replace("COMMIT", f"{rules}\nCOMMIT", 1))}
    return change


@dataclass
class Trial:
    """One host, its change, what it is before and after, and how many moments each command has."""

    guard: Guard
    change: dict[str, Any]
    old: str
    new: str
    moments: dict[str, int]

    def run(self, command: str, number: int, what: int = KILL) -> str:
        """Have the agent end in a command at a moment; afterwards the token, whatever came of it."""
        seconds = 60 if what == STOP and command != "expire" else 12 if command == "confirm" else 2
        token, answer = self.guard.begin(self.change, seconds, with_fault(command, number, what))
        if command in ("confirm", "boot"):
            assert answer.get("state") == "pending", answer
            self.guard.ask(command, *([token] if command == "confirm" else []))
        return token

    def verdict(self, token: str) -> tuple[str, str]:
        """Old or new, and what differs from it: it must be new if, and only if, the change was confirmed."""
        if not control.run(self.guard.host, f"test -e {paths.COPY}").returncode:
            last = self.guard.ask("status")["last"]
            if last and last["token"] == token:
                return "new", differing(self.new, self.guard.dump())
        return "old", differing(self.old, self.guard.dump())


def trial(host: str, dump: Callable[[Guard], str]) -> Trial:
    """Make the change and take it back, each once and in one piece."""
    guard, moments = Guard(host), {}
    change = change_of(host)
    old = dump(guard)
    for command in ("apply", "confirm", "expire", "begin"):
        inside(host, "rm -f /var/tmp/fault-*")
        token, answer = guard.begin(change, 1.5 if command == "expire" else 30, with_fault(command, 0))
        assert answer.get("state") == "pending", answer
        if command == "confirm":
            assert guard.ask("confirm", token)["state"] == "confirmed"
            new = dump(guard)
            guard.put_back()
        elif command != "expire":
            guard.ask("rollback", token, "counted")
        guard.settle()
        moments[command] = int(inside(host, f"cat {MARKER.format(command)}"))
    return Trial(guard, change, old, new, moments)


def spread(number: int, wanted: int) -> list[int]:
    """So many moments of 1 to `number`, with the first and the last."""
    return sorted({1 + round(step * (number - 1) / (wanted - 1)) for step in range(wanted)})


KILLS = {"begin": 3, "apply": 2, "confirm": 3, "expire": 3}
CUTS = {"begin": 2, "apply": 3, "confirm": 4, "expire": 2, "boot": 2}
"""How many moments of each command: all of KILLS on two hosts, at different moments; those of CUTS shared by two."""
MOMENTS_OF_BOOT = 6


def kills(host: str) -> Iterator[tuple[str, str, str]]:
    """Kill the agent at moments of each command and wait: for each the place, old or new, and what is wrong."""
    tried = trial(host, Guard.dump)
    for command, wanted in KILLS.items():
        moments = tried.moments[command]
        for number in spread(moments - (host != "gateway"), wanted):
            inside(host, "rm -f /var/tmp/fault-*")
            token = tried.run(command, number)
            tried.guard.settle()
            state, wrong = tried.verdict(token)
            if control.run(host, f"test -e {MARKER.format(command)}").returncode:
                wrong += "it was not killed"
            if state == "new":
                tried.guard.put_back()
                wrong += differing(tried.old, tried.guard.dump())
            yield f"kill -9    {host:<9} {command} {number}/{moments}", state, wrong


def cuts(host: str) -> Iterator[tuple[str, str, str]]:
    """Cut the power at moments of each command: like `kills`."""

    def booted(guard: Guard) -> str:
        control.reboot(guard.host, patience=60)
        return guard.dump()

    tried = trial(host, booted)
    tried.moments["boot"] = MOMENTS_OF_BOOT
    for command, wanted in CUTS.items():
        marker = f"test -e {MARKER.format(command)}"
        for number in spread(tried.moments[command], wanted)[host != "jumphost" :: 2]:
            inside(host, "rm -f /var/tmp/fault-*")
            with ThreadPoolExecutor() as pool:
                running = pool.submit(tried.run, command, number, STOP)
                stopped = wait_until(
                    lambda marker=marker: not control.run(host, marker).returncode,  # type: ignore[misc]
                    seconds=15,
                    every=0.1,
                )
                control.reboot(host, patience=60)
                token = running.result()
            tried.guard.settle()
            state, wrong = tried.verdict(token)
            wrong += "" if stopped else "the moment never came"
            if state == "new":
                tried.guard.put_back()
            yield f"power cut  {host:<9} {command} {number}/{tried.moments[command]}", state, wrong


@pytest.fixture(scope="module")
def ends(lockouts: dict[str, str], table: list[str]) -> dict[str, str]:
    """Each end at a moment: what is wrong afterwards."""

    def work(host: str) -> list[tuple[str, str]]:
        found = []
        for place, state, wrong in (kills if host in ("gateway", "master-1") else cuts)(host):
            table.append(f"  {place}: {'BETWEEN' if wrong else state}")
            found.append((place, wrong))
        return found

    return at_once(work)


@pytest.mark.parametrize(("end", "least"), [("kill -9", 20), ("power cut", 10)])
def test_end_at_any_moment(ends: dict[str, str], end: str, least: int) -> None:
    """1. a change of everything begins, timer 2 s; 2. an end at a moment; 3. the old state, or the confirmed one.

    kill -9: the agent is killed, and nothing else is done. Power cut: the agent stops, so that nothing goes on, and the
    host boots from its disk. `boot`, the rollback at boot, is cut off, too: the next boot must do the rest.
    """
    results = {place: wrong for place, wrong in ends.items() if place.startswith(end)}
    assert len(results) >= least
    assert [f"{place}\n{wrong}" for place, wrong in results.items() if wrong] == []


# --- each promise by itself -----------------------------------------------------------------------------------------

SMALL = {"live": "ip route add 203.0.113.0/26 dev eth0", "files": {"/etc/test/new": file("new\n", "640")}}


@pytest.fixture
def guard(ends: dict[str, str]) -> Iterator[Guard]:
    """The guard of a host, when nothing else is done to it; it must be what it was in the end."""
    guard = Guard("jumphost")
    before = guard.dump()
    yield guard
    guard.settle()
    assert differing(before, guard.dump()) == ""


def test_confirmed_change_stays_and_goes_back(guard: Guard) -> None:
    """1. confirm, again too; 2. it stays; 3. the history has who, when, from which commit and what; 4. go back."""
    before = guard.dump()
    token, answer = guard.begin(SMALL, seconds=6)
    assert answer["state"] == "pending"
    changed = guard.dump()
    first = guard.ask("confirm", token)
    assert first["state"] == "confirmed"
    assert guard.ask("confirm", token) == first, "somebody whose connection broke asks again"
    time.sleep(6.5)
    assert guard.dump() == changed
    shown = guard.ask("history", str(first["number"]))
    assert (shown["who"], shown["commit"], shown["what"]) == ("tester of jumphost", "0123abc", ["a test"])
    assert "+203.0.113.0/26 dev eth0" in shown["diff"]
    assert "+(mode 640, owner 0:0)\n+new\n" in shown["diff"]
    assert guard.ask("history")["history"][0]["number"] == first["number"]
    assert "error" in guard.ask("rollback", token, "too late")
    guard.put_back()
    assert differing(before, guard.dump()) == ""
    assert "-203.0.113.0/26 dev eth0" in guard.ask("history", str(first["number"] + 1))["diff"]


def test_back_over_several_changes(guard: Guard) -> None:
    """1. three changes of different things; 2. back to before the first: begun, left alone, begun and confirmed."""
    before = guard.dump()
    changes = [
        {"live": "ip route add 203.0.113.0/26 dev eth0", "files": {"/etc/issue": None}},
        {"live": "sysctl -qw net.ipv4.tcp_syncookies=2", "files": {"/etc/test/new": file("1")}},
        {
            "live": "ip route del 203.0.113.0/26",
            "files": {"/etc/test/new": file("2"), "/etc/issue": file("other", "600")},
        },
    ]
    numbers = []
    for change in changes:
        token, _ = guard.begin(change, sysctls=["net.ipv4.tcp_syncookies"])
        numbers.append(guard.ask("confirm", token)["number"])
    after = guard.dump()
    token, answer = guard.begin({"restore": numbers[0]}, seconds=10)
    assert answer["state"] == "pending"
    assert differing(before, guard.dump()) == ""
    guard.settle()
    assert differing(after, guard.dump()) == ""
    token, _ = guard.begin({"restore": numbers[0]})
    guard.ask("confirm", token)
    assert inside("jumphost", "sysctl -n net.ipv4.tcp_syncookies") == "1\n"
    assert "there are" in guard.begin({"restore": 999})[1]["error"]


def test_a_failed_probe_rolls_back_at_once(guard: Guard) -> None:
    """The answer comes when all is as before; who asks again, or comes too late to confirm, is told why."""
    before = guard.dump()
    token, _ = guard.begin(SMALL)
    undone = guard.ask("rollback", token, "no answer from 192.168.0.1")
    assert (undone["state"], undone["why"], undone["problems"]) == ("rolled back", "no answer from 192.168.0.1", [])
    assert differing(before, guard.dump()) == ""
    assert guard.ask("rollback", token, "again")["why"] == "no answer from 192.168.0.1"
    late = guard.ask("confirm", token)
    assert "no answer from 192.168.0.1" in late["error"]
    assert guard.ask("status")["last_rollback"]["token"] == token


def test_a_command_that_fails_is_undone_at_once(guard: Guard) -> None:
    """The answer has its output."""
    for key in ("live", "activate"):
        change = {**SMALL, key: f"{SMALL['live']} metric 7; echo it is broken; false"}
        _, answer = guard.begin(change)
        assert "it is broken" in answer["error"]
        assert guard.ask("status")["pending"] is None


def test_a_check_that_fails_changes_nothing(guard: Guard) -> None:
    """The check sees the new files, and the host still has the old ones."""
    check = 'grep -q new "$STAGE/etc/test/new" && [ ! -e /etc/test/new ] && echo rejected && false'
    _, answer = guard.begin({**SMALL, "check": check})
    assert "rejected" in answer["error"]
    assert guard.ask("status")["pending"] is None


def test_a_second_change_is_refused_while_one_is_pending(guard: Guard) -> None:
    """It is told who and since when."""
    token, _ = guard.begin(SMALL)
    _, answer = guard.begin(SMALL)
    assert "tester of jumphost" in answer["error"]
    assert answer["pending"]["token"] == token
    assert answer["pending"]["since"] in answer["error"]
    guard.ask("rollback", token, "enough")


def test_of_many_at_once_one_wins(guard: Guard) -> None:
    """Five operators, one change."""
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda _: guard.begin(SMALL), range(5)))
    winners = [token for token, answer in found if answer.get("state") == "pending"]
    assert len(winners) == 1
    assert all("is pending" in answer["error"] for token, answer in found if token not in winners)
    guard.ask("rollback", winners[0], "enough")


def test_of_timer_and_confirmation_one_wins(guard: Guard) -> None:
    """Confirmed around the end of the timer: the answer and the host agree."""
    before = guard.dump()
    for early in (0.12, 0.06, 0.0):
        token, answer = guard.begin(SMALL, seconds=1.5)
        assert answer["state"] == "pending"
        time.sleep(max(0.0, guard.ask("status")["pending"]["left"] - early))
        confirmed = guard.ask("confirm", token).get("state") == "confirmed"
        guard.settle()
        assert (guard.dump() != before) == confirmed
        if confirmed:
            guard.put_back()


def test_a_lost_connection_does_not_stop_the_change(guard: Guard) -> None:
    """1. the process that began is killed in the middle of the change; 2. the change ends; 3. so does its time."""
    before = guard.dump()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(guard.begin, {"live": "sleep 1", "files": SMALL["files"]}, 4)
        assert wait_until(
            lambda: not control.run("jumphost", f"test -e {paths.PENDING}/applying").returncode, seconds=5
        )
        inside("jumphost", "kill -9 $(pgrep -f '[b]egin$')")
        assert "killed" in running.result()[1]["error"]
    assert wait_until(lambda: guard.ask("status")["pending"]["phase"] == "applied", seconds=5)
    assert guard.dump() != before


def test_a_stale_change_is_undone_by_the_next(guard: Guard) -> None:
    """Nobody but the next operator is there to undo it: its timer is gone."""
    hasty = edited(PROGRAM, "MARGIN = 10", "MARGIN = 1")
    before = guard.dump()
    token, _ = guard.begin(SMALL, 1.5, hasty)
    inside("jumphost", f"systemctl stop {systemd.TIMER}.timer")
    assert "is pending" in guard.begin(SMALL, 2, hasty)[1]["error"]
    time.sleep(3)
    other, answer = guard.begin({"files": {"/etc/test/other": file("x")}}, 2, hasty)
    assert answer["state"] == "pending"
    assert guard.ask("status")["last_rollback"]["token"] == token
    guard.ask("rollback", other, "enough")
    assert differing(before, guard.dump()) == ""


@pytest.mark.parametrize(
    ("obstacle", "said"),
    [
        (f"mount -t tmpfs -o size=500k none {paths.GUARD}", "No space left"),
        ("mount --bind /bin/false /usr/bin/systemd-run", "can't arm its timer"),
        ("mount --bind /bin/false /usr/sbin/ip", "failed with 1: ip"),
    ],
)
def test_a_host_that_cannot_undo_is_left_alone(ends: dict[str, str], obstacle: str, said: str) -> None:
    """Disk full, no timer, a state that can't be read: refused, and nothing has changed."""
    guard = Guard("lb")
    before = guard.dump()
    inside("lb", obstacle)
    try:
        _, answer = guard.begin(SMALL)
    finally:
        inside("lb", f"umount {obstacle.rsplit(maxsplit=1)[-1]}")
    assert said in answer["error"]
    guard.settle(1)
    assert differing(before, guard.dump()) == ""


TALK = """
import socket, sys, time
client = socket.create_connection(("192.168.0.105", 22), 5)
client.recv(100)
open("/run/talks", "w").close()
time.sleep({seconds})
client.sendall(b"SSH-2.0-still_here\\r\\n")
print(len(client.recv(100)) > 0)
"""


def test_open_connections_live_on(ends: dict[str, str]) -> None:
    """1. the jump host talks to the workstation; 2. the gateway loses all; 3. it still talks."""
    guard = Guard("gateway")
    inside("jumphost", "rm -f /run/talks")
    with ThreadPoolExecutor() as pool:
        talk = pool.submit(control.run, "jumphost", ["python3", "-c", TALK.format(seconds=6)])
        assert wait_until(lambda: not control.run("jumphost", "test -e /run/talks").returncode, seconds=10)
        cut = "iptables -t nat -F; iptables -P FORWARD DROP; ip address flush dev eth0; ip link set eth1 down"
        _, answer = guard.begin({"live": cut}, seconds=1.5)
        assert answer["state"] == "pending"
        guard.settle()
        assert talk.result().stdout == "True\n"


RICH = """
ip link set lo up; ip link add nic1 type veth peer name nic2; ip link set nic1 up; ip link set nic2 up mtu 1400
ip address add 192.0.2.1/24 brd + dev nic1; ip address add 192.0.2.2/24 dev nic1 label nic1:x
ip address add 198.51.100.1/24 dev nic1 noprefixroute
ip address add 192.0.2.3/24 dev nic1 valid_lft 900 preferred_lft 600
ip address add 10.7.0.1 peer 10.7.0.2/32 dev nic2; ip address add 203.0.113.1/24 dev nic2 metric 77 scope link
ip route add default via 192.0.2.9 src 192.0.2.2 mtu 1300 advmss 1000; ip route add default via 192.0.2.8 metric 5
ip route append 10.1.0.0/16 via 192.0.2.7; ip route append 10.1.0.0/16 via 192.0.2.6 onlink dev nic1
ip route prepend 10.1.0.0/16 dev nic2 scope link; ip route add 10.2.0.0/16 tos 0x10 via 192.0.2.7 proto bird
ip route add throw 10.3.0.0/16 table 77; ip route add unreachable 10.4.0.0/16; ip route add local 10.5.0.0/16 dev lo
ip route add 10.6.0.0/16 nexthop via 192.0.2.6 weight 2 nexthop dev nic2 weight 3; ip route del broadcast 192.0.2.255
ip rule add priority 9 from 10.0.0.0/8 iif nic1 lookup 77; ip rule add priority 9 not to 10.0.0.0/8 fwmark 1/3 lookup 79
ip rule add priority 9 from all tos 0x10 goto 32767; ip rule add priority 8 ipproto tcp dport 22 lookup main
ip rule add priority 7 uidrange 5-9 lookup main suppress_prefixlength 0; ip rule del priority 32767
ip rule add priority 6 oif nothing lookup 78; ip rule add priority 5 from 10.99.0.0/16 unreachable
iptables -t nat -N x; iptables -t nat -A x -m comment --comment "a 'b' [1:1]" -j RETURN; iptables -P FORWARD DROP
sysctl -qw net.ipv4.conf.nic1.rp_filter=2 net.ipv4.ip_forward=1 net.ipv4.conf.nic2.forwarding=0
"""
WRECKS = [
    "ip link set nic1 down; ip link set nic2 down",
    "ip address flush dev nic1; ip address add 192.0.2.3/24 dev nic1; ip address add 192.0.2.1/24 dev nic1",
    "ip route flush table main; ip route flush table 77; ip route flush table local",
    "ip rule flush; ip rule del priority 0; ip rule add priority 9 lookup 5",
    "iptables -t nat -F; iptables -t raw -A OUTPUT -j DROP; iptables -P FORWARD ACCEPT",
    "sysctl -qw net.ipv4.ip_forward=0",
    "ip address del 192.0.2.1/24 dev nic1; ip route replace default via 192.0.2.6; ip link set nic2 mtu 1280",
]
RESTORE = """
import difflib, json, subprocess, sys
sys.path.insert(0, sys.argv[1])
from underlay.remote.guard import snapshot
from underlay.remote.rules import kernel
dump = lambda: subprocess.run(sys.argv[2], shell=True, capture_output=True, text=True).stdout.splitlines()
before, shown = snapshot.snapshot([], [], []), dump()
for wreck in json.loads(sys.argv[3]):
    subprocess.run(wreck, shell=True)
    assert dump() != shown, wreck
    wanted = {**before, "tables": [(before["tables"], kernel.read_tables(), {}, {})]}
    for _ in range(3):
        snapshot.restore_pass(wanted)
    problems = snapshot.restore_pass(wanted)
    if problems != (0, []) or dump() != shown:
        print(wreck, problems, *difflib.unified_diff(shown, dump(), lineterm="", n=0), sep="\\n")
"""


def test_all_that_ip_knows_comes_back(ends: dict[str, str]) -> None:
    """1. every kind of address, route and rule, in a network of its own; 2. wrecked and restored, it is the same."""
    live = "\n".join(line for line in DUMP.splitlines() if line.startswith(("if", "ip", "sysctl")))
    script = f'{RICH}\nexec python3 -c "$0" {paths.COPY} "$1" "$2"'
    argv = ["unshare", "--net", "sh", "-ec", script, RESTORE, live, json.dumps(WRECKS)]
    done = control.run("gateway", argv, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done
