"""What the next boot will do: systemd's own words read, what people wrote judged. No host is asked."""

import pwd
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from underlay.compare.difference import Place
from underlay.compare.managers import boot
from underlay.compare.network import LiveNetwork
from underlay.compare.systemd import next_boot
from underlay.compare.systemd.networkd import Device
from underlay.compare.systemd.next_boot import Line, NextBoot, Problem, Ssh, Start, Systemd
from underlay.desired import routing
from underlay.plan import REPO, Host, load
from underlay.remote.survey.boot import next_boot as looks
from underlay.remote.survey.boot import scripts, transaction
from underlay.remote.survey.boot.transaction import Unit

PLAN = load(REPO / "group_data/all.py")
GATEWAY, LB, MASTER = (PLAN.host(name) for name in ("gateway", "lb", "master-1"))
GOOD = Start("loaded", True, wanted=["multi-user.target"])


def units(host: Host, **changed: Start) -> dict[str, Start]:
    """The units of a healthy host but for those, `_` for `-`, without `.service`."""
    found = dict.fromkeys(next_boot.needed(host, routing.host_network(PLAN, host)), GOOD)
    found["ssh.socket"] = Start("loaded", False)
    return found | {f"{name.replace('_', '-')}.service": unit for name, unit in changed.items()}


def of(host: Host, found: NextBoot, **more: object) -> list[Problem]:
    return next_boot.problems(host, routing.host_network(PLAN, host), found, **more)  # type: ignore[arg-type]


def only(found: list[Problem]) -> Problem:
    assert len(found) == 1, found
    return found[0]


def systemd(host: Host, lines: list[Line] | None = None, **changed: Start) -> NextBoot:
    return NextBoot(systemd=Systemd("graphical.target", units(host, **changed), lines=lines or []))


@pytest.mark.parametrize("host", [GATEWAY, LB, MASTER])
def test_healthy(host: Host) -> None:
    """Nothing is told of a host whose units start; of ssh one of two is enough; in a container there is no udev."""
    assert of(host, systemd(host)) == []
    assert of(host, NextBoot()) == []
    socket = systemd(host, ssh=Start("loaded", False))
    assert socket.systemd is not None
    assert (
        of(host, replace(socket, systemd=replace(socket.systemd, units=socket.systemd.units | {"ssh.socket": GOOD})))
        == []
    )
    assert of(host, replace(systemd(host, systemd_udevd=Start("masked", False)), container=True)) == []


@pytest.mark.parametrize(
    ("unit", "says", "fix"),
    [
        (Start("loaded", False), "not enabled", "systemctl enable nginx.service"),
        (
            Start("masked", False, "/etc/systemd/system/nginx.service", wanted=["multi-user.target"]),
            "is masked by /etc/systemd/system/nginx.service",
            "rm /etc/systemd/system/nginx.service && systemctl daemon-reload",
        ),
        (
            Start("not-found", False, package="nginx-common"),
            "its file is not there",
            "apt-get install --reinstall -y nginx-common",
        ),
        (
            Start("bad-setting", False, newer=[("/etc/systemd/system/nginx.service.d/x.conf", ["ExecStart"])]),
            "can't take its files",
            "mv /etc/systemd/system/nginx.service.d/x.conf /etc/systemd/system/nginx.service.d/x.conf.off && "
            "systemctl daemon-reload",
        ),
        (
            Start("loaded", False, wanted=["multi-user.target"], against=["cache.service"]),
            "in conflict with cache.service",
            "systemctl disable cache.service",
        ),
        (
            replace(GOOD, unmet=["ConditionPathExists=!/etc/off"]),
            "passes over nginx.service",
            "mv /etc/off /etc/off.off",
        ),
        (
            replace(GOOD, absent=["/usr/sbin/nginx"], package="mode /usr/sbin/nginx"),
            "fails",
            "chmod 755 /usr/sbin/nginx",
        ),
        (
            replace(GOOD, newer=[("/etc/x.d/y.conf", ["PrivateNetwork"])]),
            "otherwise than it runs now",
            "mv /etc/x.d/y.conf",
        ),
    ],
)
def test_a_unit(unit: Start, says: str, fix: str) -> None:
    """What keeps one from starting is named, with what takes it away."""
    found = only(of(LB, systemd(LB, nginx=unit)))
    assert (found.kind, found.about) == ("boot-unit", "nginx.service")
    assert says in found.what
    assert " && ".join(found.commands).startswith(fix)


