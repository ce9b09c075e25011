"""What the doctor makes of the ends of connections: programs, sockets, limits, and whose fault it is."""

import http.server
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_doctor import PLAN, failing, healthy, only, with_look, with_state, without
from underlay.compare.difference import UnitState
from underlay.desired import nginx
from underlay.doctor.causes import ends
from underlay.doctor.diagnosis import diagnose
from underlay.doctor.survey import Survey
from underlay.observe.health import Upstream
from underlay.observe.state import HostState
from underlay.remote.survey import connections, programs, system

LB = "100.64.0.53"


def listener(port: int, unit: str, **other: Any) -> dict[str, Any]:
    there = {"port": port, "address": "0.0.0.0", "queue": 0, "room": 128, "program": unit[:5], "pid": 100, "unit": unit}
    return there | other


LISTENERS = [
    listener(22, "ssh.service", pid=58),
    listener(80, "nginx.service"),
    listener(6443, "nginx.service"),
]


def unit(name: str, **other: Any) -> dict[str, Any]:
    found = {"name": name, "load": "loaded", "active": "active", "sub": "running", "result": "success"}
    return found | {"file": "enabled", "path": "/usr/x", "restarts": 0, "unmet": False, "log": [], "sets": []} | other


UNITS = [unit("ssh.service"), unit("nginx.service"), unit("dbus.socket", sub="listening")]


def lb(**parts: Any) -> Survey:
    """A healthy site, but for what the load balancer sees of its own programs."""
    return with_look(healthy(), "lb", **{"listeners": LISTENERS, "units": UNITS} | parts)


def process(unit: str, how: str, pid: int = 100, at: str = "") -> dict[str, Any]:
    return {"unit": unit, "pid": pid, "program": unit[:5], "how": how, "at": at}


def test_what_is_looked_at_is_healthy() -> None:
    """Programs that run as planned, other admins' services that are stopped, and a login with a stopped job."""
    stopped = [process("backup.service", "stopped"), process("ssh.service", "stopped", 999)]
    pages = {f"{LB}:80@{name}/healthz": "200" for name in (ends.NO_SUCH_NAME, "grafana.lab.example")}
    answers = {f"{LB}:22": "SSH-2.0-OpenSSH_10", f"{LB}:80@grafana.lab.example/": "502", **pages}
    found = diagnose(lb(stuck=stopped, answers=answers, limits=[limit("containerd.service", "processes")]))
    assert not found.findings
    assert not found.unread
    assert any("backup.service is stopped by a signal" in note for note in found.notes)


@pytest.mark.parametrize(
    ("how", "at", "fix"),
    [
        ("stopped", "", "systemctl kill --signal=CONT nginx.service"),
        (
            "frozen",
            "/sys/fs/cgroup/x/cgroup.freeze",
            "systemctl thaw nginx.service; echo 0 > /sys/fs/cgroup/x/cgroup.freeze",
        ),
        ("traced", "", ""),
        ("disk", "", ""),
    ],
)
def test_stuck(how: str, at: str, fix: str) -> None:
    """A program that can't go on, and what lets it; where nothing does from outside, where to look."""
    found = only(diagnose(lb(stuck=[process("nginx.service", how, at=at)])))
    assert (found.id, found.host) == ("program-stuck", "lb")
    assert fix in found.fix if fix else found.fix == ""
    assert found.advice


def test_process_one() -> None:
    """systemd itself: everything else there only waits for it."""
    found = only(diagnose(lb(stuck=[process("init.scope", "frozen", 1, "/sys/fs/cgroup/init.scope/cgroup.freeze")])))
    assert found.id == "systemd-stuck"
    assert found.fix == """./inv ssh lb "sudo sh -c 'echo 0 > /sys/fs/cgroup/init.scope/cgroup.freeze'\""""


def test_process_one_does_not_answer() -> None:
    """It is alive, and says nothing: nothing from outside helps but to look."""
    late = HostState("lb", {"units": (124, [])})
    known = vars(healthy().states["lb"])
    vars(late).update({key: value for key, value in known.items() if key not in ("sections", "units")})
    seen = replace(lb(units=[]), states=healthy().states | {"lb": late})
    found = only(diagnose(seen))
    assert (found.id, found.host, found.fix) == ("systemd-stuck", "lb", "")
    # A host that says nothing at all may be slow, whatever systemd does.
    assert not diagnose(replace(seen, looks=healthy().looks)).findings


