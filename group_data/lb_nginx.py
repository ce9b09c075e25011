"""The web systems behind the load balancer: only the role lb_nginx knows them.

Each virtual host has its own name, the only one it answers to. An upstream is HOST:PORT with a host of the plan (its
first address), or ADDRESS:PORT for a system that the plan does not know. `docs/plan.md` explains the keys.
"""

web_services = {
    "grafana.lab.example": {"upstreams": ["master-1:3000"], "websockets": True},
    "prometheus.lab.example": {"upstreams": ["master-1:9090"]},
    "registry.lab.example": {"upstreams": ["master-1:5000"], "max_body": "10g"},
}