def test_the_default_target() -> None:
    """One cause, not one for each unit that it does not lead to."""
    lost = dict.fromkeys(units(LB), Start("loaded", False))
    found = only(of(LB, NextBoot(systemd=Systemd("rescue.target", lost, begins=["rescue.service"]))))
    assert "ends in rescue.target" in found.what
    assert found.commands == ("systemctl set-default multi-user.target",)


def test_a_cycle() -> None:
    """Whoever closes it, if one file of people's does; the unit that was left out this time is not told by itself."""
    path = "/etc/systemd/system/nginx.service.d/order.conf"
    ring = ["network.target", "nginx.service", "ssh.service"]
    made = Systemd("graphical.target", units(LB, nginx=Start("loaded", False)), cycles=[ring])
    found = only(of(LB, NextBoot(systemd=replace(made, files={"nginx.service": [path]}))))
    assert path in found.what
    assert found.commands[0] == f"mv {path} {path}.off"
    assert not only(
        of(LB, NextBoot(systemd=replace(made, files={"nginx.service": [path], "ssh.service": ["/x"]})))
    ).commands
    assert of(LB, NextBoot(systemd=Systemd("graphical.target", units(LB), cycles=[["a.service", "b.service"]]))) == []


def line(text: str, *, sure: bool = True, before: bool = False, tried: bool = False) -> Line:
    return Line("old.service", "/usr/local/sbin/old", 3, text, sure, before, tried)


@pytest.mark.parametrize(
    "text",
    [
        "iptables -F",
        "/usr/sbin/iptables -w -t nat -F POSTROUTING",
        "iptables --flush FORWARD",
        "nft flush ruleset",
        "iptables-restore < /etc/old",
        "sysctl -w net.ipv4.ip_forward=0",
        "echo 0 > /proc/sys/net/ipv4/ip_forward",
        "sysctl -w net.ipv4.conf.eth1.forwarding=0",
        "iptables -I FORWARD 1 -j DROP",
        "ip rule flush",
        "ip link set dev eth1 down",
        "ip addr flush dev eth0",
        "ip route flush table 1000",
        "systemctl stop systemd-networkd",
    ],
)
def test_commands_that_take_away(text: str) -> None:
    found = only(of(GATEWAY, systemd(GATEWAY, [line(text)])))
    assert (found.kind, found.commands) == ("boot-script", ("systemctl disable old.service",))
    assert f"line 3: {text}" in found.what
    assert of(GATEWAY, systemd(GATEWAY, [line(text, tried=True)])) == []
    assert of(GATEWAY, systemd(GATEWAY, [line(text, sure=False)])) == []


@pytest.mark.parametrize(
    "text",
    [
        "iptables -F MINE",
        "iptables -I FORWARD -i docker0 -j DROP",
        "iptables -A FORWARD -j DROP",
        "sysctl -w net.ipv4.conf.docker0.forwarding=0",
        "iptables -t mangle -F",
        "iptables -N MINE",
        "iptables-restore --noflush /etc/mine",
        "sysctl -w net.ipv4.ip_forward=1",
        "sysctl -w vm.swappiness=1",
        "ip rule add pref 7 lookup 7",
        "ip link set wg0 down",
        "ip route flush table 7",
        "nft delete table inet mine",
        "systemctl restart docker",
    ],
)
def test_commands_that_do_no_harm(text: str) -> None:
    assert of(GATEWAY, systemd(GATEWAY, [line(text)])) == []


