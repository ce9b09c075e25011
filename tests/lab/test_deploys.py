"""The four deploys, on a site that was just installed and on one that is in use.

    dev, images, internet                     192.168.0.0/24
──────────┬──────────────────────────────
       gateway  (.51, .52 → jumphost, .53 → lb)
──────────┼───────────┼──────────┼───────
  100.64.0.0/21   100.64.32.0/21  100.64.64.0/21
   jumphost, lb         │           │
       └──── master-1 ──┴───────────┘
"""

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import control
from lab.state import LabState
from tests.lab.commands import PLANNED, inside, invoke, log_out, pyinfra
from underlay.desired.files import RULES
from underlay.plan import REPO
from underlay.remote.guard.paths import COPY

HERE = Path(__file__).parent
PLAN = (REPO / "group_data" / "all.py").read_text()
LB_LINE = next(line for line in PLAN.splitlines() if '"lb"' in line)
HOST_OF = {"gateway": "gateway", "jumphost": "jumphost", "lb_nginx": "lb", "master": "master-1"}

pytestmark = pytest.mark.usefixtures("deployed")


def changes(role: str, **environment: str) -> list[str]:
    """The operations that a dry run of a role would change something with."""
    found = json.loads(pyinfra(f"deploys/{role}.py", "--dry", "--json", good=True, **environment).stdout)
    return [operation["name"] for operation in found["plan"] if operation["hosts_with_change"]]


