"""The nodes that run pods: a NIC in every network, answers from the address that was asked."""

from underlay.verify.checks import EveryHost


class TestWorker(EveryHost):
    role = "worker"
