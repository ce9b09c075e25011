"""What `invoke verify` makes of what it finds, with hosts that are made up."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from netaddr import IPAddress

from tests.unit.conftest import Planned
from underlay.access.answers import UnreadableError
from underlay.access.endpoints import Endpoint
from underlay.access.sessions import Agent, Links, RefusedError, UnreachableError
from underlay.access.target import Target
from underlay.compare.difference import UnitState
from underlay.desired import traffic
from underlay.desired.traffic import Flow
from underlay.errors import OperatorError
from underlay.observe import evidence, exchange, state
from underlay.observe.exchange import Outcome, judge
from underlay.observe.state import HostState
from underlay.plan import REPO, Host, Plan, load
from underlay.verify import run as command
from underlay.verify.checks import WrongError, wrong

FLOW = Flow(
    role="lb_nginx",
    row="internal hosts to the world",
    source="lb",
    source_address=IPAddress("100.64.0.53"),
    destination=IPAddress("192.168.0.105"),
    port=None,
    receivers=("dev",),
    seen_as=IPAddress("192.168.0.53"),
    tracked=True,
)
GOOD = Outcome(receiver="dev", seen_as="192.168.0.53", tracked=True)
EXPECTED = "lb 100.64.0.53 -> 192.168.0.105: dev answers and sees 192.168.0.53, in the gateway's connection table"


@pytest.mark.parametrize(
    ("outcome", "seen"),
    [
        (Outcome(error="no answer within 3 s"), "no answer within 3 s"),
        (replace(GOOD, seen_as="192.168.0.51"), "dev sees 192.168.0.51"),
        (replace(GOOD, receiver="images"), "images answers"),
        (replace(GOOD, tracked=False), "not in the gateway's connection table"),
        (replace(GOOD, tracked=None), "the gateway's connection table was not read"),
    ],
)
def test_flow_that_is_wrong(outcome: Outcome, seen: str) -> None:
    """A flow that is not as expected is told in words."""
    assert judge(FLOW, outcome) == (EXPECTED, seen)


def test_flow_that_is_good() -> None:
    """Only what the flow asks for counts; a service that can't tell as what it sees one need not."""
    assert judge(FLOW, GOOD) is None
    assert judge(replace(FLOW, tracked=None), replace(GOOD, tracked=None)) is None
    assert judge(replace(FLOW, tracked=False), replace(GOOD, tracked=True)) is not None
    assert judge(replace(FLOW, receivers=("images", "dev")), GOOD) is None
    assert judge(replace(FLOW, tracked=None, port=6443), Outcome()) is None


@pytest.mark.parametrize(
    ("outcome", "seen"),
    [
        (Outcome(error="no answer within 1 s"), None),
        (Outcome(receiver="images", seen_as="192.168.0.53"), None),
        (replace(GOOD, tracked=None), "dev answers and sees 192.168.0.53"),
        (Outcome(error="dev can't be reached", unasked=True), "dev can't be reached"),
    ],
)
def test_flow_that_must_not(outcome: Outcome, seen: str | None) -> None:
    """It is wrong if its receiver answers, and not known to be good unless it was tried."""
    flow = replace(FLOW, must_not=True, tracked=None)
    told = "lb 100.64.0.53 -> 192.168.0.105: must not reach dev: from outside, only published addresses lead inside"
    assert judge(flow, outcome) == ((told, seen) if seen else None)


def test_words_of_a_failure() -> None:
    """Expected, seen, where to look: several lines are set under each other."""
    with pytest.raises(WrongError) as error:
        wrong("this", ["that", "and that"], ["here", "there"])
    assert str(error.value).splitlines() == [
        "expected  this",
        "seen      that",
        "          and that",
        "look at   here",
        "          there",
    ]


def host_state(**sections: str) -> HostState:
    return HostState("box", {name.replace("_", " "): (0, text.splitlines()) for name, text in sections.items()})


def test_units() -> None:
    """The state of each unit; one that does not exist has nothing to be enabled."""
    text = (
        "Id=a.service\nActiveState=active\n\nId=b.service\nActiveState=inactive\na.service=enabled\nb.service=not-found"
    )
    assert host_state(units=text).units == {
        "a.service": UnitState("active", "enabled"),
        "b.service": UnitState("inactive", ""),
    }


