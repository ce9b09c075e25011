"""What is missing before kubeadm runs: what a node is asked, what its answer means, and the nodes beside each other."""

import json
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit import site, yaml
from tests.unit.test_nodes import ready, wanted  # noqa: F401 (fixtures)
from underlay.access import answers
from underlay.nodes.state import NodeState
from underlay.observe.health import Clock
from underlay.plan import REPO, load
from underlay.remote import send
from underlay.remote.checks import preflight as program
from underlay.verify import preflight
from underlay.verify.preflight import Answer, Node, judged

PLAN = load(REPO / "tests/golden/good/cluster.py")
NAMES = {
    **{host.name: [str(PLAN.node_address(host))] for host in PLAN.nodes},
    "api.lab.example": ["100.64.0.53"],
}


def said(name: str, **parts: Any) -> Answer:
    """What a node says that lacks nothing."""
    found: dict[str, Any] = {
        "ids": {"machine-id": f"id of {name}", "product_uuid": f"uuid of {name}"},
        "processors": 4,
        "memory": 8000,
        "room": (80 * 10**9, 100 * 10**9),
        "joined": False,
        "names": NAMES,
        "api": "open",
        "pings": [(source, end, 1500, "answered", "") for _, source, end in preflight.pings(PLAN, PLAN.host(name))],
        "ports": {},
        "sync": [0.002] * 100,
        "kubeadm": [],
    }
    answer: Answer = answers.parsed(Answer, json.dumps(found | parts))
    return answer


@pytest.fixture
def nodes(ready: NodeState) -> list[Node]:  # noqa: F811
    clock = Clock(0.0, 0.01)
    return [Node(host, said(host.name), site.state(PLAN, host, node=ready, clock=clock)) for host in PLAN.nodes]


def faults(nodes: list[Node], *, lab: bool = False) -> list[str]:
    """All that is not good, a line each."""
    found = judged(PLAN, nodes, None, lab=lab)
    return [f"{each.host} / {each.check}: {each.state}: {each.what}" for each in found if each.state != "good"]


def test_nothing_is_missing(nodes: list[Node]) -> None:
    assert faults(nodes) == []
    checks = {each.check for each in nodes[0].findings}
    assert checks == {
        *("prepared", "names", "way to the API", "packets", "room in /var/lib", "size", "disk of etcd"),
        *("ports", "kubeadm", "ids", "clock"),
    }
    assert "disk of etcd" not in {each.check for each in nodes[-1].findings}


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ({"names": {**NAMES, "worker-1": ["127.0.1.1"]}}, "names: wrong: worker-1 is 127.0.1.1, not 100.64.32.11"),
        ({"names": {}}, "names: wrong: master-1 is not known, not 100.64.32.2"),
        ({"api": "no answer within 3 s"}, "way to the API: wrong: api.lab.example:6443: no answer within 3 s"),
        (
            {"api": "refused"},
            "way to the API: note: api.lab.example:6443: refused: so it is until the first master runs",
        ),
        (
            {"room": [10**9, 100 * 10**9]},
            "room in /var/lib: wrong: 1.0 GB of 100.0 are free: kubelet removes images below 15%",
        ),
        ({"processors": 1}, "size: wrong: 1 processors: kubeadm wants 2"),
        ({"memory": 900}, "size: wrong: 900 MiB of memory: kubeadm wants 1700"),
        (
            {"sync": [0.001] * 95 + [0.02] * 5},
            "disk of etcd: note: 99 of 100 fdatasync take up to 20.0 ms, half of them 1.0",
        ),
        ({"sync": [0.3] * 7}, "disk of etcd: wrong: 99 of 100 fdatasync take up to 300.0 ms"),
        ({"sync": []}, "disk of etcd: not read: /var/lib/etcd could not be measured"),
        ({"ports": {"10250": "kubelet"}}, "ports: wrong: 10250 is taken by kubelet"),
        ({"kubeadm": ["[ERROR Swap]: swap is on"]}, "kubeadm: wrong: [ERROR Swap]: swap is on"),
        ({"kubeadm": ["[WARNING Hostname]: x"]}, "kubeadm: note: [WARNING Hostname]: x"),
    ],
    ids=lambda each: str(each)[:30],
)
def test_one_node_lacks_something(nodes: list[Node], parts: dict[str, Any], fault: str) -> None:
    nodes[0].answer = said("master-1", **parts)
    found = faults(nodes)
    assert found[0].startswith(f"master-1 / {fault}")
    assert len(found) == (6 if parts == {"names": {}} else 1)


