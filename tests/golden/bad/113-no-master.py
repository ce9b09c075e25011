"""A cluster has a master."""
site = "lab-site"
target = "lab"
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
    "lb": {"role": "lb_nginx", "addresses": {"mgmt": "100.64.0.53"}, "published": "192.168.0.53"},
    "master-1": {
        "role": "server",
        "addresses": {"mgmt": "100.64.0.2", "traffic": "100.64.32.2", "storage": "100.64.64.2"},
        "default_route": "traffic",
    },
}

kubernetes = {
    "version": "1.33.4",
    "images": "registry.lab.example/kubernetes",
    "endpoint": "api.lab.example",
}
