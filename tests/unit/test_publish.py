"""The line of the plan that publishes a host, and what is said to a network about its address."""

import re
import socket
from itertools import islice
from pathlib import Path

import pytest

from tests.unit.conftest import Planned
from underlay.access.target import Target
from underlay.oncall import publish
from underlay.oncall.publish import PublishError
from underlay.plan import REPO, load
from underlay.plan.edit import published_in, unpublished_in
from underlay.remote import arp

ONE_LINE = 'hosts = {"ü": {}, "web": {"role": "server", "addresses": {"mgmt": "100.64.0.54"}}}\n'
LINES = """\
hosts: dict = {
    "web": {
        "role": "server",
        "addresses": {"mgmt": "100.64.0.54"},  # rack 3
        "nics": {"mgmt": "eno1"},
    },
}
"""
NEW = '"published": "192.168.0.54"'


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (ONE_LINE, ONE_LINE.replace('54"}', f'54"}}, {NEW}')),
        (LINES, LINES.replace("# rack 3\n", f"# rack 3\n        {NEW},\n")),
        (LINES.replace("},  # rack 3", "}  # rack 3").replace('        "nics": {"mgmt": "eno1"},\n', ""), None),
        (
            LINES.replace("\n", "\r\n"),
            LINES.replace("# rack 3\n", f"# rack 3\n        {NEW},\n").replace("\n", "\r\n"),
        ),
        (
            ONE_LINE.replace('{"mgmt": "100.64.0.54"}', '({"mgmt": "100.64.0.54"})'),
            ONE_LINE.replace('{"mgmt": "100.64.0.54"}', f'({{"mgmt": "100.64.0.54"}}), {NEW}'),
        ),
        (
            LINES.replace(',  # rack 3\n        "nics"', ', "nics"'),
            LINES.replace("},  # rack 3\n       ", f"}}, {NEW},"),
        ),
    ],
    ids=["one line", "a line each", "no comma", "Windows", "parentheses", "two in a line"],
)
def test_publish_and_back(text: str, wanted: str | None) -> None:
    """One line of the text changes or is added; taken away again, it is as before (but for a comma at the end)."""
    new = published_in(text, "web", "192.168.0.54")
    assert wanted in (None, new)
    assert new.count(NEW) == 1
    compile(new, "plan", "exec")
    back = unpublished_in(new, "web")
    assert back.replace("},", "}") == text.replace("},", "}")


@pytest.mark.parametrize("text", [ONE_LINE, LINES])
def test_publish_with_ports_and_back(text: str) -> None:
    new = published_in(text, "web", "192.168.0.54", ("tcp/80", "udp/53"))
    assert '"published": {"address": "192.168.0.54", "ports": ["tcp/80", "udp/53"]}' in new
    assert unpublished_in(new, "web").replace("},", "}") == text.replace("},", "}")


def test_ports_that_the_plan_does_not_take(planned: Planned) -> None:
    """Those while forwarding is open, and words that are none."""
    plan = planned()
    for port in ("tcp/80", "80", 'x"'):
        with pytest.raises(PublishError, match="the plan with this line: 1 error"):
            publish._diff(plan, published_in(plan.source.read_text(), "master-1", "192.168.0.54", (port,)))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('hosts = {"web": {"published": "192.168.0.54", "role": "server"}}', 'hosts = {"web": {"role": "server"}}'),
        (
            'hosts = {"web": {"role": "server", "published": "192.168.0.54",}}',
            'hosts = {"web": {"role": "server",}}',
        ),
        (
            'hosts = {\n    "web": {"role": "server",\n        "published": "192.168.0.54"},  # rack 3\n}\n',
            'hosts = {\n    "web": {"role": "server"},  # rack 3\n}\n',
        ),
        (
            'hosts = {\n    "web": {"role": "server",  # rack 3\n        "published": "192.168.0.54"},\n}\n',
            'hosts = {\n    "web": {"role": "server",  # rack 3\n        },\n}\n',
        ),
        (
            'hosts = {\n    "web": {\n        "published": {\n            "address": "192.168.0.54",\n'
            '            "ports": ["tcp/80"],\n        },\n        "role": "server",\n    },\n}\n',
            'hosts = {\n    "web": {\n        "role": "server",\n    },\n}\n',
        ),
        (
            'hosts = {"web": {"published": "192.168.0.54",\n    # rack 3\n    "role": "server"}}',
            'hosts = {"web": {\n    # rack 3\n    "role": "server"}}',
        ),
    ],
    ids=["first", "last", "last of its line", "behind a comment", "over lines", "before a comment"],
)
def test_unpublish_wherever_it_stands(text: str, wanted: str) -> None:
    assert unpublished_in(text, "web") == wanted