def limit(unit: str, what: str, at: str = "/x") -> dict[str, Any]:
    return {"unit": unit, "what": what, "used": 10, "limit": 11, "at": at}


def test_limits() -> None:
    """Of a unit, by a line in a file or since it runs; of the host, a setting of the kernel."""
    found = only(diagnose(lb(limits=[limit("nginx.service", "open files")])))
    assert (found.id, found.fix) == ("limit-met", './inv ssh lb "sudo systemctl restart nginx.service"')
    line = ["/etc/systemd/system/nginx.service.d/x.conf", 2, "TasksMax=3"]
    other = ["/etc/systemd/system/nginx.service.d/x.conf", 3, "LimitNOFILE=3"]
    seen = lb(limits=[limit("nginx.service", "processes")], units=[unit("nginx.service", sets=[line, other])])
    found = only(diagnose(seen))
    assert "line 2: TasksMax=3" in found.evidence[1]
    assert len(found.evidence) == 2
    assert "2s/^/#/" in found.fix
    assert "daemon-reload" in found.fix
    seen = lb(limits=[limit("", "local ports", "net.ipv4.ip_local_port_range")])
    assert only(diagnose(seen)).fix == """./inv ssh lb "sudo sysctl -w 'net.ipv4.ip_local_port_range=32768 60999'\""""


@pytest.mark.parametrize(("value", "harm"), [("64", False), ("255", False), ("1", True), ("no number", False)])
def test_kernel_settings(value: str, harm: bool) -> None:
    found = diagnose(lb(sysctls={"net.ipv4.ip_default_ttl": value}))
    assert [each.id for each in found.findings] == (["sysctl-hinders"] if harm else [])


@pytest.mark.parametrize(
    ("key", "value", "harm"),
    [
        ("net.ipv4.icmp_echo_ignore_all", "1", "it answers no ping"),
        ("net.ipv4.neigh.eth0.mcast_solicit", "0", "it asks nobody for an address (ARP)"),
        ("net.netfilter.nf_conntrack_icmp_timeout", "0", "forgotten so soon"),
        ("net.netfilter.nf_conntrack_tcp_timeout_established", "5", "forgotten so soon"),
        ("net.netfilter.nf_conntrack_tcp_timeout_established", "86400", ""),
        ("net.ipv4.neigh.eth0.mcast_solicit", "1", ""),
    ],
)
def test_settings_with_which_packets_are_lost(key: str, value: str, harm: str) -> None:
    """Each is asked for, and taken back to the kernel's own; one that somebody only tuned is none."""
    assert key in ends._sysctls(PLAN.host("lb"))
    found = diagnose(lb(sysctls={key: value}))
    assert [harm in each.cause for each in found.findings] == ([True] if harm else [])


def test_a_nic_with_a_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the name of a sysctl its dot is a slash."""
    assert system.sysctls(["net.ipv4.conf.lo.rp_filter", "net.ipv4.conf.eth0/5.rp_filter"]).keys() == {
        "net.ipv4.conf.lo.rp_filter"
    }
    monkeypatch.setattr(system, "Path", lambda *parts: tmp_path.joinpath(*parts[1:]))
    (tmp_path / "net/ipv4/conf/eth0.5").mkdir(parents=True)
    (tmp_path / "net/ipv4/conf/eth0.5/rp_filter").write_text("2\n")
    assert system.sysctls(["net.ipv4.conf.eth0/5.rp_filter"]) == {"net.ipv4.conf.eth0/5.rp_filter": "2"}


def test_what_everybody_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here all is well; a folder, a file and a device that only root may use are told, with what mends them."""
    assert system.modes(True) == []
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "passwd").touch(mode=0o600)
    (tmp_path / "null").touch()
    monkeypatch.setattr(system, "FOLDERS", (f"{tmp_path}/home", f"{tmp_path}/none"))
    monkeypatch.setattr(system, "READ", (f"{tmp_path}/passwd",))
    monkeypatch.setattr(system, "DEVICES", {f"{tmp_path}/null": 3})
    assert [fix for _, _, fix in system.modes(True)] == [
        f"chmod 755 {tmp_path}/home",
        f"chmod 644 {tmp_path}/passwd",
        f"rm -f {tmp_path}/null && mknod -m 666 {tmp_path}/null c 1 3",
    ]
    found = only(diagnose(lb(modes=[("/tmp", "has mode 0755", "chmod 1777 /tmp")])))
    assert (found.id, found.latent, found.fix) == ("file-mode", False, './inv ssh lb "sudo chmod 1777 /tmp"')


