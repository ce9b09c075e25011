"""The gateway's firewall from what is read to what is done: programs run in a namespace, their files in a folder."""

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.namespaces import Inside, namespace
from underlay.compare import tables
from underlay.compare.firewall import canonical, own
from underlay.compare.tables import RulesetError, Table
from underlay.desired import files
from underlay.desired.ruleset import Rule
from underlay.facts import firewall as facts
from underlay.facts.firewall import Firewall, process
from underlay.guard.change import Change
from underlay.operations import firewall
from underlay.operations.firewall import firewall_change
from underlay.remote import guard, send

WANTED = [
    Rule("raw", "OUTPUT", "-s 100.64.0.1 -d 100.64.0.1/21 -j NOTRACK"),
    Rule("filter", "FORWARD", "-s 100.64.0.0/21 -j ACCEPT", True),
    Rule("nat", "POSTROUTING", "-s 100.64.0.53 -j SNAT --to 192.168.0.53", True),
    Rule("nat", "POSTROUTING", "-s 100.64.0.0/21 -j SNAT --to 192.168.0.51"),
]
STALE = Rule("nat", "POSTROUTING", "-s 100.64.0.54 -j SNAT --to 192.168.0.54", True)
OTHERS = """\
*nat
:DOCKER - [0:0]
-A DOCKER -i docker0 -j RETURN
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
"""
RECORD = "*raw\n-A OUTPUT -j NOTRACK\nCOMMIT\n"
SAID: dict[str, object] = {
    "live": {"filter": {"INPUT": ["DROP", ["-j ACCEPT"]]}, "mangle": None},
    "wanted": {"nat": {"PREROUTING": ["ACCEPT", []]}},
    "others": {},
    "boot": {},
    "failed": [["a.service", "/a", "no such set"]],
    "own": RECORD,
}


