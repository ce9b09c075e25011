"""The ways in: this machine, why ssh does not get into a host, and who may."""