def test_little_of_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A quota that the unit has had to wait for; half of a processor, or one that it never met, is enough."""
    for name, quota, waits in (("ssh", "1000 100000", 9), ("web", "50000 100000", 9), ("idle", "1000 100000", 0)):
        group = tmp_path / f"system.slice/{name}.service"
        group.mkdir(parents=True)
        (group / "cpu.max").write_text(f"{quota}\n")
        (group / "cpu.stat").write_text(f"usage_usec 1\nnr_throttled {waits}\n")
    monkeypatch.setattr(programs, "GROUPS", tmp_path)
    [(name, what, share, _, at)] = programs.groups()
    assert (name, what, share) == ("ssh.service", programs.PROCESSOR, 1)
    sets = [["/run/x.conf", 3, "CPUQuota=1%"]]
    met = {"unit": name, "what": what, "used": share, "limit": share, "at": at}
    found = only(diagnose(lb(units=[unit(name, sets=sets)], limits=[met])))
    assert found.cause.endswith("ssh.service has 1 of the 1 percent of a processor that it may have: it waits")
    assert "sed -i 3s/^/#/ /run/x.conf && systemctl daemon-reload" in found.fix


@pytest.mark.parametrize(
    ("said", "mute"),
    [
        ("- takes the connection, and says nothing within 3 s", True),
        ("- no answer within 1.5 s", False),
        ("- Connection reset by peer", True),
        ("- Cannot assign requested address", False),
        ("- Connection refused", False),
        ("200", False),
    ],
)
def test_who_is_mute(said: str, mute: bool) -> None:
    """Whoever could not even ask knows nothing of it."""
    assert ends._is_mute(said) == mute


def test_whose_port() -> None:
    """A stray program on a port of ours; systemd's own socket for sshd is none."""
    stray = [LISTENERS[0], listener(80, "", program="python3", pid=77), LISTENERS[2]]
    found = only(diagnose(lb(listeners=stray)))
    assert (found.id, "kill 77; sleep 1; systemctl restart nginx.service" in found.fix) == ("port-taken", True)
    by_hand = [LISTENERS[0], listener(80, "ssh.service", program="python3", pid=77), LISTENERS[2]]
    assert only(diagnose(lb(listeners=by_hand))).id == "port-taken"
    other_family = [*LISTENERS, listener(80, "", program="python3", pid=77, address="::")]
    assert not diagnose(lb(listeners=other_family)).findings
    socket_unit = [listener(22, "init.scope", program="systemd", pid=1), *LISTENERS[1:]]
    assert not diagnose(lb(listeners=socket_unit)).findings


def test_not_listening() -> None:
    """Another port or address than planned: nginx's file is as planned, so it runs with another one."""
    elsewhere = [LISTENERS[0], LISTENERS[1], listener(6444, "nginx.service")]
    found = only(diagnose(lb(listeners=elsewhere)))
    assert (found.id, found.fix) == ("not-listening", './inv ssh lb "sudo systemctl restart nginx.service"')
    # Where the file is another one, that is the cause.
    seen = with_state(lb(listeners=elsewhere), "lb", files=dict(healthy().states["lb"].files, **{nginx.PATH: "other"}))
    assert only(diagnose(seen)).id == "file-differs"
    local = [listener(22, "ssh.service", address="127.0.0.1"), *LISTENERS[1:]]
    found = only(diagnose(lb(listeners=local)))
    assert found.fix.startswith('./inv change lb "sed -i -E')
    own = [listener(22, "ssh.service", address=LB), *LISTENERS[1:]]
    assert not diagnose(lb(listeners=own)).findings


def test_masked_once() -> None:
    """A unit that nothing can start is one cause, not two."""
    seen = lb(units=[unit("nginx.service", load="masked", active="inactive")], listeners=LISTENERS[:1])
    down = healthy().states["lb"].units | {"nginx.service": UnitState("inactive", "masked")}
    found = only(diagnose(with_state(seen, "lb", units=down)))
    assert (found.id, "unmask" in found.fix) == ("unit-masked", True)


