"""The cloud-init seed of a host (NoCloud): who it is and who may log in, from its first boot on. Pure.

It is a small file system with the label `cidata`: a partition of a disk that is made here, or a disk of its own beside
an image that people have.
"""

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from underlay.plan import SSH_PORT, Bond, Host, Plan, Vlan

LABEL = "CIDATA"
SSHD_PORT = "/etc/ssh/sshd_config.d/10-port.conf"
_NAMESPACE = uuid.UUID("4f0a7c1e-5a3b-5d0c-9a7e-0d3c6d1b8a52")


@dataclass(frozen=True)
class First:
    """What a host has at its first boot.

    address: with its length; on `nic`, the host's primary one
    links: what that is made of, see `plan.Host`
    login: the line of the operator's public key
    host_key, host_key_public: as ssh-keygen writes them
    files: path → content of further ones that it has, all readable to everybody
    """

    name: str
    nic: str
    address: str
    router: str | None
    user: str
    login: str
    host_key: str
    host_key_public: str
    files: Mapping[str, str] = field(default_factory=dict)
    links: Sequence[Bond | Vlan] = ()


def of_host(plan: Plan, host: Host, login: str, host_key: tuple[str, str], name_servers: list[str]) -> First:
    """What a host of the plan has at its first boot. `host_key`: the private one and the public one."""
    return First(
        name=host.name,
        nic=host.primary.nic,
        address=host.primary.with_prefix,
        router=str(plan.gateway_address(host.primary.network)),
        user=host.login.user,
        login=login,
        host_key=host_key[0],
        host_key_public=host_key[1],
        files=dict(_files(host, name_servers)),
        links=of_nic(host.primary.nic, host.links),
    )


def _files(host: Host, name_servers: list[str]) -> Iterator[tuple[str, str]]:
    if name_servers:
        yield "/etc/resolv.conf", "".join(f"nameserver {each}\n" for each in name_servers)
    if host.login.port != SSH_PORT:
        yield SSHD_PORT, f"Port {host.login.port}\n"


def of_nic(nic: str, links: Sequence[Bond | Vlan]) -> list[Bond | Vlan]:
    """Of what a host makes of its NICs, what one of them needs, in that order."""
    mine = [each for each in links if each.name == nic]
    below = [of_nic(each.parent, links) for each in mine if isinstance(each, Vlan)]
    return [*(each for found in below for each in found), *mine]


def identity(*words: str) -> uuid.UUID:
    """A UUID that is the same for the same words."""
    return uuid.uuid5(_NAMESPACE, "\n".join(words))


def files(first: First) -> dict[str, str]:
    """The files of the seed, name → content. JSON, which is YAML."""
    keys = [first.login.strip()]
    user = {
        "name": first.user,
        "shell": "/bin/bash",
        "lock_passwd": True,
        "sudo": "ALL=(ALL:ALL) NOPASSWD: ALL",
        "ssh_authorized_keys": keys,
    }
    settings: dict[str, object] = {
        "hostname": first.name,
        "manage_etc_hosts": "localhost",  # else sudo looks for its name in the DNS
        "users": [user] if first.user != "root" else [],  # without those of the image
        "ssh_pwauth": False,
        "ssh_deletekeys": True,
        "ssh_keys": {"ed25519_private": first.host_key, "ed25519_public": first.host_key_public.strip()},
    }
    if first.user == "root":
        settings |= {"disable_root": False, "ssh_authorized_keys": keys}
    if first.files:
        settings["write_files"] = [{"path": path, "content": content} for path, content in first.files.items()]
    nic: dict[str, object] = {"addresses": [first.address]}
    if first.router:
        nic["routes"] = [{"to": "0.0.0.0/0", "via": first.router}]
    found = {
        "user-data": f"#cloud-config\n{_json(settings)}",
        "network-config": _json({"version": 2, **_network(first, nic)}),
    }
    # cloud-init takes a host with another one for a new machine, and sets it up anew.
    instance = identity(*found, *found.values())
    return {"meta-data": _json({"instance-id": str(instance), "local-hostname": first.name}), **found}


def _network(first: First, settings: dict[str, object]) -> dict[str, object]:
    """The NIC with its settings, and what it is made of, as netplan writes it."""
    kinds: dict[str, dict[str, object]] = {"ethernets": {}, "bonds": {}, "vlans": {}}
    for link in first.links:
        more = settings if link.name == first.nic else {}
        if isinstance(link, Bond):
            kinds["ethernets"] |= {leg: {} for leg in link.legs}
            how: dict[str, object] = {"mode": link.mode, "mii-monitor-interval": 100}
            if link.mode == "802.3ad":
                how |= {"transmit-hash-policy": "layer3+4", "lacp-rate": "fast"}
            kinds["bonds"][link.name] = {"interfaces": list(link.legs), "parameters": how, **more}
        else:
            if link.parent not in kinds["bonds"]:
                kinds["ethernets"].setdefault(link.parent, {})
            kinds["vlans"][link.name] = {"id": link.number, "link": link.parent, **more}
    if not first.links:
        kinds["ethernets"][first.nic] = settings
    return {kind: found for kind, found in kinds.items() if found}


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"
