"""What follows from the `kubernetes` of a plan (`tests/golden/bad` has its errors)."""

import pytest

from tests.unit.conftest import Planned
from underlay.desired import nginx, traffic
from underlay.plan import REPO, Kubernetes, load

CLUSTER = load(REPO / "tests/golden/good/cluster.py")
LAST = '"default_route": "traffic",\n    },\n}\n'
SHORT = """
kubernetes = {
    "version": "%s",
    "images": "registry.lab.example/k8s",
    "endpoint": "api.lab.example",
    %s
}
"""


def kubernetes(planned: Planned, version: str = "1.33.4", more: str = "") -> Kubernetes:
    found = planned((LAST, LAST + SHORT % (version, more))).kubernetes
    assert found
    return found


def test_what_is_left_out_follows_from_the_first_master(planned: Planned) -> None:
    found = kubernetes(planned)
    assert (found.node_network, found.api_network) == ("traffic", "mgmt")
    assert (str(found.pods), str(found.services), found.domain) == ("10.244.0.0/16", "10.96.0.0/16", "cluster.local")


@pytest.mark.parametrize(
    ("version", "tag"),
    [("1.20.2", "3.2"), ("1.26.0", "3.9"), ("1.30.9", "3.9"), ("1.31.0", "3.10"), ("1.36.0", "3.10.1")],
)
def test_the_pause_image_is_that_of_the_version(planned: Planned, version: str, tag: str) -> None:
    assert kubernetes(planned, version).pause == f"registry.lab.example/k8s/pause:{tag}"
    assert kubernetes(planned, version, '"pause": "r/pause:1"').pause == "r/pause:1"


def test_the_nodes_are_the_masters_then_the_workers() -> None:
    assert [host.name for host in CLUSTER.nodes] == ["master-1", "master-2", "master-3", "worker-1", "worker-2"]
    assert str(CLUSTER.node_address(CLUSTER.host("worker-2"))) == "100.64.32.12"
    assert str(CLUSTER.api_address(CLUSTER.host("master-3"))) == "100.64.0.4"
    assert str(CLUSTER.api_address(CLUSTER.host("lb"))) == "100.64.0.53"


def test_without_a_cluster_there_are_no_nodes(planned: Planned) -> None:
    plan = planned()
    assert plan.nodes == ()
    assert plan.api_address(plan.host("master-1")) == plan.host("master-1").primary.address


def test_the_proxy_goes_to_the_api_network(planned: Planned) -> None:
    plan = planned(
        (LAST, LAST + SHORT % ("1.33.4", '"api_network": "traffic"')),
        ('"mgmt": "100.64.0.53"', '"traffic": "100.64.32.53"'),
    )
    assert "server 100.64.32.2:6443 " in nginx.configuration(plan)


def test_nothing_of_the_api_leads_to_a_worker() -> None:
    api = [flow for flow in traffic.expected(CLUSTER, None) if flow.port == nginx.API_PORT and "lb" in flow.through]
    assert api
    assert {name for flow in api for name in flow.receivers} == {"master-1", "master-2", "master-3"}
    assert "100.64.0.11" not in nginx.configuration(CLUSTER)
    assert any(flow.row == "nodes to nodes" and flow.role == "worker" for flow in traffic.expected(CLUSTER, None))