def test_what_a_host_says() -> None:
    """A table that iptables can't show and that the plan does not use is not known, and nothing is said of it."""
    assert process([json.dumps(SAID)]) == Firewall(
        live={"filter": Table({"INPUT": "DROP"}, {"INPUT": ["-j ACCEPT"]})},
        wanted={"nat": Table({"PREROUTING": "ACCEPT"}, {"PREROUTING": []})},
        recorded=tables.alone(tables.read(RECORD)),
        record=RECORD,
        failed=(("a.service", "/a", "no such set"),),
    )
    assert process(['{"missing": true}']) == Firewall(installed=False)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({}, KeyError),
        ({"error": "iptables-save: permission denied"}, RulesetError),
        ({**SAID, "live": {"nat": None}}, RulesetError),
        ({**SAID, "boot": {"nat": None}}, RulesetError),
    ],
)
def test_what_can_t_be_read_is_not_empty(said: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        process([json.dumps(said)])


def test_wanted_rules_take_the_form_of_the_host() -> None:
    form = tables.alone(
        own(
            [
                Rule("nat", "POSTROUTING", "-s 10.0.0.1/32 -j SNAT --to-source 192.0.2.1"),
                Rule("nat", "PREROUTING", "-j X"),
                Rule("nat", "POSTROUTING", "-j Y"),
            ]
        )
    )
    wanted = [
        Rule("nat", "POSTROUTING", "-s 10.0.0.1 -j SNAT --to 192.0.2.1", True, "plan.py:1"),
        Rule("nat", "POSTROUTING", "-j  Y"),
        Rule("nat", "PREROUTING", "-j  X"),
    ]
    assert canonical(wanted, form) == [
        Rule("nat", "POSTROUTING", "-s 10.0.0.1/32 -j SNAT --to-source 192.0.2.1", True, "plan.py:1"),
        Rule("nat", "POSTROUTING", "-j Y"),
        Rule("nat", "PREROUTING", "-j X"),
    ]


class Gateway:
    """A host whose kernel is a namespace's, and whose files are in a folder."""

    def __init__(self, inside: Inside, folder: Path) -> None:
        self.run = inside
        self.record, self.other = folder / "record", folder / "others.v4"
        self.program = folder / "guard.pyz"
        self.program.write_bytes(send.packed(guard))

    def read(self, wanted: list[Rule]) -> Firewall:
        path = f"PATH={self.record.parent}:{os.environ['PATH']}"
        return process(self.run("env", path, "sh", "-c", facts.command(wanted)).splitlines())

    def change(self, wanted: list[Rule]) -> Change | None:
        found = self.read(wanted)
        return firewall_change(canonical(wanted, found.wanted), found)

    def put(self, text: str) -> None:
        """As the guard does, and the unit at boot."""
        path = self.program.with_name("put")
        path.write_text(text)
        self.run("sh", "-c", f"python3 -IS {self.program} rules {path} >&2")

    def make(self, change: Change) -> None:
        if change.rules:
            self.put(change.rules)
        for path, file in change.files.items():
            assert file is not None
            Path(path).write_text(file.content)

    def deploy(self, wanted: list[Rule]) -> set[str]:
        """Bring it to the wanted rules and prove that a second run has nothing to do; gives what was touched."""
        change = self.change(wanted)
        assert change is not None
        self.make(change)
        assert self.change(wanted) is None
        return {Path(path).name for path in change.files} | ({"live"} if change.rules else set())

    def boot(self) -> None:
        """Load what a boot loads."""
        for table in ("raw", "mangle", "filter", "nat"):
            self.run("iptables", "-t", table, "-F")
            self.run("iptables", "-t", table, "-X")
        if self.other.exists():
            self.run("iptables-restore", text=self.other.read_text())
        self.put(self.record.read_text())

    def saved(self) -> bytes:
        """The chain of others and its rules, to the byte."""
        text = self.run("sh", "-c", "iptables -S FORWARD | base64")
        return base64.b64decode(text)

    def rules(self) -> list[str]:
        return rules(self.run("iptables-save"))


def rules(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("-A")]


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    with namespace("iptables-restore") as inside:
        found = Gateway(inside, tmp_path)
        for module in (files, firewall):
            monkeypatch.setattr(module, "RULES", str(found.record))
        for module in (facts, firewall):
            monkeypatch.setattr(module, "COPY", found.program)
        monkeypatch.setattr(files, "BOOT", (("others.service", str(found.other), ("iptables-restore",)),))
        enabled = tmp_path / "systemctl"
        enabled.write_text("#!/bin/sh\n")
        enabled.chmod(0o755)
        yield found


OURS = [
    "-A OUTPUT -s 100.64.0.1/32 -d 100.64.0.0/21 -j NOTRACK",
    "-A FORWARD -s 100.64.0.0/21 -j ACCEPT",
    "-A POSTROUTING -s 100.64.0.53/32 -j SNAT --to-source 192.168.0.53",
    "-A POSTROUTING -s 100.64.0.0/21 -j SNAT --to-source 192.168.0.51",
]


def test_a_clean_host(gateway: Gateway) -> None:
    gateway.deploy(WANTED)
    assert sorted(gateway.rules()) == sorted(OURS)
    assert tables.read(gateway.record.read_text()) == own(canonical(WANTED, gateway.read(WANTED).wanted))


def test_what_is_recorded_is_what_a_boot_puts_in_place(gateway: Gateway) -> None:
    gateway.deploy(WANTED)
    before = gateway.rules()
    gateway.boot()
    assert gateway.rules() == before
    gateway.put(gateway.record.read_text())
    assert gateway.rules() == before, "each once"
    assert gateway.change(WANTED) is None


def test_rules_of_others_stay_live_and_their_files_are_theirs(gateway: Gateway) -> None:
    gateway.run("iptables-restore", "--noflush", text=OTHERS)
    gateway.other.write_text(OTHERS)
    for step in (lambda: gateway.deploy(WANTED), gateway.boot):
        step()
        unmanaged = rules(OTHERS)
        assert sorted(gateway.rules()) == sorted(OURS + unmanaged)
        assert [rule for rule in gateway.rules() if "POSTROUTING" in rule] == [OURS[2], unmanaged[1], OURS[3]]
        assert gateway.change(WANTED) is None
    assert gateway.other.read_text() == OTHERS


# As people write it; the kernel's form is another.
SHORT = "*nat\n-A POSTROUTING -s 100.64.0.54 -j SNAT --to 192.168.0.54\nCOMMIT\n"


@pytest.mark.parametrize("others", ["", SHORT], ids=["", "others bring it back"])
def test_a_rule_of_an_earlier_plan_goes_for_good(gateway: Gateway, others: str) -> None:
    gateway.other.write_text(others)
    gateway.deploy([*WANTED[:2], STALE, *WANTED[2:]])
    assert "192.168.0.54" in gateway.record.read_text()
    gateway.deploy(WANTED)
    assert sorted(gateway.rules()) == sorted(OURS)
    gateway.boot()
    assert sorted(gateway.rules()) == sorted(OURS)
    assert gateway.other.read_text() == others


def test_files_of_others_that_do_not_load(gateway: Gateway) -> None:
    """Cut off, or for a set that is not there yet: it is told, and ours are in place all the same."""
    gateway.other.write_text("*filter\n-A INPUT -m set --match-set badnets src -j DROP\n")
    gateway.deploy(WANTED)
    found = gateway.read(WANTED)
    assert [(unit, file) for unit, file, _ in found.failed] == [("others.service", str(gateway.other))]
    assert canonical(WANTED, found.wanted)
    assert gateway.change(WANTED) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: text.index(".53")],
        lambda text: text[: text.index("-j ACC") + 1],
        lambda text: text.replace(".53\n", ".99\n"),
        lambda _: "x",
    ],
)
def test_a_file_of_ours_that_is_damaged(gateway: Gateway, damage: Callable[[str], str]) -> None:
    """What it has is put in place, the unit fails, and the next deploy writes it anew."""
    gateway.deploy(WANTED)
    text = gateway.record.read_text()
    gateway.record.write_text(damage(text))
    gateway.run("iptables", "-t", "raw", "-F")
    with pytest.raises(AssertionError):
        gateway.put(gateway.record.read_text() + "x")
    assert (OURS[0] in gateway.rules()) == (OURS[0] in gateway.record.read_text())
    assert "record" in gateway.deploy(WANTED)
    assert gateway.record.read_text() == text


