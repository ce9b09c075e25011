"""`invoke verify` on the deployed site, as a person runs it."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest

from lab import control
from lab.process import wait_until
from tests.lab.commands import inside, invoke
from underlay.plan import REPO

pytestmark = pytest.mark.usefixtures("deployed")
AGENT = "pgrep -f [z]ipimporter || true"
"""What runs a program that was sent: `remote.send.BOOTSTRAP`."""


def verify(*arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code of `invoke verify`, and all that it says."""
    done = invoke("verify", *arguments, good=False, **environment)
    return done.returncode, done.stdout + done.stderr


def agent_gone(host: str) -> bool:
    """Whether no agent is left on a host, or goes now."""
    return wait_until(lambda: not inside(host, AGENT), seconds=5)


@contextmanager
def broken(host: str, command: str, undo: str) -> Iterator[None]:
    """Something else than the plan for a while."""
    done = control.run(host, command)
    assert done.returncode == 0, done.stderr
    try:
        yield
    finally:
        control.run(host, undo)


def test_all_good(tmp_path: Path) -> None:
    """The whole site is good; the table and the XML file have every check."""
    code, output = verify("--junit", str(tmp_path / "results.xml"))
    assert code == 0, output
    last = re.search(r"^good: all (\d+) checks, in \d+\.\d s$", output, re.MULTILINE)
    assert last, output
    in_table = sum(map(int, re.findall(r" (\d+) good ", output)))
    suite = ElementTree.parse(tmp_path / "results.xml").getroot().find("testsuite")
    assert suite is not None
    assert str(in_table) == last[1] == suite.get("tests")
    assert [suite.get(kind) for kind in ("failures", "errors", "skipped")] == ["0", "0", "0"]


def test_one_connection_a_host() -> None:
    """A run makes one ssh connection to a host, whatever it asks there, and leaves none, no agent and no listener."""
    logins = "journalctl -q -u ssh --grep '^Accepted publickey' --output cat | wc -l"
    open_ones = "ss -Htn state established '( sport = :22 )' | wc -l"
    before, there, made = (inside("gateway", each) for each in ("ss -Hltn", open_ones, logins))
    verify()
    assert int(inside("gateway", logins)) == int(made) + 1
    # What an earlier command left open may have ended meanwhile.
    assert wait_until(lambda: int(inside("gateway", open_ones)) <= int(there), seconds=5)
    for host in ("dev", "images", "gateway", "jumphost", "lb", "master-1", "internet"):
        assert agent_gone(host), host
    assert inside("gateway", "ss -Hltn") == before
    assert ":6443" not in inside("master-1", "ss -Hltn")


@pytest.mark.parametrize("role", ["gateway", "jumphost", "lb_nginx", "master"])
def test_one_role(role: str) -> None:
    """A role that is named is the only one that is checked."""
    code, output = verify(role)
    assert code == 0, output
    assert set(re.findall(r"^ (\w+) +\S.* good ", output, re.MULTILINE)) == {role}


def test_unknown_role() -> None:
    """A misspelt role is refused, never checked as nothing."""
    code, output = verify("gatway")
    assert code == 1
    assert "did you mean 'gateway'" in output


def test_nothing_to_check(tmp_path: Path) -> None:
    """A role without hosts is exit code 1."""
    text = (REPO / "group_data/all.py").read_text()
    (tmp_path / "plan.py").write_text(re.sub(r'    "lb": .*\n', "", text))
    code, output = verify("lb_nginx", UNDERLAY_PLAN=str(tmp_path / "plan.py"))
    assert code == 1, output
    assert "nothing was checked" in output


def test_dead_host() -> None:
    """A host without power is told in one line, and what does not need it is checked all the same."""
    control.power_off("lb")
    try:
        code, output = verify()
        assert code == 2, output
        assert output.count("lb can't be reached") == 1, output
        wrong = set(re.findall(r"^ (\w+) +(\S.*?) +WRONG", output, re.MULTILINE))
        assert wrong == {("lb_nginx", "what needs lb"), ("master", "what needs lb")}, output
        # The gateway's checks do not need it at all.
        code, output = verify("gateway")
        assert code == 0, output
    finally:
        control.power_on("lb")
    code, output = verify("lb_nginx")
    assert code == 0, output


