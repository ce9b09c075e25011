"""For the person on call: look, follow, log in."""
