"""All errors are reported at once, each with its line and its fix, in the order of the lines."""

site = "lab-site"
target = "production"
operator = {"user": "ops", "key": "~/.ssh/id_ed25519", "known_hosts": "~/.ssh/known_hosts"}

networks = {
    "enterprise": {"cidr": "192.168.0.0/24", "upstream": "192.168.1.1"},
    "mgmt": {"cidr": "100.64.0.0/21"},
    "traffic": {"cidr": "100.64.32.7/21"},
    "storage": {"cidr": "100.64.64.0/21"},
}

hosts = {
    "dev": {"role": "workstation", "addresses": {"enterprise": "192.168.0.105"}},
    "images": {"role": "images", "addresses": {"enterprise": "192.168.0.105"}},
    "gateway": {
        "role": "gateway",
        "addresses": {
            "enterprise": "192.168.0.51",
            "traffic": "100.64.32.1",
            "storage": "100.64.64.1",
        },
    },
    "jumphost": {"role": "jumphots", "addresses": {"mgmt": "100.64.0.52"}, "published": "192.168.0.52"},
    "lb": {"role": "lb_nginx", "addresses": {"mgmt": "100.64.0.53"}, "publishd": "192.168.0.53"},
    "master-1": {
        "role": "master",
        "addresses": {"mgmt": "100.64.0.2", "traffic": "100.64.32.2", "storage": "100.64.64.0"},
        "default_route": "internet",
    },
}
