"""Bring the network of a host into its planned state, live and on disk."""

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FunctionCommand, operation

from underlay.compare import difference, network
from underlay.compare import files as compared
from underlay.compare.network import LiveNetwork
from underlay.desired import routing
from underlay.desired.files import network_files
from underlay.desired.routing import HostNetwork
from underlay.facts.network import Network
from underlay.guard.change import Change, NewFile
from underlay.operations import guarded, tell


@operation()
def configured(wanted: HostNetwork) -> Generator[FunctionCommand, None, None]:
    """
    Addresses, routes, policy rules and sysctls, both live and in the files of systemd-networkd and sysctl.

    + wanted: what `routing.host_network` made of the plan

    Live first, with `ip`, then the files: so networkd finds what it is told to make, and nothing goes away in between.
    Routes, rules and addresses of others stay; what is ours is said in `compare.network.differences`.
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
    live_differences = network.differences(wanted, live)
    files = compared.boot_differences(network_files(wanted), live.files)
    if not (live_differences or files):
        return None
    contents = {each.where: each.thing.content for each in files if isinstance(each.thing, difference.File)}
    activate = ""
    if contents.get(routing.NETWORKD_CONF) is not None:
        # networkd reads its own configuration at start only.
        activate = "systemctl restart systemd-networkd"
    elif any(map(routing.nic_of, contents)):
        activate = "networkctl reload"
    return Change(
        what=(
            *(each.what for each in live_differences),
            *(line for each in files for line in compared.lines(each)),
        ),
        live="".join(f"{network.command(each)}\n" for each in live_differences),
        files={path: None if content is None else NewFile(content) for path, content in contents.items()},
        activate=activate,
        sysctls=tuple(wanted.sysctls),
    )
