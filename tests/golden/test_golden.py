"""Plans and what follows from them, file by file: `good/` with everything derived, `bad/` with the exact error report.

`UPDATE_GOLDEN=1 pytest tests/golden` writes the expected texts anew; the difference is then there to be reviewed.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from netaddr import IPAddress

from underlay.access.endpoints import endpoints_from
from underlay.access.ssh_config import ssh_config
from underlay.desired import nat, nginx, routing, traffic
from underlay.desired.files import network_files
from underlay.nodes import kubeadm_file
from underlay.nodes.kubeadm import Secrets
from underlay.nodes.wanted import preparation
from underlay.plan import REPO, ROLES, Plan, PlanError, load
from underlay.report import diagram_text

HERE = Path(__file__).parent
SITE = REPO / "group_data" / "all.py"
# The other files in good/ are data of roles, read with each plan beside them.
GOOD = [path for path in sorted((HERE / "good").glob("*.py")) if path.stem not in ROLES]
# One is not Python and therefore not called so, which spares the linters.
BAD = sorted(path for path in (HERE / "bad").glob("[0-9]*") if path.suffix != ".expected")


def _model(plan: Plan) -> Iterator[str]:
    yield f"site {plan.site}, target {plan.target}, operator {plan.operator.user}"
    for network in plan.networks:
        kind = "enterprise" if network == plan.enterprise else "internal"
        yield f"network {network.name} {network.cidr} {kind}, router {plan.gateway_address(network.name)}"
    for zone in plan.zones:
        yield f"zone {zone.name} {zone.cidr} of {zone.network}"
    for host in plan.hosts:
        nics = ", ".join(f"{nic.network} {nic.nic} {nic.with_prefix}" for nic in host.interfaces)
        yield f"host {host.name} ({host.role}): {nics}; default route by {host.default_network}"
    for host in plan.published:
        yield f"published {host.name} {host.primary.address} as {host.published}, {plan.line('hosts', host.name)}"


def _rules(plan: Plan) -> Iterator[str]:
    for rule in nat.gateway_rules(plan):
        place = "head" if rule.head else "tail"
        yield f"{rule.table} {rule.chain} {place}: {rule.spec}  # {rule.origin}"


def _hosts(plan: Plan) -> Iterator[str]:
    for host in plan.hosts:
        if host.role not in ROLES:
            continue
        wanted = routing.host_network(plan, host)
        yield f"{host.name}:"
        yield from (f"  link {link}" for link in wanted.links)
        yield from (f"  mtu {size} dev {nic}" for nic, size in wanted.mtus.items())
        yield from (f"  address {address.cidr} dev {address.nic}" for address in wanted.addresses)
        yield from (f"  route {route.arguments}" for route in wanted.routes)
        yield from (f"  rule {rule.arguments}" for rule in wanted.rules)
        yield from (f"  sysctl {key} = {value}" for key, value in wanted.sysctls.items())


def _files(plan: Plan) -> Iterator[str]:
    for role in ROLES:
        for host in plan.hosts_of(role):
            for path, content in network_files(routing.host_network(plan, host), {}).items():
                yield f"--- {host.name}:{path}\n{content.rstrip()}"


def _ssh(plan: Plan) -> Iterator[str]:
    endpoints = [*endpoints_from(plan, None)]
    yield ssh_config(plan, endpoints, Path("KEY"), [Path("KNOWN_HOSTS")], Path("SOCKETS"))


def _nginx(plan: Plan) -> Iterator[str]:
    yield nginx.configuration(plan)


def _traffic(plan: Plan) -> Iterator[str]:
    for flow in traffic.expected(plan, IPAddress("203.0.113.1")):
        yield f"{flow}, seen by {' or '.join(flow.receivers)} as {flow.seen_as}"
    for flow in traffic.forbidden(plan, IPAddress("203.0.113.1")):
        yield f"{flow}, never seen by {' or '.join(flow.receivers)}"


SECTIONS: dict[str, Callable[[Plan], Iterator[str]]] = {
    "the plan": _model,
    "the gateway's rules": _rules,
    "addresses, routes, policy rules and sysctls": _hosts,
    "files of networkd and sysctl": _files,
    "ssh_config of a workstation": _ssh,
    "nginx.conf": _nginx,
    "traffic": _traffic,
    "the picture as Mermaid": lambda plan: iter([diagram_text.mermaid(plan)]),
    "the picture as PlantUML": lambda plan: iter([diagram_text.plantuml(plan)]),
}


def _prepared(plan: Plan) -> Iterator[str]:
    for host in plan.nodes:
        wanted = preparation(plan, host)
        assert wanted
        yield f"{host.name}: pause image {wanted.cluster.pause}"
        yield from (f"  name {line}" for line in wanted.names)
        for path, content in wanted.files.items():
            yield f"--- {host.name}:{path}\n{content.rstrip()}"


def _kubeadm(plan: Plan) -> Iterator[str]:
    yield from (kubeadm_file.text(plan, host, Secrets()) for host in plan.nodes)


OF_A_CLUSTER: dict[str, Callable[[Plan], Iterator[str]]] = {
    "what nodes get": _prepared,
    "kubeadm's configuration": _kubeadm,
}


def derived(plan: Plan) -> str:
    """Everything that follows from a plan, a section for each part of the code that derives something."""
    sections = SECTIONS | (OF_A_CLUSTER if plan.kubernetes else {})
    return "\n".join(
        "\n".join([f"=== {title} ===", *(line.rstrip() for line in section(plan))]) + "\n"
        for title, section in sections.items()
    )


def _compare(text: str, expected: Path) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(text)
    assert expected.exists(), f"no {expected.name}: write it with UPDATE_GOLDEN=1"
    assert text == expected.read_text(), f"{expected.name} is not current: if this is meant, UPDATE_GOLDEN=1 renews it"


@pytest.mark.parametrize("path", [SITE, *GOOD], ids=lambda path: path.stem)
def test_everything_derived_from_a_good_plan(path: Path) -> None:
    name = "site" if path == SITE else path.stem
    _compare(derived(load(path)), HERE / "good" / f"{name}.expected")


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_report_about_a_bad_plan(path: Path) -> None:
    with pytest.raises(PlanError) as caught:
        load(path)
    report = str(caught.value)
    if path.stem.split("-", 1)[1] not in SEVERAL:
        assert ": 1 error; nothing was changed" in report, "one mistake, one error"
    _compare(report + "\n", path.with_suffix(".expected"))


SEVERAL = {"missing-on-top", "nic-name", "operator", "not-plain-data", "empty", "many"}


def test_no_expected_text_is_left_over() -> None:
    plans = {path.with_suffix("") for path in [HERE / "good" / "site", *GOOD, *BAD]}
    assert {path.with_suffix("") for path in HERE.glob("*/*.expected")} == plans
