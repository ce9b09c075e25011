"""What hosts say is taken with limits: one that says odd things is not read, and all others are."""

import gzip
import json
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from tests.unit import site
from tests.unit.test_inventory import target
from underlay.access import answers
from underlay.access.answers import Finite, FloodError, IPv4, ShapeError, UnreadableError
from underlay.access.login.sudo import Root
from underlay.access.sessions import Agent, Links, RefusedError, UnreachableError
from underlay.facts import access, files, filters, firewall, network, packages, script, system, tree
from underlay.observe import drift, state
from underlay.observe.state import HostState
from underlay.oncall import flows
from underlay.plan import REPO, Host, Plan, load

PLAN = load(REPO / "group_data/all.py")


@dataclass(frozen=True)
class Said:
    """A shape."""

    name: str
    number: int
    share: Finite = 0.0
    ends: tuple[IPv4, ...] = ()


ODD = {
    "nothing": "",
    "text": "sh: python3: not found",
    "half": '{"name": "a", "numb',
    "two": '{"name": "a", "number": 1} {}',
    "null": "null",
    "a list": "[]",
    "a number": "1",
    "missing": '{"name": "a"}',
    "another type": '{"name": "a", "number": "1"}',
    "a truth": '{"name": "a", "number": true}',
    "a fraction": '{"name": "a", "number": 1.5}',
    "nested": "[" * 100_000,
    "nested, closed": '{"name": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "nested objects": '{"name":' * 100_000,
    "not a number": '{"name": "a", "number": 1, "share": NaN}',
    "infinite": '{"name": "a", "number": 1, "share": 1e999}',
    "huge": '{"name": "a", "number": ' + "9" * 100_000 + "}",
    "half a character": '{"name": "\\ud800", "number": 1}',
    "the other half": '{"name": "\\udc80", "number": 1}',
    "no UTF-8": b'{"name": "\xff", "number": 1}'.decode("latin-1"),
    "no address": '{"name": "a", "number": 1, "ends": ["192.0.2.1/../x"]}',
    "short address": '{"name": "a", "number": 1, "ends": ["1"]}',
    "NUL": '{"name": "a", "number": 1}\0',
}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_another_shape(text: str) -> None:
    """It is one line that can be shown."""
    with pytest.raises(ShapeError) as error:
        answers.parsed(Said, text.encode("latin-1") if "\xff" in text else text)
    assert str(error.value).isprintable()
    assert 0 < len(str(error.value)) <= answers.SHOWN + 1


def test_the_shape() -> None:
    """More keys are no fault, and of equal ones the last counts, as for everybody who reads JSON."""
    text = '{"name": "a", "number": 1, "number": 2, "more": [{}], "share": 1, "ends": ["192.0.2.1"]}'
    assert answers.parsed(Said, text) == Said("a", 2, 1.0, ("192.0.2.1",))


# --- so much, for so long -------------------------------------------------------------------------------------------


def python(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, sys, time\n{code}"]


@pytest.mark.parametrize("stream", [1, 2])
def test_a_flood(stream: int) -> None:
    """It is cut off soon, on whichever way it comes, and is not kept."""
    began = time.monotonic()
    with pytest.raises(FloodError, match="it said more than 5 MB"):
        answers.run(python(f"while True: os.write({stream}, b'x' * 65536)"), seconds=60, most=5_000_000)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    "code",
    ["while True: os.write(1, b'x'); time.sleep(0.01)", "time.sleep(60)", "os.close(1); os.close(2); time.sleep(60)"],
)
def test_without_an_end(code: str) -> None:
    began = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        answers.run(python(code), seconds=1, stdin=b"x" * 1_000_000)
    assert time.monotonic() - began < 20


def test_a_good_program() -> None:
    """Both ways at once, more than pipes hold; of stderr the end."""
    code = "print('first' + 'x' * 100_000 + 'last', file=sys.stderr)\nsys.stdout.write(sys.stdin.read())\nsys.exit(3)"
    done = answers.run(python(code), stdin=b"y" * 3_000_000, seconds=60)
    assert (done.returncode, done.stdout) == (3, b"y" * 3_000_000)
    assert len(done.stderr) == answers.LAST_WORDS
    assert done.stderr.endswith(b"last\n")
    assert answers.run(["true"], stdin=b"y" * 3_000_000, seconds=60).returncode == 0


def test_what_unpacks_to_more() -> None:
    packed = gzip.compress(bytes(50_000_000))
    assert len(packed) < 100_000
    with pytest.raises(FloodError, match="unpacked it is more than 1 MB"):
        answers.unpacked(packed, 1_000_000)
    assert answers.unpacked(gzip.compress(b"abc"), 3) == b"abc"
    for bad in (b"", b"abc", packed[:1000], gzip.compress(b"abc")[:-9]):
        with pytest.raises(ValueError, match=r"it was cut off|it is not packed"):
            answers.unpacked(bad, 10**9)


# --- one host -------------------------------------------------------------------------------------------------------


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Links:
    """To a host `box` that is a shell of this machine."""
    made = Links(target(PLAN))
    made.take("box")
    monkeypatch.setattr(made, "root", lambda _: Root(()))
    monkeypatch.setattr(made, "shell", lambda _, command: ["sh", "-c", command])
    monkeypatch.setattr(made, "is_local", lambda _: False)
    return made


BAD = {
    "flood": ("yes", "it said more than 16 MB"),
    "hang": ("sleep 30", "no answer within 1 s"),
    "odd": ("echo '[[['", "Invalid JSON"),
    "another shape": ("""echo '{"number": 1}'""", "name: Field required"),
    "nothing": ("true", "it gave no answer"),
    "an error": ("echo 'no such \033[2Jfile' >&2; false", r"no such \\u001b\[2Jfile"),
}


@pytest.mark.parametrize(("command", "why"), BAD.values(), ids=BAD)
def test_a_host_is_not_read_because(links: Links, command: str, why: str) -> None:
    with pytest.raises(UnreachableError, match=f"^box was reached, but (not read: .*)?(gave )?{why}"):
        links.ask("box", command, Said, seconds=1)


def test_a_host_that_answers(links: Links) -> None:
    assert links.ask("box", """echo '{"name": "a", "number": 1}'""", Said, seconds=10) == Said("a", 1)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("while True: os.write(1, b'x' * 65536)", "it said more than 16 MB"),
        ("print('[' * 100_000)", "Invalid JSON"),
        ('print(\'{"port": "x"}\')', "port: Input should be a valid integer"),
        ("print('Permission denied')", "Permission denied"),
        ("os.write(2, b'\\xff no \\033[2J'); sys.exit(1)", r"no \\u001b\[2J"),
    ],
)
def test_a_program_on_a_host_that_says_something_else(code: str, why: str) -> None:
    began = time.monotonic()
    with pytest.raises(UnreachableError, match=f"^box: the probe does not work there: .*{why}"):
        Agent("box", python(code), hello=dict[str, int])
    assert time.monotonic() - began < 20


