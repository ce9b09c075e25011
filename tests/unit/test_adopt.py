"""From what hosts say to a plan: a planned site, told by its hosts, is that plan again; what can't be told is asked."""

import base64
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from netaddr import IPAddress

from tests.unit.conftest import Planned
from tests.unit.hosts import NETWORKD, says, told
from tests.unit.site import ruleset
from tests.unit.test_inventory import target
from tests.unit.test_network import output
from tests.unit.test_positionals import invoke
from underlay.access.answers import UnreadableError
from underlay.adopt import guess, keys, proposal, ready, run
from underlay.adopt.guess import Site, more_hosts, new_site
from underlay.adopt.look import Look, Ways
from underlay.adopt.seen import Login, Manager, Nic, Seen, System
from underlay.compare.difference import UnitState
from underlay.compare.network import Shape, unfit
from underlay.compare.sshd import Sshd
from underlay.desired.nat import gateway_rules
from underlay.desired.routing import MAIN, PolicyRule, Route, host_network
from underlay.errors import OperatorError
from underlay.facts.firewall import Firewall
from underlay.observe.state import HostState
from underlay.plan import REPO, Plan, load
from underlay.plan.model import Operator

GOOD = sorted({*(REPO / "tests/golden/good").glob("*.py")} - {REPO / "tests/golden/good/lb_nginx.py"})


def nobody(_: str) -> bool:
    return False


def proposed(site: Site, tmp_path: Path) -> proposal.Proposal:
    return proposal.whole(site, "lab-site", "lab", Operator(), tmp_path / "new.py")


def compared(plan: Plan) -> object:
    """What of a plan its hosts can tell: all but the names of its networks, and roles that nothing shows."""
    names = {network.name: f"n{number}" for number, network in enumerate(plan.networks)}
    networks = [(names[network.name], network.cidr, network.upstream) for network in plan.networks]
    hosts = [
        (
            host.name,
            [(names[nic.network], nic.nic, nic.address) for nic in host.interfaces],
            host.published,
            names[host.default_network],
            host.login,
        )
        for host in plan.hosts
    ]
    return networks, hosts


@pytest.mark.parametrize("path", [REPO / "group_data/all.py", *GOOD], ids=lambda path: path.stem)
def test_a_site_told_by_its_hosts_is_its_plan(path: Path, tmp_path: Path) -> None:
    """1. asked of all hosts, by where they are reached; 2. nothing is open; 3. no rule is lacking, or left over."""
    plan = load(path)
    seen = [told(plan, host) for host in plan.hosts]
    site = new_site(seen, lambda address: address == "192.168.0.105")
    found = proposed(site, tmp_path)
    assert (site.questions, found.errors) == ((), "")
    assert found.plan is not None
    assert compared(found.plan) == compared(plan)
    roles = {host.name: host.role for host in found.plan.hosts}
    assert roles == {host.name: host.role for host in plan.hosts}
    if plan.forwarding == "open":
        beside = proposal.beside(found.plan, found.plan.gateway, seen[plan.hosts.index(plan.gateway)])
        assert (beside.lacking, beside.unexplained) == ((), ())


def test_each_guess_tells_why(planned: Planned, tmp_path: Path) -> None:
    plan = planned()
    site = new_site([told(plan, host) for host in plan.hosts], nobody)
    assert {each.name: each.why for each in site.hosts if each.role != "server"} == {
        "images": "its name",
        "gateway": "it is the router of 3 of these hosts, its rules translate addresses, "
        "it has addresses in 4 networks",
        "jumphost": "its name",
        "lb": "nginx listens there, on 80, 6443",
        "master-1": "its name",
    }
    text = proposed(site, tmp_path).text
    for each in site.hosts:
        assert f"    # {each.role}: {each.why}\n" in text


def test_a_gateway_alone(planned: Planned, tmp_path: Path) -> None:
    """Its rules name the published hosts; which of these is the jump host is a question, and no guess."""
    plan = planned()
    site = new_site([told(plan, plan.gateway)], nobody)
    assert [(each.name, str(each.published), each.why) for each in site.hosts[1:]] == [
        ("host-100-64-0-52", "192.168.0.52", "only the gateway's rules name it"),
        ("host-100-64-0-53", "192.168.0.53", "only the gateway's rules name it"),
    ]
    [question] = site.questions
    assert question.startswith("which host is the jump host: host-100-64-0-52, host-100-64-0-53?")
    found = proposed(site, tmp_path)
    assert found.plan is None
    answered = found.text.replace('"server"', '"jumphost"', 1)
    (tmp_path / "answered.py").write_text(answered)
    assert gateway_rules(load(tmp_path / "answered.py"))[0].spec == gateway_rules(plan)[0].spec


