"""The gateway's firewall from what is read to what is done; the scripts run in a namespace, their files in a folder."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.namespaces import Inside, namespace
from underlay.compare.firewall import canonical
from underlay.desired import ruleset
from underlay.desired.ruleset import Rule, RulesetError
from underlay.facts import firewall as facts
from underlay.facts.firewall import Firewall, process
from underlay.guard.change import Change
from underlay.operations import firewall
from underlay.operations.firewall import firewall_change

EMPTY = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
WANTED = [
    Rule("raw", "OUTPUT", "-s 100.64.0.1 -d 100.64.0.1/21 -j NOTRACK"),
    Rule("filter", "FORWARD", "-s 100.64.0.0/21 -j ACCEPT", True),
    Rule("nat", "POSTROUTING", "-s 100.64.0.53 -j SNAT --to 192.168.0.53", True),
    Rule("nat", "POSTROUTING", "-s 100.64.0.0/21 -j SNAT --to 192.168.0.51"),
]
STALE = Rule("nat", "POSTROUTING", "-s 100.64.0.54 -j SNAT --to 192.168.0.54", True)
FOREIGN = """\
*nat
:DOCKER - [0:0]
-A DOCKER -i docker0 -j RETURN
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
"""


def output(live: str = EMPTY, wanted: str = EMPTY, persisted: str = "", recorded: str = "") -> list[str]:
    texts = {"live": live, "wanted": wanted, "persisted": persisted, "record": recorded}
    return "".join(f"@@ {name}\n{text}@@ = 0\n" for name, text in texts.items()).splitlines()


def test_what_a_host_prints() -> None:
    found = process(output(persisted="*nat\nCOMMIT\n", recorded="*raw\nCOMMIT\n"))
    assert found == Firewall(
        installed=True,
        live=ruleset.parse(EMPTY),
        live_text=EMPTY,
        wanted=ruleset.parse(EMPTY),
        persisted={"nat": ruleset.Table()},
        recorded={"raw": ruleset.Table()},
    )


def test_a_host_without_iptables() -> None:
    assert process(["@@ missing", "@@ = 0"]) == Firewall(False, {}, "", {}, {}, {})


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([], KeyError),
        (output()[:-1], KeyError),
        (output(live="iptables-save v1.8.11: Permission denied\n"), RulesetError),
        (output(persisted="*nat\n"), RulesetError),
    ],
)
def test_what_can_t_be_read_is_not_empty(lines: list[str], error: type[Exception]) -> None:
    with pytest.raises(error):
        process(lines)


def test_wanted_rules_take_the_form_of_the_host() -> None:
    form = ruleset.from_rules(
        [
            Rule("nat", "POSTROUTING", "-s 10.0.0.1/32 -j SNAT --to-source 192.0.2.1"),
            Rule("nat", "PREROUTING", "-j X"),
            Rule("nat", "POSTROUTING", "-j Y"),
        ]
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
        self.persisted, self.record = folder / "rules.v4", folder / "record"

    def read(self, wanted: list[Rule]) -> Firewall:
        text = ruleset.render(ruleset.from_rules(wanted))
        return process(self.run("sh", "-c", facts.command(), text=text).splitlines())

    def change(self, wanted: list[Rule]) -> Change | None:
        found = self.read(wanted)
        return firewall_change(canonical(wanted, found.wanted), found)

    def deploy(self, wanted: list[Rule]) -> set[str]:
        """Bring it to the wanted rules and prove that a second run has nothing to do; gives what was touched."""
        change = self.change(wanted)
        assert change is not None
        self.run("sh", "-e", text=change.live)
        for path, file in change.files.items():
            assert file is not None
            Path(path).write_text(file.content)
        assert self.change(wanted) is None
        return {Path(path).name for path in change.files} | ({"live"} if change.live else set())

    def rules(self) -> list[str]:
        return rules(self.run("iptables-save"))


def rules(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("-A")]


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    with namespace("iptables-restore") as inside:
        found = Gateway(inside, tmp_path)
        for module in (facts, firewall):
            monkeypatch.setattr(module, "PERSISTED", str(found.persisted))
            monkeypatch.setattr(module, "RECORD", str(found.record))
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
    assert rules(gateway.persisted.read_text()) == rules(gateway.record.read_text()) == OURS


def test_what_was_persisted_is_what_a_boot_loads(gateway: Gateway) -> None:
    gateway.deploy(WANTED)
    before = gateway.rules()
    gateway.run("iptables-restore", text=gateway.persisted.read_text())
    assert gateway.rules() == before
    assert gateway.change(WANTED) is None


def test_rules_of_others_stay_live_and_in_the_file(gateway: Gateway) -> None:
    gateway.run("iptables-restore", "--noflush", text=FOREIGN)
    gateway.persisted.write_text(FOREIGN)
    gateway.deploy(WANTED)
    unmanaged = rules(FOREIGN)
    assert sorted(gateway.rules()) == sorted(OURS + unmanaged)
    assert sorted(rules(gateway.persisted.read_text())) == sorted(OURS + unmanaged)
    assert [rule for rule in gateway.rules() if "POSTROUTING" in rule] == [OURS[2], unmanaged[1], OURS[3]]


@pytest.mark.parametrize("again", [False, True], ids=["live", "live and file"])
def test_a_rule_of_an_earlier_plan_goes(gateway: Gateway, again: bool) -> None:
    gateway.deploy([*WANTED[:2], STALE, *WANTED[2:]])
    assert "192.168.0.54" in gateway.persisted.read_text()
    if not again:
        gateway.persisted.unlink()
    gateway.deploy(WANTED)
    assert sorted(gateway.rules()) == sorted(OURS)
    assert rules(gateway.persisted.read_text()) == OURS


@pytest.mark.parametrize(
    ("drift", "fixed"),
    [
        (lambda host: host.run("iptables", "-t", "nat", "-F"), {"live"}),
        (lambda host: host.run("iptables", "-D", "FORWARD", "1"), {"live"}),
        (lambda host: host.persisted.unlink(), {"rules.v4"}),
        (lambda host: host.record.unlink(), {"record"}),
        (lambda host: host.persisted.write_text(host.persisted.read_text().replace(".53\n", ".99\n")), {"rules.v4"}),
    ],
    ids=["table flushed", "rule deleted", "file deleted", "record deleted", "file changed"],
)
def test_only_what_drifted_is_fixed(gateway: Gateway, drift: Callable[[Gateway], object], fixed: set[str]) -> None:
    gateway.deploy(WANTED)
    drift(gateway)
    assert gateway.deploy(WANTED) == fixed
    assert sorted(gateway.rules()) == sorted(OURS)


def test_rules_that_change_meanwhile_stop_it(gateway: Gateway) -> None:
    """Positions that were counted before would hit the wrong rules."""
    change = gateway.change(WANTED)
    assert change is not None
    gateway.run("iptables", "-A", "FORWARD", "-j", "DROP")
    with pytest.raises(AssertionError, match="the live rules changed while they were compared: run the deploy again"):
        gateway.run("sh", "-e", text=change.live)
    assert gateway.rules() == ["-A FORWARD -j DROP"]


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
    assert "conntrack -D --orig-dst 192.168.0.54" in gone.settle
    assert "192.168.0.53" not in gone.settle


def test_counters_and_comments_are_no_change(tmp_path: Path) -> None:
    """iptables-legacy counts what meets a chain's policy, and every iptables-save prints the time."""
    printed = "# Generated at noon\n*raw\n:OUTPUT ACCEPT [5:300]\n-A OUTPUT -j ACCEPT\nCOMMIT\n"
    legacy = tmp_path / "iptables-save"
    legacy.write_text(f"#!/bin/sh\ncat <<'END'\n{printed}END\n")
    legacy.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", facts.SAVE], env={"PATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout == "*raw\n:OUTPUT ACCEPT [0:0]\n-A OUTPUT -j ACCEPT\nCOMMIT\n"


def test_a_rule_that_the_host_refuses_changes_nothing(gateway: Gateway) -> None:
    with pytest.raises(AssertionError):
        gateway.read([*WANTED, Rule("nat", "POSTROUTING", "-j SNAT --to nowhere")])
    assert gateway.rules() == []
