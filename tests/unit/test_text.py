"""Text of others: it is only shown, and in a command it is only words."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

import pytest
from rich.table import Table
from rich.text import Text

from underlay import text
from underlay.console import console
from underlay.errors import OperatorError, report_and_exit
from underlay.observe import drift
from underlay.observe.health import Upstream
from underlay.oncall import flows, status
from underlay.oncall.status import HostStatus, Status
from underlay.plan import REPO, load
from underlay.remote.conntrack import Connection
from underlay.report import differences

HOSTILE = {
    "colours, the title, a link": "\x1b[31m\x1b]0;title\x07\x1b]8;;http://x\x1b",
    "C1": "\x9b31m\x9d0;x\x9c\x85",
    "moves the cursor": "\r\b\x0b\x0c\x1b[2J",
    "NUL, DEL": "\x00\x7f",
    "the other way round": "\u202etxt.exe\u2066\u2069\u200f",
    "nothing to see": "\u200b\u200d\ufeff\u00ad",
    "lines": "\u2028\u2029",
    "half a character": "\ud800",
    "tags": "\U000e0041",
}
WORDS = [
    "",
    "a b",
    "$(touch x)",
    "`touch x`",
    "'",
    '"',
    "\\",
    "!!",
    "-n",
    "a\nb",
    "*",
    "~",
    ";reboot",
    "$HOME",
    "#",
    "é",
]


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=list(HOSTILE))
def test_only_shown(hostile: str) -> None:
    """Nothing is left that a terminal obeys, and nothing is lost: it is JSON's way to write it."""
    shown = text.printable(f"a {hostile}\n\tb")
    assert shown.replace("\n", "").isprintable()
    assert shown.splitlines()[1:] == ["        b"]
    assert json.loads(f'"{shown.splitlines()[0]}"') == f"a {hostile}"
    assert text.one_line(f"a{hostile}\nb").endswith(" b")


