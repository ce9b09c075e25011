"""What is kept or handed on: bundle, backup, report."""