def test_loops() -> None:
    """A unit that ends again and again, by a line of others: named, and taken out."""
    line = ["/etc/systemd/system/nginx.service.d/x.conf", 2, "ExecStartPre=/bin/false"]
    looping = unit("nginx.service", active="activating", sub="auto-restart", restarts=9, sets=[line], log=["it failed"])
    found = only(diagnose(lb(units=[looping], listeners=LISTENERS[:1])))
    assert (found.id, "it was started 9 times" in found.cause) == ("unit-loops", True)
    assert "sed -i" in found.fix


def test_others_loops() -> None:
    """What is not ours may wait so for something: a note."""
    looping = unit("kubelet.service", active="activating", sub="auto-restart", restarts=99)
    found = diagnose(lb(units=[*UNITS, looping]))
    assert not found.findings
    assert "lb: kubelet.service ends again and again: it was started 99 times" in found.notes


def test_not_answering() -> None:
    """Nothing said after the connection, or more waiting than may; a status of nginx's own that is not planned."""
    pages = {f"{LB}:80@{name}/healthz": "- takes the connection, and says nothing" for name in (ends.NO_SUCH_NAME,)}
    found = only(diagnose(lb(answers=pages, complaints=["[alert] worker_connections are not enough"])))
    assert (found.id, found.evidence[1]) == ("not-answering", "[alert] worker_connections are not enough")
    full = [LISTENERS[0], listener(80, "nginx.service", queue=9, room=8), LISTENERS[2]]
    assert only(diagnose(lb(listeners=full))).id == "not-answering"
    found = only(diagnose(lb(answers={f"{LB}:80@{ends.NO_SUCH_NAME}/healthz": "503"})))
    assert found.id == "old-configuration"


def test_web_errors() -> None:
    """A 5xx is the system's own fault if it says so itself, else the proxy's."""
    name, end = "grafana.lab.example", "100.64.0.2:3000"
    bad = only(diagnose(lb(answers={f"{LB}:80@{name}/": "500", f"{end}@{name}/": "500"})))
    assert (bad.id, bad.host, bad.fix) == ("web-fails", "master-1", "")
    bad = only(diagnose(lb(answers={f"{LB}:80@{name}/": "502", f"{end}@{name}/": "200"})))
    assert (bad.id, bad.host) == ("old-configuration", "lb")


def test_programs_that_are_missing() -> None:
    """The package is named; a wrong mode is put right; nothing else is blamed for what they can't do any more."""
    seen = failing(
        with_look(healthy(), "gateway", lacking={"conntrack": "is not there"}), lambda flow: flow.tracked is not None
    )
    found = only(diagnose(seen))
    assert (found.id, found.host) == ("program-missing", "gateway")
    assert "apt-get install -y --reinstall conntrack" in found.fix
    mode = {"iptables": "can't be run: /usr/sbin/iptables has the wrong mode"}
    assert only(diagnose(with_look(healthy(), "gateway", lacking=mode))).fix == (
        './inv ssh gateway "sudo chmod 755 /usr/sbin/iptables"'
    )
    found = only(diagnose(with_look(healthy(), "lb", lacking={"tcpdump": "is not there"})))
    assert found.latent


def test_no_python() -> None:
    looks = {name: look for name, look in healthy().looks.items() if name != "lb"}
    seen = replace(healthy(), looks=looks, blind={"lb": "lb was reached, but not read: sh: 1: python3: not found"})
    found = only(diagnose(seen))
    assert (found.id, found.host) == ("program-missing", "lb")
    assert subprocess.run(["sh", "-n", "-c", shlex.split(shlex.split(found.fix)[3])[3]], check=True)


GOOD = {"192.168.0.50": ""}


def resolver(**other: Any) -> dict[str, Any]:
    plain = {"servers": ["192.168.0.50"], "linked": "", "mode": 0o644, "order": ["files", "dns"]}
    return plain | {"hosts": [(1, ["127.0.0.1", "localhost"])]} | other


def names(own: dict[str, str], **other: Any) -> Survey:
    """All hosts ask the same name server; one is another."""
    seen = healthy()
    for name in ("gateway", "jumphost", "master-1"):
        seen = with_look(seen, name, names=GOOD, resolver=resolver())
    return with_look(seen, "lb", names=own, resolver=resolver(**other))