def test_listening() -> None:
    """A port on the loopback is not one that others can reach."""
    text = (
        "LISTEN 0 128 0.0.0.0:22 0.0.0.0:*\nLISTEN 0 128 [::]:80 [::]:*\n"
        "LISTEN 0 9 127.0.0.53%lo:53 0.0.0.0:*\nLISTEN 0 9 [::1]:631 [::]:*\n"
    )
    assert host_state(listening=text).listening == {22, 80}


def test_packages() -> None:
    """A package that was removed, but not its configuration, is not installed."""
    text = "nginx install ok installed\ntcpdump deinstall ok config-files\n"
    assert host_state(packages=text).packages == {"nginx"}


def test_python_packages() -> None:
    """Names are compared as pip does."""
    text = "zope.event-6.2.dist-info\npydantic_core-2.50.4.dist-info\n"
    assert host_state(python=text).python_packages == {"zope-event": "6.2", "pydantic-core": "2.50.4"}


@pytest.mark.parametrize(
    "sections", [{}, {"firewall": (1, ["permission denied"])}, {"firewall": (0, ["what is this"])}]
)
def test_unknown_is_never_empty(sections: dict[str, tuple[int, list[str]]]) -> None:
    """What could not be read is an error, not a host without rules."""
    with pytest.raises(UnreadableError):
        _ = HostState("box", sections).firewall


def test_host_without_iptables() -> None:
    """A gateway without iptables is told as such."""
    with pytest.raises(UnreadableError, match="box has no iptables"):
        _ = host_state(firewall='{"missing": true}').firewall


# --- a run, without a site ------------------------------------------------------------------------------------------


class NoLinks(Links):
    """Connects to nothing: some hosts are up, the others are not."""

    dead: frozenset[str] = frozenset()
    asked: set[str]

    def open(self, names: Iterable[str]) -> None:
        self.asked = set(names)

    def check(self, name: str) -> None:
        if name in self.dead:
            raise UnreachableError(f"{name} can't be reached at 192.0.2.1: no answer")


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., NoLinks]:
    """Makes up what is found: every flow good, every host's state unreadable, some hosts dead."""

    def make(dead: Iterable[str] = (), outcome: Callable[[Flow], Outcome] = good) -> NoLinks:
        links = NoLinks(target(load(REPO / "group_data/all.py"), tmp_path))
        links.dead = frozenset(dead)
        monkeypatch.setattr(evidence, "Links", lambda _: links)

        def run(flows: Iterable[Flow], *_: object) -> dict[Flow, Outcome]:
            return {flow: Outcome("dead") if flow.hosts & links.dead else outcome(flow) for flow in flows}

        def read(_: Links, __: Plan, host: Host, ___: Collection[str], ____: int) -> HostState:
            links.check(host.name)
            return HostState(host.name, {})

        monkeypatch.setattr(exchange, "run", run)
        monkeypatch.setattr(state, "read", read)
        return links

    return make


def good(flow: Flow) -> Outcome:
    if flow.must_not:
        return Outcome(error="no answer within 1 s")
    return Outcome(receiver=flow.receivers[0], seen_as=str(flow.seen_as), tracked=flow.tracked)


def target(plan: Plan, folder: Path) -> Target:
    endpoints = tuple(Endpoint(host.name, host.primary.address) for host in plan.hosts)
    (folder / "ssh_config").touch()
    return Target(plan, "ssh", None, endpoints, folder / "ssh_config", folder / "known_hosts", None)


def only_traffic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("underlay.verify.run.CHECKS", REPO / "tests/site/test_packets.py")