def test_a_packet_that_is_too_large_is_no_dead_way(nodes: list[Node]) -> None:
    pings = [
        ("100.64.32.2", "100.64.32.3", 9000, "Frag needed and DF set (mtu = 1500)", "answered"),
        ("100.64.64.2", "100.64.64.3", 1500, "no answer", "no answer"),
    ]
    nodes[0].answer = said("master-1", pings=pings)
    large, dead = faults(nodes)
    assert "no packet of 9000 bytes gets through (Frag needed and DF set (mtu = 1500)), small ones do" in large
    assert "cluster.py:" in large
    assert "no packet of 1500 bytes gets through (no answer), none does" in dead


def test_a_node_of_a_cluster_has_its_ports(nodes: list[Node]) -> None:
    nodes[0].answer = said(
        "master-1", joined=True, ports={"6443": "kube-apiserver"}, kubeadm=["[ERROR Port-6443]: in use"]
    )
    assert faults(nodes) == [
        "master-1 / kubeadm: note: it is in a cluster: its ports, and kubeadm's own preflight, are not judged"
    ]


def test_two_nodes_with_one_id(nodes: list[Node]) -> None:
    """As clones of one disk have it: one of them vanishes from the cluster. Hosts of the lab share their machine's."""
    twin = {"machine-id": "id of master-2", "product_uuid": "uuid of worker-2"}
    nodes[0].answer = said("master-1", ids=twin)
    assert faults(nodes) == [
        "master-1 / ids: wrong: its machine-id is that of master-2",
        "master-1 / ids: wrong: its product_uuid is that of worker-2",
        "master-2 / ids: wrong: its machine-id is that of master-1",
        "worker-2 / ids: wrong: its product_uuid is that of master-1",
    ]
    for node in nodes:
        node.findings.clear()
    assert [each.split(": ")[1] for each in faults(nodes, lab=True)] == ["wrong", "note", "wrong", "note"]


@pytest.mark.parametrize(("offset", "round_trip", "apart"), [(1.2, 0.01, True), (0.4, 0.01, False), (1.2, 3.0, False)])
def test_clocks_that_are_apart(
    nodes: list[Node],
    ready: NodeState,  # noqa: F811
    offset: float,
    round_trip: float,
    apart: bool,
) -> None:
    """By more than what is not known because of the way there."""
    late = nodes[3]
    late.state = site.state(PLAN, late.host, node=ready, clock=Clock(offset, round_trip))
    found = faults(nodes)
    assert bool(found) == apart
    assert not apart or "worker-1 / clock: wrong: 1.2 s from that of master-1" in found


def test_what_is_not_prepared_is_told(nodes: list[Node], ready: NodeState) -> None:  # noqa: F811
    host = nodes[4].host
    clock = Clock(0.0, 0.0)
    nodes[4].state = site.state(PLAN, host, node=replace(ready, swaps=("/swapfile",)), clock=clock)
    assert faults(nodes) == ["worker-2 / prepared: wrong: live: swap is on /swapfile, not off (./inv deploy worker)"]
    box = replace(ready, container="lxc")
    for lab, state in ((True, "note"), (False, "wrong")):
        for node in nodes:
            node.findings.clear()
        nodes[4].state = site.state(PLAN, host, node=box, clock=clock)
        [found] = faults(nodes, lab=lab)
        assert found.startswith(f"worker-2 / kernel: {state}: it is a container (lxc)")


def test_a_node_that_can_t_be_reached_is_not_read(nodes: list[Node]) -> None:
    why = "worker-2 can't be reached"
    nodes[4].answer = nodes[4].state = why
    assert faults(nodes) == [
        f"worker-2 / prepared: not read: {why}",
        f"worker-2 / node: not read: {why}",
        "worker-2 / clock: not read: it did not tell the time",
    ]


