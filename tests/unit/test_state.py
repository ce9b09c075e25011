"""How a host is read: each section beside the others, whatever becomes of one of them; the shell here is a host's."""

import subprocess
import time
from collections.abc import Iterator

import pytest

from underlay.access.answers import UnreadableError
from underlay.observe import state
from underlay.observe.state import HostState

LEFT = "sleep 71.5"
"""What goes on after the test, unless it is ended."""


@pytest.fixture
def nothing_left() -> Iterator[None]:
    yield
    subprocess.run(["pkill", "-xf", LEFT], check=False)


def read(seconds: int = 1, **commands: str) -> HostState:
    script = state.script(commands, dict.fromkeys(commands, seconds))
    done = subprocess.run(["bash", "-s"], input=script, capture_output=True, check=False, timeout=60)
    return HostState("box", state.sections(done.stdout, commands))


def test_each_has_its_own_exit_code_and_output() -> None:
    """Errors included; nothing that a section says is taken for the end of it."""
    marks = "echo '@@ two'; echo '@@ = 0'; echo '1 0 aGk='; printf 'a\\0b'"
    found = read(one="echo 1; exit 3", two="echo 2 >&2", three="no-such-command", four=marks, five="true")
    assert found.sections["one"] == (3, ["1"])
    assert found.sections["two"] == (0, ["2"])
    assert found.sections["three"][0] == 127
    assert "not found" in found.sections["three"][1][0]
    assert found.sections["four"] == (0, ["@@ two", "@@ = 0", "1 0 aGk=", "a\0b"])
    assert found.sections["five"] == (0, [])
    assert {"begin", "end"} <= set(found.sections)


@pytest.mark.usefixtures("nothing_left")
def test_what_hangs_costs_itself_alone() -> None:
    """A command that ends at no signal, one whose child keeps the pipe (as one that waits for a disk does), a flood."""
    begin = time.monotonic()
    found = read(
        hang="sleep 60",
        deaf="trap '' TERM; while :; do sleep 1; done",
        child=f"setsid {LEFT} & echo hi",
        flood="yes",
        last="echo here",
    )
    assert time.monotonic() - begin < 8
    assert found.lines("last") == ["here"]
    assert found.late
    for name in ("hang", "deaf", "child"):
        with pytest.raises(UnreadableError, match=f"{name} of box can't be read: it took too long"):
            found.lines(name)
    with pytest.raises(UnreadableError, match="flood of box can't be read: it said more than 4 MB"):
        found.lines("flood")


@pytest.mark.parametrize("said", [b"", b"Welcome!\n", b"0 0\n1 0 aGk\n5 0 aGk=\n2 x aGk=\n\xff\xff\n"])
def test_what_is_no_answer(said: bytes) -> None:
    """What a login says, half of an answer, and what was not asked for: nothing was read."""
    assert state.sections(said, ["one", "two", "three"]) == {}


def test_half_an_answer() -> None:
    """What did not come took too long."""
    found = state.sections(b"garbage\nbegin 0 MS41Cg==\n0 0 aGkK\n1 ", ["one", "two"])
    assert found["one"] == (0, ["hi"])
    assert found["two"][0] == found["end"][0] == 124
