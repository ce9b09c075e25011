"""Can `invoke verify` fail? The deployed site is broken in one way at a time.

1. break one thing on one host, by hand
2. verify its role: one of the host's own checks is red, not packets alone
3. deploy that role
4. verify that role: green
"""

import re
import time
from dataclasses import dataclass

import pytest

from lab import control
from tests.lab.commands import Runner, pyinfra
from underlay.desired import nat
from underlay.desired.ruleset import Rule
from underlay.plan import REPO, load


@dataclass(frozen=True)
class Mutation:
    """One way to break the site: what a person would call it, on which host, the command, whose it is to fix."""

    name: str
    host: str
    command: str
    role: str


RULES = nat.gateway_rules(load(REPO / "group_data" / "all.py"))
SNAT_LB = "POSTROUTING -s 100.64.0.53/32 -j SNAT --to-source 192.168.0.53"
DNAT_LB = "PREROUTING -d 192.168.0.53/32 -j DNAT --to-destination"
GATEWAY = {
    "a rule deleted in raw": "iptables -t raw -D PREROUTING 3",
    "a rule deleted in nat": f"iptables -t nat -D {SNAT_LB}",
    "two rules swapped": f"iptables -t nat -D {SNAT_LB} && iptables -t nat -A {SNAT_LB}",
    "wrong DNAT target": f"iptables -t nat -D {DNAT_LB} 100.64.0.53 && iptables -t nat -I {DNAT_LB} 100.64.0.2",
    "rules not loaded at boot": "systemctl disable underlay-firewall",
    "a published address removed": "ip address del 192.168.0.53/24 dev eth0",
    "no forwarding": "sysctl -qw net.ipv4.ip_forward=0",
    "sources not looked at": "sysctl -qw net.ipv4.conf.eth1.rp_filter=0",
    "no way out": "ip route del default table 1000",
    "a NIC's file changed": "sed -i /192.168.0.52/d /etc/systemd/network/50-installer.network.d/50-underlay.conf",
    "a file that comes before a NIC's": "printf '[Match]\\nName=eth1\\n' > /etc/systemd/network/00-early.network",
    "no forwarding after a boot": "rm /etc/sysctl.d/zz-underlay.conf",
    "no conntrack": "dpkg --remove conntrack",
}
JUMPHOST = {
    "passwords accepted": "sed -i 's/^PasswordAuthentication no/PasswordAuthentication yes/' "
    "/etc/ssh/sshd_config.d/05-underlay.conf && systemctl reload ssh",
    "a person who is on the list no more": "useradd --create-home --groups underlay-oncall mallory && "
    'echo "mallory $(id -u mallory)" >> /var/lib/underlay/on-call',
    "this repo changed": "echo >> /opt/underlay/underlay/plan/model.py",
}
LB = {
    "nginx stopped": "systemctl stop nginx",
    "the API on another port": "sed -i 's/listen 6443/listen 6444/' /etc/nginx/nginx.conf && systemctl reload nginx",
}
MASTER = {
    "an agent forwarded": "rm /etc/ssh/sshd_config.d/05-underlay.conf && systemctl reload ssh",
    "a policy rule deleted": "ip rule del from 100.64.64.2 to 100.64.0.0/21",
    "no rule that lets a CNI win": "ip rule del priority 30200",
    "a NIC's default route deleted": "ip route del default table 1004",
    "another default route": "ip route replace default via 100.64.0.1 dev eth0 table 1000",
    "an address removed": "ip address del 100.64.64.2/21 dev eth2",
    "a NIC down": "ip link set eth1 down",
    "loose rp_filter": "sysctl -qw net.ipv4.conf.eth2.rp_filter=2",
}
MUTATIONS = [
    *(Mutation(name, "gateway", command, "gateway") for name, command in GATEWAY.items()),
    *(Mutation(name, "jumphost", command, "jumphost") for name, command in JUMPHOST.items()),
    *(Mutation(name, "lb", command, "lb_nginx") for name, command in LB.items()),
    *(Mutation(name, "master-1", command, "master") for name, command in MASTER.items()),
]
IN_CI = (
    *("two rules swapped", "rules not loaded at boot", "a published address removed", "no forwarding after a boot"),
    *("a NIC's file changed", "no conntrack", "passwords accepted", "a person who is on the list no more"),
    *("nginx stopped", "a policy rule deleted", "a NIC's default route deleted", "loose rp_filter"),
)
"""One for each check; the others are much like these."""
TABLE = "ways to break the site, each found and fixed:"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{rule.table} {rule.chain} {rule.spec}")
def test_every_rule_is_missed(runner: Runner, rule: Rule) -> None:
    """Each of the gateway's rules, deleted by itself, is what verify then names. The test puts it back."""
    saved = control.run("gateway", "iptables-save").stdout
    assert control.run("gateway", f"iptables -t {rule.table} -D {rule.chain} {rule.spec}").returncode == 0
    try:
        code, output = runner("verify", "gateway")
    finally:
        assert control.run("gateway", "iptables-restore", stdin=saved).returncode == 0
    assert code == 2
    assert re.search(rf"expected +.*{re.escape(rule.spec)}", output), output


def _marks(mutation: Mutation) -> list[pytest.MarkDecorator]:
    found = [] if mutation.name in IN_CI else [pytest.mark.long]
    return found + ([pytest.mark.networkd] if "/systemd/network/" in mutation.command else [])


@pytest.mark.parametrize("mutation", [pytest.param(each, id=each.name, marks=_marks(each)) for each in MUTATIONS])
def test_found_and_fixed(runner: Runner, table: list[str], mutation: Mutation) -> None:
    """Verify turns red for the role of what was broken, and green after its deploy."""
    started = time.monotonic()
    done = control.run(mutation.host, mutation.command)
    assert done.returncode == 0, f"the mutation itself failed: {done.stdout}{done.stderr}"
    try:
        code, output = runner("verify", mutation.role)
    finally:
        pyinfra(f"deploys/{mutation.role}.py", "-y")
    aside = ["traffic: ", "what needs "]
    if mutation.role != "jumphost":
        aside.append("jumphost: this repo")  # red as soon as somebody edits this checkout meanwhile
    rows = re.findall(r"^ \w+ +(\S.*?) +WRONG", output, re.MULTILINE)
    wrong = [check for check in rows if not check.startswith(tuple(aside))]
    assert code == 2, output
    assert wrong, output
    code, output = runner("verify", mutation.role)
    assert code == 0, output
    check = wrong[0].partition(": ")[2]
    table.append(f"  {mutation.role:<9} {mutation.name} ({check}) {time.monotonic() - started:.1f} s")
