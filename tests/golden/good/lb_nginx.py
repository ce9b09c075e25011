"""Web systems behind the load balancer of each plan in this folder."""

web_services = {
    "grafana.lab.example": {"upstreams": ["master-1:3000"], "websockets": True},
    "legacy.lab.example": {"upstreams": ["192.0.2.7:8080", "192.0.2.8:8080"], "max_body": "10g"},
}
