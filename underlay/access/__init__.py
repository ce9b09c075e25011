"""How hosts are reached: target, ways, host keys, ssh configuration, sessions."""
