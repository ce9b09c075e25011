"""Commands for the Kubernetes cluster of the plan."""
