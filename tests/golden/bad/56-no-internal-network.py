"""A site has networks behind its gateway."""

site = "lab-site"
target = "lab"
operator = {"user": "ops", "key": "~/.ssh/id_ed25519", "known_hosts": "~/.ssh/known_hosts"}

networks = {
    "enterprise": {"cidr": "192.168.0.0/24", "upstream": "192.168.0.1"},
}

hosts = {
    "gateway": {"role": "gateway", "addresses": {"enterprise": "192.168.0.51"}},
    "jumphost": {"role": "jumphost", "addresses": {"enterprise": "192.168.0.52"}},
}