def result_rows(output: str) -> dict[str, tuple[str, ...]]:
    """Of pyinfra's table: operation → (hosts, success, error, no change)."""
    rows = re.findall(r"^ {4}(\S.*?) {2,}(\d+|-) +(\d+|-) +(\d+|-) +(\d+|-)\s*$", output, re.MULTILINE)
    return {name: tuple(row) for name, *row in rows if name != "Grand total"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Writes the files of another plan; afterwards the roles that it was deployed to get the repo's own again."""
    roles: list[str] = []

    def write(role: str, plan: str = PLAN, **role_data: str) -> str:
        roles.append(role)
        (tmp_path / "all.py").write_text(plan)
        for name, text in role_data.items():
            (tmp_path / f"{name}.py").write_text(text)
        return str(tmp_path / "all.py")

    yield write
    for role in dict.fromkeys(roles):
        pyinfra(f"deploys/{role}.py", "-y")


@pytest.mark.parametrize("role", PLANNED)
def test_a_deploy_contacts_the_hosts_of_its_role_only(role: str) -> None:
    done = pyinfra(f"deploys/{role}.py", "--dry")
    assert re.findall(r"\[(\S+)\] Connected", done.stdout + done.stderr) == [HOST_OF[role]]


@pytest.mark.parametrize("role", PLANNED)
def test_a_second_run_changes_nothing(role: str) -> None:
    """1. dry run: no host with a change; 2. real run: "No change" for each operation."""
    assert changes(role) == []
    done = pyinfra(f"deploys/{role}.py", "-y")
    rows = result_rows(done.stdout + done.stderr)
    assert len(rows) > 3
    assert {name: row for name, row in rows.items() if row != ("1", "-", "-", "1")} == {}


@pytest.mark.long
def test_dry_json_of_all_roles_is_one_document() -> None:
    found = json.loads(invoke("deploy", "--dry", "--json").stdout)
    assert list(found) == list(PLANNED)


CHANGES = {
    "a package": ("master-1", "dpkg --purge --force-depends conntrack", "master"),
    "a service": ("lb", "systemctl stop nginx", "lb_nginx"),
    "a line of a file": ("lb", "sed -i /underlay/d ~ops/.ssh/authorized_keys", "lb_nginx"),
    "a file": ("jumphost", "rm /etc/sudoers.d/underlay-oncall", "jumphost"),
    "a guarded change": ("gateway", "iptables -D FORWARD 1", "gateway"),
}
"""What gets lost → host, how, and the role that brings it back."""


@pytest.mark.parametrize(
    "what", ["a guarded change", *(pytest.param(what, marks=pytest.mark.long) for what in [*CHANGES][:-1])]
)
def test_a_dry_run_says_whether_something_would_change(what: str) -> None:
    """By its exit code, for every kind of operation: 0 as deployed, 2 with something lost; and in pyinfra's table."""
    host, command, role = CHANGES[what]
    invoke("deploy", role, "--dry")
    inside(host, command)
    try:
        done = invoke("deploy", role, "--dry", good=False)
        assert done.returncode == 2, done.stdout + done.stderr
        assert re.search(rf"^ {{4}}\w.* 1 \({host}\) ", done.stderr, re.MULTILINE), done.stderr
        assert invoke("deploy", role, "--dry", "--json", good=False).returncode == 2
    finally:
        invoke("deploy", role)


@pytest.mark.long
def test_a_dry_run_without_a_host(tmp_path: Path) -> None:
    """1. the only host is off: 1; 2. one of two is there, and nothing would change on it: 1; 3. something would: 2."""
    control.power_off("lb")
    try:
        assert invoke("deploy", "lb_nginx", "--dry", good=False).returncode == 1
    finally:
        control.power_on("lb")
    addresses = '{"mgmt": "100.64.0.3", "traffic": "100.64.32.3", "storage": "100.64.64.3"}'
    line = f'    "master-2": {{"role": "master", "addresses": {addresses}, "default_route": "traffic"}},\n'
    plan = tmp_path / "all.py"
    plan.write_text(PLAN.replace('    "master-1": {', f'{line}    "master-1": {{'))
    done = invoke("deploy", "master", "--dry", good=False, UNDERLAY_PLAN=str(plan))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "[master-1] Ready" in done.stderr
    inside("master-1", "sed -i /underlay/d ~ops/.ssh/authorized_keys")
    try:
        done = invoke("deploy", "master", "--dry", good=False, UNDERLAY_PLAN=str(plan))
        assert done.returncode == 2, done.stdout + done.stderr
    finally:
        invoke("deploy", "master")


def test_the_rules_are_those_of_the_notes_to_the_line_and_order() -> None:
    """The notes' commands run in a throw-away namespace on the gateway itself, so both are in its iptables' form."""
    commands = (HERE / "gateway-rules.sh").read_text()
    assert len(commands.splitlines()) == 22
    save = "for t in raw filter nat; do iptables-save -t $t; done | sed -e '/^#/d' -e 's/\\[.*\\]//'"
    wanted = control.run("gateway", ["unshare", "--net", "sh", "-c", f"{commands}\n{save}"]).stdout
    assert wanted.count("-A ") == 22
    assert inside("gateway", save) == wanted
    restored = control.run(
        "gateway", ["unshare", "--net", "sh", "-c", f"python3 {COPY} rules {RULES} >/dev/null; {save}"]
    )
    assert restored.stdout == wanted


@pytest.mark.parametrize("role", PLANNED)
def test_a_boot_brings_everything_back(role: str) -> None:
    control.reboot(HOST_OF[role])
    assert changes(role) == []
    assert inside(HOST_OF[role], "systemctl --failed --no-legend") == ""


def test_rules_of_others_stay_and_stay_in_place(site: Callable[..., str]) -> None:
    """1. others put rules and chains before, between and behind ours; 2. ours change; 3. theirs are as they were."""
    inside(
        "gateway",
        "iptables -t nat -N DOCKER;"
        "iptables -t nat -A DOCKER -p tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80;"
        "iptables -t nat -I PREROUTING 1 -m addrtype --dst-type LOCAL -j DOCKER;"
        "iptables -t nat -I POSTROUTING 3 -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE;"
        "iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED "
        "-m comment --comment 'kept by an operator' -j ACCEPT;"
        "iptables -P FORWARD DROP; iptables -t nat -D POSTROUTING -s 100.64.32.0/21 -j SNAT --to-source 192.168.0.51",
    )
    theirs = "iptables-save | grep -E 'DOCKER|172.17|operator|:FORWARD' | sed 's/\\[.*\\]//'"
    before = inside("gateway", theirs)
    try:
        pyinfra("deploys/gateway.py", "-y")
        assert changes("gateway") == []
        more = PLAN.replace(LB_LINE, LB_LINE + LB_LINE.replace('"lb"', '"web"').replace(".53", ".54"))
        pyinfra("deploys/gateway.py", "-y", UNDERLAY_PLAN=site("gateway", more))
        assert inside("gateway", theirs) == before
        postrouting = inside("gateway", "iptables -t nat -S POSTROUTING").splitlines()[1:]
        assert [line for line in postrouting if "0.54" in line] == postrouting[:1]
        assert postrouting.index("-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE") == 3
        assert "DOCKER" not in inside("gateway", f"cat {RULES}")
        assert "192.168.0.54/24" in inside("gateway", "ip address show eth0")
        # Back to the plan without the third one: its rules and its address are ours to remove.
        pyinfra("deploys/gateway.py", "-y")
        assert "0.54" not in inside("gateway", f"iptables-save; ip address; cat {RULES}")
        assert inside("gateway", theirs) == before
    finally:
        inside(
            "gateway",
            "iptables -P FORWARD ACCEPT; iptables -D FORWARD -m conntrack --ctstate RELATED,ESTABLISHED "
            "-m comment --comment 'kept by an operator' -j ACCEPT;"
            "iptables -t nat -D POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE;"
            "iptables -t nat -D PREROUTING -m addrtype --dst-type LOCAL -j DOCKER;"
            "iptables -t nat -F DOCKER; iptables -t nat -X DOCKER",
        )


def test_a_cni_keeps_its_routes_and_rules_over_a_restart_of_networkd() -> None:
    """1. a CNI adds a pod route, a rule and a virtual address; 2. networkd restarts; 3. they are there and win."""
    inside(
        "master-1",
        "ip route add 10.244.7.0/24 via 100.64.32.7 dev eth1; ip rule add priority 77 to 10.96.0.0/12 lookup 777;"
        "ip address add 100.64.0.200/32 dev eth0",
    )
    try:
        inside("master-1", "systemctl restart systemd-networkd; networkctl reload; sleep 1")
        assert "10.244.7.0/24 via 100.64.32.7" in inside("master-1", "ip route show 10.244.7.0/24")
        assert "777" in inside("master-1", "ip rule show priority 77")
        assert "100.64.0.200/32" in inside("master-1", "ip address show eth0")
        for source in ("100.64.0.2", "100.64.32.2", "100.64.64.2"):
            assert "via 100.64.32.7" in inside("master-1", f"ip route get 10.244.7.9 from {source}")
        assert changes("master") == []
    finally:
        inside(
            "master-1",
            "ip route del 10.244.7.0/24; ip rule del priority 77; ip address del 100.64.0.200/32 dev eth0",
        )


def test_a_wrong_default_route_is_replaced() -> None:
    """In the table of the plan's; those that the host has in `main` stay, and no packet takes them."""
    inside(
        "master-1",
        "for table in 1000 main; do ip route replace default via 100.64.0.9 dev eth0 table $table;"
        "ip route add default via 100.64.64.9 metric 50 table $table; done",
    )
    unmanaged = inside("master-1", "ip route show default")
    try:
        pyinfra("deploys/master.py", "-y")
        assert [line.split()[:5] for line in inside("master-1", "ip route show default table 1000").splitlines()] == [
            ["default", "via", "100.64.32.1", "dev", "eth1"]
        ]
        assert inside("master-1", "ip route show default") == unmanaged
        assert "via 100.64.32.1 dev eth1 table 1000 src 100.64.32.2" in inside("master-1", "ip route get 203.0.113.1")
        invoke("verify", "master")
    finally:
        inside(
            "master-1", "ip route del default metric 50; ip route replace default via 100.64.0.1 dev eth0 proto static"
        )


@pytest.mark.parametrize(
    "default",
    [
        "ip route replace default via 192.168.0.1 dev eth0 table 1000",
        "ip route add default via 192.168.0.1 dev eth0 metric 7 table 1000",
        ":",
    ],
)
def test_a_lost_first_address_comes_back_as_the_first(default: str) -> None:
    """1. the first address goes, and with it the default route; 2. both come back, in order, once."""
    inside("gateway", "ip address flush dev eth0; ip address add 192.168.0.52/24 dev eth0")
    # Back by hand, and so in the wrong order: the deploy has to get in.
    inside("gateway", f"ip address add 192.168.0.51/24 dev eth0; {default}")
    own = "default via 192.168.0.1 dev eth0 proto static metric 77"
    inside("gateway", f"ip route add {own}; ip route add 10.66.0.0/16 nexthop via 192.168.0.8 nexthop via 192.168.0.9")
    pyinfra("deploys/gateway.py", "-y")
    assert re.findall(r"inet (\S+)", inside("gateway", "ip -4 address show eth0")) == [
        "192.168.0.51/24",
        "192.168.0.52/24",
        "192.168.0.53/24",
    ]
    [route] = inside("gateway", "ip route show default table 1000").splitlines()
    assert route.split() == ["default", "via", "192.168.0.1", "dev", "eth0", "proto", "static", "src", "192.168.0.51"]
    assert own in inside("gateway", "ip route show").replace("  ", " ")
    assert inside("gateway", "ip route show 10.66.0.0/16").count("nexthop") == 2
    inside(
        "gateway", f"ip route del {own}; ip route del 10.66.0.0/16; ip route replace default via 192.168.0.1 dev eth0"
    )
    assert changes("gateway") == []


@pytest.fixture
def person(tmp_path: Path) -> str:
    """A key pair for somebody on call; the public key."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "ada@laptop", "-f", tmp_path / "key"], check=True
    )
    return (tmp_path / "key.pub").read_text().strip()


def test_people_on_call_come_and_go(site: Callable[..., str], person: str, tmp_path: Path, lab: LabState) -> None:
    """1. listed: logs in and has sudo; 2. removed from the list: neither account nor open session is left."""
    inside("dev", f"cat > /root/key <<'EOF'\n{(tmp_path / 'key').read_text()}EOF\nchmod 600 /root/key")
    inside("dev", f"cat > /root/known_hosts <<'EOF'\n{lab.known_hosts.read_text()}EOF\n")
    login = "ssh -i /root/key -o UserKnownHostsFile=/root/known_hosts -o BatchMode=yes ada@192.168.0.52"
    listed = site("jumphost", jumphost=f'people_on_call = {{"ada": ["{person}"]}}\n')
    pyinfra("deploys/jumphost.py", "-y", UNDERLAY_PLAN=listed)
    assert changes("jumphost", UNDERLAY_PLAN=listed) == []
    assert inside("dev", f"{login} sudo -n id -u").strip() == "0"
    inside("dev", f"{login} sleep 300 >/dev/null 2>&1 &")
    # Its own key only: one that was added by hand goes.
    inside("jumphost", "echo 'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFoo unmanaged' >> ~ada/.ssh/authorized_keys")
    pyinfra("deploys/jumphost.py", "-y", UNDERLAY_PLAN=listed)
    assert "unmanaged" not in inside("jumphost", "cat ~ada/.ssh/authorized_keys")
    pyinfra("deploys/jumphost.py", "-y")
    assert control.run("dev", f"{login} true").returncode == 255
    assert control.run("jumphost", "id ada || pgrep -u ada").returncode != 0


def test_a_bad_sshd_file_is_not_taken(lab: LabState) -> None:
    """The check is sshd's own, on the whole configuration: here the operator's part of it is broken."""
    inside(
        "jumphost",
        "echo 'NoSuchKeyword yes' >> /etc/ssh/sshd_config; sed -i 1d /etc/ssh/sshd_config.d/05-underlay.conf",
    )
    before = inside("jumphost", "cat /etc/ssh/sshd_config.d/05-underlay.conf")
    try:
        done = pyinfra("deploys/jumphost.py", "-y", good=False)
        assert done.returncode == 1
        assert "NoSuchKeyword" in done.stdout + done.stderr
        assert inside("jumphost", "cat /etc/ssh/sshd_config.d/05-underlay.conf; ls /etc/ssh/sshd_config.d") == (
            before + "05-underlay.conf\n"
        )
    finally:
        inside("jumphost", "sed -i /NoSuchKeyword/d /etc/ssh/sshd_config")
        pyinfra("deploys/jumphost.py", "-y")


CONFIG, FOLDER = "/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d"
WINS = {
    "a line before the Include": (f"sed -i '1i PasswordAuthentication yes' {CONFIG}", f"set by {CONFIG}:1 (PasswordA"),
    "no Include": (f"sed -i /^Include/d {CONFIG}", "sshd's AllowAgentForwarding is yes, not no"),
    "the Include in a Match": (
        f"sed -i /^Include/d {CONFIG}; printf 'Match User x\nInclude {FOLDER}/*.conf\n' >> {CONFIG}",
        "sshd's AllowAgentForwarding is yes, not no",
    ),
    "a file before ours": (
        f"echo 'AllowTcpForwarding=yes' > {FOLDER}/00-mine.conf",
        f"set by {FOLDER}/00-mine.conf:1 (",
    ),
    "for an account": (
        f"printf 'Match Group root\nPasswordAuthentication yes\n' >> {CONFIG}",
        "sshd's PasswordAuthentication for root is set by",
    ),
    "from an address": (
        f"printf 'Match Address 100.64.0.0/21\nKbdInteractiveAuthentication yes\n' >> {CONFIG}",
        "sshd's KbdInteractiveAuthentication for ops is set by",
    ),
}
SSH_OF_MASTER = f"tar -C /etc -xf /root/ssh.tar; rm -f {FOLDER}/00-mine.conf; systemctl reload ssh"


@pytest.fixture
def ssh_of_master() -> Iterator[None]:
    """Brings back what sshd of the master has below /etc."""
    inside("master-1", "tar -C /etc -cf /root/ssh.tar ssh")
    yield
    inside("master-1", SSH_OF_MASTER)


@pytest.mark.long
def test_lines_that_win_over_ours_in_sshd(ssh_of_master: None) -> None:
    """Drift names each; a deploy says what to do, fails, and leaves all as it was."""
    for command, told in WINS.values():
        inside("master-1", command)
        done = invoke("drift", "master", good=False)
        assert done.returncode == 2, done.stdout + done.stderr
        assert told in done.stdout
        inside("master-1", SSH_OF_MASTER)
    inside("master-1", f"rm -r {FOLDER}; sed -i /^Include/d {CONFIG}; usermod -p '$6$a$b' ops")
    before = inside("master-1", f"sha256sum {CONFIG}")
    done = pyinfra("deploys/master.py", "-y", good=False)
    assert done.returncode == 1
    output = done.stdout + done.stderr
    assert "nobody logs in over ssh with a password any more (that have one: ops)" in output
    assert f'make "Include {FOLDER}/*.conf" the first line of {CONFIG}' in output
    assert inside("master-1", f"sha256sum {CONFIG}") == before
    inside("master-1", f"sed -i '1i Include {FOLDER}/*.conf' {CONFIG}; systemctl reload ssh; usermod -p '*' ops")
    assert changes("master") == []


@pytest.mark.long
def test_a_way_in_that_needs_no_key(ssh_of_master: None) -> None:
    """1. the operator gets in by an empty password only: that is closed, found out, and undone; 2. sshd of a socket."""
    keys, ours = "~ops/.ssh/authorized_keys", f"{FOLDER}/05-underlay.conf"
    open_way = f"echo 'PermitEmptyPasswords yes' > {ours}; passwd -d ops; mv {keys} /root/keys; systemctl reload ssh"
    inside("master-1", open_way)
    before = inside("master-1", f"sha256sum {ours}")
    log_out("master-1")
    try:
        invoke("ssh", "master-1", "true")
        done = pyinfra("deploys/master.py", "-y", good=False)
        assert "ROLLED BACK: " in done.stdout + done.stderr
        assert inside("master-1", f"sha256sum {ours}") == before
        invoke("ssh", "master-1", "true")
    finally:
        inside("master-1", f"cp -a /root/keys {keys}; usermod -p '*' ops; rm {ours}")
    log_out("master-1")
    inside("master-1", "systemctl disable -q --now ssh.service; systemctl enable -q --now ssh.socket")
    try:
        pyinfra("deploys/master.py", "-y")
        assert changes("master") == []
        assert inside("master-1", "systemctl --failed --no-legend; systemctl is-active ssh.socket") == "active\n"
    finally:
        inside("master-1", "systemctl disable -q --now ssh.socket; systemctl enable -q ssh; systemctl restart ssh")


def test_the_jump_host_deploys_the_others_directly() -> None:
    done = control.run(
        "jumphost", "cd /opt/underlay && .venv/bin/pyinfra inventory.py deploys/lb_nginx.py --dry --json"
    )
    assert done.returncode == 0, done.stderr
    assert [step["hosts_with_change"] for step in json.loads(done.stdout)["plan"]] == [[]] * 8
    assert "target ssh" in done.stderr
    config = inside("jumphost", "cat /run/underlay-0/*/ssh_config")
    assert "ProxyJump" not in config


BAD_NGINX = (
    'web_services = {"grafana.lab.example": {"upstreams": ["master-1:3000"], "extra": ["no_such_directive 1"]}}\n'
)


def test_a_bad_nginx_file_leaves_the_running_one_untouched(site: Callable[..., str]) -> None:
    running = "sha256sum /etc/nginx/nginx.conf; pgrep -P $(cat /run/nginx.pid); ls /etc/nginx"
    before = inside("lb", running)
    done = pyinfra("deploys/lb_nginx.py", "-y", good=False, UNDERLAY_PLAN=site("lb_nginx", lb_nginx=BAD_NGINX))
    assert done.returncode == 1
    assert 'unknown directive "no_such_directive"' in done.stdout + done.stderr
    assert inside("lb", running) == before


ECHO = """
import http.server, json
class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        left = int(self.headers["Content-Length"])
        while left: left -= len(self.rfile.read(min(left, 65536)))
        self.do_GET()
    def do_GET(self):
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", PORT), Echo).serve_forever()
"""
ASK = """
import sys, urllib.request, urllib.error
name, size, headers = sys.argv[1], int(sys.argv[2]), dict(word.split("=") for word in sys.argv[3:])
request = urllib.request.Request("http://192.168.0.53/", b"x" * size if size else None, {"Host": name, **headers})
try:
    answer = urllib.request.urlopen(request, timeout=10)
    print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code)
