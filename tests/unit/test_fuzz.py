"""Any plan, any command line: no traceback, no exit code 0 on an error, and not a packet to anybody.

All of it runs in a network namespace where there is nobody, so what would contact a host finds out at once that it
can't. The same cases each time, for CI; `invoke test --long` tries many more, others each time.
"""

import ctypes
import io
import os
import pprint
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from invoke.program import Program
from netaddr import IPAddress

import tasks
from lab import blueprint
from lab.process import LabError
from lab.target import CLONE_NEWNET
from underlay import programs
from underlay.access.endpoints import endpoints_from
from underlay.access.ssh_config import ssh_config
from underlay.access.target import current
from underlay.desired import nat, nginx, routing, traffic
from underlay.desired.files import network_files, sshd_settings
from underlay.guard.change import SECONDS_VARIABLE
from underlay.oncall import publish
from underlay.plan import REPO, ROLES, PlanError, load, roles
from underlay.plan.datafile import read_literals
from underlay.report import diagram_text, tables

LIBC = ctypes.CDLL(None, use_errno=True)
LONG = settings.get_current_profile_name() == "long"
RELAXED = settings(
    deadline=None,
    derandomize=not LONG,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SITE = read_literals(REPO / "group_data" / "all.py").values
SITE["hosts"]["master-1"]["nics"] = {
    "mgmt": {"bond": ["eno1", "eno2"], "vlan": 10},
    "storage": {"nic": "uplink", "bond": ["eno2", "eno1"], "mode": "active-backup", "mtu": 9000},
}
SITE["hosts"]["lb"]["nics"] = {"mgmt": "eth1"}
SERVICES = read_literals(REPO / "group_data" / "lb_nginx.py").values

LONG_NUMBER = "7" * 5000
ODD = [
    *("", " ", "-", "--", "-1", "0", "1", "65536", LONG_NUMBER, f"-{LONG_NUMBER}", "1e9", "nan", "inf", "٣", "1_0"),
    *("0.0.0.0", "127.0.0.1", "255.255.255.255", "224.0.0.1", "169.254.0.1", "192.168.0.0", "192.168.0.60", "::1"),
    *(
        "0.0.0.0/0",
        "128.0.0.0/2",
        "10.0.0.0/33",
        "x" * 300,
        "x" * 5000,
        "a\nb",
        "a\tb",
        "\x1b[2J",
        "\u202e",
        "é",
        "\udcff",
    ),
    *("/dev/full", "/", "/nonexistent/x", "/dev/null/x", "~nosuch/x", "../" * 2000, ".", "%s", "{}", "$(id)", "'", '"'),
    *(
        "localhost",
        "internet",
        "gateway",
        "jumphost",
        "lb",
        "master-1",
        "master-1:storage",
        "lb_nginx",
        "mgmt",
        "--help",
    ),
    *("192.168.0.53", "100.64.0.2", "tcp", "svg", "all", "eth0", "http", "lb:80", "lb:6443", "master-1:0", "lo"),
]
NO_COMMAND = {"test", "demo", "lab.demo"}
CHANGES_THE_LAB = {name for name in tasks.namespace.task_names if name.startswith("lab.")} - {"lab.status", "lab.fault"}
LOOK_AT_NO_HOST = {"plan", "topology", "report", "lab.status", "lab.fault"}
"""What can end well where no host can be reached; the report says so of each."""


@pytest.fixture(scope="module", autouse=True)
def nobody() -> Iterator[None]:
    """This thread, and what it starts, in a network namespace of its own: without a link, nor a way out."""
    if os.geteuid() != 0:
        pytest.skip("a network namespace needs root")
    with open("/proc/thread-self/ns/net") as before:
        assert LIBC.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        # Without any address the kernel lets a socket have each of them, and this machine would be a host of the plan.
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
        assert LIBC.setns(before.fileno(), CLONE_NEWNET) == 0


# --- plans ----------------------------------------------------------------------------------------------------------

VALUES = st.sampled_from([*ODD, None, True, 0, -1, 10**30, 1.5, [], {}, [""], {"": ""}]) | st.text(max_size=8)


@st.composite
def changed(draw: st.DrawFn, data: dict[str, Any]) -> dict[str, Any]:
    """Data with some of its values and keys replaced, doubled, swapped or gone."""
    data = deepcopy(data)
    for _ in range(draw(st.integers(1, 3))):
        place: Any = data
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 9)):
                place = place[key]
                continue
            match draw(st.integers(0, 3)):
                case 0:
                    del place[key]
                case 1 if isinstance(place, dict):
                    place[draw(st.sampled_from(ODD) | st.text(max_size=8))] = deepcopy(place[key])
                case 2:
                    other = draw(st.sampled_from(keys))
                    place[key], place[other] = place[other], place[key]
                case _:
                    place[key] = deepcopy(draw(VALUES))  # a later step changes it, and it is one of few
            break
    return data


def written(path: Path, data: dict[str, Any]) -> Path:
    lines = (f"{name} = {pprint.pformat(value, sort_dicts=False)}\n" for name, value in data.items())
    path.write_text("".join(lines), errors="surrogatepass")
    return path