def test_the_program_of_the_boot_is_gone(gateway: Gateway) -> None:
    """The next boot makes nothing of ours, which is told; any change brings the program back."""
    gateway.deploy(WANTED)
    program = gateway.program.read_bytes()
    gateway.program.unlink()
    found = gateway.read(WANTED)
    assert [file for _, file, _ in found.failed] == [str(gateway.program)]
    assert not any(specs for table in found.at_boot.values() for specs in table.rules.values())
    assert gateway.change(WANTED)
    gateway.program.write_bytes(program)
    assert gateway.change(WANTED) is None


@pytest.mark.parametrize(
    ("drift", "fixed"),
    [
        (lambda host: host.run("iptables", "-t", "nat", "-F"), {"live"}),
        (lambda host: host.run("iptables", "-D", "FORWARD", "1"), {"live"}),
        (lambda host: host.record.unlink(), {"record"}),
        (lambda host: host.record.write_text(host.record.read_text().replace(".53\n", ".99\n")), {"record"}),
    ],
    ids=["table flushed", "rule deleted", "record deleted", "record changed"],
)
def test_only_what_drifted_is_fixed(gateway: Gateway, drift: Callable[[Gateway], object], fixed: set[str]) -> None:
    gateway.deploy(WANTED)
    drift(gateway)
    assert gateway.deploy(WANTED) == fixed
    assert sorted(gateway.rules()) == sorted(OURS)


def test_rules_that_change_meanwhile(gateway: Gateway) -> None:
    """The edits are made from what is there then, not from what was there when it was compared."""
    gateway.run("iptables", "-A", "FORWARD", "-j", "DROP")
    change = gateway.change(WANTED)
    assert change is not None
    gateway.run("iptables", "-I", "FORWARD", "1", "-i", "x", "-j", "DROP")
    gateway.run("iptables", "-D", "FORWARD", "-j", "DROP")
    gateway.make(change)
    assert [rule for rule in gateway.rules() if "FORWARD" in rule] == [OURS[1], "-A FORWARD -i x -j DROP"]
    assert gateway.change(WANTED) is None