"""


def ask(name: str, size: int = 0, *headers: str) -> tuple[int, dict[str, str]]:
    """What the workstation gets from the load balancer for a name: status, and the headers that the upstream saw."""
    done = control.run("dev", ["python3", "-c", ASK, name, str(size), *headers], timeout=30)
    status, _, body = done.stdout.strip().partition(" ")
    return int(status), json.loads(body or "{}")


def background(host: str, unit: str, program: str, port: int) -> None:
    """Start a Python program as a unit of a host, and wait until it listens."""
    done = control.run(host, ["systemd-run", "--quiet", "--collect", "--unit", unit, "python3", "-c", program])
    assert done.returncode == 0, done.stderr
    deadline = time.monotonic() + 20
    while f":{port} " not in inside(host, "ss -Htln"):
        assert time.monotonic() < deadline, f"{unit} does not listen on {port}"


@pytest.fixture
def upstreams() -> Iterator[None]:
    """Web systems behind the load balancer, on the first master."""
    ports = (3000, 5000, 9090)
    try:
        for port in ports:
            background("master-1", f"echo-{port}", ECHO.replace("PORT", str(port)), port)
        yield
    finally:
        inside("master-1", "systemctl stop " + " ".join(f"echo-{port}" for port in ports))


@pytest.mark.usefixtures("upstreams")
def test_web_services_see_the_client_and_take_what_they_were_promised() -> None:
    status, seen = ask("grafana.lab.example", 0, "Connection=Upgrade", "Upgrade=websocket")
    assert status == 200
    assert seen["host"] == "grafana.lab.example"
    assert seen["x-real-ip"] == seen["x-forwarded-for"] == "192.168.0.105"
    assert (seen["upgrade"], seen["connection"]) == ("websocket", "upgrade")
    status, seen = ask("prometheus.lab.example", 0, "Connection=Upgrade", "Upgrade=websocket")
    assert (status, "upgrade" in seen) == (200, False)
    assert ask("registry.lab.example", 30_000_000)[0] == 200
    assert ask("prometheus.lab.example", 3_000_000)[0] == 413
    assert ask("nobody.lab.example")[0] == 404


DIAL = """
import socket, time
took = []
for _ in range(8):
    begin = time.monotonic()
    with socket.create_connection(("192.168.0.53", 6443), 8) as connection:
        connection.settimeout(8)
        assert connection.recv(5) == b"ready"
    took.append(time.monotonic() - begin)
