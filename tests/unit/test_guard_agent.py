"""The pure parts of the guard's agent, and its files in a folder of their own."""

import base64
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.program import edited
from underlay.remote import guard, send
from underlay.remote.guard import paths, pending, snapshot, steps
from underlay.remote.guard.commands import history
from underlay.remote.guard.files import missing_folders, put_files, read_file, save, wanted_files
from underlay.remote.guard.live import State, addresses, route, rule, sysctl_path
from underlay.remote.guard.programs import Command, Refused
from underlay.remote.rules.kernel import Tables
from underlay.remote.rules.undo import Change, lost, plan_tables, with_edits


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place for the guard's records."""
    for name in ("PENDING", "UNDONE", "HISTORY", "MUTEX"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    paths.HISTORY.mkdir()
    return tmp_path


def state(**aspects: Any) -> State:
    """A snapshot of a host with nothing but these."""
    empty: State = {"links": {}, "addresses": {}, "routes": [], "rules": [], "tables": {}, "sysctls": {}}
    return {**empty, "services": [], "files": {}, "folders": [], **aspects}


def words(commands: list[Command]) -> list[str]:
    """Commands as lines."""
    return [" ".join(argv) for argv, _ in commands]


# --- what is read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        (
            "default via 192.0.2.1 dev eth0 proto 4 src 192.0.2.7 ",
            "default via 192.0.2.1 dev eth0 proto 4 src 192.0.2.7",
        ),
        ("2 192.0.2.7 dev eth0 table 255 proto 2 scope 254", "local 192.0.2.7 dev eth0 table 255 proto 2 scope 254"),
        ("6 10.8.0.0/16 ", "blackhole 10.8.0.0/16"),
        ("10.1.0.0/16 dev eth1 scope 253 linkdown dead", "10.1.0.0/16 dev eth1 scope 253"),
        (
            "10.9.0.0/16 \\\tnexthop via 192.0.2.1 dev eth0 weight 1 \\\tnexthop via 192.0.2.2 dev eth1 weight 2 ",
            "10.9.0.0/16 nexthop via 192.0.2.1 dev eth0 weight 1 nexthop via 192.0.2.2 dev eth1 weight 2",
        ),
    ],
)
def test_route(line: str, arguments: str) -> None:
    """A route as it is shown becomes one as it is taken."""
    assert route(line) == arguments


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("0:\tfrom all lookup 255", "priority 0 from all lookup 255"),
        ("9:\tnot from all fwmark 0xca6c lookup 51820", "priority 9 not from all fwmark 0xca6c lookup 51820"),
        ("8:\tfrom all ipproto ipproto-6 dport 22 lookup 254", "priority 8 from all ipproto 6 dport 22 lookup 254"),
        ("50:\tfrom all to 10.0.0.1 dport 22 8", "priority 50 from all to 10.0.0.1 dport 22 prohibit"),
        ("51:\tfrom 10.0.0.8 6 proto static", "priority 51 from 10.0.0.8 blackhole proto static"),
        ("1000:\tfrom all lookup [l3mdev-table]", "priority 1000 from all l3mdev"),
        ("7:\tfrom all iif eth9 [detached] goto 900 [unresolved]", "priority 7 from all iif eth9 goto 900"),
    ],
)
def test_rule(line: str, arguments: str) -> None:
    """A policy rule as it is shown becomes one as it is taken."""
    assert rule(line) == arguments