def test_what_tmpfiles_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files may set what the kernel forwards; other files and other settings are no harm."""
    file = tmp_path / "x.conf"
    file.write_text("d /srv/x 0755 root root -\nw /proc/sys/net/ipv4/ip_forward - - - - 0\n")
    monkeypatch.setattr(scripts, "TMPFILES", (f"{tmp_path}/*.conf",))
    [told] = scripts.lines({}, "underlay-firewall.service", 0.0, True)
    found = only(of(GATEWAY, systemd(GATEWAY, [Line(**told)])))
    assert "sets net.ipv4.ip_forward to 0, not 1" in found.what
    assert found.commands == (f"sed -i -e 2s/^/#/ {file}",)
    assert of(GATEWAY, systemd(GATEWAY, [line("w+ /proc/sys/vm/swappiness - - - - 0")])) == []


def test_rules_that_go_before_ours_are_put_in_place() -> None:
    """Ours come back behind them; elsewhere there are none."""
    assert of(GATEWAY, systemd(GATEWAY, [line("iptables -F", before=True)])) == []
    assert of(LB, systemd(LB, [line("iptables -F")])) == []


@pytest.mark.parametrize(
    ("said", "says", "fix"),
    [
        (
            Ssh("/etc/ssh/sshd_config.d/x.conf: line 3: Bad configuration option: Foo"),
            "Bad",
            "sed -i -e 3s/^/#/ /etc/ssh",
        ),
        (Ssh("Permissions 0644 for '/etc/ssh/k' are too open.\nsshd: no hostkeys available"), "no host", "chmod 600"),
        (Ssh("sshd: no hostkeys available -- exiting."), "no hostkeys", ""),
        (
            Ssh("", "-p 2022", ["0.0.0.0:2022"], ["ssh-ed25519 KNOWN"]),
            "does not listen on port 22",
            "sed -i s/^SSHD_OPTS/",
        ),
        (Ssh("", "", ["[::]:22"], ["ssh-ed25519 OTHER"]), "another host key", ""),
        (Ssh("", "", ["100.64.0.2:22"], []), "no host key", ""),
    ],
)
def test_sshd(said: Ssh, says: str, fix: str) -> None:
    found = only(of(MASTER, NextBoot(sshd=said), known=["ssh-ed25519 KNOWN"]))
    assert says in found.what
    assert "".join(found.commands).startswith(fix)
    assert bool(found.commands) == bool(fix)
    assert found.commands or found.advice


def test_a_folder_of_nginx_that_is_gone() -> None:
    """It makes its logs itself, and not the folder that they are in; what it reads, no command brings back."""
    words = 'nginx: [emerg] open() "/var/log/nginx/access.log" failed (2: No such file or directory)'
    assert only(of(LB, NextBoot(nginx=words))).commands == ("mkdir -p /var/log/nginx",)
    assert only(of(LB, NextBoot(nginx=words.replace("/var/log", "/etc")))).commands == ()


def test_sshd_listens_where_it_must() -> None:
    for listen in (["[::]:22"], ["0.0.0.0:2222", "100.64.0.2:22"], []):
        assert of(MASTER, NextBoot(sshd=Ssh("", "", listen, ["a b"])), known=["a b"]) == []
    files = {"/etc/ssh/x": "# a\nListenAddress 192.0.2.1"}
    found = only(of(MASTER, NextBoot(sshd=Ssh("", "", ["192.0.2.1:22"])), ssh_files=files))
    assert found.commands == ("sed -i -e 2s/^/#/ /etc/ssh/x",)


def test_link_files() -> None:
    """A file of udev's that renames a NIC of the plan, or gives it another MAC; the first one that matches counts."""
    eth1 = Device(("eth1",), "02:00:00:00:00:01", "02:00:00:00:00:01", "ether")
    rename = "[Match]\nMACAddress=02:00:00:00:00:01\n[Link]\nName=lan0\n"
    there = {"/etc/systemd/network/10-lan.link": rename}
    found = only(of(GATEWAY, NextBoot(links=there), devices=[eth1]))
    assert found.commands == ("mv /etc/systemd/network/10-lan.link /etc/systemd/network/10-lan.link.off",)
    assert "another name" in found.what
    first = {"/etc/systemd/network/05-x.link": "[Match]\nOriginalName=eth1\n[Link]\nName=eth1\n"}
    assert of(GATEWAY, NextBoot(links=there | first), devices=[eth1]) == []
    mac = {"/etc/systemd/network/05-x.link": "[Match]\nOriginalName=eth*\n[Link]\nMACAddress=02:00:00:00:00:09\n"}
    assert "another MAC" in of(GATEWAY, NextBoot(links=mac), devices=[eth1])[0].what


def test_rules_of_udev() -> None:
    eth1 = Device(("eth1",), "02:00:00:00:00:01", "", "ether")
    rule = 'SUBSYSTEM=="net", ACTION=="add", ATTR{address}=="02:00:00:00:00:0%s", NAME="%s"'
    told = [("/etc/udev/rules.d/70-net.rules", n, rule % each) for n, each in enumerate([(1, "lan0"), (7, "x")], 1)]
    found = only(of(GATEWAY, NextBoot(names=told), devices=[eth1]))
    assert found.commands == ("sed -i -e 1s/^/#/ /etc/udev/rules.d/70-net.rules",)
    assert of(GATEWAY, NextBoot(names=[("/x", 1, rule % (1, "eth1"))]), devices=[eth1]) == []


