"""Programs that look at something on a host, and end."""