@pytest.mark.parametrize(
    ("own", "other", "fix"),
    [
        ({"10.9.9.9": "no answer"}, {"servers": ["10.9.9.9"]}, "nameserver 192.168.0.50/"),
        ({}, {"servers": []}, "echo nameserver 192.168.0.50 >> /etc/resolv.conf"),
        (GOOD, {"mode": 0o600}, "chmod 644 /etc/resolv.conf"),
        ({}, {"servers": [], "linked": "/run/x", "mode": -1}, "rm /etc/resolv.conf && echo nameserver 192.168.0.50 >"),
        (GOOD, {"order": ["files"]}, "/etc/nsswitch.conf"),
        (GOOD, {"hosts": [(7, ["10.9.9.9", "gateway"])]}, "7s/^/#/"),
        (GOOD, {"hosts": [(2, ["10.9.9.9", "localhost"])]}, "2s/^/#/"),
        ({"192.168.0.50": "no answer"}, {}, ""),
        ({"10.9.9.9": "no answer"}, {"servers": ["10.9.9.9"], "linked": "../run/x"}, ""),
    ],
)
def test_own_names(own: dict[str, str], other: dict[str, Any], fix: str) -> None:
    """What one host alone can't resolve is that host's, never the server's."""
    found = only(diagnose(names(own, **other)))
    assert (found.id, found.host) == ("names-lost", "lb")
    assert fix in found.fix if fix else found.fix == ""
    assert found.advice


@pytest.mark.parametrize(
    "rows",
    [
        [(1, ["127.0.0.1", "localhost", "lb"]), (2, ["127.0.1.1", "lb.example", "lb"]), (3, ["::1", "localhost"])],
        [(1, ["100.64.64.2", "master-1"]), (2, ["192.168.0.52", "jumphost"]), (3, ["10.0.0.1", "printer"])],
    ],
)
def test_harmless_names(rows: list[tuple[int, list[str]]]) -> None:
    assert not diagnose(names(GOOD, hosts=rows)).findings


def test_own_sources() -> None:
    """A package source that others reach, or that no other host has, is the host's own."""
    good = {"http://192.168.0.50/debian": ""}
    seen = healthy()
    for name in ("gateway", "jumphost"):
        seen = with_look(seen, name, sources=good)
    found = only(diagnose(with_look(seen, "lb", sources={"http://192.168.0.99/debian": "no answer"})))
    assert (found.id, found.host) == ("packages-unreachable", "lb")
    assert "s|http://192.168.0.99/debian|http://192.168.0.50/debian|g" in found.fix
    found = only(diagnose(with_look(seen, "lb", sources={"http://192.168.0.50/debian": "no answer"})))
    assert (found.host, found.fix) == ("lb", "")
    found = only(diagnose(with_look(seen, "lb", sources=good | {"proxy http://10.0.0.1:3128": "no answer"})))
    assert (found.host, found.fix, "apt.conf.d" in found.advice) == ("lb", "", True)


@pytest.mark.parametrize(
    ("look", "fix"),
    [
        ({"stuck": [process("dns.service", "stopped")]}, "systemctl kill --signal=CONT dns.service"),
        ({"stuck": [process("dns.service", "frozen", at="/x")]}, "systemctl thaw dns.service"),
        ({"stuck": [process("dns.service", "disk")]}, ""),
    ],
)
def test_a_server_that_hangs(look: dict[str, Any], fix: str) -> None:
    """All that ask it get nothing: it is the server's fault, and what hangs there is named."""
    seen = healthy()
    for name in ("gateway", "lb"):
        seen = with_look(seen, name, names={"192.168.0.50": "no answer"})
    found = only(diagnose(with_look(seen, "images", **look)))
    assert (found.id, found.host) == ("dns-silent", "images")
    assert fix in found.fix if fix else found.fix == ""


def test_sshd_elsewhere_and_mute() -> None:
    """From outside: where it answers instead; that it takes connections and says nothing."""
    seen = replace(without(healthy(), "refused", "master-1"), elsewhere={"master-1": ["100.64.0.2:2222"]})
    assert (only(diagnose(seen)).id, only(diagnose(seen)).host) == ("sshd-elsewhere", "master-1")
    found = only(diagnose(without(healthy(), "mute", "master-1")))
    assert (found.id, "signal=CONT" in found.fix) == ("sshd-hangs", True)


def test_a_dropped_api_is_not_its_servers_fault() -> None:
    """Where nothing listens, no program lets anybody wait: then the API's server does not hang."""
    upstreams = (Upstream("kubernetes_api", "100.64.0.2:6443", "no answer within 1 s", None),)
    seen = with_state(healthy(), "lb", upstreams=upstreams)
    seen = with_look(seen, "master-1", listeners=[LISTENERS[0]])
    assert not diagnose(seen).findings