print(*took)
"""
API = """
import socketserver
class Ready(socketserver.BaseRequestHandler):
    def handle(self): self.request.sendall(b"ready")
# Connections of earlier probes may still be in TIME_WAIT.
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer(("", 6443), Ready).serve_forever()
"""


def test_the_api_is_there_while_two_of_three_masters_are_not(site: Callable[..., str]) -> None:
    """Two masters that are planned and don't answer: a client waits a second each at most, and later ones don't."""
    begin = PLAN.index('    "master-1"')
    master = PLAN[begin : PLAN.index("\n    },\n", begin) + len("\n    },\n")]
    more = "".join(
        re.sub(r'(100\.64\.\d+)\.2"', rf'\1.{number + 1}"', master).replace("master-1", f"master-{number}")
        for number in (2, 3)
    )
    pyinfra("deploys/lb_nginx.py", "-y", UNDERLAY_PLAN=site("lb_nginx", PLAN.replace(master, master + more)))
    assert inside("lb", "grep -c 'server .*:6443 ' /etc/nginx/nginx.conf").strip() == "3"
    background("master-1", "api", API, 6443)
    try:
        took = [float(word) for word in control.run("dev", ["python3", "-c", DIAL], timeout=60).stdout.split()]
    finally:
        inside("master-1", "systemctl stop api")
    assert len(took) == 8
    assert max(took) < 3.5
    assert max(took[-3:]) < 0.5


@pytest.mark.parametrize("off", ["lb", "gateway"])
def test_a_host_that_is_off_is_one_line(off: str) -> None:
    """With the gateway off, the load balancer behind it can't be reached either."""
    control.power_off(off)
    try:
        done = pyinfra("deploys/lb_nginx.py", "-y", good=False)
        assert done.returncode == 1
        [line] = re.findall(r"\[lb\] .*", done.stdout + done.stderr)
        assert re.fullmatch(
            r"\[lb\] lb can't be reached at 192\.168\.0\.53: .*(timed out|No route to host|no answer within \d+ s)",
            line,
        )
    finally:
        control.power_on(off)


