"""What differs from a plain host and what changed there: read from programs and files, and shown."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.namespaces import namespace
from tests.unit.test_doctor import healthy, with_look, with_state
from underlay.commands.parameters import past
from underlay.doctor.cause import Cause
from underlay.doctor.causes import oddities as shown
from underlay.doctor.diagnosis import diagnose
from underlay.doctor.investigation import Investigation
from underlay.doctor.survey import HostSurvey
from underlay.errors import OperatorError
from underlay.remote import send, survey
from underlay.remote.survey import oddities

ASKED = {"nics": ["left"], "tables": [1000, 1065], "priorities": [30100, 30401], "iptables": False}
NOW = 1_790_000_000.0


def test_a_plain_network_has_none() -> None:
    """And what somebody does to it is told in the words of the program that shows it."""
    with namespace("ip", "python3") as inside:

        def odd() -> set[str]:
            request = send.line(survey).decode() + json.dumps({"odd": ASKED})
            found = json.loads(inside(*send.argv(), text=request))["odd"]
            return {f"{each['what']}: {each['text']}" for each in found if each["what"] != "unit"}

        inside("ip", "link", "add", "left", "type", "veth", "peer", "name", "right")
        for line in ("link set left up", "address add 192.0.2.1/24 dev left", "link set lo up"):
            inside("ip", *line.split())
        for line in (
            "rule add pref 30100 from 192.0.2.1 lookup 1002 proto static",
            "route add default dev left proto static",
        ):
            inside("ip", *line.split())
        before = odd()
        assert not {each for each in before if not each.startswith(("sysctl", "filter"))}
        for line in (
            "rule add pref 90 from 192.0.2.0/24 fwmark 0x1 lookup 77",
            "rule add pref 30100 from 192.0.2.9 lookup main",
            "route add blackhole 198.51.100.0/25",
            "route add 203.0.113.0/24 via 192.0.2.9 table 77",
            "neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev left nud permanent",
        ):
            inside("ip", *line.split())
        inside(
            "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_default_ttl; echo 2 > /proc/sys/net/ipv4/conf/left/arp_ignore"
        )
        assert odd() - before == {
            "policy rule: 90 from 192.0.2.0/24 fwmark 0x1 lookup 77",
            "policy rule: 30100 from 192.0.2.9 lookup main",
            "route: blackhole 198.51.100.0/25 table main",
            "route: 203.0.113.0/24 via 192.0.2.9 dev left table 77",
            "permanent neighbour: 192.0.2.9 is 02:00:00:00:00:09 on left",
            "sysctl: net.ipv4.ip_default_ttl = 1, without a file; a fresh kernel has 64",
            "sysctl: net.ipv4.conf.left.arp_ignore = 2, without a file; a fresh kernel has 0",
        }


def test_a_host_without_the_programs_has_nothing_odd(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part that can't be read is no end of the others."""

    def missing(*_: str) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(oddities, "output", missing)
    monkeypatch.setattr(oddities, "base_chains", lambda: [("inet", "t", "c", "input", -1, "accept")])
    monkeypatch.setattr(oddities, "transforms", lambda: iter([("IPsec", "x" * 999, 0.0)]))
    found = oddities.odd(ASKED)
    assert [each["what"] for each in found] == ["filter", "IPsec"]
    assert len(found[1]["text"]) == 240


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.5/rp_filter", "net/ipv4/conf/eth0.5/rp_filter"),
        ("net.ipv4.conf.eth0/5.rp_filter", "net/ipv4/conf/eth0.5/rp_filter"),
    ],
)
def test_names_of_sysctls(name: str, path: str) -> None:
    """The first separator says how the rest is to be read."""
    assert oddities.slashed(name) == path


def test_sysctls_of_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal names the first folder's file counts, of equal keys the last line; globs are for the keys there are."""
    folders = [tmp_path / name for name in ("etc", "usr")]
    for folder in folders:
        folder.mkdir()
    (folders[0] / "50-a.conf").write_text(
        "# net.ipv4.x = 9\n-net.ipv4.x = 1\nnet.ipv4.conf.*.rp_filter=2\nkernel.y=3\n-net.ipv4.conf.all.rp_filter\n"
    )
    (folders[1] / "50-a.conf").write_text("net.ipv4.hidden = 1\n")
    (folders[1] / "90-b.conf").write_text("net/ipv4/x=  4   5\nno line\n")
    monkeypatch.setattr(oddities, "SYSCTL_FOLDERS", tuple(map(str, folders)))
    live = ["net/ipv4/conf/a/rp_filter", "net/ipv4/conf/all/rp_filter", "net/ipv4/x"]
    assert oddities.on_disk(live) == {"net/ipv4/x": "4 5", "net/ipv4/conf/a/rp_filter": "2"}


def test_changes_of_one_moment_are_one() -> None:
    """The latest first; many of a kind are a few and a number."""
    changes = [(NOW - n / 10, "stopped", f"{n}.service") for n in range(6)]
    changes += [(NOW - 0.2, "boot", "the host"), (NOW - 100, "stopped", "old.service"), (NOW, "stopped", "0.service")]
    assert oddities.gathered(changes) == [
        (NOW, "stopped", "0.service, 1.service, 2.service, 3.service and 2 more"),
        (NOW - 0.2, "boot", "the host"),
        (NOW - 100, "stopped", "old.service"),
    ]