def test_hosts_as_an_installer_leaves_them() -> None:
    """No host is a router yet: that is asked; the way out is a router that is none of them."""
    seen = [says("192.168.0.51", "a", {"eth0": "192.168.0.51/24"}, "192.168.0.1")]
    site = new_site(seen, nobody)
    assert "which host is the gateway?" in site.questions[0]
    assert [(each.name, str(each.upstream)) for each in site.networks] == [("enterprise", "192.168.0.1")]
    assert [each.name for each in site.hosts] == ["a"]
    assert new_site([], nobody).questions != ()


def test_a_second_way_out_is_no_internal_network(planned: Planned) -> None:
    plan = planned()
    gateway = told(plan, plan.gateway)
    more = Nic("wan", addresses=("203.0.113.2/29",))
    gateway.__dict__["nics"] = (*gateway.nics, more)
    gateway.__dict__["network"] = replace(
        gateway.network, routes=(*gateway.network.routes, Route(MAIN, "default", "203.0.113.1", "wan", "", 500))
    )
    site = new_site([gateway], nobody)
    assert [str(each.cidr) for each in site.networks] == [str(each.cidr) for each in plan.networks]
    assert [each for each in site.notes if "leads out as well" in each]


def test_two_that_may_be_the_gateway() -> None:
    nics = {"eth0": "192.168.0.{0}/24", "eth1": "10.0.0.{0}/24"}
    rules = Firewall(live=ruleset([]))
    seen = [
        says(
            f"192.168.0.{number}",
            f"fw-{number}",
            {nic: text.format(number) for nic, text in nics.items()},
            "192.168.0.1",
            firewall=rules,
        )
        for number in (2, 3)
    ]
    for each in seen:
        each.network.sysctls["net.ipv4.ip_forward"] = "1"
    assert new_site(seen, nobody).questions[0] == "which host is the gateway, fw-2 or fw-3? A plan has one"


def test_what_programs_make_is_no_network_of_the_site(planned: Planned) -> None:
    """Bridges that nothing leads out of, tunnels, and addresses of one host: a node with containers is no gateway."""
    plan = planned()
    node = told(plan, plan.host("master-1"))
    extra = (
        Nic("docker0", kind="bridge", addresses=("172.17.0.1/16",)),
        Nic("veth12", kind="veth", master="docker0"),
        Nic("wg0", kind="wireguard", addresses=("10.9.0.2/24",)),
        Nic("flannel.1", kind="vxlan", addresses=("10.244.0.0/32",)),
    )
    node.__dict__["nics"] = (*node.nics, *extra)
    node.__dict__["units"] = {"docker": UnitState("active", "enabled")}
    node.network.sysctls["net.ipv4.ip_forward"] = "1"
    seen = [node if host.name == "master-1" else told(plan, host) for host in plan.hosts]
    assert len(new_site(seen, nobody).networks) == 4


def test_a_bridge_that_leads_out_is_one(tmp_path: Path) -> None:
    """As a hypervisor has it."""
    seen = says("192.168.0.9", "pve", {"vmbr0": "192.168.0.9/24"}, "192.168.0.1")
    seen.__dict__["nics"] = (Nic("eno1", master="vmbr0"), Nic("vmbr0", kind="bridge", addresses=("192.168.0.9/24",)))
    assert [nic.name for nic in guess.site_nics(seen)] == ["vmbr0"]


