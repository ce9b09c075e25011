"""`invoke verify`: the checks of `tests/site` and real packets, for the roles that are asked for."""

from underlay.verify.command import run

__all__ = ["run"]
