"""Who may log in where: host keys that are known beforehand, and the line of the deploy machine's own key."""

from pathlib import Path

from paramiko import HostKeys, PKey
from paramiko.hostkeys import HostKeyEntry

from underlay.plan import Host, Plan

MARK = "underlay-deploy-machine"
"""The comment of the deploy machine's key in `authorized_keys`."""


def known_hosts(plan: Plan, path: Path) -> str:
    """The host keys of the plan's hosts that this machine knows, each with all addresses of its host.

    For the deploy machine, which reaches the hosts by other addresses than a workstation does.
    """
    known = _load(path)
    return "".join(_lines(known, host, _addresses(host)) for host in plan.hosts)


def known_as_published(plan: Plan, path: Path) -> str:
    """The host keys of published hosts by their published addresses, of those that are known by an internal one.

    So that nobody has to change `known_hosts` to publish a host, at another address than before, say.
    """
    known = _load(path)
    return "".join(_lines(known, host, [str(host.published)]) for host in plan.published)


def machine_key(plan: Plan, public: str) -> str:
    """The line of `authorized_keys` that lets the deploy machine (the jump host) in, and only from there.

    public: its key, as TYPE and KEY
    """
    sources = ",".join(str(nic.address) for nic in plan.jumphost.interfaces)
    return f'from="{sources}" {public} {MARK}'


def with_key(content: str, key: str, mark: str) -> str:
    """A file of keys in which the only line whose comment is `mark` is this one; all other lines stay as they are."""
    lines = [f"{line}\n" for line in content.split("\n")]
    lines[-1] = lines[-1].removesuffix("\n")
    ours = [
        index for index, line in enumerate(lines) if line.rstrip().endswith(f" {mark}") and not line.startswith("#")
    ]
    if not ours:
        end = "" if not content or content.endswith("\n") else "\n"
        return f"{content}{end}{key}\n"
    lines[ours[0]] = f"{key}\n"
    return "".join(line for index, line in enumerate(lines) if index not in ours[1:])


def _load(path: Path) -> HostKeys:
    return HostKeys(str(path)) if path.exists() else HostKeys()


def _lines(known: HostKeys, host: Host, names: list[str]) -> str:
    keys = sorted(_known_keys(known, host).items())
    return "".join(HostKeyEntry([",".join(names)], key).to_line() or "" for _, key in keys)


def _known_keys(known: HostKeys, host: Host) -> dict[str, PKey]:
    # The first address is the host's own for longest: a published one may have been another host's before.
    names = reversed(_addresses(host))
    return {kind: key for name in names for kind, key in (known.lookup(name) or {}).items()}


def _addresses(host: Host) -> list[str]:
    return [str(nic.address) for nic in host.interfaces] + ([str(host.published)] if host.published else [])