def test_addresses() -> None:
    """Every property comes back, and the rest of a life time; what has none lives for ever."""
    forever = {"valid_life_time": 2**32 - 1, "preferred_life_time": 2**32 - 1}
    first = {"local": "192.0.2.7", "prefixlen": 24, "broadcast": "192.0.2.255", "scope": "0", "label": "eth0:1"}
    leased = {"local": "192.0.2.8", "prefixlen": 24, "scope": "0", "dynamic": True, "noprefixroute": True, "metric": 9}
    peer = {"local": "10.7.0.1", "address": "10.7.0.2", "prefixlen": 32, "scope": "0"}
    infos = [{**first, **forever}, {**leased, "valid_life_time": 60, "preferred_life_time": 30}, {**peer, **forever}]
    assert addresses([{"ifname": "eth0", "addr_info": infos}, {}]) == {
        "eth0": [
            ["192.0.2.7/24 brd 192.0.2.255 scope 0 label eth0:1", ""],
            ["192.0.2.8/24 scope 0 metric 9 noprefixroute", "valid_lft 60 preferred_lft 30"],
            ["10.7.0.1 peer 10.7.0.2/32 scope 0", ""],
        ]
    }


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.bond0/100.rp_filter", "net/ipv4/conf/bond0.100/rp_filter"),
        ("net/ipv4/conf/bond0.100/rp_filter", "net/ipv4/conf/bond0.100/rp_filter"),
    ],
)
def test_sysctl_path(key: str, path: str) -> None:
    """Both ways to write a key."""
    assert sysctl_path(key) == path


# --- what is run ----------------------------------------------------------------------------------------------------


def test_in_order_for_all_small_lists() -> None:
    """Removing, then appending, makes any list any other one; nothing that stays in its place is touched."""
    lists = [list(items) for size in range(4) for items in itertools.permutations("abcd", size)]
    for live, wanted in itertools.product(lists, lists):
        remove, add = steps.in_order(live, wanted)
        assert [item for item in live if item not in remove] + add == wanted
        if live == wanted[: len(live)]:
            assert remove == []


def addresses_after(live: list[str], commands: list[Command]) -> list[str]:
    """A kernel without promotion, one network: with the first address all others go."""
    for (*_, action, cidr, _dev, _nic), _ in ((argv, stdin) for argv, stdin in commands):
        if action == "add":
            live = [*live, cidr]
        elif cidr in live:
            live = [] if live[0] == cidr else [each for each in live if each != cidr]
    return live


def test_addresses_in_order_for_all_small_lists() -> None:
    """Primaries and secondaries are what they were, although the kernel drops secondaries with their primary."""
    cidrs = [f"192.0.2.{number}/24" for number in (1, 2, 3)]
    lists = [list(items) for size in range(4) for items in itertools.permutations(cidrs, size)]
    for live, wanted in itertools.product(lists, lists):
        before, after = ({"eth0": [[cidr, ""] for cidr in each]} for each in (live, wanted))
        commands = steps.plan_addresses(before, after, {"eth0"})
        assert addresses_after(live, commands) == wanted
        assert bool(commands) == (live != wanted)


def test_addresses_of_a_peer_and_with_a_life_time() -> None:
    """An address is removed by what names it, and added with what is left of its life."""
    peer, leased = ["10.7.0.1 peer 10.7.0.2/32 scope 0", ""], ["192.0.2.8/24 scope 0", "valid_lft 9 preferred_lft 9"]
    assert words(steps.plan_addresses({"eth0": [peer]}, {"eth0": [leased]}, {"eth0"})) == [
        "ip -4 address del 10.7.0.1 peer 10.7.0.2/32 dev eth0",
        "ip -4 address add 192.0.2.8/24 scope 0 valid_lft 9 preferred_lft 9 dev eth0",
    ]


def test_new_nics_are_left_alone() -> None:
    """What came with a NIC that the snapshot does not know is not ours to remove."""
    assert steps.plan_addresses({"cali1": [["10.0.0.1/32", ""]]}, {}, {"eth0"}) == []
    assert steps.plan_routes(["10.244.0.7 dev cali1 scope 253"], [], {"eth0"}) == []
    assert steps.plan_sysctls({"net/ipv4/conf/cali1/rp_filter": "0"}, {}, {"eth0"}) == []
    assert steps.plan_links({"cali1": [True, 1500]}, {}, set()) == []