def test_a_server_on_the_loopback() -> None:
    """It is there, and not for others: that is no API that nobody has installed yet."""
    refused = (Upstream("kubernetes_api", "100.64.0.2:6443", "Connection refused", None),)
    seen = with_state(healthy(), "lb", upstreams=refused)
    assert not diagnose(seen).findings
    local = listener(6443, "kubelet.service", address="127.0.0.1")
    found = only(diagnose(with_look(seen, "master-1", listeners=[LISTENERS[0], local])))
    assert (found.id, found.fix, "127.0.0.1 only" in found.evidence[0]) == ("api-down", "", True)
    probe = listener(6443, "ssh.service", program="python3")
    assert not diagnose(with_look(seen, "master-1", listeners=[LISTENERS[0], probe])).findings
    hung = with_state(seen, "lb", upstreams=(replace(refused[0], error="no answer within 1 s"),))
    assert not diagnose(with_look(hung, "master-1", listeners=[LISTENERS[0], probe])).findings


# --- on a host ------------------------------------------------------------------------------------------------------


@contextmanager
def serving(status: int) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_said() -> None:
    """A greeting, a status, nothing within the time, nobody."""
    with serving(503) as port:
        assert programs.said("127.0.0.1", port, "127.0.0.1:1@name/") == "503"
    with socket.create_server(("127.0.0.1", 0)) as quiet:
        port = quiet.getsockname()[1]
        assert programs.said("127.0.0.1", port, "").startswith("- takes the connection, and says nothing")
    assert programs.said("127.0.0.1", port, "") == "- Connection refused"


def test_served() -> None:
    """A page, whatever it is; an error of the server's own; no answer to the request."""
    for status, said in ((200, ""), (404, ""), (503, "answers 503")):
        with serving(status) as port:
            assert connections.served("127.0.0.1", port, "127.0.0.1/debian/") == said
    with socket.create_server(("127.0.0.1", 0)) as quiet:
        port = quiet.getsockname()[1]
        assert connections.served("127.0.0.1", port, "") == ""
        assert "says nothing" in connections.served("127.0.0.1", port, "127.0.0.1/")


def test_a_stopped_process() -> None:
    """Its state is told; one that sleeps is no news."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid not in dict(programs._waiting())
        os.kill(child.pid, 19)
        end = time.monotonic() + 5
        while dict(programs._waiting()).get(child.pid) != "stopped":
            assert time.monotonic() < end
    finally:
        child.kill()
        child.communicate()


def test_lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There, not there, without the mode, a shell that can't run it, one that says nothing."""
    monkeypatch.setattr(system, "PATHS", f"{tmp_path}:/usr/bin:/bin")
    for name, text, mode in (
        ("locked", "#!/bin/sh\necho 1\n", 0o644),
        ("broken", "#!/no/such\n", 0o755),
        ("silent", "#!/bin/false\n", 0o755),
        ("odd", "#!/bin/sh\necho unknown option >&2; exit 255\n", 0o755),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(mode)
    found = system.lacking(["sh", "odd", "gone", "locked", "broken", "silent"])
    assert list(found) == ["gone", "locked", "broken", "silent"]
    assert re.fullmatch("can't be run: .*/locked has the wrong mode", found["locked"])


GIVES_UP = "import os, resource, sys; [os.dup(0) for _ in range(int(sys.argv[1]))]; "
GIVES_UP += "resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2); print(flush=True); sys.stdin.read()"


@pytest.mark.parametrize(("more", "limit", "told"), [(6, 1, False), (6, 12, True)])
def test_what_a_program_gave_up_itself(more: int, limit: int, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """sshd's process for a login that is not through may open nothing any more: that is met by all of them."""
    argv = [sys.executable, "-c", GIVES_UP, str(more), str(limit)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        monkeypatch.setattr(programs, "listeners", lambda _: [{"unit": "ssh.service"}])
        monkeypatch.setattr(programs, "unit_of", lambda pid: "ssh.service" if pid == str(process.pid) else "")
        found = list(programs._open_files())
        assert bool(found) == told
        process.communicate()


def test_limits_are_far_here() -> None:
    """Of a healthy machine none is told that concerns ports."""
    assert not [each for each in programs.limits(True) if each["what"] == "local ports"]
    assert programs._met(1020, 1024)
    assert programs._met(0, 2)
    assert not programs._met(12, 1024)