@settings(RELAXED, max_examples=5000 if LONG else 250)
@given(data=changed(SITE), services=changed(SERVICES) | st.just(SERVICES))
def test_any_plan(tmp_path: Path, data: dict[str, Any], services: dict[str, Any]) -> None:
    """It is refused with a report, or all that follows from it can be made."""
    written(tmp_path / "lb_nginx.py", services)
    try:
        plan = load(written(tmp_path / "plan.py", {name: each for name, each in data.items() if name.isidentifier()}))
        roles.check(plan)
    except PlanError as error:
        str(error).encode()
        return
    nat.gateway_rules(plan)
    for host in plan.hosts:
        if host.role in ROLES:
            network_files(routing.host_network(plan, host), {})
            sshd_settings(plan, host)
    if plan.hosts_of("lb_nginx"):
        nginx.configuration(plan)
    for vantage in (None, plan.jumphost):
        ends = [*endpoints_from(plan, vantage)]
        assert not [each for each in ends if each.jump == each.name], "a jump host that is reached through itself"
        ssh_config(plan, ends, Path("KEY"), [Path("KNOWN")], Path("SOCKETS"))
    for flows in (traffic.expected, traffic.forbidden):
        list(flows(plan, IPAddress("203.0.113.1")))
    tables.document(plan)
    diagram_text.mermaid(plan)
    with suppress(LabError):
        blueprint.draw(plan, vms=[host.name for host in plan.hosts if host.links])


# --- command lines --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A site of real hosts, none of which is there; the folder that commands run in."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "key").write_text("")
    names = {"user": "ops", "key": str(folder / "key"), "known_hosts": str(folder / "known_hosts")}
    written(folder / "all.py", SITE | {"target": "ssh", "operator": names})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERLAY_PLAN", str(folder / "all.py"))
        patch.delenv("UNDERLAY_TARGET", raising=False)
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        patch.chdir(folder)
        # Processes of their own, which take seconds; ssh would take the place of this one.
        patch.setattr(publish, "_deploy", lambda *_: 1)
        patch.setattr("underlay.commands.site.deploy.subprocess.run", _run_but_no_deploy(subprocess.run))
        patch.setattr("underlay.verify.run.run", lambda *_: 1)
        patch.setattr(os, "execvp", lambda *_: sys.exit(255))
        yield folder