def test_the_machine() -> None:
    """File systems, packages, our program, modules."""
    for found, kind, fix in (
        (NextBoot(fstab=[(4, "/x /y none bind", "there is no /x")]), "boot-disk", "sed -i -e 4s/^/#/ /etc/fstab"),
        (NextBoot(dpkg=["tzdata (half-configured)"]), "packages-broken", "dpkg --configure -a"),
        (NextBoot(broken=[("/g.pyz", "is damaged")]), "boot-unit", "true"),
        (NextBoot(modules=[("nf_nat", "/etc/m.conf", 1, "install nf_nat /bin/false")]), "boot-network", "sed -i -e 1s"),
        (NextBoot(unreadable=["/etc/systemd/network/a"]), "boot-network", "chgrp systemd-network /etc/systemd"),
        (NextBoot(init=["/etc/machine-id is not there"]), "boot-disk", "systemd-machine-id-setup"),
    ):
        problem = only(of(GATEWAY, found))
        assert problem.kind == kind
        assert "".join(problem.commands[:1]).startswith(fix or "")
        assert bool(problem.commands) == (fix is not None)
    harmless = NextBoot(fstab=[(4, "a /b nfs", "it is not mounted now")])
    assert of(GATEWAY, harmless) == []
    assert "line 4" in next(iter(next_boot.notes(harmless, [])))


# --- networkd's files -----------------------------------------------------------------------------------------------


def network(*files: tuple[str, str]) -> LiveNetwork:
    wanted = routing.host_network(PLAN, MASTER)
    bare = LiveNetwork(
        links=dict.fromkeys(wanted.nics, True),
        addresses=wanted.addresses,
        routes=wanted.routes,
        rules=wanted.rules,
        sysctls=wanted.sysctls,
        files=dict(files),
        devices=tuple(Device((nic,), f"02:00:00:00:00:0{n}", "", "ether") for n, nic in enumerate(wanted.nics)),
    )
    return replace(bare, files=bare.files | boot.files(wanted, bare))


@pytest.mark.parametrize(
    ("path", "text", "number"),
    [
        ("00-x.network", "[Match]\nName=eth2\n[Link]\nUnmanaged=yes\n", 4),
        ("00-x.network", "[Match]\nName=eth*\n[Network]\nDHCP=no\n", 2),
        ("05-underlay-eth2.network.d/x.conf", "[Link]\nActivationPolicy=down\n", 2),
        ("05-underlay-eth2.network.d/x.conf", "[Network]\nBridge=br0\n", 2),
        ("05-underlay-eth2.network.d/x.conf", "[Link]\nARP=no\n", 2),
    ],
)
def test_networkd_takes_another_file(path: str, text: str, number: int) -> None:
    """What wins over ours for a NIC, or keeps it down, is named with its line."""
    found = boot.obstacles(routing.host_network(PLAN, MASTER), network((f"/etc/systemd/network/{path}", text)))
    places = {(each.found.path, each.found.number) for each in found if isinstance(each.found, Place)}
    assert places == {(f"/etc/systemd/network/{path}", number)}


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("00-x.network", "[Match]\nName=wg0\n[Link]\nUnmanaged=yes\n"),
        ("50-x.network", "[Match]\nName=eth*\n[Link]\nUnmanaged=yes\n"),
        ("05-underlay-eth2.network.d/x.conf", "[Link]\nMTUBytes=9000\nActivationPolicy=up\n"),
        ("05-underlay-eth2.network.d/x.conf", "[Network]\nDHCP=no\n"),
    ],
)
def test_networkd_takes_ours(path: str, text: str) -> None:
    assert boot.obstacles(routing.host_network(PLAN, MASTER), network((f"/etc/systemd/network/{path}", text))) == []


# --- what is read of a host -----------------------------------------------------------------------------------------

DUMP = """\
\t-> Unit web.service:
\t\tUnit Load State: loaded
\t\tFragment Path: {folder}/web.service
\t\tDropIn Path: {folder}/web.service.d/a.conf
\t\tConditionPathExists: !{folder}/off untested
\t\tConditionPathExists: |/nowhere untested
\t\tConditionPathExists: |{folder} untested
\t\tWantedBy: multi-user.target (destination-file)
\t\tAfter: base.service (origin-file)
\t\tType: simple
\t\t-> ExecStartPre:
\t\t\tCommand Line: /nowhere/check
\t\t-> ExecStart:
\t\t\tCommand Line: {folder}/web.sh
\t\t-> Job 7:
\t\t\tAction: web.service -> start
\t-> Unit base.service:
\t\tUnit Load State: loaded
\t\tAfter: ours.service (origin-file)
\t-> Unit multi-user.target:
\t\tUnit Load State: loaded
\t\t-> Job 8:
\t\t\tAction: multi-user.target -> start
-> By jobs:
"""