def test_one_node_alone_is_compared_with_all(nodes: list[Node]) -> None:
    nodes[0].answer = said("master-1", ids={"machine-id": "id of worker-1"})
    nodes[1].answer = said("master-2", api="no route")
    found = judged(PLAN, nodes, PLAN.host("master-1"), lab=False)
    assert {each.host for each in found} == {"master-1"}
    assert [each.what for each in found if each.state == "wrong"] == ["its machine-id is that of worker-1"]


# --- what a node is asked -------------------------------------------------------------------------------------------


def test_each_network_is_tried_between_nodes() -> None:
    found = list(preflight.pings(PLAN, PLAN.host("master-1")))
    assert len(found) == 4 * 3
    assert ("eth1", "100.64.32.2", "100.64.32.11") in found


@pytest.mark.parametrize("version", ["1.20.2", "1.29.0", "1.33.4"])
def test_kubeadm_is_asked_without_secrets_and_does_not_wait(version: str) -> None:
    assert PLAN.kubernetes
    plan = PLAN.model_copy(update={"kubernetes": PLAN.kubernetes.model_copy(update={"version": version})})
    [found] = yaml.documents(preflight.configuration(plan, plan.host("master-1")))
    assert found["kind"] == "JoinConfiguration"
    assert "controlPlane" in found
    waits = found["timeouts"]["discovery"] if version == "1.33.4" else found["discovery"]["timeout"]
    assert waits == "1s"


def answered(tmp_path: Path, request: dict[str, Any], **programs: str) -> Answer:
    """What the program says here, as it is sent, with these programs in front of others."""
    for name, text in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    stdin = send.line(program) + json.dumps(request).encode()
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(send.argv(), input=stdin, capture_output=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stderr.decode()
    found: Answer = answers.parsed(Answer, done.stdout)
    return found


PING = """case "$*" in *127.0.0.2 | *"-s 72 "*) exit 0 ;; esac
echo 'ping: local error: message too long, mtu=1400'; exit 1"""


def test_the_program_answers(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        folder = tmp_path / "var"
        folder.mkdir()
        found = answered(
            tmp_path,
            {
                "names": ["localhost", "no-such-name.invalid"],
                "api": ["localhost", port],
                "ports": [port, 1],
                "sync": f"{folder}/lib/etcd",
                "kubeadm": "kind: JoinConfiguration\n",
                "pings": [["lo", "127.0.0.1", "127.0.0.2"], ["lo", "127.0.0.1", "192.0.2.1"], ["nosuch", "a", "b"]],
            },
            # As the real ones say it.
            kubeadm="""[ "$*" = "join phase preflight --config $5" ] && grep -q JoinConfiguration "$5" || exit 9
printf '[preflight] Running pre-flight checks\\n\\t[WARNING Hostname]: w\\n' >&2
printf 'error execution phase preflight:\\n\\t[ERROR Swap]: e\\n[preflight] If you know\\n' >&2; exit 1""",
            ping=PING,
            ss=f"""echo 'LISTEN 0 128 0.0.0.0:{port} 0.0.0.0:* users:(("python3",pid=1,fd=3))'""",
        )
    assert found["names"]["localhost"][0] == "127.0.0.1"
    assert found["names"]["no-such-name.invalid"] == []
    assert found["api"] == "open"
    assert found["ports"] == {str(port): "python3"}
    assert found["kubeadm"] == ["[WARNING Hostname]: w", "[ERROR Swap]: e"]
    assert 0 < len(found["sync"]) <= program.MOST_SYNCS
    assert list(folder.iterdir()) == []
    good, large, absent = found["pings"]
    assert (good[3], good[4]) == ("answered", "")
    assert (large[3], large[4]) == ("ping: local error: message too long, mtu=1400", "answered")
    assert absent[3] == "there is no nosuch"
    assert found["room"][1] > 0


def test_who_is_only_compared_says_what_it_is(tmp_path: Path) -> None:
    found = answered(tmp_path, {})
    assert set(found) == {"ids", "processors", "memory", "room", "joined"}


def test_a_port_where_nobody_listens_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert program.api("127.0.0.1", port) == "refused"
