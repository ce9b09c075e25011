"""Finds out what is wrong with the site: surveys it, walks from cause to cause, and says how each is fixed."""