def test_a_dump_of_systemd(tmp_path: Path) -> None:
    """Units, jobs, conditions, programs, what is newer than what runs."""
    (tmp_path / "web.service.d").mkdir()
    (tmp_path / "web.service").write_text("[Service]\nExecStart=/x\n")
    (tmp_path / "web.service.d/a.conf").write_text("[Service]\nNice=1\n# User=x\nPrivateNetwork=yes\n")
    (tmp_path / "web.sh").touch(0o755)
    found = transaction.units(DUMP.format(folder=tmp_path))
    state = transaction.state(found, "web.service", {}, 0.0)
    assert (state["load"], state["starts"], state["wanted"]) == ("loaded", True, ["multi-user.target"])
    assert state["absent"] == ["/nowhere/check"]
    assert state["unmet"] == []
    assert state["newer"] == [
        [f"{tmp_path}/web.service", ["ExecStart"]],
        [f"{tmp_path}/web.service.d/a.conf", ["PrivateNetwork"]],
    ]
    assert transaction.state(found, "web.service", {"web.service": 2.0**40}, 0.0)["newer"] == []
    (tmp_path / "off").touch()
    assert transaction.state(found, "web.service", {}, 0.0)["unmet"] == [f"ConditionPathExists=!{tmp_path}/off"]
    assert transaction.before(found, "web.service") == {"base.service", "ours.service"}
    gone = transaction.state(found, "no-such.service", {}, 0.0)
    assert (gone["load"], gone["starts"]) == ("not-found", False)


def test_a_program_that_may_be_missing(tmp_path: Path) -> None:
    unit = Unit("web.service")
    (tmp_path / "web.service").write_text("[Service]\nExecStartPre=-/nowhere/a\nExecStartPre=+/nowhere/b x\n")
    unit.values = {"Fragment Path": [f"{tmp_path}/web.service"], "EnvironmentFile": ["-/nowhere/c", "/nowhere/d"]}
    unit.commands = [("ExecStartPre", "/nowhere/a"), ("ExecStartPre", "/nowhere/b x"), ("ExecStop", "/nowhere/e")]
    assert transaction.absent(unit) == ["/nowhere/b", "/nowhere/d"]


def test_cycles_in_systemds_words() -> None:
    said = """\
multi-user.target: Found ordering cycle on nginx.service/start
multi-user.target: Found dependency on network.target/start
multi-user.target: Job nginx.service/start deleted to break ordering cycle starting with multi-user.target/start
Queued start job for default target graphical.target."""
    assert transaction.cycles(said) == [["nginx.service", "network.target", "multi-user.target"]]
    assert transaction.cycles("Queued start job for default target graphical.target.") == []


SCRIPT = """\
#!/bin/sh
# iptables -F
iptables -F FORWARD
if [ -e /x ]; then
    iptables -F
fi
helper() {
    nft flush ruleset
}
echo hello
exit 0
iptables -F
"""


def test_lines_of_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a service runs: lines of its script, those in branches are not sure, those behind its end are none."""
    script = tmp_path / "fw.sh"
    script.write_text(SCRIPT)
    monkeypatch.setattr(scripts, "OF_PEOPLE", (str(tmp_path),))
    unit = Unit("old.service")
    unit.starts = True
    unit.commands = [("ExecStart", f"/bin/sh {script}"), ("ExecStop", "iptables -F")]
    found = scripts.lines({"old.service": unit}, "underlay-firewall.service", 2.0**40, True)
    assert [(each["number"], each["sure"], each["tried"]) for each in found] == [
        (3, True, True),
        (5, False, True),
        (8, False, True),
    ]
    unit.starts = False
    assert scripts.lines({"old.service": unit}, "underlay-firewall.service", 0.0, True) == []
    timer = Unit("old.timer")
    timer.starts = True
    timer.values["Triggers"] = ["old.service"]
    told = scripts.lines({"old.service": unit, "old.timer": timer}, "underlay-firewall.service", 0.0, True)
    assert {each["unit"] for each in told} == {"old.timer"}


def test_networkd_reads_as_its_account(tmp_path: Path) -> None:
    """By owner, group and others, as the kernel does."""
    nobody = pwd.getpwnam("nobody")
    (tmp_path / "a").touch(0o600)
    (tmp_path / "b").touch(0o644)
    may = looks._may
    assert [may(str(tmp_path / name), nobody, 4) for name in ("a", "b", "none")] == [False, True, True]
    tmp_path.chmod(0o700)
    assert not may(str(tmp_path), nobody, 5)


def test_systemd_is_there_and_answers() -> None:
    """Where this machine has systemd and may run its test, the dump is one that is understood."""
    try:
        text, _ = transaction.dump()
    except (transaction.UnreadError, subprocess.SubprocessError) as error:
        pytest.skip(str(error))
    assert transaction.units(text)["multi-user.target"].starts
