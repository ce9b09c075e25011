"""The systemd units of a host beside those that its role needs. Pure."""

from collections.abc import Iterator, Mapping

from underlay.compare.difference import Difference, UnitState
from underlay.desired.units import UNITS, Unit


def state_of(unit: Unit, found: Mapping[str, UnitState]) -> UnitState:
    """The state of a unit, or of the one that is instead of it, if that is as it must be."""
    instead = found.get(unit.instead)
    good = UnitState("active", "enabled")
    return good if instead == good else found.get(unit.name, UnitState("unknown", "unknown"))


def differences(role: str, found: Mapping[str, UnitState]) -> Iterator[Difference]:
    """The units that do not run, or will not after a boot; `found` has them by name."""
    for unit in UNITS[role]:
        state = state_of(unit, found)
        if state.active != "active":
            yield Difference("stopped", unit, state)
        elif state.enabled != "enabled":
            yield Difference("disabled", unit, state)