def test_what_a_plan_has_no_words_for(planned: Planned) -> None:
    plan = planned()
    node = says(
        "100.64.0.9",
        "odd",
        {"bond0": "100.64.0.9/21 100.64.0.10/21", "eno2.7": "10.7.0.2/24", "eno3": "100.64.32.9/24"},
        "100.64.0.1",
        login=Login("ops", IPAddress("100.64.0.9"), 2222, ""),
    )
    first, second, third = node.nics
    node.__dict__["nics"] = (
        Nic(**{**first.__dict__, "kind": "bond", "dynamic": frozenset({"100.64.0.9/21"}), "ipv6": ("fd00::9/64",)}),
        Nic(**{**second.__dict__, "kind": "vlan", "vlan": 7, "link": "eno2"}),
        third,
    )
    notes = more_hosts(plan, [node], nobody).notes
    assert len(notes) == 7
    for words in (
        "of DHCP",
        "a bond: a plan names it",
        "one address a network",
        "in no network of the plan",
        '"port": 2222',
    ):
        assert [each for each in notes if words in each], words
    assert [each for each in notes if "10.7.0.2/24" in each]
    assert [each for each in notes if "a length of 21" in each]


def test_lines_for_a_plan(planned: Planned) -> None:
    """1. only hosts that it does not have; 2. the plan with them loads; 3. nothing else of it changes."""
    plan = planned()
    new = says(
        "100.64.0.3",
        "master-2",
        {"eth0": "100.64.0.3/21", "eth1": "100.64.32.3/21", "ens7": "100.64.64.3/21"},
        "100.64.32.1",
    )
    site = more_hosts(plan, [new, told(plan, plan.host("lb"))], nobody)
    found = proposal.further(site, plan)
    assert [line for line in found.text.splitlines() if line.startswith("-") and line[:3] != "---"] == []
    assert found.plan is not None
    host = found.plan.host("master-2")
    assert (host.role, host.default_network) == ("master", "traffic")
    assert [nic.nic for nic in host.interfaces] == ["eth0", "eth1", "ens7"]
    assert proposal.further(more_hosts(plan, [told(plan, plan.host("lb"))], nobody), plan).text == ""


def test_a_published_host_that_a_plan_lacks(planned: Planned) -> None:
    """It was asked at an address that is none of its own."""
    plan = planned()
    new = says("192.168.0.54", "web", {"eth0": "100.64.0.54/21"}, "100.64.0.1")
    [found] = more_hosts(plan, [new], nobody).hosts
    assert (str(found.published), found.role) == ("192.168.0.54", "server")


def test_names(planned: Planned) -> None:
    """Two of one name, one without, one that a plan can't have."""
    seen = [
        says(f"100.64.0.{number}", name, {"eth0": f"100.64.0.{number}/21"}, "100.64.0.1")
        for number, name in ((7, "localhost"), (8, "Web_1"), (9, "web-1"))
    ]
    site = more_hosts(planned(), seen, nobody)
    assert [each.name for each in site.hosts] == ["host-100-64-0-7", "web-1", "web-1-100-64-0-9"]


def test_a_node_that_sends_by_another_networks_router(planned: Planned) -> None:
    """A deployed gateway would drop that: it is told, but for a node that sees to it with policy rules."""
    plan = planned()
    seen = [told(plan, host) for host in plan.hosts]
    assert len([each for each in new_site(seen, nobody).notes if "leaves by the router of net-2" in each]) == 1
    node = seen[-1]
    node.__dict__["network"] = replace(node.network, rules=(PolicyRule(77, "100.64.0.2/32", "", 77),))
    assert new_site(seen, nobody).notes == ()


def test_a_file_is_never_overwritten(tmp_path: Path) -> None:
    """It is told before anybody is asked, and whoever makes it meanwhile keeps it."""
    path = tmp_path / "new.py"
    path.write_text("mine")
    done = invoke("adopt", "192.0.2.7", "--output", str(path))
    assert (done.returncode, done.stderr) == (1, f"error: {path} is there already: name another file with --output\n")
    with pytest.raises(OperatorError, match="is there already"):
        run.save(path, "other")
    assert path.read_text() == "mine"


# --- keys ------------------------------------------------------------------------------------------------------------

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5/5Q3NYYkXkBGhmKPwN1sQZkdxlHiTJ2ps9oqE7AXv"


