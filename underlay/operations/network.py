"""Bring the network of a host into its planned state, live and on disk."""

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FunctionCommand, operation

from underlay.desired import routing
from underlay.desired.files import network_files
from underlay.desired.routing import HostNetwork, LiveNetwork
from underlay.facts.network import Network
from underlay.guard.change import Change, File
from underlay.operations import differences, file_diff, guarded, tell


@operation()
def configured(wanted: HostNetwork) -> Generator[FunctionCommand, None, None]:
    """
    Addresses, routes, policy rules and sysctls, both live and in the files of systemd-networkd and sysctl.

    + wanted: what `routing.host_network` made of the plan

    Live first, with `ip`, then the files: so networkd finds what it is told to make, and nothing goes away in between.
    Routes, rules and addresses of others stay; what is ours is said in `routing.changes`.
    """
    live = host.get_fact(Network, sysctls=list(wanted.sysctls))
    if live is None:
        return
    change = network_change(wanted, live)
    if change is None:
        host.noop("the network is as planned")
        return
    tell(change.what)
    yield guarded(change)


def network_change(wanted: HostNetwork, live: LiveNetwork) -> Change | None:
    """What brings a host from its live network to the wanted one; None if nothing differs."""
    files = network_files(wanted)
    changed = differences(files, live.files)
    stale = [path for path in live.files if path not in files]
    changes = routing.changes(wanted, live)
    if not (changes or changed or stale):
        return None
    activate = ""
    if routing.NETWORKD_CONF in changed:
        # networkd reads its own configuration at start only.
        activate = "systemctl restart systemd-networkd"
    elif any(routing.nic_of(path) for path in [*changed, *stale]):
        activate = "networkctl reload"
    what = [change.what for change in changes]
    for path in [*changed, *stale]:
        what += file_diff(path, live.files.get(path), files.get(path))
    return Change(
        what=tuple(what),
        live="".join(f"{change.command}\n" for change in changes),
        files={path: File(files[path]) for path in changed} | dict.fromkeys(stale),
        activate=activate,
        sysctls=tuple(wanted.sysctls),
    )