def test_all_good(
    site: Callable[..., NoLinks], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Exit code 0, a row for each check that fits 80 columns, a last line, and what was left out."""
    links = site()
    only_traffic(monkeypatch)
    assert command.run(links.target, ["gateway", "master"], tmp_path / "results.xml") == 0
    output = capsys.readouterr().out
    assert max(len(line) for line in output.splitlines() if line.startswith(" ")) <= 80
    assert re.search(r"^ gateway +traffic: the gateway to its networks +2 good +\d+\.\d s", output, re.MULTILINE)
    assert re.search(r"^good: all \d+ checks, in \d+\.\d s$", output, re.MULTILINE)
    assert "Beyond the upstream router nothing was checked" in output
    assert " jumphost " not in output
    suite = ElementTree.parse(tmp_path / "results.xml").getroot().find("testsuite")
    assert suite is not None
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")


def test_only_the_hosts_that_are_needed(site: Callable[..., NoLinks]) -> None:
    """The checks of the gateway contact nobody behind it."""
    links = site()
    command.run(links.target, ["gateway"])
    assert links.asked == {"gateway", "dev", "images"}


def test_something_wrong(site: Callable[..., NoLinks], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2; what is wrong is told in the words of the check, without a traceback, like ones not too often."""
    links = site(outcome=lambda flow: replace(good(flow), seen_as="192.0.2.9"))
    assert command.run(links.target, ["jumphost"]) == 2
    output = capsys.readouterr().out
    assert re.search(r"^ jumphost +traffic: internal hosts to the world +WRONG 2/2", output, re.MULTILINE)
    assert "  expected  jumphost 100.64.0.52 -> 192.168.0.50: images answers and sees 192.168.0.52" in output
    assert "  seen      images sees 192.0.2.9" in output
    assert "  look at   rule filter FORWARD -s 100.64.0.0/21 -j ACCEPT (group_data/all.py:" in output
    assert "network of jumphost can't be read: it was not read" in output
    assert "Traceback" not in output
    assert "assert " not in output
    assert re.search(r"^WRONG: \d+ of \d+ checks", output, re.MULTILINE)


def test_many_alike(site: Callable[..., NoLinks], capsys: pytest.CaptureFixture[str]) -> None:
    """Of many failures of one check the first few are told in full, the others are counted."""
    links = site(outcome=lambda _: Outcome(error="no answer within 3 s"))
    assert command.run(links.target, ["master"]) == 2
    output = capsys.readouterr().out
    assert output.count("\nWRONG master / traffic: internal hosts to the world\n") == 3
    assert "WRONG master / traffic: internal hosts to the world: 3 more like these" in output


def test_dead_host(site: Callable[..., NoLinks], capsys: pytest.CaptureFixture[str]) -> None:
    """A host that can't be reached is one row for each role that needs it and one line; the others are checked."""
    links = site(dead=["lb"])
    assert command.run(links.target, ["jumphost", "lb_nginx"]) == 2
    output = capsys.readouterr().out
    assert re.search(r"^ lb_nginx +what needs lb +WRONG (\d+)/\1 ", output, re.MULTILINE)
    assert output.count("lb can't be reached at 192.0.2.1: no answer") == 1
    assert re.search(r"^ jumphost +traffic: internal hosts to the world +2 good", output, re.MULTILINE)


def test_workstation_that_cannot_be_asked(site: Callable[..., NoLinks], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is wrong with the site if a host that it does not deploy can't be reached; what is unknown is told."""
    links = site(dead=["dev"])
    assert command.run(links.target, ["gateway"]) == 2  # the state of the made-up gateway can't be read
    output = capsys.readouterr().out
    assert re.search(r"^ gateway +traffic: the gateway to its networks +unknown 1/2", output, re.MULTILINE)
    assert re.search(r"^ gateway +traffic: workstation to the gateway +unknown 1/1", output, re.MULTILINE)
    assert "NOT CHECKED gateway: dev can't be reached at 192.0.2.1: no answer" in output
    assert re.search(r"^WRONG: \d+ of \d+ checks \(2 more could not be made\), in ", output, re.MULTILINE)


@pytest.mark.parametrize(("dead", "code"), [(["dev"], 0), (["dev", "images"], 1)])
def test_only_some_can_be_asked(
    site: Callable[..., NoLinks], monkeypatch: pytest.MonkeyPatch, dead: list[str], code: int
) -> None:
    """As long as something was checked, and was good, all is good; if nothing was, it is not."""
    links = site(dead=dead)
    only_traffic(monkeypatch)
    assert command.run(links.target, ["gateway"]) == code


def test_nothing_to_check(site: Callable[..., NoLinks], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A role without hosts: exit code 1, and the reason."""
    links = site()
    text = (REPO / "group_data/all.py").read_text()
    (tmp_path / "plan.py").write_text(re.sub(r'    "lb": .*\n', "", text))
    assert command.run(replace(links.target, plan=load(tmp_path / "plan.py")), ["lb_nginx"]) == 1
    assert "nothing was checked: the plan has no host with the role lb_nginx" in capsys.readouterr().out


def test_interrupted(
    site: Callable[..., NoLinks], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that was cut off is never good."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    links = site()
    monkeypatch.setattr(evidence.Evidence, "outcome", interrupt)
    only_traffic(monkeypatch)
    assert command.run(links.target, ["gateway"]) == 130
    assert "the run was cut off" in capsys.readouterr().out


def test_file_that_cannot_be_written(
    site: Callable[..., NoLinks], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad place for the XML file is told before anything is done."""
    with pytest.raises(OperatorError, match=r"such\.xml can't be written: No such file or directory"):
        command.run(site().target, ["gateway"], tmp_path / "no" / "such.xml")
    assert capsys.readouterr().out == ""


def test_checks_that_cannot_be_loaded(
    site: Callable[..., NoLinks], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Broken checks are an error, not fewer checks."""
    links = site()
    (tmp_path / "test_broken.py").write_text("import no_such_module\n")
    monkeypatch.setattr("underlay.verify.run.CHECKS", tmp_path)
    assert command.run(links.target, ["gateway"]) == 1
    output = capsys.readouterr().out
    assert "no_such_module" in output
    assert re.search(r"^not verified: 0 checks were good, in ", output, re.MULTILINE)


# --- what must not come in, though there is a route ------------------------------------------------------------------

PLANNED = ('site = "lab-site"\n', 'site = "lab-site"\nforwarding = "planned"\n')


class Scripted(Agent):
    """An agent that answers what a test says."""

    lost = False

    def __init__(self, name: str, knocks: Callable[[list[Any]], bool] | Exception) -> None:
        self.name, self.hello, self.knocks = name, {"port": 40000}, knocks

    def ask(self, key: str, value: Any, *_: Any, **__: Any) -> Any:
        if key == "connect":
            return [[50000, None, "no answer"] for _ in value]
        assert key == "knock"
        if isinstance(self.knocks, Exception):
            raise self.knocks
        return [self.knocks(call) for call in value]


@pytest.mark.parametrize(
    ("knocks", "seen"),
    [
        (lambda call: call[1:3] == ["192.168.0.51", 22], "good"),
        (lambda call: call[1:3] in (["192.168.0.51", 22], ["100.64.64.2", 40000]), "master-1 answers"),
        (lambda _: False, "not proven: images: 192.168.0.51 does not answer its packets, to port 22"),
        (RefusedError("images", "Operation not permitted", 1), "not proven: images: Operation not permitted"),
    ],
    ids=["kept out", "let in", "no control", "no root"],
)
def test_as_one_with_a_route(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, knocks: Any, seen: str
) -> None:
    """Only what is known to have been able to answer is kept out."""
    plan = planned(PLANNED)
    roots: set[str] = set()
    monkeypatch.setattr(Agent, "close", lambda _: None)

    class Scripts(NoLinks):
        def error(self, _: str) -> None:
            return None

        def agent(self, name: str, _: int = 0, *, root: bool = False) -> Agent:
            roots.update({name} if root else ())
            return Scripted(name, knocks if name == "images" else lambda _: True)

    flows = [flow for flow in traffic.forbidden(plan, None) if flow.source == "images"]
    outcomes = exchange.run(flows, Scripts(target(plan, tmp_path)), "gateway")
    assert roots == {"images"}
    judged = {str(flow.destination): judge(flow, outcomes[flow]) for flow in flows}
    said = {address: found[1] for address, found in judged.items() if found}
    unproven = {outcome.unproven(flow) for flow, outcome in outcomes.items()}
    assert unproven == {seen.startswith("not proven")}
    wrong = [] if seen == "good" else judged if seen.startswith("not proven") else ["100.64.64.2"]
    assert said == dict.fromkeys(wrong, seen)


def test_what_is_not_proven_is_said(
    site: Callable[..., NoLinks], planned: Planned, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And which of the two modes the checks were of."""

    def outcome(flow: Flow) -> Outcome:
        return Outcome("not proven: no root", unasked=True) if flow.router else good(flow)

    links = site(outcome=outcome)
    links.target = target(planned(PLANNED), tmp_path)
    command.run(links.target, ["master"])
    output = capsys.readouterr().out
    assert re.search(r"traffic: outside to inside, must not +unknown 6/6", output), output
    assert "NOT CHECKED master: not proven: no root" in output
    assert "Forwarding is planned: " in output
    assert "master / traffic" not in output