def test_routes() -> None:
    """Only the routes with the same key as a changed one are touched; what others need comes first."""
    live = ["default via 192.0.2.9 dev eth0", "10.1.0.0/16 via 192.0.2.2 dev eth0 metric 5", "blackhole 10.8.0.0/16"]
    wanted = [
        "default via 192.0.2.1 dev eth0",
        "10.1.0.0/16 via 192.0.2.2 dev eth0 metric 5",
        "10.1.0.0/16 via 192.0.2.3 dev eth0 metric 5",
        "192.0.2.0/24 dev eth0 scope 253",
        "local 192.0.2.7 dev eth0 table 255 scope 254",
    ]
    assert words(steps.plan_routes(live, wanted, {"eth0"})) == [
        "ip -4 route del default via 192.0.2.9 dev eth0",
        "ip -4 route del blackhole 10.8.0.0/16",
        "ip -4 route append local 192.0.2.7 dev eth0 table 255 scope 254",
        "ip -4 route append 192.0.2.0/24 dev eth0 scope 253",
        "ip -4 route append default via 192.0.2.1 dev eth0",
        "ip -4 route append 10.1.0.0/16 via 192.0.2.3 dev eth0 metric 5",
    ]


def test_rules() -> None:
    """Within a priority the order is restored; other priorities are not touched."""
    kept, first, second = "priority 9 from all lookup 9", "priority 5 from a lookup 1", "priority 5 from b lookup 2"
    assert words(steps.plan_rules([kept, second, first], [first, second, kept], set())) == [
        "ip -4 rule del priority 5 from b lookup 2",
        "ip -4 rule del priority 5 from a lookup 1",
        "ip -4 rule add priority 5 from a lookup 1",
        "ip -4 rule add priority 5 from b lookup 2",
    ]
    assert steps.plan_rules([kept, first], [kept, first], set()) == []


BEFORE: Tables = {
    "filter": {"INPUT": ["ACCEPT", ["o1", "native"]], "FORWARD": ["DROP", ["a", "b", "a"]], "own": ["-", ["r"]]},
    "security": None,
}
AFTER: Tables = {
    "filter": {"INPUT": ["ACCEPT", ["native"]], "FORWARD": ["ACCEPT", ["b", "x"]], "new": ["-", ["y"]]},
    "security": None,
    "raw": {"OUTPUT": ["ACCEPT", ["z"]]},
}
LOAD = ["iptables-restore", "--noflush", "--wait", "5"]


def test_iptables() -> None:
    """What a change did is taken back, in one commit for each table, and nothing else is written: what others put there
    meanwhile stays, and a rule that nobody touched is in no line."""
    live = {**AFTER, "filter": {**(AFTER["filter"] or {}), "INPUT": ["DROP", ["late", "native"]]}, "nat": {}}
    flush = (["iptables-restore", "--wait", "5"], "*raw\nCOMMIT\n")
    assert plan_tables(live, [(BEFORE, AFTER, {}, {})], set()) == [
        (
            LOAD,
            "*filter\n:FORWARD DROP [0:0]\n:own - [0:0]\n-I INPUT 2 o1\n-D FORWARD x\n-I FORWARD 1 a\n-I FORWARD 3 a\n"
            "-I own 1 r\n-F new\n-X new\nCOMMIT\n",
        ),
        flush,
    ]
    assert plan_tables(BEFORE, [(BEFORE, AFTER, {}, {})], set()) == [], "once more makes no difference"
    used: Tables = {**live, "raw": {"OUTPUT": ["ACCEPT", ["z", "late"]]}}
    assert plan_tables(used, [(BEFORE, AFTER, {}, {})], set())[1] == (LOAD, "*raw\n-D OUTPUT z\nCOMMIT\n")


def test_iptables_of_a_change_that_was_cut_off() -> None:
    """Only its own rules count, however many of them it had edited; what others did meanwhile stays."""
    before: Tables = {"raw": {"OUTPUT": ["ACCEPT", ["x", "old", "y"]]}}
    own = {"raw": {"OUTPUT": ["new", "old"]}, "nat": {"OUTPUT": ["n"]}}
    change: Change = (before, with_edits(before, own), own, {})
    live: Tables = {"raw": {"OUTPUT": ["DROP", ["late", "new", "x"]]}}
    assert plan_tables(live, [change], set()) == [
        (LOAD, "*raw\n-D OUTPUT new\n-I OUTPUT 3 old\nCOMMIT\n"),
    ]
    assert plan_tables(before, [change], set()) == []


