"""The load balancer: nginx as L7 proxy for internal web systems and as L4 proxy for the Kubernetes API."""

from pyinfra.operations import systemd

from underlay.desired import nginx, units
from underlay.operations import deploying
from underlay.operations.files import config_file

if deploying.runs_for("lb_nginx"):
    target, _ = deploying.planned()

    deploying.require_supported_system()
    deploying.packages("lb_nginx")
    deploying.planned_network()
    config_file.installed(
        name="nginx: virtual hosts and the API proxy of the plan",
        path=nginx.PATH,
        content=nginx.configuration(target.plan),
        check='nginx -t -q -c "$NEW"',
        # A reload keeps open connections. One that is stopped is started by the next step.
        activate="if systemctl -q is-active nginx; then systemctl reload nginx; fi",
    )
    systemd.service(name="nginx: runs, now and at boot", service=units.NGINX.name, running=True, enabled=True)
    deploying.deploy_machine_access()
    deploying.keys_only()
    deploying.network_holds_at_boot()