def test_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was written, and a folder that has lost one; what is older is not told."""
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.conf").write_text("")
    written = (tmp_path / "new" / "a.conf").stat().st_ctime
    monkeypatch.setattr(oddities, "FOLDERS", (str(tmp_path / "new"),))
    assert [each[1:] for each in oddities.files(written - 1)] == [(f"files in {tmp_path}/new", "a.conf")]
    assert list(oddities.files(written + 60)) == []
    monkeypatch.setattr(oddities, "FOLDERS", (str(tmp_path / "old"),))
    (tmp_path / "old" / "a.conf").unlink()
    assert [each[1:] for each in oddities.files(written - 1)] == [
        (f"files in {tmp_path}/old", "something was taken away or renamed")
    ]


def test_beside_a_finding() -> None:
    """What is odd there and what changed there, some of it; a healthy site shows none."""
    look: dict[str, Any] = {
        "odd": [{"what": "route", "text": f"blackhole {n}", "since": NOW if n == 0 else 0} for n in range(8)],
        "changed": [(NOW, "packages: remove", "conntrack")],
    }
    seen = with_look(healthy(), "lb", **look)
    assert diagnose(seen).findings == ()
    found = diagnose(with_state(seen, "lb", failed_units=("cron.service",))).findings[0]
    assert found.odd[0] == f"route: blackhole 0, since {shown.moment(NOW)}"
    assert found.odd[1] == "route: blackhole 1"
    assert found.odd[6:] == ("and 2 more", f"changed {shown.moment(NOW)}: packages: remove: conntrack")
    elsewhere = replace(found, host="nobody")
    assert shown.beside(Investigation(seen), elsewhere) == elsewhere


def test_odd_on_the_way() -> None:
    """Beside a finding that names nothing that did it stands what is odd on the gateway, too."""
    rows = [{"what": "filter", "text": "chain arp quiet out at output", "since": 0}]
    seen = with_look(healthy(), "gateway", odd=rows)
    lost = Cause("packet-lost", "lb", "lb: a packet is lost", ())
    assert shown.beside(Investigation(seen), lost).odd == ("on gateway: filter: chain arp quiet out at output",)
    named = Cause("route-unmanaged", "lb", "lb: a route", ())
    assert shown.beside(Investigation(seen), named).odd == ()


def test_all_that_changed() -> None:
    """Of each host, or that it was not read: never as if nothing had changed."""
    odd = {"what": "route", "text": "blackhole", "since": 0}
    looks = {
        "a": HostSurvey(changed=[(NOW, "boot", "it")], odd=[odd]),  # type: ignore[list-item]
        "b": HostSurvey(changed=[]),
        "c": HostSurvey(),
        "d": None,
    }
    assert [line for line in shown.lines(looks) if line] == [
        "changed on a:",
        f"  {shown.moment(NOW)}  boot: it",
        "  odd there: route: blackhole",
        "changed on b: nothing that was seen",
        "changed on c: not read: it did not answer in time",
        "changed on d: not read: it was not reached",
    ]
    document = shown.document(looks)
    assert document["a"] == {"changes": [{"time": NOW, "what": "boot", "text": "it"}], "odd": [odd]}
    assert (document["c"], document["d"]) == (None, None)


def test_units_of_others() -> None:
    """One that is neither the plan's nor Debian's, nor of the network, is a note."""
    for path, name, is_finding in (
        ("/etc/systemd/system/job.service", "job.service", False),
        ("/run/systemd/transient/job.service", "job.service", False),
        ("/usr/lib/systemd/system/cron.service", "cron.service", True),
        ("/etc/systemd/system/vpn.service", "vpn.service", True),
    ):
        seen = with_look(with_state(healthy(), "lb", failed_units=(name,)), "lb", failed={name: path})
        found = diagnose(seen)
        assert [each.id for each in found.findings] == ["unit-failed"] * is_finding
        assert any(name in note for note in found.notes) != is_finding


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("2h", 7200), ("3d", 259200)])
def test_so_long_ago(text: str, seconds: int) -> None:
    assert past(text, NOW) == NOW - seconds


def test_a_time() -> None:
    """Of today, or of a day."""
    now = past("2026-03-01 14:02", NOW)
    assert past("13:02", now) == now - 3600
    assert past("2026-03-01", now) == now - 14 * 3600 - 120


@pytest.mark.parametrize(
    "text", ["", "soon", "2", "2w", "-2h", "25:00", "2026-13-01", "1e3h", "\u0663h", "9999999h", "2h 3m"]
)
def test_no_time(text: str) -> None:
    """One line, that says how to write it."""
    with pytest.raises(OperatorError, match=r"is no time: give 30m, 2h, 3d, 14:02 or '"):
        past(text, NOW)


def test_a_time_to_come() -> None:
    with pytest.raises(OperatorError, match="is not past: give a time before"):
        past("2036-03-01 14:02", NOW)
