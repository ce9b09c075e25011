"""The systemd units of a host beside those that it needs. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from underlay.compare.difference import Difference, UnitState
from underlay.desired.units import Unit


def state_of(unit: Unit, found: Mapping[str, UnitState]) -> UnitState:
    """The state of a unit, or of the one that is instead of it, if that is as it must be."""
    instead = found.get(unit.instead)
    good = UnitState("active", "enabled")
    return good if instead == good else found.get(unit.name, UnitState("unknown", "unknown"))


def differences(needed: Iterable[Unit], found: Mapping[str, UnitState]) -> Iterator[Difference]:
    """The units that do not run, or will not after a boot; `found` has them by name."""
    for unit in needed:
        state = state_of(unit, found)
        if state.active != "active":
            yield Difference("stopped", unit, state)
        elif state.enabled != "enabled":
            yield Difference("disabled", unit, state)
