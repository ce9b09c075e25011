"""What keeps the next boot of a host from being as planned: what its parts said, beside the plan and its files."""

from collections.abc import Sequence
from contextlib import suppress

from underlay.access.answers import UnreadableError
from underlay.compare.systemd import next_boot
from underlay.compare.systemd.networkd import Device, System
from underlay.compare.systemd.next_boot import NextBoot, Problem
from underlay.desired import nginx, routing
from underlay.desired.files import SSHD, sshd_file
from underlay.desired.units import Unit
from underlay.observe.state import HostState
from underlay.plan import Host, Plan


def problems(plan: Plan, host: Host, state: HostState, found: NextBoot, known: Sequence[str]) -> list[Problem]:
    """What keeps it from that; `known`: the keys by which the host is known, as TYPE and KEY.

    A file of ours that is not as planned is a difference, and none of these.
    """
    devices, system = tuple[Device, ...](), System()
    ssh_files: dict[str, str] = {}
    ours: dict[str, str] = {}
    with suppress(UnreadableError):
        devices, system = state.network.devices, state.network.system
    with suppress(UnreadableError):  # sshd does not take its files, and says so itself
        ssh_files = dict(state.sshd.files)
    with suppress(UnreadableError):
        ours = state.files
    wanted = routing.host_network(plan, host)
    managing: tuple[Unit, ...] = ()
    with suppress(UnreadableError):
        managing = state.network.managing(wanted.every)
    every = next_boot.problems(host, wanted, found, devices, system, known, ssh_files, managing)
    contents = {"sshd": (SSHD, sshd_file(plan, host)), "nginx": (nginx.PATH, nginx.configuration(plan))}
    differ = {about for about, (path, text) in contents.items() if ours and ours.get(path) != text}
    return [each for each in every if each.about not in differ]
