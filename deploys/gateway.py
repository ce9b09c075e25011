"""The gateway: router and NAT between the company LAN and the internal networks."""

from pyinfra.operations import systemd

from underlay.desired import nat, units
from underlay.desired.files import firewall_unit
from underlay.operations import deploying, firewall
from underlay.operations.files import config_file
from underlay.remote.guard.paths import COPY

if deploying.runs_for("gateway"):
    target, _ = deploying.planned()

    deploying.require_supported_system()
    deploying.require_no_firewalld()
    deploying.packages("gateway")
    deploying.planned_network()
    firewall.rules(name="Firewall: forwarding, NAT and exemptions of the plan", wanted=nat.gateway_rules(target.plan))
    config_file.installed(
        name="Firewall: the unit that puts our rules in place at boot",
        path=units.FIREWALL_FILE,
        content=firewall_unit(COPY),
        activate="systemctl daemon-reload",
    )
    systemd.service(
        name="Firewall: in place, now and at boot",
        service=units.FIREWALL.name,
        running=True,
        enabled=True,
    )
    deploying.keys_only()
    deploying.network_holds_at_boot()
