"""Who may log in where: host keys that are known beforehand, and the deploy machine's own key."""

from paramiko import HostKeys, PKey
from paramiko.hostkeys import HostKeyEntry

from underlay.plan import Host
from underlay.target import Target

MARK = "underlay-deploy-machine"
"""The comment of the deploy machine's key in `authorized_keys`."""


def known_hosts(target: Target) -> str:
    """The host keys of the plan's hosts that this machine knows, each with all addresses of its host.

    For the deploy machine, which reaches the hosts by other addresses than a workstation does.
    """
    lines = []
    for host in target.plan.hosts:
        for _, key in sorted(_known_keys(target, host).items()):
            lines.append(HostKeyEntry([",".join(_addresses(host))], key).to_line() or "")
    return "".join(lines)


def machine_key(target: Target) -> str | None:
    """The line of `authorized_keys` that lets the deploy machine (the jump host) in, or None if its key is not known.

    It is the machine's host key, which every workstation knows before the first deploy, and it is good only from there.
    """
    jumphost = target.plan.jumphost
    key = _known_keys(target, jumphost).get("ssh-ed25519")
    if key is None:
        return None
    sources = ",".join(str(nic.address) for nic in jumphost.interfaces)
    return f'from="{sources}" {key.get_name()} {key.get_base64()} {MARK}'


def _known_keys(target: Target, host: Host) -> dict[str, PKey]:
    known = HostKeys(str(target.known_hosts)) if target.known_hosts.exists() else HostKeys()
    return {kind: key for name in _addresses(host) for kind, key in (known.lookup(name) or {}).items()}


def _addresses(host: Host) -> list[str]:
    return [str(nic.address) for nic in host.interfaces] + ([str(host.published)] if host.published else [])