def _run_but_no_deploy(run: Any) -> Any:
    def instead(argv: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "inventory.py" in argv:
            return subprocess.CompletedProcess(argv, 1, "", "")
        done: subprocess.CompletedProcess[str] = run(argv, **options)
        return done

    return instead


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    names = sorted(set(tasks.namespace.task_names) - NO_COMMAND - CHANGES_THE_LAB)
    name = draw(st.sampled_from(names))
    words = [name]
    values = st.sampled_from(ODD) | st.text(max_size=6)
    for argument in tasks.namespace[name].get_arguments():
        if argument.positional:
            if draw(st.integers(0, 4)):
                words.append(draw(values))
        elif argument.names[0] != "watch" and not draw(st.integers(0, 2)):
            flag = f"--{argument.name.replace('_', '-')}"
            words.append(flag)
            if argument.takes_value:
                words.append(draw(values))
    if not draw(st.integers(0, 9)):
        words.append(draw(values))
    return [word for word in words if "\0" not in word]  # no program is given one


def run(words: list[str]) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `invoke WORDS` in this process; whatever else it raises is its fault."""
    current.cache_clear()
    os.environ.pop(SECONDS_VARIABLE, None)
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace") for _ in range(2))
    code: object = 0
    with redirect_stdout(output), redirect_stderr(errors):
        try:
            Program(namespace=tasks.namespace).run(["invoke", *words])
        except SystemExit as end:
            code = end.code
    output.flush()
    errors.flush()
    said = [stream.buffer.getvalue().decode() for stream in (output, errors)]
    return (0 if code is None else code if isinstance(code, int) else 1), said[0], said[1]


@settings(RELAXED, max_examples=1500 if LONG else 120)
@given(words=command_lines())
@example(words=["trace", "lb", "0.0.0.0"])
@example(words=["trace", "lb", "gateway", "--port", LONG_NUMBER])
@example(words=["flows", "--limit", LONG_NUMBER])
@example(words=["capture", "lb", "--seconds", LONG_NUMBER])
@example(words=["rollback", "lb", LONG_NUMBER])
@example(words=["history", "lb", "9" * 4000])
@example(words=["deploy", "--rollback-after", "0"])
@example(words=["deploy", "--rollback-after", LONG_NUMBER])
@example(words=["report", "--output", "x" * 5000])
@example(words=["report", "--output", "/dev/full"])
@example(words=["bundle", "--output", "x" * 300])
@example(words=["backup", "--output", "/dev/full"])
@example(words=["restore", "x" * 5000, "lb"])
@example(words=["rotate-key", "--new", "~nosuch/x"])
@example(words=["rotate-key", "--new", "x" * 5000])
@example(words=["publish", "master-1", "--address", "0.0.0.0"])
def test_any_command_line(site: Path, words: list[str]) -> None:
    code, output, errors = run(words)
    assert "Traceback" not in output + errors
    assert code in (0, 1, 2, 130, 255)
    if re.search("^error: ", f"{errors}\n{output}", re.MULTILINE):
        assert code, errors
    if code == 0:
        assert words[0] in LOOK_AT_NO_HOST or "Usage:" in output, output
    (site / "report.html").unlink(missing_ok=True)


# --- processes of their own ------------------------------------------------------------------------------------------


def shell(line: str, **variables: str) -> tuple[int, str]:
    """Exit code and all that is said of a line for bash; $INVOKE is `invoke`, $PYINFRA is `pyinfra`."""
    python = f"{sys.executable} -m"
    environment = os.environ | {"INVOKE": f"{python} invoke", "PYINFRA": f"{python} pyinfra"} | variables
    for name in (name for name, value in variables.items() if not value):
        del environment[name]
    argv = ["bash", "-o", "pipefail", "-c", line]
    done = subprocess.run(argv, cwd=REPO, env=environment, capture_output=True, timeout=120, check=False)
    said = (done.stdout + done.stderr).decode(errors="backslashreplace")
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    return done.returncode, said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("$INVOKE plan >&-", "error: stdout is closed: send it to a file, or to /dev/null\n"),
        ("$INVOKE plan >&- <&- 2>&-", ""),
        ("$INVOKE plan > /dev/full", "error: No space left on device\n"),
        ("$INVOKE plan --json > /dev/full", "error: No space left on device\n"),
        ("$INVOKE topology > /dev/full", "error: No space left on device\n"),
        ("$INVOKE --list > /dev/full", "error: No space left on device\n"),
        ("$INVOKE plan > /dev/full 2>&1", ""),
        ("(trap '' PIPE; sleep 0.1; $INVOKE plan) | true", ""),
        ("(trap '' PIPE; sleep 0.1; $INVOKE plan --json) | true", ""),
        ("(trap '' PIPE; sleep 0.1; $INVOKE topology) | true", ""),
    ],
)
def test_output_that_nobody_takes(line: str, said: str) -> None:
    assert shell(line) == (1, said)


@pytest.mark.parametrize(
    ("line", "variables"),
    [
        ("$INVOKE plan <&-", {}),
        ("$INVOKE plan 2>&-", {}),
        ("$INVOKE plan", {"HOME": ""}),
        ("$INVOKE plan", {"TERM": ""}),
        ("$INVOKE plan", {"LANG": "C", "LC_ALL": "C"}),
        ("$INVOKE plan", {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
        ("mkdir $FOLDER/gone && inv=$PWD/inv && cd $FOLDER/gone && rmdir $FOLDER/gone && $inv plan", {}),
    ],
)
def test_surroundings_that_do_not_matter(tmp_path: Path, line: str, variables: dict[str, str]) -> None:
    code, said = shell(line, FOLDER=str(tmp_path), **variables)
    assert (code, "100.64.0.53" in said) == (0, True), said


@pytest.mark.parametrize("name", ["ssh", "ssh-keygen", "ping", "sudo"])
def test_a_program_that_is_not_here(site: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """All commands that need one say so, with its package; nothing is begun."""
    monkeypatch.setitem(programs.COMMANDS, name, "its-package")
    monkeypatch.setattr("underlay.programs.shutil.which", lambda each, **_: None if each == name else f"/bin/{each}")
    for words in (["trace", "lb", "gateway"], ["publish", "lb"], ["capture", "lb"], ["doctor"], ["deploy"]):
        code, _, errors = run(words)
        assert (code, errors.count("\n")) == (1, 1), errors
        assert f"{name} is not here: apt-get install its-package" in errors


def test_a_broken_file_of_another_role_stops_pyinfra_itself(site: Path) -> None:
    (site / "jumphost.py").write_text("people_on_call = 1")
    try:
        code, said = shell("$PYINFRA -y inventory.py deploys/gateway.py")
    finally:
        (site / "jumphost.py").unlink()
    assert code == 1
    assert "jumphost.py: 1 error; nothing was changed" in said
    assert "unreachable" not in said


@pytest.mark.parametrize("value", ["nan", "-1", "0", "1e3", "x", LONG_NUMBER])
def test_a_rollback_timer_that_is_none(site: Path, value: str) -> None:
    code, said = shell("$INVOKE deploy gateway", **{SECONDS_VARIABLE: value})
    assert (code, "is no rollback timer: give it 1 to 3600 seconds" in said) == (1, True), said


@pytest.mark.parametrize("name", ["x/../y", "../x", "x" * 500, "X", "é", " "])
def test_a_name_that_no_lab_has(name: str) -> None:
    code, said = shell("$INVOKE lab.status", UNDERLAY_LAB=name)
    assert (code, said.count("\n")) == (1, 1)
    assert said.startswith("error: UNDERLAY_LAB")
