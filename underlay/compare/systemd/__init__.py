"""What systemd makes at a boot of the files that it finds, in its own order. Pure."""
