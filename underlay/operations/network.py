"""Bring the network of a host into its planned state, live and on disk."""

from collections.abc import Generator

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, Host, State, operation

from underlay.compare import difference, network
from underlay.compare import files as compared
from underlay.compare.managers import boot
from underlay.compare.network import LiveNetwork
from underlay.compare.systemd import networkd
from underlay.desired import hooks, routing
from underlay.desired.files import nic_of
from underlay.desired.routing import Address, HostNetwork
from underlay.facts.network import Network
from underlay.guard.change import Change, NewFile
from underlay.operations import guarded, tell

_obstacles: dict[str, list[str]] = {}
"""Host → what wins over our files there, as `configured` found it."""


@operation()
def configured(wanted: HostNetwork) -> Generator[FunctionCommand, None, None]:
    """
    Addresses, routes, policy rules and sysctls, both live and in the files of systemd-networkd and sysctl.

    + wanted: what `routing.host_network` made of the plan

    Live first, with `ip`, then the files: so networkd finds what it is told to make, and nothing goes away in between.
    Routes, rules and addresses of others stay; what is ours is said in `compare.network.differences`. Put
    `holds_at_boot` at the end of the deploy.
    """
    live = host.get_fact(Network, sysctls=list(wanted.sysctls))
    if live is None:
        return
    _obstacles[host.name] = [boot.advice(each) for each in boot.obstacles(wanted, live)]
    change = network_change(wanted, live)
    if change is None:
        host.noop("the network is as planned")
        return
    tell((*change.what, *(f"stays: {each}" for each in network.unmanaged(wanted, live, wanted.every))))
    yield guarded(change)


@operation()
def holds_at_boot() -> Generator[FunctionCommand, None, None]:
    """Fail if a file of the host undoes at the next boot what `configured` made: it names the file, and what to do."""
    if found := _obstacles.get(host.name):
        tell(found)
        yield FunctionCommand(_refuse, (found,), {})
    else:
        host.noop("nothing undoes it at the next boot")


def _refuse(state: State, host: Host, found: list[str]) -> bool:  # noqa: ARG001 (pyinfra looks for the names)
    for line in found:
        logger.error(f"{host.print_prefix}after a boot it will not be as planned: {line}")
    return False


SAVE_ROUTES = "routes=$(ip -o -4 route show table main | grep -v ' proto kernel ' || true)\n"
RESTORE_ROUTES = """\
echo "$routes" | tr -d '\\\\' | while read -r route; do
  [ -z "$route" ] || ip -4 route add $route 2>/dev/null || true
done
"""
"""A NIC without an address for a moment loses its routes: those of others come back so. One that is there stays.

The kernel's own come and go with the addresses: one to a network that is not the plan's any more would stay for good.
"""


def network_change(wanted: HostNetwork, live: LiveNetwork) -> Change | None:
    """What brings a host from its live network to the wanted one; None if nothing differs."""
    live_differences = network.differences(wanted, live)
    files = compared.boot_differences(boot.files(wanted, live), live.ours)
    if not (live_differences or files):
        return None
    contents = {each.where: each.thing.content for each in files if isinstance(each.thing, difference.File)}
    activate = hooks.activation(contents)
    if contents.get(routing.NETWORKD_CONF) is not None:
        # networkd reads its own configuration at start only.
        activate += "systemctl restart systemd-networkd"
    elif any(map(networkd.is_ours, contents)):
        activate += "networkctl reload"
    live_commands = "".join(f"{line}\n" for each in live_differences for line in network.commands(each))
    if any(each.kind in ("order", "extra") and isinstance(each.thing, Address) for each in live_differences):
        live_commands = f"{SAVE_ROUTES}{live_commands}{RESTORE_ROUTES}"
    ours = {nic_of(path, text) for path, text in live.ours.items()}
    # networkd takes a leg that left the plan out of its bond, where another file is for it.
    legs = [*wanted.legs, *(nic for nic, shape in live.shapes.items() if shape.master and nic in ours)]
    return Change(
        what=(
            *(each.what for each in live_differences),
            *(line for each in files for line in compared.lines(each)),
        ),
        live=live_commands,
        files={
            path: None if content is None else NewFile(content, hooks.mode(path)) for path, content in contents.items()
        },
        activate=activate,
        sysctls=tuple(wanted.sysctls),
        links=tuple(dict.fromkeys([*legs, *(link.name for link in wanted.links)])),
    )
