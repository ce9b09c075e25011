"""The gateway: router and NAT between the company LAN and the internal networks."""

from io import StringIO

from pyinfra.operations import files, systemd

from underlay.desired import nat, units
from underlay.desired.files import firewall_unit
from underlay.operations import deploying, firewall
from underlay.remote.guard.paths import COPY

if deploying.runs_for("gateway"):
    target, _ = deploying.planned()

    deploying.require_supported_system()
    deploying.require_no_firewalld()
    deploying.packages("gateway")
    deploying.planned_network()
    firewall.rules(name="Firewall: forwarding, NAT and exemptions of the plan", wanted=nat.gateway_rules(target.plan))
    unit = files.put(
        name="Firewall: the unit that puts our rules in place at boot",
        src=StringIO(firewall_unit(COPY)),
        dest=units.FIREWALL_FILE,
        mode="644",
    )
    systemd.daemon_reload(name="Firewall: systemd reads the unit", _if=unit.did_change)
    systemd.service(
        name="Firewall: in place, now and at boot",
        service=units.FIREWALL.name,
        running=True,
        enabled=True,
    )
    deploying.deploy_machine_access()
    deploying.network_holds_at_boot()
