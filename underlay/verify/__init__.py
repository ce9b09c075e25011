"""`invoke verify`: the checks of `tests/site` and real packets, for the roles that are asked for."""