def test_a_wrong_key_is_refused(lab: LabState, person: str, tmp_path: Path) -> None:
    key = lab.key.read_bytes()
    lab.key.write_bytes((tmp_path / "key").read_bytes())
    log_out("gateway")
    try:
        done = pyinfra("deploys/gateway.py", "-y", good=False)
        assert done.returncode == 1
        assert re.search(
            r"\[gateway\] gateway can't be reached at 192\.168\.0\.51: .*Permission denied", done.stdout + done.stderr
        )
    finally:
        lab.key.write_bytes(key)


def test_a_changed_host_key_is_refused(lab: LabState) -> None:
    known = lab.known_hosts.read_text()
    of_dev = next(line.split()[1:] for line in known.splitlines() if "dev" in line.split()[0].split(","))
    wrong = [
        " ".join([line.split()[0], *of_dev]) if "gateway" in line.split()[0] else line for line in known.splitlines()
    ]
    lab.known_hosts.write_text("\n".join(wrong) + "\n")
    log_out("gateway")
    try:
        done = pyinfra("deploys/gateway.py", "-y", good=False)
        assert done.returncode == 1
        assert "host key" in (done.stdout + done.stderr).lower()
    finally:
        lab.known_hosts.write_text(known)


def test_another_system_is_refused_before_anything_changes() -> None:
    inside("lb", "sed -i s/^ID=debian/ID=slackware/ /etc/os-release; sed -i '$d' /etc/nginx/nginx.conf")
    before = inside("lb", "cat /etc/nginx/nginx.conf")
    try:
        done = pyinfra("deploys/lb_nginx.py", "-y", good=False)
        assert done.returncode == 1
        assert "is not supported, nothing was changed" in done.stdout + done.stderr
        assert inside("lb", "cat /etc/nginx/nginx.conf") == before
    finally:
        inside("lb", "sed -i s/^ID=slackware/ID=debian/ /etc/os-release")
        pyinfra("deploys/lb_nginx.py", "-y")


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"UNDERLAY_TARGET": "prod"}, "UNDERLAY_TARGET='prod' is no target: use 'lab' or 'ssh'"),
        ({"UNDERLAY_PLAN": "/nowhere/all.py"}, "/nowhere/all.py: can't be read"),
    ],
)
@pytest.mark.parametrize("command", [invoke, pyinfra])
def test_a_wrong_target_or_plan_stops_before_anything(
    command: Callable[..., subprocess.CompletedProcess[str]], environment: dict[str, str], message: str
) -> None:
    arguments = ["deploy"] if command is invoke else ["deploys/gateway.py", "-y"]
    done = command(*arguments, good=False, **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "Connected" not in done.stdout + done.stderr


def test_an_unknown_role_is_an_error_with_a_hint() -> None:
    done = invoke("deploy", "gatewy", good=False)
    assert (done.returncode, done.stderr) == (1, "error: unknown role 'gatewy': did you mean 'gateway'?\n")