def test_what_is_told(gateway: Gateway) -> None:
    gateway.deploy([*WANTED[:3], STALE, WANTED[3]])
    gateway.run("iptables", "-F", "FORWARD")
    change = gateway.change(WANTED)
    assert change is not None
    assert change.what == (
        "live: + filter FORWARD 1: -s 100.64.0.0/21 -j ACCEPT",
        "live: - nat POSTROUTING 2: -s 100.64.0.54/32 -j SNAT --to-source 192.168.0.54",
        "at boot: - nat POSTROUTING 2: -s 100.64.0.54/32 -j SNAT --to-source 192.168.0.54",
        "the record of our rules on the host is out of date",
    )


def test_connections_of_a_host_that_is_published_no_longer_end(gateway: Gateway) -> None:
    dnat = [Rule("nat", "PREROUTING", f"-d 192.168.0.{n} -j DNAT --to 100.64.0.{n}", True) for n in (53, 54)]
    gateway.deploy(dnat)
    moved = gateway.change(dnat[::-1])
    assert moved is not None
    assert moved.settle == ""
    gone = gateway.change(dnat[:1])
    assert gone is not None
    asked = json.loads(gone.settle.splitlines()[-2])
    assert asked["to"] == {"192.168.0.54": "192.168.0.54"}
    assert "192.168.0.53" not in {*asked["to"], *asked["as"], *asked["gone"]}


@pytest.mark.parametrize(
    "comment", ["[2024:17]", 'a "b" \\ c', "$(x) `y` 'z'", "caf\udce9", "one\n-A FORWARD -j DROP\nCOMMIT", "\x1b[31m"]
)
def test_an_odd_comment_of_others(gateway: Gateway, comment: str) -> None:
    """Whatever a rule of others says, it stays, and ours come and go beside it."""
    raw = comment.encode(errors="surrogateescape")
    gateway.run("iptables", "-A", "FORWARD", "-m", "comment", "--comment", raw, "-j", "LOG")
    before = gateway.saved()
    gateway.deploy(WANTED)
    gateway.deploy([])
    assert gateway.saved() == before


def test_a_native_rule_that_is_printed_as_ours(gateway: Gateway) -> None:
    """What iptables prints of it is the text of ours; it is not, and ours is beside it. Its set stays a set."""
    if shutil.which("nft") is None:
        pytest.fail("nft is not installed")
    gateway.run("iptables", "-S", "FORWARD")
    gateway.run("iptables", "-P", "FORWARD", "ACCEPT")
    native = "ip saddr 100.64.0.0/21 ip daddr { 198.51.100.1, 198.51.100.2 } counter accept"
    gateway.run("nft", f"add rule ip filter FORWARD {native}")
    assert OURS[1] in gateway.rules(), "if iptables prints it right, this test shows nothing"
    gateway.deploy(WANTED)
    assert gateway.rules().count(OURS[1]) == 2
    gateway.deploy(WANTED[2:])
    chain = gateway.run("nft", "-s", "list", "chain", "ip", "filter", "FORWARD")
    assert "{ 198.51.100.1, 198.51.100.2 }" in chain
    assert gateway.rules().count(OURS[1]) == 1


def test_a_table_that_iptables_can_t_show(gateway: Gateway) -> None:
    """It is named, and nothing is done."""
    gateway.deploy(WANTED)
    gateway.run("nft", "add rule ip filter FORWARD iifname wt0 ct state established,related counter accept")
    with pytest.raises(RulesetError, match="iptables can't show table filter"):
        gateway.change(WANTED)
    before = gateway.run("nft", "-s", "list", "ruleset")
    with pytest.raises(AssertionError, match="iptables can't show table filter"):
        gateway.put(gateway.record.read_text())
    assert gateway.run("nft", "-s", "list", "ruleset") == before


def test_a_rule_that_the_host_refuses_changes_nothing(gateway: Gateway) -> None:
    with pytest.raises(RulesetError):
        gateway.read([*WANTED, Rule("nat", "POSTROUTING", "-j SNAT --to nowhere")])
    assert gateway.rules() == []
