"""Real packets through a gateway: spoofed ones end at the NIC, and what the plan does not name does not come in."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import pytest

from tests.unit.conftest import Planned
from tests.unit.namespaces import Inside, namespace
from underlay.compare import network, tables
from underlay.compare.firewall import edits, own
from underlay.compare.tables import Ruleset
from underlay.desired import nat
from underlay.desired.routing import host_network
from underlay.desired.ruleset import Rule
from underlay.facts.network import command, parse
from underlay.plan import REPO, Plan, load

PLANNED = ('site = "lab-site"\n', 'site = "lab-site"\nforwarding = "planned"\n')
LB = '"published": "192.168.0.53"'
WEB = (LB, '"published": {"address": "192.168.0.53", "ports": ["tcp/80", "udp/5000-5010"]}')
EXCEPTIONS = """forwarding = "planned"
exceptions = {
    "monitoring": {"from": "192.168.0.105/32", "to": "100.64.0.0/21", "ports": ["tcp/9100", "icmp"]},
    "backup": {"from": "192.168.0.0/24", "to": "100.64.64.2/32"},
    "admin": {"from": "192.168.0.105/32", "to": "192.168.0.53/32", "ports": ["tcp/22"]},
}
"""
WITH_EXCEPTIONS = ('site = "lab-site"\n', f'site = "lab-site"\n{EXCEPTIONS}')
HOSTS = {
    "lan": ["192.168.0.105/24", "192.168.0.60/24", "192.168.0.1/24", "203.0.113.1/32"],
    "mgmt": ["100.64.0.2/21", "100.64.0.52/21", "100.64.0.53/21"],
    "traffic": ["100.64.32.2/21"],
    "storage": ["100.64.64.2/21"],
}
NETWORKS = ("100.64.0.0/21", "100.64.32.0/21", "100.64.64.0/21", "10.244.0.0/16")
TCP, UDP = (22, 80, 8080, 9100), (53, 5005, 9100)
# Answers everybody with the address as which it sees him.
SERVER = f"""
import select, socket
ears = {{}}
for port in {TCP}:
    each = socket.create_server(("0.0.0.0", port))
    ears[each] = True
for port in {UDP}:
    each = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    each.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO: to answer from the address that was asked
    each.bind(("0.0.0.0", port))
    ears[each] = False
print("ready", flush=True)
while True:
    for ear in select.select(list(ears), [], [])[0]:
        if ears[ear] is True:
            client, peer = ear.accept()
            client.sendall(peer[0].encode() + b"\\n")
            ears[client] = None
        elif ears[ear] is False:
            data, info, _, peer = ear.recvmsg(70000, 1000)
            to = [(*each[:2], b"\\0" * 4 + each[2][4:8] + b"\\0" * 4) for each in info]
            ear.sendmsg([peer[0].encode()], to, 0, peer)
        else:
            try:
                data = ear.recv(100)
            except OSError:
                data = b""
            if data:
                ear.sendall(data)
            else:
                del ears[ear]
                ear.close()
"""
# For each line with calls, all at once: as what each is seen, or nothing.
CLIENT = """
import json, socket, subprocess, sys
from concurrent.futures import ThreadPoolExecutor