def test_iptables_of_a_native_rule_that_a_command_took_away() -> None:
    """What iptables printed of it would be another rule: it is told, and not written."""
    before: Tables = {"filter": {"INPUT": ["ACCEPT", ["a", "-j DROP", "b"]]}}
    after: Tables = {"filter": {"INPUT": ["ACCEPT", ["b"]]}}
    native = {"filter": {"INPUT": ["-j DROP"]}}
    change: Change = (before, after, {}, native)
    assert plan_tables(after, [change], set()) == [(LOAD, "*filter\n-I INPUT 1 a\nCOMMIT\n")]
    assert lost(after, before, native) == [
        "table filter, chain INPUT: a native nftables rule is gone, printed as -j DROP"
    ]
    assert lost(before, before, native) == []


def test_iptables_back_over_several_changes() -> None:
    """The latest first; a table that can't be read any more is no table that is as it was."""
    first: list[Tables] = [{"raw": {"OUTPUT": ["ACCEPT", rules]}} for rules in (["a"], ["a", "b"], ["b", "c"])]
    changes: list[Change] = [(first[1], first[2], {}, {}), (first[0], first[1], {}, {})]
    assert plan_tables(first[2], changes, set()) == [(LOAD, "*raw\n-D OUTPUT c\n-D OUTPUT b\n-I OUTPUT 1 a\nCOMMIT\n")]
    with pytest.raises(Refused, match="iptables can't show table raw"):
        plan_tables({"raw": None}, changes, set())


def test_sysctls() -> None:
    """Forwarding first: it changes others. A key that has gone with its NIC is not written."""
    wanted = {"net/ipv4/conf/eth0/forwarding": "0", "net/ipv4/conf/all/rp_filter": "0", "net/ipv4/ip_forward": "1"}
    live = {**dict.fromkeys(wanted, "7"), "other": "1"}
    assert words(steps.plan_sysctls(live, {**wanted, "net/ipv4/conf/eth9/rp_filter": "1"}, set())) == [
        "sysctl -qw net/ipv4/ip_forward=1",
        "sysctl -qw net/ipv4/conf/all/rp_filter=0",
        "sysctl -qw net/ipv4/conf/eth0/forwarding=0",
    ]


def test_services() -> None:
    """What ran is started, even if it failed too often; what runs is left alone."""
    assert words(steps.plan_services(["b.service"], ["a.service", "b.service"], set())) == [
        "systemctl reset-failed a.service",
        "systemctl start a.service",
    ]


@pytest.mark.parametrize(
    ("path", "commands"),
    [
        ("/etc/systemd/network/05-x.network", ["networkctl reload"]),
        ("/etc/systemd/networkd.conf.d/x.conf", ["systemctl restart systemd-networkd.service"]),
        ("/etc/systemd/system/ssh.service", ["systemctl daemon-reload"]),
        ("/etc/ssh/sshd_config", ["systemctl reload-or-restart ssh.service"]),
        ("/etc/nginx/nginx.conf", []),
        ("/etc/iptables/rules.v4", []),
    ],
)
def test_activation(path: str, commands: list[str]) -> None:
    """Services that run take the old files again."""
    assert words(steps.activation([path], ["ssh.service", "systemd-networkd.service"])) == commands


def test_a_socket_that_starts_sshd() -> None:
    """A reload ends it: it can't listen anew."""
    services = ["ssh.service", "ssh.socket"]
    assert words(steps.activation(["/etc/ssh/sshd_config"], services)) == ["systemctl try-restart ssh.service"]
    assert words(steps.activation(["/etc/ssh/sshd_config"], ["ssh.socket"])) == []