def test_plain_text_stays() -> None:
    plain = "gateway: größe → 100 €, 日本語 |─┬─|\n\n  {}\n"
    assert text.printable(plain) == plain
    document = json.dumps({"what": "".join(HOSTILE.values())}, indent=2)
    assert json.loads(text.printable(document)) == json.loads(document)


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_words_stay_words(shell: str) -> None:
    """In a shell, and in a shell on a host that one in between passes it on to."""
    line = text.command(sys.executable, "-c", "import json, sys; print(json.dumps(sys.argv[1:]))", *WORDS)
    for script in (line, f"{shell} -c {text.argument(line)}", f"sh -c {text.argument(f'sh -c {text.argument(line)}')}"):
        done = subprocess.run([shell, "-c", script], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == WORDS


@pytest.mark.parametrize("line", ["ip route", "sh -c 'a b'", 'say "x"', "a $b", "a `b`", "a!b", "a\\b"])
def test_readable_where_it_may_be(line: str) -> None:
    """In double quotes only where nothing in them means anything."""
    assert text.argument(line).startswith('"') is not any(each in line for each in '"$`!\\')
    done = subprocess.run(["sh", "-c", f"printf %s {text.argument(line)}"], capture_output=True, text=True, check=True)
    assert done.stdout == line


def test_around_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed, rich's tables and errors; rich's own colours are none of others."""
    table = Table("\x1b[1mhead")
    table.add_row(Text("cell\x1b]0;x\x07", style="bold red"))

    @report_and_exit()
    def shows() -> None:
        print("out \x1b[2J")
        print("err \x9b", file=sys.stderr)
        console().print(table, "plain \x7f", markup=False)
        raise OperatorError("lb: \x1b[31m\r")

    with pytest.raises(SystemExit):
        shows()
    out, err = capsys.readouterr()
    assert (out + err).replace("\n", "").isprintable()
    for part in ("out \\u001b[2J", "cell\\u001b]0;x", "plain \\u007f"):
        assert part in out
    assert err == "err \\u009b\nerror: lb: \\u001b[31m\\r\n"
    print("\x1b", end="")
    assert capsys.readouterr().out == "\x1b"  # it ends with the command


def test_colours_of_pyinfra() -> None:
    """Those, and nothing else: not what hides text, and no other sequence."""
    stream = io.StringIO()
    text.Safe(stream, colours=True).write("\x1b[31m\x1b[1mred\x1b[0m \x1b[8mhidden\x1b[30;40m \x1b[2J\x1b]0;x\x07")
    assert stream.getvalue().startswith("\x1b[31m\x1b[1mred\x1b[0m \\u001b[8mhidden\\u001b[30;40m \\u001b[2J")
    assert "\x07" not in stream.getvalue()
    stream.truncate(0)
    stream.seek(0)
    for each in ("    | lb\r", "\x1b[K", "x\x1b[K\n", "[lb] over\rwritten\n"):
        text.Safe(stream, colours=True).write(each)
    assert stream.getvalue() == "    | lb\r\x1b[Kx\\u001b[K\n[lb] over\\rwritten\n"


def test_pyinfra_is_one_of_them(capfd: pytest.CaptureFixture[str]) -> None:
    """Its configuration, which it runs first, does it for the whole of its process."""
    script = """
import runpy, sys
from pyinfra.api import Config
from pyinfra.context import ctx_config
sys.path.append(".")
ctx_config.set(Config())
runpy.run_path("config.py")
print("\\x1b[2J\\x1b[31mx", file=sys.stderr)
"""
    subprocess.run([sys.executable, "-c", script], cwd=REPO, check=True)
    assert capfd.readouterr().err == "\\u001b[2J\x1b[31mx\n"


def bad(what: str) -> str:
    return f"{what}\x1b]0;x\x07\x9b2J\u202e\x7f\ud800"


@report_and_exit()
def shows_drift() -> None:
    differences.show_drift([drift.Line("lb", "unmanaged", bad("live"), bad("what"), "")], [bad("lb: why")])


@report_and_exit()
def shows_history() -> None:
    entry = {"number": 1, "time": "now", "who": bad("ada"), "commit": bad("c0ffee"), "what": [bad("a rule"), "x"]}
    differences.show_history({"lb": [entry]})


@report_and_exit()
def shows_status() -> None:
    plan = load(REPO / "group_data" / "all.py")
    hosts = [
        HostStatus("lb", "lb_nginx", services_wrong={"x.service": bad("x.service has failed")}, unread=[bad("unread")]),
        HostStatus("gateway", "gateway", error=bad("gateway can't be reached")),
    ]
    upstreams = [Upstream(bad("api"), "100.64.0.2:6443", bad("refused"), None)]
    status.show(plan, Status("lab", "2026-01-01T00:00:00", 1.0, hosts, None, None, upstreams))


@report_and_exit()
def shows_flows() -> None:
    flows.show(
        [Connection(1, bad("udp"), bad("UNREPLIED"), 1, "a", 1, "b", 2, "b", 2, "a", 1, None, None, None, None)],
        console(),
    )


@report_and_exit()
def fails() -> None:
    raise OperatorError(bad("lb: tcpdump: why"))


@pytest.mark.parametrize("shows", [shows_drift, shows_history, shows_status, shows_flows, fails])
def test_nothing_of_hosts_reaches_the_terminal(shows: Callable[[], None], capsys: pytest.CaptureFixture[str]) -> None:
    """Whichever command shows it; `test_report` has the page."""
    with suppress(SystemExit):
        shows()
    out, err = capsys.readouterr()
    assert "\\u001b]0;x" in out + err
    assert all(line.isprintable() for line in (out + err).split("\n"))


def test_there_is_one_place_to_print() -> None:
    """Another console would show what it is given; of a text that goes elsewhere `bundle` takes care."""
    sources = {path: path.read_text() for path in (REPO / "underlay").rglob("*.py")}
    made = {path.name for path, source in sources.items() if re.search(r"(?<!class )\bConsole\(", source)}
    assert made == {"console.py", "bundle.py"}
    commands = [source for path, source in sources.items() if "commands" in path.parts and "@task" in source]
    assert commands
    assert all(source.count("@task") == source.count("@report_and_exit()") for source in commands)
