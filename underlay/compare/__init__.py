"""What a host is beside what it must be: every difference is a value. Pure."""