def test_a_restart_of_networkd_reads_all_its_files() -> None:
    paths = ["/etc/systemd/network/x.network", "/etc/systemd/networkd.conf"]
    assert words(steps.activation(paths, ["systemd-networkd.service"])) == [
        "systemctl restart systemd-networkd.service"
    ]


# --- diff -----------------------------------------------------------------------------------------------------------


def test_difference() -> None:
    """Only what changed, each thing under its name."""
    content = base64.b64encode(b"old\n").decode()
    before = state(
        tables={"raw": {"OUTPUT": ["ACCEPT", ["x"]]}, "nat": None},
        addresses={"eth0": [["192.0.2.7/24", ""]]},
        files={"/etc/a": {"content": content, "mode": "644", "uid": 0, "gid": 0}, "/etc/b": None},
    )
    after = state(
        tables={"raw": {"OUTPUT": ["ACCEPT", ["x"]]}, "nat": None},
        addresses={"eth0": [["192.0.2.7/24", ""], ["192.0.2.8/24", ""]]},
        files={"/etc/a": {"content": content, "mode": "600", "uid": 0, "gid": 4}, "/etc/b": {"link": "/dev/null"}},
    )
    assert snapshot.difference(before, after).splitlines() == [
        *("--- addresses", "+++ addresses", "@@ -1 +1,2 @@", " eth0 192.0.2.7/24", "+eth0 192.0.2.8/24"),
        *("--- /etc/a", "+++ /etc/a", "@@ -1,2 +1,2 @@"),
        *("-(mode 644, owner 0:0)", "+(mode 600, owner 0:4)", " old"),
        *("--- /etc/b", "+++ /etc/b", "@@ -0,0 +1 @@", "+a link to /dev/null"),
    ]
    assert snapshot.difference(before, before) == ""


# --- files ----------------------------------------------------------------------------------------------------------


def test_files_come_back(tmp_path: Path) -> None:
    """Content, mode, link and absence, whatever was done; folders that were made go."""
    kept, secret, link, gone = (str(tmp_path / name) for name in ("kept", "secret", "link", "new/folder/file"))
    Path(kept).write_bytes(b"\x00\xff")
    Path(secret).write_text("secret")
    Path(secret).chmod(0o4640)
    Path(link).symlink_to("nowhere")
    paths = [kept, secret, link, gone]
    before = {"files": {path: read_file(path) for path in paths}, "folders": missing_folders(paths)}
    inode = os.stat(kept).st_ino
    Path(secret).unlink()
    Path(secret).symlink_to(kept)
    Path(link).unlink()
    Path(link).write_text("a file")
    Path(gone).parent.mkdir(parents=True)
    Path(gone).write_text("x")
    (tmp_path / ".secret.guard-new").write_text("left by somebody who was killed")
    assert put_files(before) == []
    assert {path: read_file(path) for path in paths} == before["files"]
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "secret", "link"}
    assert os.stat(kept).st_ino == inode, "what is right is not written again"
    assert put_files(before) == []


