"""A change can't hurt: it is undone by the host itself unless it is confirmed in time."""