def test_a_key_is_for_all_addresses_of_its_host(planned: Planned) -> None:
    """Also with a port; and for none at which another host was asked, whatever this one says."""
    plan = planned()
    lb = Look("192.168.0.53", told(plan, plan.host("lb")), keys=(f"192.168.0.53 {KEY}",))
    [found] = keys.new_keys([lb], plan)
    assert found.names == ("192.168.0.53", "100.64.0.53")
    said = subprocess.run(["ssh-keygen", "-lf", "-"], input=KEY, capture_output=True, text=True, check=True).stdout
    assert found.fingerprint == said.split()[1]
    [found] = keys.new_keys([Look("192.168.0.53", lb.seen, keys=(f"[192.168.0.53]:2222 {KEY}",))], plan)
    assert found.names == ("[192.168.0.53]:2222", "[100.64.0.53]:2222")
    other = Look("100.64.0.53", error="it is down")
    assert keys.new_keys([lb, other], plan)[0].names == ("192.168.0.53",)


def test_keys_are_added_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "ssh" / "known_hosts"
    new = keys.NewKey("192.0.2.7", ("192.0.2.7", "10.0.0.7"), *KEY.split())
    keys.write(path, [new])
    assert path.read_text() == f"192.0.2.7,10.0.0.7 {KEY}\n"
    path.write_text("# mine")
    keys.write(path, [new])
    assert path.read_text() == f"# mine\n192.0.2.7,10.0.0.7 {KEY}\n"


def test_a_copy_of_a_machine_has_its_key() -> None:
    one, other = (
        Look(address, says(address, "a", {"eth0": f"{address}/24"}), keys=(f"{address} {KEY}",))
        for address in ("192.0.2.7", "192.0.2.8")
    )
    assert keys.twice([one, other]) == [("192.0.2.7", "192.0.2.8")]
    assert keys.twice([one, Look("10.0.0.7", one.seen, keys=one.keys)]) == []


# --- whether they are ready ------------------------------------------------------------------------------------------


def of(plan: Plan, **parts: object) -> list[ready.Check]:
    """What keeps a host from being deployed."""
    seen = told(plan, plan.host("lb"))
    seen.__dict__.update(parts)
    found = ready.checks(target(plan), Ways(), Look(seen.asked, seen))
    return [each for each in found if each.state != "ready"]


def test_a_host_that_is_ready(planned: Planned) -> None:
    assert of(planned()) == []


def test_what_keeps_a_host_from_being_deployed(planned: Planned) -> None:
    plan = planned()
    at = "192.168.0.53"
    [check] = of(plan, system=System("Debian GNU/Linux 13", ("debian",), "13", "lb", "6.12", "x86_64", None))
    assert (check.what, check.fix) == ("python3", f"ssh ops@{at} \"sudo sh -c 'apt-get install -y python3'\"")
    [check] = of(plan, login=Login("ops", IPAddress("100.64.0.53"), 22, "sudo: a password is required"))
    assert (check.what, check.where) == ("root", f"at the console of {at}, as root")
    assert check.fix.startswith("echo 'ops ALL=(ALL:ALL) NOPASSWD: ALL' > /etc/sudoers.d/zz-underlay-ops && ")
    [check] = of(plan, login=Login("x;rm", IPAddress("100.64.0.53"), 22, "sudo: a password is required"))
    assert check.fix == ""
    [check] = of(plan, login=Login("ops", IPAddress("100.64.0.53"), 2222, ""))
    assert (check.what, check.state) == ("sshd", "note")
    [check] = of(plan, free=10)
    assert check.what == "disk"
    [check] = of(plan, system=System("Fedora", ("fedora",), "42", "lb", "6.12", "x86_64", (3, 13)))
    assert check.what == "system"
    [check] = of(plan, sshd=Sshd({"authenticationmethods": "publickey,password"}))
    assert "AuthenticationMethods" in check.why


def test_what_was_not_read_is_not_ready(planned: Planned) -> None:
    """1. nothing was; 2. one part; 3. without root most is not, and the one reason for that is told."""
    plan = planned()
    silent = Look("192.0.2.7", Seen("192.0.2.7", HostState("192.0.2.7", {})))
    found = ready.checks(target(plan), Ways(), silent)
    assert not ready.is_ready(found)
    assert [each.state for each in found[1:]] == ["not read"] * 8
    seen = told(plan, plan.host("lb"))
    del seen.__dict__["filters"]
    [check] = [each for each in ready.checks(target(plan), Ways(), Look("x", seen)) if each.state != "ready"]
    assert (check.what, check.state) == ("filters", "not read")
    seen.__dict__["login"] = Login("ops", IPAddress("100.64.0.53"), 22, "sudo: a password is required")
    [check] = [each for each in ready.checks(target(plan), Ways(), Look("x", seen)) if each.state != "ready"]
    assert (check.what, check.state) == ("root", "not ready")


