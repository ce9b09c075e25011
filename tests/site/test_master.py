"""The control-plane nodes: a NIC in every network, answers from the address that was asked."""

from underlay.verify.checks import EveryHost


class TestMaster(EveryHost):
    role = "master"
