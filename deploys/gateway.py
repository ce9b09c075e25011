"""The gateway: router and NAT between the company LAN and the internal networks."""

from pyinfra.operations import systemd

from underlay.desired import nat, units
from underlay.operations import deploying, firewall

if deploying.runs_for("gateway"):
    target, _ = deploying.planned()

    deploying.require_supported_system()
    deploying.packages("gateway")
    deploying.planned_network()
    firewall.rules(name="Firewall: forwarding, NAT and exemptions of the plan", wanted=nat.gateway_rules(target.plan))
    systemd.service(name="Firewall: loaded at boot", service=units.NETFILTER.name, running=None, enabled=True)
    deploying.deploy_machine_access()
    deploying.network_holds_at_boot()