def test_rules_of_others() -> None:
    """A rule that somebody else made between ours is none of its business, as long as packets get through."""
    rule = "FORWARD 3 -s 192.0.2.0/24 -j DROP"
    with broken("gateway", f"iptables -I {rule}", f"iptables -D {rule.replace(' 3', '')}"):
        code, output = verify("gateway")
    assert code == 0, output


def test_rule_of_others_that_stops_packets() -> None:
    """No rule of ours is wrong, but packets do not arrive: only real ones can tell."""
    rule = "FORWARD -s 100.64.64.2 -d 203.0.113.1 -j DROP"
    with broken("gateway", f"iptables -I {rule}", f"iptables -D {rule}"):
        code, output = verify()
    assert code == 2, output
    wrong = re.findall(r"^ (\w+) +(\S.*?) +WRONG (\S+)", output, re.MULTILINE)
    assert wrong == [("master", "traffic: internal hosts to the world", "1/9")], output
    assert "expected  master-1 100.64.64.2 -> 203.0.113.1: internet answers and sees 192.168.0.51" in output
    assert "seen      no answer within 3 s" in output
    assert "look at   rule filter FORWARD -s 100.64.64.0/21 -j ACCEPT (group_data/all.py:" in output


def test_way_in_past_the_published_addresses() -> None:
    """A route of the workstation to the internal networks is a way in that the plan does not have."""
    route = "100.64.0.0/10 via 192.168.0.51"
    with broken("dev", f"ip route add {route}", f"ip route del {route}"):
        code, output = verify("jumphost")
    assert code == 2, output
    wrong = re.findall(r"^ (\w+) +(\S.*?) +WRONG (\S+)", output, re.MULTILINE)
    assert wrong == [("jumphost", "traffic: outside to inside, must not", "1/3")], output
    assert "seen      jumphost answers and sees 192.168.0.105" in output


TLS = (
    "cd /run && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=api "
    "-keyout api.key -out api.crt 2>/dev/null && "
    "systemd-run -q --unit=api openssl s_server -accept 6443 -cert /run/api.crt -key /run/api.key -quiet"
)
DEAF = "systemd-run -q --unit=api python3 -m http.server 6443"


@pytest.mark.parametrize(("server", "code"), [(TLS, 0), (DEAF, 2)], ids=["TLS", "no TLS"])
def test_real_api(server: str, code: int) -> None:
    """Where an API server listens already, it is the one that must answer through the load balancer, with TLS."""
    with broken("master-1", server, "systemctl stop api; systemctl reset-failed api"):
        assert wait_until(lambda: ":6443" in inside("master-1", "ss -Hltn"), seconds=10)
        found, output = verify("lb_nginx")
    assert found == code, output
    if code:
        assert re.findall(r"^ (\w+) +(\S.*?) +WRONG", output, re.MULTILINE) == [
            ("lb_nginx", "traffic: the API behind the load balancer")
        ]


def test_from_the_deploy_machine() -> None:
    """The repo on the jump host verifies the site as the real one, but for hosts that it has no key for."""
    # As a person does it: what is run from outside is in no control group of the host, and systemd's test needs one.
    done = invoke("ssh", "jumphost", "cd /opt/underlay && sudo .venv/bin/invoke verify", good=False)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "site 'lab-site', target ssh" in output
    assert re.search(r"^good: all \d+ checks \(\d+ more could not be made\), in ", output, re.MULTILINE), output
    unknown = re.findall(r"^NOT CHECKED [\w, ]+: (\w+) can't be reached", output, re.MULTILINE)
    assert unknown == ["dev", "images"], output


def test_operator_killed() -> None:
    """When verify is killed in the middle of its work, nothing of it stays on the hosts."""
    argv = [sys.executable, "-m", "invoke", "verify"]
    with (
        broken("gateway", "iptables -I FORWARD -s 100.64.0.53 -p tcp -j DROP", "iptables -D FORWARD 1"),
        subprocess.Popen(argv, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
    ):
        # The dropped packets keep it waiting for three seconds, agents and all.
        assert wait_until(lambda: bool(inside("jumphost", AGENT)), seconds=30)
        process.kill()
        process.wait()
        assert agent_gone("jumphost")
        assert agent_gone("gateway")
