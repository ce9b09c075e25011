"""The control-plane nodes: a NIC in every network, answers from the address that was asked."""

from underlay.observe.state import HostState
from underlay.plan import Host
from underlay.verify.checks import EveryHost, expect_packages


class TestMaster(EveryHost):
    role = "master"

    def test_packages(self, planned: Host, state: HostState) -> None:
        """The packages are installed."""
        expect_packages(planned, state, ["conntrack", "tcpdump"])
