"""What the next boot of the host will do."""
