"""The nodes of a Kubernetes cluster: what kubeadm needs of a host, read and compared; the configuration it gets."""
