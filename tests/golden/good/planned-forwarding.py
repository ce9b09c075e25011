"""From outside only what is named comes in: addresses, ports of them, and exceptions."""

site = "lab-site"
target = "lab"
forwarding = "planned"
exceptions = {
    "monitoring": {"from": "192.168.0.60/32", "to": "100.64.0.0/21", "ports": ["tcp/9100-9200", "udp/161", "icmp"]},
    "backup": {"from": "0.0.0.0/0", "to": "100.64.64.2/32"},
    "admin": {"from": "192.168.0.105/32", "to": "192.168.0.53/32", "ports": ["tcp/22"]},
}
operator = {"user": "ops", "key": "~/.ssh/id_ed25519", "known_hosts": "~/.ssh/known_hosts"}

networks = {
    "enterprise": {"cidr": "192.168.0.0/24", "upstream": "192.168.0.1"},
    "mgmt": {"cidr": "100.64.0.0/21"},
    "traffic": {"cidr": "100.64.32.0/21"},
    "storage": {"cidr": "100.64.64.0/21"},
}


hosts = {
    "dev": {"role": "workstation", "addresses": {"enterprise": "192.168.0.105"}},
    "images": {"role": "images", "addresses": {"enterprise": "192.168.0.50"}},
    "gateway": {
        "role": "gateway",
        "addresses": {
            "enterprise": "192.168.0.51",
            "mgmt": "100.64.0.1",
            "traffic": "100.64.32.1",
            "storage": "100.64.64.1",
        },
    },
    "jumphost": {"role": "jumphost", "addresses": {"mgmt": "100.64.0.52"}, "published": "192.168.0.52"},
    "lb": {
        "role": "lb_nginx",
        "addresses": {"mgmt": "100.64.0.53"},
        "published": {"address": "192.168.0.53", "ports": ["tcp/80", "tcp/6443"]},
    },
    "master-1": {
        "role": "master",
        "addresses": {"mgmt": "100.64.0.2", "traffic": "100.64.32.2", "storage": "100.64.64.2"},
        "default_route": "traffic",
    },
}
