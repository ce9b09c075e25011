"""Plan → the load balancer's nginx configuration. Pure."""

from underlay.desired.templates import render
from underlay.plan import Plan, roles

PATH = "/etc/nginx/nginx.conf"
API_PORT = 6443
HTTP_PORT = 80


def configuration(plan: Plan) -> str:
    """The file at PATH: L7 virtual hosts and the L4 proxy for the Kubernetes API on all masters of the plan."""
    services = roles.lb_nginx(plan).web_services
    return render(
        "lb_nginx/nginx.conf.j2",
        api_port=API_PORT,
        http_port=HTTP_PORT,
        masters=[f"{master.primary.address}:{API_PORT}" for master in plan.hosts_of("master")],
        services=[{"name": name, **service.model_dump()} for name, service in services.items()],
    )
