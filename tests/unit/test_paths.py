"""How well packets get to other hosts: measured in a kernel of its own, and what is made of it."""

import json
import sys
from dataclasses import replace

import pytest

from tests.unit.namespaces import Inside, namespace
from tests.unit.test_doctor import DEPLOYED, PLAN, failing, healthy, only, with_look
from underlay.doctor.causes.between.choice import Ask, paths, telling, trouble
from underlay.doctor.diagnosis import diagnose, unexplained
from underlay.doctor.survey import Followed, Survey
from underlay.plan import REPO
from underlay.trace.ended import Ended

PROGRAM = "import json; from underlay.remote.survey.paths import paths; print(json.dumps(paths({!r})))"
ENDS = "127.0.0.1 127.0.0.2"


def measured(host: Inside) -> list[float]:
    script = f"import sys; sys.path.insert(0, {str(REPO)!r}); {PROGRAM.format([ENDS.split()])}"
    found: dict[str, list[float]] = json.loads(host(sys.executable, "-c", script))
    return found[ENDS]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("true", ""),
        ("tc qdisc add dev lo root tbf rate 1mbit burst 3000 latency 2s", "20 packets of 1400 bytes take"),
        ("tc qdisc add dev lo root tbf rate 1mbit burst 3000 limit 8000", "pings are lost"),
        ("iptables -A INPUT -p icmp -j DROP", "40 of 40 pings are lost"),
    ],
    ids=["well", "slow", "lossy", "dead"],
)
def test_measured(how: str, words: str) -> None:
    """What is lost and what is late is told from what is well."""
    with namespace("ip", "tc", "iptables") as host:
        host("ip", "link", "set", "lo", "up")
        host("sh", "-ec", how)
        assert words in trouble(measured(host)) if words else not trouble(measured(host))


def test_who_is_pinged() -> None:
    """Everybody pings the gateway and some others, from an address in the same network where there is one."""
    [lb] = PLAN.hosts_of("lb_nginx")
    found = paths(PLAN, lb)
    assert ["100.64.0.53", "100.64.0.1"] in found
    assert ["100.64.0.53", "100.64.64.2"] in found
    assert ["100.64.64.1", "100.64.64.2"] in paths(PLAN, PLAN.gateway)
    assert all(ends[0] != ends[1] for host in DEPLOYED for ends in paths(PLAN, host))


def pinged(*measured: float) -> Survey:
    """A healthy site, but for pings of the load balancer's."""
    return with_look(healthy(), "lb", paths={"100.64.0.53 100.64.64.2": list(measured)})


def asked(seen: Survey) -> list[Ask]:
    return list(telling(seen, "dev", *unexplained(seen)))


def test_what_is_followed_of_pings() -> None:
    """Those that are lost or slow, where no connection of the same hosts fails."""
    assert asked(pinged(60, 59, 0.001, 0.001)) == []
    [ask] = asked(pinged(60, 0, 0, 0))
    assert (ask.to, ask.sender, ask.destination, ask.protocol) == ("master-1", "100.64.0.53", "100.64.64.2", "icmp")
    seen = replace(pinged(60, 0, 0, 0), outcomes=failing(healthy(), lambda flow: "lb" in flow.hosts).outcomes)
    assert {ask.protocol for ask in asked(seen)} == {"tcp"}


def test_what_is_followed_of_questions_to_name_servers() -> None:
    """Where it is a host alone that gets no answer, what is in between is found."""
    seen = with_look(healthy(), "lb", names={"192.168.0.50": "no answer within 1.5 s"})
    [ask] = asked(seen)
    assert (ask.source, ask.destination, ask.port, ask.protocol) == ("lb", "192.168.0.50", 53, "udp")
    rule = Ended("rule-unmanaged", "gateway", "an unmanaged rule", True, "iptables -D FORWARD 1")
    there = Followed(ask.to, "./inv trace", about=ask.about, said=ask.said, ended=rule)
    found = only(diagnose(replace(seen, followed=(there,))))
    assert (found.id, found.host) == ("rule-unmanaged", "gateway")


def test_a_slow_path() -> None:
    """It is told as slow, with what does it, else with the host that all slow paths share."""
    seen = pinged(60, 60, 0.3, 0.01)
    assert (only(diagnose(seen)).id, only(diagnose(seen)).fix) == ("path-slow", "")
    assert "the fastest takes 300 ms" in only(diagnose(seen)).evidence[0]
    queue = Ended("traffic-control", "gateway", "the tbf queue", True, "tc qdisc del dev eth1 root")
    there = Followed("master-1", "./inv trace", about=frozenset({"lb", "master-1"}), said="slow", ended=queue)
    found = only(diagnose(replace(seen, followed=(there,))))
    assert found.fix == './inv change gateway "tc qdisc del dev eth1 root"'
    small = {"echo": {"eth0": [1500, 1420]}, "paths": {"100.64.0.53 100.64.0.1": [60, 30, 0.3, 0.2]}}
    assert only(diagnose(with_look(healthy(), "lb", **small))).id == "path-slow"
    assert only(diagnose(with_look(healthy(), "lb", **small | {"paths": {}}))).id == "mtu-black-hole"