def test_the_diff_is_one_that_git_takes(planned: Planned) -> None:
    """Of the repo's own plan it has the paths in the repo."""
    plan = planned()
    text = plan.source.read_text()
    diff = publish._diff(plan, published_in(text, "master-1", "192.168.0.54"))
    assert diff.startswith(f"--- {plan.source}\n+++ {plan.source}\n@@ ")
    assert re.findall("^[+-] .*", diff, re.MULTILINE) == ['+        "published": "192.168.0.54",']
    own = load(REPO / "group_data" / "all.py")
    assert publish._diff(own, unpublished_in(text, "lb")).startswith(
        "--- a/group_data/all.py\n+++ b/group_data/all.py\n"
    )


def test_a_line_that_makes_a_bad_plan_is_refused(planned: Planned) -> None:
    plan = planned()
    text = plan.source.read_text()
    with pytest.raises(
        PublishError, match=r"hosts.master-1.published: 192.168.0.53 is used already by hosts.lb"
    ) as error:
        publish._diff(plan, published_in(text, "master-1", "192.168.0.53"))
    assert str(error.value).startswith("the plan with this line: 1 error; nothing was changed")
    with pytest.raises(PublishError, match="only a host without an enterprise address can be published"):
        publish._diff(plan, published_in(text, "dev", "192.168.0.54"))


def test_free_addresses(planned: Planned) -> None:
    """Those behind the last published one, then the others; none that the plan has."""
    free = [str(address) for address in publish._free(planned())]
    assert free[:2] == ["192.168.0.54", "192.168.0.55"]
    assert free[-1] == "192.168.0.49"
    assert len(free) == 254 - 6
    full = planned(
        ("192.168.0.0/24", "192.168.0.48/29"), ('"192.168.0.1"', '"192.168.0.49"'), ("192.168.0.105", "192.168.0.54")
    )
    assert list(islice(publish._free(full), 9)) == []


def test_who_is_tried(planned: Planned) -> None:
    """From outside and inside to the address, and from the host, which leaves with it."""
    plan = planned(
        (
            '"addresses": {"mgmt": "100.64.0.2", "t',
            '"published": "192.168.0.54", "addresses": {"mgmt": "100.64.0.2", "t',
        )
    )
    target = Target(plan, "ssh", None, (), Path("ssh_config"), Path("known_hosts"), None)
    flows = publish._flows(target, plan.host("master-1"))
    assert {flow.row for flow in flows} == {
        "workstation to published hosts",
        "published addresses from inside",
        "internal hosts to the world",
    }
    assert {flow.source for flow in flows} == {"dev", "jumphost", "lb", "master-1"}


def test_arp_packets() -> None:
    """As RFC 5227 has them: a probe comes from nobody, an announcement asks for the own address."""
    mac = bytes.fromhex("020000000001")
    probe = arp.packet(arp.REQUEST, mac, "0.0.0.0", "192.168.0.54")
    assert probe.hex() == (
        "ffffffffffff" "020000000001" "0806" "0001080006040001" "020000000001" "00000000" "000000000000" "c0a80036"
    )  # fmt: skip
    assert arp.sender(probe) == ("0.0.0.0", "02:00:00:00:00:01")
    reply = arp.packet(arp.REPLY, mac, "192.168.0.54", "192.168.0.54")
    assert reply[20:22].hex() == "0002"
    assert arp.sender(reply) == ("192.168.0.54", "02:00:00:00:00:01")
    assert arp.sender(reply[:30]) is None
    assert arp.sender(reply[:12] + b"\x08\x00" + reply[14:]) is None


def test_who_has_it() -> None:
    """Only what another machine says of an address that was asked for counts."""
    ours, theirs = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
    nic, switch = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with nic, switch:
        for mac, address in ((ours, "192.168.0.54"), (theirs, "192.168.0.55"), (theirs, "192.168.0.99")):
            switch.send(arp.packet(arp.REPLY, mac, address, address))
        [found] = arp.ask({nic: (ours, ["192.168.0.54", "192.168.0.55"])}, 0.2).values()
        assert found == {"192.168.0.54": [], "192.168.0.55": ["02:00:00:00:00:02"]}
        assert len(switch.recv(100)) == 42
