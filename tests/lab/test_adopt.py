"""`invoke adopt` on hosts that no deploy has touched, and on a gateway that somebody made by hand.

    dev, images                                192.168.0.0/24
──────────┬──────────────────────────────
       gateway  (.51, .52 → jumphost, .53 → lb), its rules and addresses typed
──────────┼───────────┼──────────┼───────
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import control
from lab.state import LabState
from tests.lab.commands import inside, invoke, paste, pyinfra
from underlay.plan import Plan, load

NOTES = (Path(__file__).parent / "gateway-rules.sh").read_text()
OUTSIDE = ("192.168.0.105", "192.168.0.50", "192.168.0.51")
ALL = (*OUTSIDE, "192.168.0.52", "192.168.0.53", "100.64.0.2")
VIA = ("--via", "192.168.0.52")
BY_HAND = """\
apt-get -qq update && apt-get -qq install iptables >/dev/null
sysctl -qw net.ipv4.ip_forward=1
ip address add 192.168.0.52/24 dev eth0; ip address add 192.168.0.53/24 dev eth0
for n in 1 2 3; do ip link set eth$n up; done
ip address add 100.64.0.1/21 dev eth1; ip address add 100.64.32.1/21 dev eth2; ip address add 100.64.64.1/21 dev eth3
"""
NODE = """\
for n in 1 2; do ip link set eth$n up; done
ip address add 100.64.32.2/21 dev eth1; ip address add 100.64.64.2/21 dev eth2
ip route replace default via 100.64.32.1
ip rule add priority 77 from 100.64.0.2 lookup 77; ip rule add priority 78 from 100.64.64.2 lookup 78
ip route add 100.64.0.0/21 dev eth0 table 77; ip route add default via 100.64.0.1 table 77
ip route add 100.64.64.0/21 dev eth2 table 78; ip route add default via 100.64.64.1 table 78
"""
MORE = (
    "-t nat -A POSTROUTING -s 10.8.0.0/24 -o eth0 -j MASQUERADE",
    "-t filter -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "-t nat -A PREROUTING -d 192.168.0.51 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 100.64.0.2:80",
)
"""What somebody also has."""
SAVE = "for t in raw filter nat; do iptables-save -t $t; done | sed -e '/^#/d' -e 's/\\[.*\\]//'"


def adopted(*words: str, good: bool = True) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(invoke("adopt", *words, "--json", good=good).stdout)
    return found


def host(found: dict[str, Any], address: str) -> dict[str, Any]:
    return next(each for each in found["hosts"] if each["asked"] == address)


def test_hosts_as_an_installer_leaves_them(lab: LabState) -> None:
    """1. each is ready; 2. no host shows what it is for: that is asked, and no plan is said to be one."""
    ready = adopted(*OUTSIDE, "--check")
    assert {address: each["ready"] for address, each in ready.items()} == dict.fromkeys(OUTSIDE, True)
    done = invoke("adopt", "--site", "lab-site", *OUTSIDE, "--json", good=False)
    found = json.loads(done.stdout)
    assert (done.returncode, found["loads"], found["keys"]) == (2, False, [])
    assert "which host is the gateway?" in found["questions"][0]
    assert [(nic["name"], [each["kind"] for each in nic["managers"]]) for nic in host(found, OUTSIDE[2])["nics"]][
        :2
    ] == [
        ("eth0", ["networkd"]),
        ("eth1", []),
    ]


def test_host_keys(lab: LabState) -> None:
    """1. an unknown one is shown as the console does, and taken after a yes only; 2. another is an error."""
    before = lab.known_hosts.read_text()
    address = "192.168.0.50"
    line = next(line for line in before.splitlines() if address in line)
    try:
        lab.known_hosts.write_text(before.replace(f"{line}\n", ""))
        done = invoke("adopt", "--site", "x", address, good=False)
        shown = inside("images", "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
        assert (done.returncode, shown in done.stderr, "say --yes" in done.stderr) == (1, True, True)
        assert done.stdout == ""
        assert address not in lab.known_hosts.read_text()
        [key] = adopted("--site", "x", address, "--yes", good=False)["keys"]
        assert (key["fingerprint"], key["names"]) == (shown, [address])
        assert f"{address} {line.split(' ', 1)[1]}" in lab.known_hosts.read_text()
        other = next(each for each in before.splitlines() if address not in each).split(" ", 1)[1]
        lab.known_hosts.write_text(f"{address} {other}\n")
        done = invoke("adopt", "--site", "x", address, "--yes", good=False)
        assert (done.returncode, "shows another key" in done.stderr) == (1, True)
        assert lab.known_hosts.read_text() == f"{address} {other}\n"
    finally:
        lab.known_hosts.write_text(before)


@pytest.fixture(scope="module")
def by_hand(lab: LabState) -> Iterator[LabState]:
    """The gateway as somebody makes one by hand, and a node with all of its addresses."""
    inside("gateway", BY_HAND + NOTES + "".join(f"iptables {rule}\n" for rule in MORE))
    inside("master-1", NODE)
    yield lab
    control.run("master-1", "for n in 77 78; do ip rule del priority $n; ip route flush table $n; done")
    for rule in MORE:
        control.run("gateway", "iptables " + rule.replace(" -A ", " -D "))


def compared(plan: Plan) -> object:
    """What hosts can tell of a plan: all but the names of its networks."""
    names = {network.name: number for number, network in enumerate(plan.networks)}
    return [(network.cidr, network.upstream) for network in plan.networks], {
        each.name: (
            each.role,
            [(names[nic.network], nic.nic, nic.address) for nic in each.interfaces],
            each.published,
            names[each.default_network],
        )
        for each in plan.hosts
    }


def test_a_site_made_by_hand(by_hand: LabState, plan: Plan, tmp_path: Path) -> None:
    """1. its plan is the lab's; 2. what no plan makes is listed; 3. a deploy of it changes no rule, and adds none."""
    path = tmp_path / "new.py"
    done = invoke("adopt", "--site", "lab-site", *ALL, *VIA, "--output", str(path), "--json")
    found, new = json.loads(done.stdout), load(path)
    assert compared(new) == compared(plan)
    assert (found["questions"], found["loads"], [each.get("error") for each in found["hosts"]]) == (
        [],
        True,
        [None] * 6,
    )
    gateway = host(found, "192.168.0.51")
    assert gateway["lacking"] == []
    assert sorted(each.replace("/32", "") for each in gateway["unexplained"]) == sorted(MORE)
    before = inside("gateway", SAVE)
    assert before.count("-A ") == 22 + len(MORE)
    pyinfra("deploys/gateway.py", "-y", UNDERLAY_PLAN=str(path))
    assert inside("gateway", SAVE) == before


