"""What sshd makes of its configuration beside what it must; and who would lose their way in."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from tests.unit import site
from tests.unit.conftest import Planned
from underlay.access import via
from underlay.compare import sshd
from underlay.compare.difference import Place, UnitState
from underlay.compare.sshd import CONFIG, INCLUDE, Sshd
from underlay.compare.systemd.units import differences as unit_differences
from underlay.compare.systemd.units import state_of
from underlay.desired import units
from underlay.desired.files import SSHD, sshd_settings
from underlay.errors import OperatorError
from underlay.facts import END, MARK
from underlay.facts import sshd as fact
from underlay.plan import REPO, ROLES, load

PLAN = load(REPO / "group_data/all.py")
MASTER, JUMPHOST = PLAN.host("master-1"), PLAN.host("jumphost")
# Of root the jump host's is the stricter one.
WANTED = {**sshd_settings(PLAN, MASTER), "PermitRootLogin": "no"}
PLANNED = replace(site.sshd(PLAN, MASTER), settings={**site.sshd(PLAN, MASTER).settings, "permitrootlogin": "no"})


def told(found: Sshd, wanted: Mapping[str, str] = WANTED) -> list[str]:
    return [each.what for each in sshd.differences(wanted, "ops", found)]


def with_account(user: str, **changed: str) -> Sshd:
    return replace(PLANNED, accounts={(user, "192.0.2.1"): {**PLANNED.settings, **changed}})


@pytest.mark.parametrize("role", [role for role in ROLES if PLAN.hosts_of(role)])
def test_no_password_lets_in(role: str, planned: Planned) -> None:
    """On no host; root only if it is the operator, on the jump host; TCP goes on where hosts are jumped through."""
    for user, root in (("ops", "no"), ("root", "prohibit-password")):
        plan = planned(('"user": "ops"', f'"user": "{user}"'))
        found = sshd_settings(plan, plan.hosts_of(role)[0])
        assert found.get("PermitRootLogin") == (root if role == "jumphost" else None)
        for key in ("PasswordAuthentication", "KbdInteractiveAuthentication", "PermitEmptyPasswords", "X11Forwarding"):
            assert found[key] == "no"
        for key in ("AllowAgentForwarding", "AllowStreamLocalForwarding", "PermitTunnel", "GatewayPorts"):
            assert found[key] == "no"
        assert found["AllowTcpForwarding"] == ("local" if role in ("gateway", "jumphost") else "no")


def test_another_way_goes_through_a_host_that_forwards() -> None:
    """The gateway and the jump host do; other deployed hosts are named, and not tried."""
    assert via.chosen(MASTER, JUMPHOST, "") == via.chosen(MASTER, PLAN.gateway, "") == "100.64.0.2"
    for name in ("lb", "master-1"):
        with pytest.raises(OperatorError, match=f"sshd of {name} forwards nothing: go through gateway or jumphost"):
            via.chosen(PLAN.gateway, PLAN.host(name), "")


def test_as_planned() -> None:
    assert told(PLANNED) == []
    assert sshd.advice([]) == []
    assert sshd.passwords_end(PLANNED) == ""


def test_a_line_that_wins_is_named() -> None:
    """The first that says so, in the order in which files are read; however it is written."""
    for line in ("passwordAuthentication YES # old", "  PasswordAuthentication=yes", 'PasswordAuthentication "yes"'):
        first = "/etc/ssh/sshd_config.d/01-a.conf"
        files = {CONFIG: f"{INCLUDE}\n{line}\n", SSHD: PLANNED.files[SSHD], first: f"\n{line}"}
        found = replace(PLANNED, settings={**PLANNED.settings, "passwordauthentication": "yes"}, files=files)
        [difference] = sshd.differences(WANTED, "ops", found)
        assert difference.found == Place(first, 2, line.strip())
        assert difference.word == "differs"
        [advice] = sshd.advice([difference])
        assert f"take line 2 out of {first}" in advice


def test_what_is_not_read_at_all_is_told_once() -> None:
    """Whatever else wins: that is seen once ours is read."""
    settings = {**PLANNED.settings, "allowagentforwarding": "yes", "x11forwarding": "yes", "permitrootlogin": "yes"}
    files = {**PLANNED.files, CONFIG: "X11Forwarding yes\n"}
    found = sshd.differences(WANTED, "ops", replace(PLANNED, settings=settings, files=files))
    assert len(found) == 3
    [advice] = sshd.advice(found)
    assert f'(and 2 more): sshd does not read {SSHD}: make "{INCLUDE}" the first line of {CONFIG}' in advice


@pytest.mark.parametrize(
    ("user", "changed", "differs"),
    [
        ("bob", {"passwordauthentication": "yes"}, "PasswordAuthentication"),
        ("bob", {"kbdinteractiveauthentication": "yes"}, "KbdInteractiveAuthentication"),
        ("bob", {"allowtcpforwarding": "remote"}, "AllowTcpForwarding"),
        ("root", {"permitrootlogin": "forced-commands-only"}, "PermitRootLogin"),
        ("root", {"permitrootlogin": "without-password"}, "PermitRootLogin"),
        ("bob", {"permitrootlogin": "yes"}, ""),  # it is not root
        ("bob", {"pubkeyauthentication": "no"}, ""),
        ("ops", {"pubkeyauthentication": "no"}, "PubkeyAuthentication"),
    ],
)
def test_what_a_match_lets_an_account_do(user: str, changed: dict[str, str], differs: str) -> None:
    """More than planned; less is the host's own business, but for the operator."""
    found = told(with_account(user, **changed))
    assert [line.partition(" is ")[0] for line in found] == ([f"sshd's {differs} for {user}"] if differs else [])


