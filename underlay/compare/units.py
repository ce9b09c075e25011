"""The systemd units of a host beside those that its role needs. Pure."""

from collections.abc import Iterator, Mapping

from underlay.compare.difference import Difference, UnitState
from underlay.desired.units import UNITS


def differences(role: str, found: Mapping[str, UnitState]) -> Iterator[Difference]:
    """The units that do not run, or will not after a boot; `found` has them by name."""
    for unit in UNITS[role]:
        state = found[unit.name]
        if state.active != "active":
            yield Difference("stopped", unit, state)
        elif state.enabled != "enabled":
            yield Difference("disabled", unit, state)