@pytest.mark.parametrize(
    ("managers", "words"),
    [
        ((Manager("ifupdown"), Manager("NetworkManager")), "eth0 is managed by ifupdown and NetworkManager"),
        ((NETWORKD[0], Manager("NetworkManager")), "eth0 is managed by networkd and NetworkManager"),
    ],
)
def test_who_manages_a_nic(planned: Planned, managers: tuple[Manager, ...], words: str) -> None:
    """There is no command that changes it without a risk: where to look is told."""
    [check] = of(planned(), nics=(Nic("eth0", addresses=("100.64.0.53/21",), managers=managers),))
    assert (check.what, check.state, check.fix) == ("network", "not ready", "")
    assert check.why.startswith(words)
    assert "look with ssh ops@192.168.0.53 " in check.advice


def test_a_host_whose_planned_nics_a_deploy_refuses(planned: Planned) -> None:
    """What it is told is what the deploy says."""
    addresses = '"addresses": {"mgmt": "100.64.0.53"}'
    plan = planned((addresses, f'{addresses}, "nics": {{"mgmt": {{"nic": "eth0", "vlan": 10}}}}'))
    seen = told(planned(), planned().host("lb"))
    shapes = {"eth0": Shape(1500), "eth0.10": Shape(1500, "vlan", parent="eth0", number=11)}
    live = replace(seen.network, links=dict.fromkeys(shapes, True), shapes=shapes)
    seen.__dict__["network"] = live
    [check] = [each for each in ready.checks(target(plan), Ways(), Look("x", seen)) if each.state != "ready"]
    assert (check.what, check.why) == ("network", unfit(host_network(plan, plan.host("lb")), live))
    assert "VLAN 11 on eth0, not VLAN 10" in check.why


def test_a_host_that_is_not_reached(planned: Planned) -> None:
    plan = planned()
    [check] = ready.checks(
        target(plan), Ways(), Look("192.0.2.7", error="ops@192.0.2.7: Permission denied (publickey).")
    )
    assert check.fix == "ssh-copy-id -i /var/lib/underlay/deploy/key ops@192.0.2.7"
    [check] = ready.checks(target(plan), Ways(), Look("192.0.2.7", error="Host key verification failed.", changed=True))
    assert (check.what, check.state) == ("host key", "not ready")
    [check] = ready.checks(target(plan), Ways(), Look("192.0.2.7", error="No route to host"))
    assert (check.state, check.fix) == ("not ready", "")


def test_a_key_that_is_not_known_is_no_ready_host(planned: Planned) -> None:
    plan = planned()
    look = Look("192.168.0.53", told(plan, plan.host("lb")), keys=(f"192.168.0.53 {KEY}",))
    found = ready.checks(target(plan), Ways(), look)
    assert (ready.is_ready(found), found[0].fix) == (False, "./inv adopt 192.168.0.53")


# --- what hosts say --------------------------------------------------------------------------------------------------

LINKS = [
    {"ifindex": 1, "ifname": "lo", "flags": ["LOOPBACK", "UP"], "mtu": 65536, "addr_info": []},
    {
        "ifindex": 2,
        "ifname": "bond0",
        "flags": ["UP"],
        "mtu": 9000,
        "address": "02:00:00:00:00:01",
        "linkinfo": {"info_kind": "bond"},
        "addr_info": [
            {"family": "inet", "local": "10.0.0.2", "prefixlen": 24, "scope": "global", "dynamic": True},
            {"family": "inet6", "local": "fe80::1", "prefixlen": 64, "scope": "link"},
            {"family": "inet6", "local": "fd00::1", "prefixlen": 64, "scope": "global"},
        ],
    },
    {"ifindex": 3, "ifname": "eno1", "flags": ["UP"], "mtu": 9000, "master": "bond0", "addr_info": []},
    {
        "ifindex": 4,
        "ifname": "bond0.10",
        "flags": [],
        "mtu": 1500,
        "link": "bond0",
        "linkinfo": {"info_kind": "vlan", "info_data": {"id": 10}},
        "addr_info": [],
    },
]


