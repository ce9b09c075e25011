"""The underlay network of a Kubernetes site: its plan, what follows from it, and how hosts are brought to it."""