def test_answers_of_another_shape() -> None:
    """It is given up then: what comes next may be the answer to this."""
    said = [
        '{"port": 1}',
        '{"answer": [1]}',
        '{"error": "no\\u001b", "errno": 13}',
        '{"answer": ["x"]}',
        '{"answer": [2]}',
    ]
    box = Agent("box", python(f"for line in {said!r}: sys.stdin.readline(); print(line, flush=True)"))
    assert box.ask("x", 1, list[int]) == [1]
    with pytest.raises(RefusedError, match=r"^box: no\\u001b$"):
        box.ask("x", 2, list[int])
    for _ in range(2):
        with pytest.raises(UnreachableError, match="valid integer"):
            box.ask("x", 3, list[int])
    box.close()


def test_a_program_on_a_host_that_does_not_read() -> None:
    """A request is larger than what pipes hold."""
    box = Agent("box", python("sys.stdin.readline(); print('{\"port\": 1}', flush=True); time.sleep(60)"))
    began = time.monotonic()
    with pytest.raises(UnreachableError, match="no answer in time"):
        box.ask("connect", "x" * 3_000_000, seconds=1)
    assert time.monotonic() - began < 20


# --- all hosts ------------------------------------------------------------------------------------------------------

LINK = {"ifindex": 1, "ifname": "eth0", "flags": [], "addr_info": [{"family": "inet", "local": "x", "prefixlen": 99}]}
LINES: dict[str, list[str]] = {
    **{name: text.split("\n") for name, text in ODD.items()},
    "blank": [""],
    "many": ["x"] * 10,
    "an equals sign": ["="],
    "numbers": ["1e400 " * 9, "-1", "nan"],
    "digits": ["9" * 5000] * 6,
    "base64": ["/etc/x ===", "a b c !"],
    "a file": ["/../../x eA=="],
    "sections": script({"address": "", "route": "", "rule": ""}).split("\n"),
    "a bad link": [json.dumps([LINK])],
    "network": ["@@ address", json.dumps([LINK]), "@@ = 0", "@@ route", "[]", "@@ = 0", "@@ rule", "[]", "@@ = 0"],
    "a section without a code": ["@@ address", "@@ = x"],
}
READERS = [name for name, each in vars(HostState).items() if isinstance(each, cached_property)]


