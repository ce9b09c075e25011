"""Confirmed changes (commit-confirm): a host undoes a change by itself unless it is confirmed in time."""
