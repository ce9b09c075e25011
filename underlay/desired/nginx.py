"""Plan → the load balancer's nginx configuration. Pure."""

from underlay.desired.templates import render
from underlay.plan import Plan, roles

PATH = "/etc/nginx/nginx.conf"
API_PORT = roles.API_PORT
HTTP_PORT = roles.HTTP_PORT


def configuration(plan: Plan) -> str:
    """The file at PATH: L7 virtual hosts and the L4 proxy for the Kubernetes API on all masters of the plan."""
    services = roles.lb_nginx(plan).web_services
    masters = plan.hosts_of("master")
    return render(
        "lb_nginx/nginx.conf.j2",
        api_port=API_PORT,
        http_port=HTTP_PORT,
        masters=[f"{plan.api_address(master)}:{API_PORT}" for master in masters],
        api_zone=_zone(len(masters)),
        services=[
            {"name": name, "zone": _zone(len(service.upstreams)), **service.model_dump()}
            for name, service in services.items()
        ],
        # nginx's own defaults, or what it takes: a name has to fit into one bucket, with 24 bytes about it.
        names_size=max(512, 4 * len(services)),
        names_bucket=max(128, -(-(max(map(len, services), default=0) + 32) // 64) * 64),
    )


def _zone(servers: int) -> int:
    """The shared memory of an upstream, in KiB: nginx takes about one for each server, and some for itself."""
    return max(64, 2 * servers)