@pytest.mark.parametrize("part", READERS)
def test_every_part_of_a_host(part: str) -> None:
    """Whatever its command prints: it is read, or it can't be, in one line. Nothing else comes of it."""
    for lines in LINES.values():

        class Everything(dict[str, tuple[int, list[str]]]):
            def get(self, *_: object, lines: list[str] = lines) -> Any:
                return 0, lines

        said = caught(UnreadableError, lambda odd: getattr(odd, part), HostState("lb", Everything()))
        assert not said or " of lb can't be read: " in said
        assert len(said) < answers.SHOWN + 100


def caught(kind: type[Exception], function: Callable[[Any], object], argument: object) -> str:
    """The words of an error of that kind, if there is one."""
    try:
        function(argument)
    except kind as error:
        return str(error)
    return ""


FACTS: list[type[FactBase[Any]]] = [
    *(access.AuthorizedKeys, access.AccountKeys, files.FileContents, filters.OtherFilters, firewall.Rules),
    *(network.Network, packages.Packages, system.System, tree.TreeDigests),
]


@pytest.mark.parametrize("kind", FACTS, ids=lambda kind: kind.__name__)
def test_every_fact(kind: type[FactBase[Any]]) -> None:
    """Any other exception would end the deploy for all hosts."""
    for lines in LINES.values():
        said = caught(FactProcessError, kind().process, lines)
        assert not said or " of this host can't be read: " in said


@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
def test_drift_of_the_others(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    """One bad host costs nothing of what is known about the others."""

    def read(_: Links, plan: Plan, host: Host, wanted: Collection[str], ___: int = 0) -> HostState:
        return HostState("lb", dict.fromkeys(wanted, (0, lines))) if host.name == "lb" else site.state(plan, host)

    monkeypatch.setattr(state, "read", read)
    monkeypatch.setattr(Links, "open", lambda *_: None)
    found = drift.look(Links(target(PLAN)), PLAN.deployed)
    assert "lb can't be read: " in str(found.pop("lb"))
    assert list(found.values()) == [[]] * len(found)
    assert found


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_a_connection_table_of_another_shape(links: Links, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(flows, "Links", lambda _: links)
    monkeypatch.setattr(links, "open", lambda _: None)
    done = replace_run(text.encode("latin-1", errors="replace"))
    monkeypatch.setattr(links, "run", done)
    with pytest.raises(UnreadableError, match=r"^the connection table of gateway can't be read: "):
        flows.Gateway(target(PLAN)).find(limit=1)


def replace_run(output: bytes) -> Any:
    return lambda *_, **__: subprocess.CompletedProcess([], 0, output, b"")