def raw(**sections: str) -> Seen:
    return Seen("10.0.0.2", HostState("10.0.0.2", {name: (0, text.split("\n")) for name, text in sections.items()}))


NETPLAN = "/run/systemd/network/10-netplan-bond0.network"
MATCH = base64.b64encode(b"[Match]\nName=bond0\n").decode()
NETIF = f"/run/systemd/netif/links/2:NETWORK_FILE={NETPLAN}\n/run/systemd/netif/links/2:ADMIN_STATE=configured"
SAID = """\
Unit=systemd-networkd.service active enabled
Unit=NetworkManager.service active enabled
Device=eno1:connected (externally)
Device=bond0.10:connected
Connection=eno1:7:/run/x
Connection=bond0.10:8:/etc/NetworkManager/system-connections/a.nmconnection"""


def test_the_nics_of_a_host() -> None:
    found = raw(
        links=json.dumps(LINKS),
        speeds="/sys/class/net/eno1/speed:10000\n/sys/class/net/bond0/speed:-1",
        sysctls="",
        network="\n".join(output(address=json.dumps(LINKS), nics=NETIF, managers=SAID, files=f"{NETPLAN} {MATCH}\n")),
        units="Id=systemd-networkd.service\nActiveState=active\nUnitFileState=enabled",
        names="/etc/netplan/00.yaml",
    )
    bond, eno1, vlan = found.nics
    assert (bond.kind, bond.addresses, bond.dynamic, bond.ipv6, bond.speed) == (
        "bond",
        ("10.0.0.2/24",),
        frozenset({"10.0.0.2/24"}),
        ("fd00::1/64",),
        0,
    )
    assert [str(each) for each in bond.managers] == ["networkd (netplan)"]
    assert (eno1.master, eno1.speed, eno1.managers) == ("bond0", 10000, ())
    assert (vlan.vlan, vlan.link, vlan.up, str(vlan.managers[0])) == (10, "bond0", False, "NetworkManager")


@pytest.mark.parametrize(
    ("part", "section", "text"),
    [
        ("nics", "links", "[{}]"),
        ("nics", "links", '[{"ifname": 7, "flags": [], "mtu": 1, "addr_info": []}]'),
        ("nics", "links", "no JSON"),
        ("login", "login", "ops"),
        ("login", "login", "ops 1 2 not-an-address 22\n0"),
        ("system", "system", "Debian"),
        ("units", "units", "no such program"),
        ("listening", "listening", "LISTEN"),
        ("free", "disk", ""),
        ("containers", "containers", "many"),
        ("network", "network", "@@ address\n[]"),
        ("firewall", "firewall", "{}"),
        ("sshd", "sshd", ""),
    ],
)
def test_what_a_host_says_may_be_anything(part: str, section: str, text: str) -> None:
    """That part is not read, in one line, and no other is harmed."""
    found = raw(**{section: text, "names": "/opt/underlay"})
    with pytest.raises(UnreadableError) as caught:
        getattr(found, part)
    assert "\n" not in str(caught.value)
    assert found.names == ("/opt/underlay",)
    assert [each for each in found.unread if section in each or part in each]


def test_how_one_came_in() -> None:
    assert raw(login="ops 192.0.2.1 5555 10.0.0.2 22\n0").login == Login("ops", IPAddress("10.0.0.2"), 22, "")
    assert raw(login="ops 192.0.2.1 5555 10.0.0.2 22\n1000\nsudo: a password is required").login.sudo != ""
    assert raw(login="ops fe80::2 5555 fe80::1 22\n0").login.address is None


def test_sysctls() -> None:
    """In the keys that the plan's are written in, also those of a NIC with a dot."""
    found = raw(sysctls="/proc/sys/net/ipv4/ip_forward:1\n/proc/sys/net/ipv4/conf/bond0.10/rp_filter:2").sysctls
    assert found == {"net.ipv4.ip_forward": "1", "net.ipv4.conf.bond0/10.rp_filter": "2"}


def test_who_listens() -> None:
    text = (
        'LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=7,fd=5),("nginx",pid=8,fd=5))\n'
        'LISTEN 0 128 127.0.0.1:631 0.0.0.0:* users:(("cupsd",pid=9,fd=5))\nLISTEN 0 128 *:6443 *:*\n'
    )
    assert raw(listening=text).listening == {80: "nginx", 6443: ""}
