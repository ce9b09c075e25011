"""The gateway: router and NAT between the company LAN and the internal networks."""

from pyinfra.operations import systemd

from underlay.desired import nat
from underlay.operations import deploying, firewall

if deploying.runs_for("gateway"):
    target, _ = deploying.planned()

    deploying.require_supported_system()
    deploying.packages(["iptables", "iptables-persistent", "conntrack", "tcpdump"])
    deploying.planned_network()
    firewall.rules(name="Firewall: forwarding, NAT and exemptions of the plan", wanted=nat.gateway_rules(target.plan))
    # Enabled, not started: a start loads the file and thereby flushes the rules that others made since.
    systemd.service(name="Firewall: loaded at boot", service="netfilter-persistent", running=None, enabled=True)
    deploying.deploy_machine_access()