def test_lines_for_the_plan_in_force(by_hand: LabState, plan: Plan, tmp_path: Path) -> None:
    """A host that it lacks, found through its jump host; git takes the lines."""
    text = plan.source.read_text()
    begin = text.index('    "master-1"')
    (tmp_path / "all.py").write_text(text[:begin] + "}\n")
    done = invoke("adopt", "100.64.0.2", "192.168.0.53", "--json", UNDERLAY_PLAN=str(tmp_path / "all.py"))
    found = json.loads(done.stdout)
    added = [line[1:] for line in found["proposal"].splitlines() if line.startswith("+") and line[:3] != "+++"]
    assert found["loads"]
    assert len([line for line in added if '"master-1": {' in line]) == 1
    assert '"default_route": "traffic"' in "".join(added)


INTERFACES = "auto eth0\\niface eth0 inet static\\n address 192.168.0.51/24\\n"
BREAK = {
    "python3": ("mv /usr/bin/python3 /usr/bin/python3.gone", "mv /usr/bin/python3.gone /usr/bin/python3", "not there"),
    "root": (
        "mv /etc/sudoers.d/ops /root/",
        "rm /etc/sudoers.d/zz-underlay-ops; mv /root/ops /etc/sudoers.d/",
        "password",
    ),
    "sudo": ("mv /usr/bin/sudo /usr/bin/sudo.gone", "mv /usr/bin/sudo.gone /usr/bin/sudo", "not found"),
    "ifupdown": (
        "apt-get -qq update && apt-get -qq install ifupdown >/dev/null; "
        f"printf '{INTERFACES}' > /etc/network/interfaces",
        "apt-get -qq purge ifupdown >/dev/null; rm -rf /etc/network",
        "eth0 is managed by networkd and ifupdown",
    ),
}
"""What is lacking → how, how it was, and what is told."""
WHAT = {"sudo": "root", "ifupdown": "network"}
"""The check that tells, where it has another name."""


@pytest.mark.long
@pytest.mark.parametrize("what", BREAK)
def test_what_keeps_a_host_from_being_deployed(by_hand: LabState, what: str) -> None:
    """1. it is told, and nothing else is; 2. where there is a command that mends it, that does."""
    broken, mended, words = BREAK[what]
    inside("gateway", broken)
    try:
        done = invoke("adopt", "192.168.0.51", "--check", "--json", good=False)
        [found] = json.loads(done.stdout).values()
        bad = [each for each in found["checks"] if each["state"] in ("not ready", "not read")]
        assert (done.returncode, [each["what"] for each in bad]) == (2, [WHAT.get(what, what)])
        assert words in bad[0]["why"]
        if what == "root":
            paste(bad[0]["fix"])
            assert adopted("192.168.0.51", "--check")["192.168.0.51"]["ready"]
    finally:
        inside("gateway", mended)
    assert adopted("192.168.0.51", "--check")["192.168.0.51"]["ready"]