def test_a_file_that_cannot_come_back_is_told(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    found = put_files({"files": {str(tmp_path / "folder"): None}, "folders": []})
    assert found == [f"{tmp_path}/folder: {tmp_path}/folder is no file"]


def test_new_files_keep_owner_and_mode() -> None:
    """Unless the request names a mode; a new file is root's."""
    present = {"/a": {"content": "", "mode": "4711", "uid": 5, "gid": 6}, "/b": None, "/c": None}
    files: dict[str, Any] = {"/a": {"content": "eA=="}, "/b": {"content": "eA==", "mode": "0600"}, "/c": None}
    assert wanted_files(files, present) == {
        "/a": {"content": "eA==", "mode": "4711", "uid": 5, "gid": 6},
        "/b": {"content": "eA==", "mode": "600", "uid": 0, "gid": 0},
        "/c": None,
    }


# --- records --------------------------------------------------------------------------------------------------------


def remember(number: int, **before: Any) -> None:
    """Put a confirmed change into the history."""
    place = paths.HISTORY / str(number)
    place.mkdir()
    save(place / "before.json.gz", state(**before))
    save(place / "after.json.gz", {"tables": {"raw": {}}, "ours": {"nat": {"OUTPUT": [str(number)]}}})
    save(place / "entry.json", {"number": number, "token": f"t{number}"})


def test_the_state_before_a_change_has_the_files_of_all_later_ones(folder: Path) -> None:
    """What only a later change touched is what it was before that one."""
    remember(1, files={"/other": None})
    remember(2, files={"/a": {"link": "2"}}, routes=["r2"], sysctls={"x": "2"}, folders=["/p"])
    remember(3, files={"/a": {"link": "3"}, "/b": None}, routes=["r3"], sysctls={"x": "3", "y": "3"}, folders=["/p/q"])
    past = pending.state_before(2)
    assert past["files"] == {"/a": {"link": "2"}, "/b": None}
    assert (past["routes"], past["sysctls"]) == (["r2"], {"x": "2", "y": "3"})
    assert past["folders"] == ["/p/q", "/p"]
    assert past["tables"] == [({}, {"raw": {}}, {"nat": {"OUTPUT": [each]}}, {}) for each in "32"]


def test_history_keeps_the_last_ones(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 the last 50, also if removing old ones was cut off; asking for another one tells which there are."""
    for number in range(1, 61):
        remember(number)
    (paths.HISTORY / "3/entry.json").unlink()
    pending.tidy(paths.HISTORY / "60")
    assert pending.numbers() == list(range(11, 61))
    assert len(list(paths.HISTORY.iterdir())) == 50
    with pytest.raises(Refused, match="no confirmed change 3 here: there are 11 to 60"):
        pending.entry(3)
    assert [each["number"] for each in history()["history"]] == list(range(60, 10, -1))


def test_of_two_runs_one_waits(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's lock is let go of by whoever ends, and waited for in vain only for so long."""
    monkeypatch.setattr(pending, "PATIENCE", 0.05)
    with pending.mutex(), pytest.raises(Refused, match="busy"), pending.mutex():
        pass
    with pending.mutex():
        pass


def run(*argv: str, stdin: str = "") -> tuple[int, Any, str]:
    """The program as it runs on a host: nothing but Python's own library."""
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture
def program(tmp_path: Path) -> bytes:
    """The program, with a place of its own."""
    return edited(send.packed(guard), "/var/lib/underlay/guard", str(tmp_path / "guard"))


def test_as_sent_over_ssh(program: bytes) -> None:
    """The program is the first line of stdin; a host that was never changed has no records."""
    encoded = base64.b64encode(program).decode()
    nothing = {"pending": None, "last": None, "last_rollback": None}
    assert run(*send.argv("status"), stdin=f"{encoded}\n") == (0, nothing, "")


@pytest.mark.parametrize(
    ("arguments", "stdin", "said"),
    [
        (["begin"], "{", "JSONDecodeError"),
        (["begin"], "{}", "KeyError"),
        (["begin"], '{"token": "../x", "seconds": 3}', "a token of letters"),
        (["begin"], '{"token": "x", "seconds": 0}', "1 to 3600 seconds"),
        (["history", "7"], "", "no confirmed change 7 here: there are none"),
        (["rollback", "x", "why"], "", "no such change"),
        (["nonsense"], "", "KeyError"),
        (["confirm"], "", "TypeError"),
        ([], "", "IndexError"),
    ],
)
def test_bad_requests(program: bytes, tmp_path: Path, arguments: list[str], stdin: str, said: str) -> None:
    """One JSON object with what is wrong, exit code 1, no traceback."""
    (tmp_path / "guard.pyz").write_bytes(program)
    code, answer, errors = run(sys.executable, "-IS", str(tmp_path / "guard.pyz"), *arguments, stdin=stdin)
    assert (code, errors) == (1, "")
    assert said in answer["error"]