def test_what_holds_for_all_is_told_once() -> None:
    yes = {**PLANNED.settings, "passwordauthentication": "yes"}
    found = replace(PLANNED, settings=yes, accounts={("ops", "192.0.2.1"): yes, ("root", "192.0.2.1"): yes})
    assert told(found) == ["sshd's PasswordAuthentication is yes, not no"]


def test_the_jump_host_forwards_what_people_may_not(planned: Planned) -> None:
    """A `Match` that forbids somebody to jump stays; for the operator it is a difference."""
    wanted, there = sshd_settings(PLAN, JUMPHOST), site.sshd(PLAN, JUMPHOST)
    less = {**there.settings, "allowtcpforwarding": "no", "maxsessions": "1"}
    assert told(replace(there, accounts={("bob", "192.0.2.1"): less}), wanted) == []
    assert told(replace(there, accounts={("ops", "192.0.2.1"): less}), wanted) == [
        "sshd's AllowTcpForwarding for ops is no, not local"
    ]


def test_who_loses_a_way_in() -> None:
    """Passwords end for whoever has one; what asks for one beside a key would let nobody in any more."""
    yes = replace(PLANNED, settings={**PLANNED.settings, "kbdinteractiveauthentication": "yes"}, passwords=("a", "b"))
    assert sshd.passwords_end(yes) == "nobody logs in over ssh with a password any more (that have one: a, b)"
    assert sshd.passwords_end(with_account("bob", passwordauthentication="yes")).endswith(
        "(that have one: no local account)"
    )
    for methods in ("any", "publickey", "publickey,password publickey", "gssapi-with-mic,publickey"):
        assert sshd.locked_out(with_account("bob", authenticationmethods=methods)) == []
    for methods in ("publickey,keyboard-interactive", "publickey,password password", "keyboard-interactive:pam"):
        [line] = sshd.locked_out(with_account("bob", authenticationmethods=methods))
        assert line.startswith("sshd asks bob for ")
    everybody = replace(PLANNED, settings={**PLANNED.settings, "authenticationmethods": "publickey,password"})
    assert "asks everybody" in sshd.locked_out(everybody)[0]


def said(**sections: tuple[int, list[str]]) -> list[str]:
    lines = []
    for name in ("settings", "accounts", "passwords", "files"):
        code, text = sections.get(name, (0, []))
        lines += [f"{MARK}{name}", *text, f"{END}{code}"]
    return lines


def test_what_a_host_says() -> None:
    found = fact.parse(said(settings=(0, ["a b c"]), accounts=(0, ["= ops 192.0.2.1", "a d"]), passwords=(0, ["x"])))
    assert found == Sshd({"a": "b c"}, {("ops", "192.0.2.1"): {"a": "d"}}, ("x",), {})
    bad = (255, [f"{CONFIG}: line 7: Bad configuration option: X", "terminating, 1 bad configuration options"])
    for name in ("settings", "accounts"):
        with pytest.raises(ValueError, match="Bad configuration option: X; terminating"):
            fact.parse(said(**{name: bad}))
    with pytest.raises(ValueError, match="was not read"):
        fact.parse([])


def test_a_socket_instead_of_the_service() -> None:
    """Only one that is there now and at boot."""
    off, on = UnitState("inactive", "disabled"), UnitState("active", "enabled")
    found = dict.fromkeys((unit.name for unit in units.ALL), on) | {units.SSH.name: off}
    assert list(unit_differences(units.UNITS["jumphost"], found)) == []
    for state in (off, UnitState("active", "disabled"), UnitState("inactive", "enabled")):
        found[units.SSH_SOCKET.name] = state
        assert state_of(units.SSH, found) == off
        assert [each.thing for each in unit_differences(units.UNITS["jumphost"], found)] == [units.SSH]