def ask(call):
    protocol, source, destination, port, size = call
    if protocol == "icmp":
        ping = ["ping", "-n", "-q", "-c1", "-W0.5", "-I", source, destination]
        return "" if subprocess.run(ping, stdout=subprocess.DEVNULL).returncode else "answered"
    with socket.socket(type=socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        client.bind((source, 0))
        try:
            client.connect((destination, port))
            if protocol == "udp":
                client.send(b"x" * size)
            return client.recv(100).decode().strip()
        except OSError:
            return ""

with ThreadPoolExecutor(40) as pool:
    for line in sys.stdin:
        print(json.dumps(list(pool.map(ask, json.loads(line)))), flush=True)
"""
# Stays connected: for each line that it is given, whether that came back.
HOLD = """
import socket, sys
source, destination, port = sys.argv[1:]
with socket.socket() as client:
    client.settimeout(1)
    client.bind((source, 0))
    client.connect((destination, int(port)))
    client.recv(100)
    print("open", flush=True)
    for line in sys.stdin:
        try:
            client.sendall(b"x")
            print(client.recv(100) == b"x", flush=True)
        except OSError:
            print(False, flush=True)
"""

Call = tuple[str, str, str, str, int]
"""Who asks, by which protocol, from which address, which address and port."""
Calls = list[Call]


class World:
    """A gateway with a host in each network; those of the LAN have routes to the internal ones."""

    def __init__(self, stack: ExitStack) -> None:
        tools = ("ip", "sysctl", "iptables", "iptables-restore", "ping")
        self.gateway = stack.enter_context(namespace(*tools))
        self.hosts = {name: stack.enter_context(namespace()) for name in HOSTS}
        self.rules: Ruleset = {}
        for index, (name, addresses) in enumerate(HOSTS.items()):
            host = self.hosts[name]
            self.gateway("ip", "link", "add", f"eth{index}", "type", "veth", "peer", "eth0", "netns", str(host.pid))
            script = "ip link set lo up\nip link set eth0 up\n"
            script += "".join(f"ip address add {each} dev eth0\n" for each in addresses)
            if name == "lan":
                script += "".join(f"ip route add {each} via 192.168.0.51\n" for each in NETWORKS)
            else:
                script += f"ip route add default via {addresses[0].rpartition('.')[0]}.1\n"
            host("sh", "-e", text=script)
        self.gateway("ip", "link", "set", "lo", "up")
        self.clients = {}
        for name, host in {"gateway": self.gateway, **self.hosts}.items():
            server = self._run(stack, host, SERVER)
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            self.clients[name] = self._run(stack, host, CLIENT)

    @staticmethod
    def _run(stack: ExitStack, host: Inside, program: str) -> "subprocess.Popen[str]":
        argv = [*host.enter, sys.executable, "-c", program]
        pipe = subprocess.PIPE
        process = stack.enter_context(subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True))
        stack.callback(process.kill)
        return process

    def deploy(self, plan: Plan) -> None:
        """Bring the gateway into the state of a plan, as a deploy does: its network, and the rules one by one."""
        wanted = host_network(plan, plan.gateway)
        live = parse(self.gateway("sh", "-e", text=command(wanted.sysctls)).splitlines())
        found = network.differences(wanted, live)
        self.gateway("sh", "-e", text="".join(f"{network.command(each)}\n" for each in found))
        self.put(nat.gateway_rules(plan))

    def put(self, rules: list[Rule]) -> None:
        """Bring the gateway's rules to these; those of before are the record."""
        with namespace() as form:
            form("iptables-restore", text=tables.render(tables.alone(own(rules))))
            printed = tables.parse(form("iptables-save"))
        specs = {(name, chain): iter(there) for name, table in printed.items() for chain, there in table.rules.items()}
        canonical = [Rule(each.table, each.chain, next(specs[each.table, each.chain]), each.head) for each in rules]
        for each in edits(self.live, canonical, self.rules):
            place = [str(each.position)]
            what = ["-I", each.chain, *place, *each.spec.split()] if each.insert else ["-D", each.chain, *place]
            self.gateway("iptables", "-t", each.table, *what)
        self.rules = printed

    @property
    def live(self) -> Ruleset:
        return tables.parse(self.gateway("iptables-save"))

    def ask(self, name: str, protocol: str, source: str, destination: str, port: int = 0, size: int = 1) -> str:
        """As what a host is seen where it asks; empty without an answer."""
        return self._asked(name, [(protocol, source, destination, port, size)])[0]

    def seen(self, calls: Iterable[Call]) -> dict[Call, str]:
        """The same of many, each host's at once."""
        found: dict[Call, str] = {}
        for name in self.clients:
            mine = [call for call in calls if call[0] == name]
            answers = self._asked(name, [(*call[1:], 1) for call in mine])
            found |= dict(zip(mine, answers, strict=True))
        return found

    def answered(self, calls: Calls) -> Calls:
        """Those that are answered."""
        found = self.seen(calls)
        return [call for call in calls if found[call]]

    def _asked(self, name: str, calls: list[tuple[str, str, str, int, int]]) -> list[str]:
        client = self.clients[name]
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(f"{json.dumps(calls)}\n")
        client.stdin.flush()
        return list(json.loads(client.stdout.readline()))

    def arrives(self, name: str, source: str, destination: str, to: str) -> bool:
        """Whether a packet arrives at another host, from a source that may not be the sender's own."""
        receiver = self.hosts[to]
        receiver("iptables", "-t", "raw", "-F")
        receiver("iptables", "-t", "raw", "-A", "PREROUTING", "-p", "udp", "--dport", "7")
        send = "import socket, sys\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        send += "s.setsockopt(0, 19, 1)\ns.bind((sys.argv[1], 0))\ns.sendto(b'x', (sys.argv[2], 7))"  # IP_TRANSPARENT
        self.hosts[name](sys.executable, "-c", send, source, destination)
        return " 1 " in receiver("iptables", "-t", "raw", "-L", "PREROUTING", "-nvx").splitlines()[2][:20]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with ExitStack() as stack:
        yield World(stack)


@pytest.fixture(scope="module")
def site() -> Plan:
    return load(REPO / "group_data/all.py")


SPOOFED = [
    ("lan", "100.64.0.2", "192.168.0.53", "mgmt"),  # an internal host's address, to a published one
    ("lan", "100.64.32.2", "100.64.0.2", "mgmt"),  # to be taken for exempt from tracking
    ("lan", "100.64.0.2", "100.64.64.2", "storage"),
    ("lan", "192.168.0.52", "100.64.0.2", "mgmt"),  # an address of the gateway's own
    ("mgmt", "203.0.113.1", "100.64.32.2", "traffic"),
    ("mgmt", "192.168.0.105", "100.64.32.2", "traffic"),
    ("mgmt", "100.64.32.2", "100.64.64.2", "storage"),
    ("traffic", "100.64.0.53", "192.168.0.105", "lan"),  # to be seen as the load balancer
    ("storage", "10.0.0.1", "192.168.0.105", "lan"),
]
TRUE = [
    ("lan", "192.168.0.105", "192.168.0.53", "mgmt"),
    ("lan", "203.0.113.1", "192.168.0.53", "mgmt"),
    ("lan", "192.168.0.105", "100.64.0.2", "mgmt"),
    ("mgmt", "100.64.0.2", "203.0.113.1", "lan"),
    ("mgmt", "100.64.0.53", "192.168.0.53", "mgmt"),
    ("traffic", "100.64.32.2", "100.64.64.2", "storage"),
    ("storage", "100.64.64.2", "100.64.0.2", "mgmt"),
]


def test_a_source_that_is_not_behind_its_nic_is_dropped(world: World, site: Plan) -> None:
    world.deploy(site)
    assert [each for each in TRUE if not world.arrives(*each)] == []
    assert [each for each in SPOOFED if world.arrives(*each)] == []
    # So it is without: only what has an address of the gateway's own is dropped by any kernel.
    loose = [f"net.ipv4.conf.eth{index}.rp_filter=0" for index in range(4)]
    world.gateway("sysctl", "-qw", *loose)
    assert [each for each in SPOOFED if not world.arrives(*each)] == [SPOOFED[3]]


def test_other_nics_keep_their_filter(world: World, site: Plan) -> None:
    """A tunnel may take packets from anywhere; and with defaults of others in `main`, sources are looked up in ours."""
    make = "ip link add tun0 type veth peer name tun1\nip link set tun0 up\nip link set tun1 up\n"
    world.gateway("sh", "-e", text=f"{make}ip route add default dev tun0\n")
    try:
        world.deploy(site)
        found = world.gateway("sysctl", "-n", "net.ipv4.conf.tun0.rp_filter", "net.ipv4.conf.all.rp_filter")
        assert found.split() == ["0", "0"]
        assert [each for each in TRUE if not world.arrives(*each)] == []
        assert [each for each in SPOOFED if world.arrives(*each)] == []
    finally:
        world.gateway("ip", "link", "del", "tun0")


INSIDE = ["100.64.0.2", "100.64.0.53", "100.64.32.2", "100.64.64.2"]
DIRECT: Calls = [("lan", "tcp", "192.168.0.105", to, 80) for to in INSIDE]
DIRECT += [("lan", kind, "203.0.113.1", to, port) for kind, port in (("udp", 53), ("icmp", 0)) for to in INSIDE[1:3]]
WITHIN: dict[Call, str] = {
    # From inside out, and the answers.
    ("mgmt", "tcp", "100.64.0.2", "192.168.0.105", 80): "192.168.0.51",
    ("mgmt", "udp", "100.64.0.53", "203.0.113.1", 53): "192.168.0.53",
    ("traffic", "icmp", "100.64.32.2", "203.0.113.1", 0): "answered",
    # Between the internal networks, tracked nowhere.
    ("mgmt", "tcp", "100.64.0.53", "100.64.64.2", 80): "100.64.0.53",
    ("storage", "udp", "100.64.64.2", "100.64.32.2", 53): "100.64.64.2",
    ("traffic", "icmp", "100.64.32.2", "100.64.0.2", 0): "answered",
    # To a published address from inside, to any port.
    ("traffic", "tcp", "100.64.32.2", "192.168.0.53", 8080): "192.168.0.51",
    ("mgmt", "udp", "100.64.0.53", "192.168.0.53", 53): "192.168.0.53",
    # The gateway itself.
    ("lan", "tcp", "192.168.0.105", "192.168.0.51", 22): "192.168.0.105",
    ("lan", "tcp", "192.168.0.105", "100.64.0.1", 22): "192.168.0.105",
    ("gateway", "tcp", "100.64.32.1", "100.64.32.2", 80): "100.64.32.1",
    ("gateway", "tcp", "192.168.0.51", "203.0.113.1", 80): "192.168.0.51",
}


def test_open_forwards_what_it_is_sent(world: World, site: Plan) -> None:
    world.deploy(site)
    assert world.answered(DIRECT) == DIRECT
    assert world.seen(WITHIN) == WITHIN


def test_planned_lets_in_published_addresses_only(world: World, planned: Planned) -> None:
    world.deploy(planned(PLANNED))
    assert world.answered(DIRECT) == []
    assert world.seen(WITHIN) == WITHIN
    published = {
        ("lan", "tcp", "192.168.0.105", "192.168.0.52", 22): "192.168.0.105",
        ("lan", "tcp", "192.168.0.60", "192.168.0.53", 8080): "192.168.0.60",
        ("lan", "udp", "203.0.113.1", "192.168.0.53", 53): "203.0.113.1",
        ("lan", "icmp", "203.0.113.1", "192.168.0.53", 0): "answered",
    }
    assert world.seen(published) == published
    # In pieces, in and out.
    assert world.ask("lan", "udp", "192.168.0.60", "192.168.0.53", 53, 9000) == "192.168.0.60"
    assert world.ask("mgmt", "udp", "100.64.0.2", "203.0.113.1", 53, 9000) == "192.168.0.51"
    assert world.ask("lan", "udp", "192.168.0.60", "100.64.0.53", 53, 9000) == ""


def test_what_is_behind_a_host_inside_is_inside(world: World, planned: Planned) -> None:
    """A route of others into a network, to pods say, is no way in."""
    world.hosts["traffic"]("ip", "address", "add", "10.244.0.7/32", "dev", "lo")
    world.deploy(planned())
    world.gateway("ip", "route", "replace", "10.244.0.0/16", "via", "100.64.32.2")
    call = ("lan", "tcp", "192.168.0.105", "10.244.0.7", 80)
    assert world.ask(*call) == "192.168.0.105"
    world.deploy(planned(PLANNED))
    assert world.ask(*call) == ""


def test_ports_of_a_published_address(world: World, planned: Planned) -> None:
    world.deploy(planned(PLANNED, WEB))
    assert world.seen(WITHIN) == WITHIN
    lan, lb = "192.168.0.105", "192.168.0.53"
    ports = [("tcp", 80), ("udp", 5005), ("tcp", 22), ("tcp", 8080), ("udp", 53), ("icmp", 0)]
    calls: Calls = [("lan", kind, lan, lb, port) for kind, port in ports]
    assert world.answered(calls) == calls[:2]
    assert world.ask("lan", "tcp", lan, "192.168.0.52", 8080) == lan
    assert not world.ask("lan", "tcp", lan, "100.64.0.53", 80)  # it is its published address that is


def test_exceptions(world: World, planned: Planned) -> None:
    world.deploy(planned(WITH_EXCEPTIONS, WEB))
    assert world.seen(WITHIN) == WITHIN
    calls: Calls = [
        ("lan", "tcp", "192.168.0.105", "100.64.0.2", 9100),
        ("lan", "icmp", "192.168.0.105", "100.64.0.53", 0),
        ("lan", "udp", "192.168.0.60", "100.64.64.2", 53),
        ("lan", "tcp", "192.168.0.105", "192.168.0.53", 22),
        ("lan", "tcp", "192.168.0.60", "192.168.0.53", 80),
    ]
    assert world.answered(calls) == calls
    refused: Calls = [
        ("lan", "tcp", "192.168.0.105", "100.64.0.2", 80),
        ("lan", "udp", "192.168.0.105", "100.64.0.2", 9100),
        ("lan", "tcp", "192.168.0.60", "100.64.0.2", 9100),
        ("lan", "icmp", "192.168.0.60", "100.64.0.2", 0),
        ("lan", "tcp", "192.168.0.105", "100.64.32.2", 9100),
        ("lan", "udp", "203.0.113.1", "100.64.64.2", 53),
        ("lan", "tcp", "192.168.0.60", "192.168.0.53", 22),
    ]
    assert world.answered(refused) == []


def test_open_connections_live_on_where_they_are_planned(world: World, planned: Planned) -> None:
    def held(name: str, *call: str) -> Callable[[], bool]:
        argv = [*world.hosts[name].enter, sys.executable, "-c", HOLD, *call]
        client = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        open_here.callback(client.kill)
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stdout.readline() == "open\n"

        def works() -> bool:
            assert client.stdin is not None
            assert client.stdout is not None
            client.stdin.write("\n")
            client.stdin.flush()
            return client.stdout.readline() == "True\n"

        return works

    world.deploy(planned())
    with ExitStack() as open_here:
        web = held("lan", "192.168.0.105", "192.168.0.53", "80")
        other = held("lan", "192.168.0.105", "192.168.0.53", "8080")
        out = held("mgmt", "100.64.0.2", "203.0.113.1", "80")
        within = held("mgmt", "100.64.0.2", "100.64.64.2", "80")
        direct = held("lan", "192.168.0.105", "100.64.0.2", "80")
        answers = [each() for each in (web, other, out, within, direct)]
        assert answers == [True] * 5
        world.deploy(planned(PLANNED))
        assert [each() for each in (web, other, out, within)] == [True] * 4
        assert not direct()
        world.deploy(planned(PLANNED, WEB))
        assert [each() for each in (web, out, within)] == [True] * 3
        assert not other()


def test_back_to_open_is_as_before(world: World, planned: Planned) -> None:
    """Exactly what was added goes; what others put between stays."""
    world.deploy(planned())
    world.gateway("iptables", "-A", "FORWARD", "-s", "192.0.2.0/24", "-j", "DROP")
    before = world.live
    try:
        world.deploy(planned(WITH_EXCEPTIONS, WEB))
        assert len(world.live["filter"].chain("FORWARD")) > len(before["filter"].chain("FORWARD")) + 9
        world.deploy(planned(PLANNED))
        world.deploy(planned())
        assert {name: table.rules for name, table in world.live.items()} == {
            name: table.rules for name, table in before.items()
        }
    finally:
        world.gateway("iptables", "-D", "FORWARD", "-s", "192.0.2.0/24", "-j", "DROP")


ACROSS: Calls = [
    ("mgmt", "udp", "100.64.0.2", "100.64.32.1", 53),
    ("traffic", "udp", "100.64.32.2", "100.64.64.1", 53),
    ("gateway", "udp", "100.64.64.1", "100.64.0.2", 53),
]


def test_the_gateways_own_answers_between_networks(world: World, planned: Planned) -> None:
    """With the notes' rules alone, those over UDP come from another address than was asked."""
    world.deploy(planned())
    assert world.answered(ACROSS) == ACROSS[2:]
    world.deploy(planned(PLANNED))
    assert world.seen(ACROSS) == {call: call[2] for call in ACROSS}


def test_each_rule_is_needed(world: World, planned: Planned) -> None:
    """Without any one of what planned adds, something is not as it must be."""
    plan = planned(WITH_EXCEPTIONS, WEB)
    rules = nat.gateway_rules(plan)
    noted = {rule.place for rule in nat.gateway_rules(planned())}
    added = [rule for rule in rules if rule.place not in noted]
    good: Calls = [
        ("lan", "tcp", "192.168.0.105", "100.64.0.2", 9100),
        ("lan", "icmp", "192.168.0.105", "100.64.0.53", 0),
        ("lan", "udp", "192.168.0.60", "100.64.64.2", 53),
        ("lan", "tcp", "192.168.0.105", "192.168.0.53", 22),
        ("lan", "tcp", "192.168.0.60", "192.168.0.53", 80),
        ("lan", "udp", "192.168.0.60", "192.168.0.53", 5005),
        ("lan", "tcp", "192.168.0.60", "192.168.0.52", 22),
        ("mgmt", "tcp", "100.64.0.2", "192.168.0.105", 80),
    ]
    bad: Calls = [("lan", "udp", "203.0.113.1", to, 53) for to in ("100.64.0.2", "100.64.32.2", "100.64.64.2")]
    for one in ("mgmt 100.64.0.2", "traffic 100.64.32.2", "storage 100.64.64.2"):
        name, source = one.split()
        near = source.rpartition(".")[0]
        good += [(name, "udp", source, f"{to}.1", 53) for to in ("100.64.0", "100.64.32", "100.64.64") if to != near]

    def wrong() -> set[Call]:
        return set(world.answered([*good, *bad])) ^ set(good)

    world.deploy(plan)
    assert wrong() == set()
    for rule in added:
        world.put([each for each in rules if each != rule])
        assert wrong(), f"not missed: {rule}"
