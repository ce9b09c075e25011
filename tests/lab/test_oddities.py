"""What others have on their hosts and is no fault: with all of it the doctor says healthy, and verify is green."""

import json
from contextlib import suppress

import pytest

from lab import fault
from lab.process import CommandError
from tests.lab.commands import Runner
from underlay.plan import ROLES, Plan

ODDITIES = {
    "a VPN's interface, table and rules, as wg-quick makes them": (
        "master-1",
        """
        ip link add wg0 type bridge
        ip address add 10.88.0.2/24 dev wg0
        ip link set wg0 up
        ip route add 10.99.0.0/16 dev wg0
        ip route add default dev wg0 table 51820
        ip rule add pref 5000 fwmark 0xca6c lookup 51820
        ip rule add pref 32764 lookup main suppress_prefixlength 0
        ip rule add pref 32765 not fwmark 0xca6c lookup 51820
        """,
        "for pref in 5000 32764 32765; do ip rule del pref $pref; done; ip link del wg0",
    ),
    "a container engine": (
        "master-1",
        """
        ip link add docker0 type bridge
        ip address add 172.17.0.1/16 dev docker0
        ip link set docker0 up
        sysctl -qw net.ipv4.ip_forward=1
        """,
        "sysctl -qw net.ipv4.ip_forward=0; ip link del docker0",
    ),
    "its rules": (
        "operator",
        """
        ipt="ip netns exec ${namespaces}master-1 iptables"
        $ipt -N DOCKER
        $ipt -N DOCKER-USER
        $ipt -A DOCKER-USER -j RETURN
        $ipt -A FORWARD -j DOCKER-USER
        $ipt -A FORWARD -o docker0 -j DOCKER
        $ipt -P FORWARD DROP
        $ipt -t nat -N DOCKER
        $ipt -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
        $ipt -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
        """,
        """
        ipt="ip netns exec ${namespaces}master-1 iptables"
        $ipt -P FORWARD ACCEPT
        for table in filter nat; do $ipt -t $table -F; $ipt -t $table -X; done
        """,
    ),
    "a CNI's rules, with `local` moved": (
        "master-1",
        """
        ip link add cilium_host type bridge
        ip address add 10.244.0.1/32 dev cilium_host
        ip link set cilium_host up
        ip route add 10.244.0.0/16 dev cilium_host
        ip route add local 0.0.0.0/0 dev lo table 2004
        ip rule add pref 9 fwmark 0x200/0xf00 lookup 2004
        ip rule add pref 100 lookup local
        ip rule del pref 0
        """,
        """
        ip rule add pref 0 lookup local; ip rule del pref 100; ip rule del pref 9
        ip route flush table 2004; ip link del cilium_host
        """,
    ),
    "a second default route with a higher metric": (
        "master-1",
        "ip route add default via $gateway_mgmt dev $master_1_mgmt_nic metric 5000",
        "ip route del default via $gateway_mgmt dev $master_1_mgmt_nic metric 5000",
    ),
    "keepalived's address": (
        "lb",
        "ip address add 100.64.0.200/32 dev $lb_mgmt_nic",
        "ip address del 100.64.0.200/32 dev $lb_mgmt_nic",
    ),
    "fail2ban's table, with somebody in it": (
        "operator",
        """
        nft="ip netns exec ${namespaces}jumphost nft"
        $nft add table inet f2b-table
        $nft 'add set inet f2b-table addr-set-sshd { type ipv4_addr; elements = { 203.0.113.66 }; }'
        $nft 'add chain inet f2b-table f2b-chain { type filter hook input priority -1; policy accept; }'
        $nft add rule inet f2b-table f2b-chain tcp dport 22 ip saddr @addr-set-sshd reject
        """,
        "ip netns exec ${namespaces}jumphost nft delete table inet f2b-table",
    ),
    "a permanent neighbour that is right": (
        "jumphost",
        """
        ping -qc 1 $gateway_mgmt > /dev/null
        mac=$(ip neighbour show $gateway_mgmt | grep -o "[0-9a-f:]\\{17\\}")
        ip neighbour replace $gateway_mgmt lladdr $mac dev $jumphost_mgmt_nic nud permanent
        """,
        "ip neighbour del $gateway_mgmt dev $jumphost_mgmt_nic",
    ),
    "another queueing discipline": (
        "gateway",
        "tc qdisc replace dev $gateway_mgmt_nic root fq || tc qdisc replace dev $gateway_mgmt_nic root pfifo",
        "tc qdisc del dev $gateway_mgmt_nic root",
    ),
    "a tuned TCP": (
        "gateway",
        """
        echo 'net.ipv4.tcp_keepalive_time = 600' > /etc/sysctl.d/90-tuning.conf
        sysctl -qw net.ipv4.tcp_keepalive_time=600 net.ipv4.tcp_slow_start_after_idle=0 net.ipv4.tcp_fin_timeout=30
        """,
        """
        rm /etc/sysctl.d/90-tuning.conf
        sysctl -qw net.ipv4.tcp_keepalive_time=7200 net.ipv4.tcp_slow_start_after_idle=1 net.ipv4.tcp_fin_timeout=60
        """,
    ),
    "a job of cron, a site of nginx's that nothing includes, a large file": (
        "lb",
        """
        mkdir -p /etc/cron.d /etc/nginx/conf.d
        echo '0 3 * * * root true' > /etc/cron.d/others
        echo 'server { listen 8080; }' > /etc/nginx/conf.d/others.conf
        fallocate -l 64M /var/tmp/large
        """,
        "rm -f /etc/cron.d/others /etc/nginx/conf.d/others.conf /var/tmp/large",
    ),
    "another admin, with a key and sudo": (
        "lb",
        """
        useradd --create-home --shell /bin/bash other
        install -d -m 700 -o other -g other ~other/.ssh
        install -m 600 -o other -g other ~ops/.ssh/authorized_keys ~other/.ssh/authorized_keys
        echo 'other ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/other
        chmod 440 /etc/sudoers.d/other
        """,
        "userdel --remove other 2>/dev/null; rm -f /etc/sudoers.d/other",
    ),
    "a job of others that failed": (
        "jumphost",
        "systemd-run -q --unit=others-job false; sleep 0.5",
        "systemctl reset-failed others-job",
    ),
}


@pytest.mark.usefixtures("deployed")
def test_oddities(runner: Runner, plan: Plan) -> None:
    """All at once, and the same again when they are gone."""
    try:
        for host, make, _ in ODDITIES.values():
            fault.execute(host, make, plan)
        require_healthy(runner)
    finally:
        for host, _, undo in ODDITIES.values():
            with suppress(CommandError):  # it was not made
                fault.execute(host, f"set +e\n{undo}", plan)
    require_healthy(runner)


def require_healthy(runner: Runner) -> None:
    """No finding, nothing unread, verify green."""
    code, diagnosis = runner.doctor()
    assert (diagnosis["findings"], diagnosis["unread"], code) == ([], [], 0), json.dumps(diagnosis, indent=2)
    code, output = runner("verify", *ROLES)
    assert code == 0, output
