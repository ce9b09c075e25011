"""Real Kubernetes for the lab: its programs, what nodes need beside them, and the images of its control plane."""
