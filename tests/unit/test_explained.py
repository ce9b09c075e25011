"""What `verify` sees red, the doctor explains: for each check of tests/site a site that fails it, and a finding of it.

A check without an entry in BROKEN fails here.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.site import test_gateway, test_jumphost, test_lb_nginx, test_master, test_packets
from tests.unit import site
from tests.unit.test_doctor import MACHINE, PLAN, healthy, state
from underlay.access.answers import UnreadableError
from underlay.compare.difference import UnitState
from underlay.compare.systemd.next_boot import NextBoot
from underlay.desired import nat, nginx, units
from underlay.desired.files import authorized_keys
from underlay.doctor.diagnosis import diagnose
from underlay.observe.state import NO_SUCH_NAME, HostState
from underlay.plan import Host
from underlay.verify.checks import EveryHost, WrongError

CLASSES = (test_gateway.TestGateway, test_jumphost.TestJumphost, test_lb_nginx.TestLbNginx, test_master.TestMaster)
BY_FLOWS = {"test_flow": "a connection that fails is traced to its cause, or told with the step where it ended"}
"""Checks of no single host: why they need no entry."""
Broken = Callable[[Host], Mapping[str, object]]


def net(**parts: Any) -> Broken:
    """A host with another network: attributes of LiveNetwork, or what makes one of the planned."""

    def make(host: Host) -> Mapping[str, object]:
        planned = state(host).network
        changed = {key: value(getattr(planned, key)) if callable(value) else value for key, value in parts.items()}
        return {"network": replace(planned, **changed)}

    return make


def unit(name: str) -> Broken:
    return lambda host: {"units": state(host).units | {name: UnitState("inactive", "disabled")}}


def fire(**parts: Callable[[Any], Any]) -> Broken:
    planned = site.firewall(PLAN)
    return lambda _: {"firewall": replace(planned, **{key: make(getattr(planned, key)) for key, make in parts.items()})}


def without_first(rules: Any) -> Any:
    """A ruleset without a rule of the plan's."""
    return site.ruleset(nat.gateway_rules(PLAN)[1:])


def twisted(rules: Any) -> Any:
    """A ruleset with rules of a chain in another order."""
    made = site.ruleset(nat.gateway_rules(PLAN))
    table = next(table for table in made.values() if any(len(each) > 1 for each in table.rules.values()))
    next(each for each in table.rules.values() if len(each) > 1).reverse()
    return made


def without_file(*paths: str) -> Broken:
    return lambda host: {"files": {path: text for path, text in state(host).files.items() if path not in paths}}


BROKEN: dict[str, Broken] = {
    "test_address": net(addresses=lambda there: there[1:]),
    "test_route": net(routes=lambda there: there[1:]),
    "test_policy_rule": net(rules=lambda there: there[1:]),
    "test_network_as_planned": net(rules=lambda there: there[1:]),
    "test_sysctl": net(sysctls=lambda there: dict.fromkeys(there, "7")),
    "test_boot_file": net(files={}),
    "test_other_boot_file": net(files={}),
    "test_boot": net(
        files=lambda there: there | {"/etc/systemd/networkd.conf.d/zz.conf": "[Network]\nManageForeignRoutes=yes\n"}
    ),
    "test_next_boot": lambda _: {"next_boot": NextBoot(dpkg=["tzdata (unpacked)"])},
    "test_packages": lambda _: {"packages": set()},
    "test_managers": unit(units.NETWORKD.name),
    "test_ssh_port": lambda _: {"listening": {80, nginx.API_PORT}},
    "test_sshd": lambda host: {
        "sshd": replace(state(host).sshd, settings={**state(host).sshd.settings, "passwordauthentication": "yes"})
    },
    "test_deploy_machine_access": lambda host: {"files": state(host).files | {authorized_keys(host): f"{MACHINE} x\n"}},
    "test_rule": fire(live=without_first),
    "test_rule_at_boot": fire(at_boot=without_first),
    "test_order": fire(live=twisted),
    "test_order_at_boot": fire(at_boot=twisted),
    "test_record": fire(record=lambda text: text.replace("ACCEPT", "DROP").replace("MASQUERADE", "RETURN")),
    "test_no_firewalld": lambda host: {
        "filters": replace(state(host).filters, units={"firewalld.service": UnitState("active", "enabled")})
    },
    "test_put_in_place_at_boot": unit(units.FIREWALL.name),
    "test_ssh_service": unit(units.SSH.name),
    "test_on_call": lambda _: {"on_call": {"eve": ""}},
    "test_rotation": lambda _: {"rotation_due": ["eve"]},
    "test_repo": lambda host: {"tree": dict.fromkeys(state(host).tree, "0")},
    "test_python_packages": lambda _: {"python_packages": {}},
    "test_nginx": unit(units.NGINX.name),
    "test_configuration": without_file(nginx.PATH),
    "test_configuration_is_valid": lambda _: {"sections": {"nginx": (1, ["nginx: [emerg] no"])}},
    "test_port": lambda _: {"listening": {22}},
    "test_unknown_name": lambda host: {"answers": state(host).answers | {f"{NO_SUCH_NAME}/": (200, "hello")}},
    "test_health": lambda host: {"answers": state(host).answers | {f"{NO_SUCH_NAME}/healthz": (500, "")}},
    "test_web_service": lambda host: {
        "answers": {name: (404, "") if name.endswith("/") else each for name, each in state(host).answers.items()}
    },
}


def checks() -> Iterator[tuple[type[EveryHost], str]]:
    """Each class of checks with each of its checks."""
    for each in CLASSES:
        host = PLAN.hosts_of(each.role)[0]
        for name, check in inspect.getmembers(each, inspect.isfunction):
            items = getattr(check, "items", None)
            if name.startswith("test_") and (items is None or list(items(PLAN, host))):
                yield each, name


def test_every_check_is_explained() -> None:
    """A new check needs an entry, and an old one has none."""
    names = {name for _, name in checks()}
    assert names == BROKEN.keys()
    flows = {name for name, _ in inspect.getmembers(test_packets, inspect.isfunction) if name.startswith("test_")}
    assert flows == BY_FLOWS.keys()


@pytest.mark.parametrize(("checked", "name"), list(checks()))
def test_what_verify_sees_red(checked: type[EveryHost], name: str) -> None:
    """The check fails for a broken host, and the doctor has a finding about that host."""
    host = PLAN.hosts_of(checked.role)[0]
    parts = dict(BROKEN[name](host))
    sections: dict[str, tuple[int, list[str]]] = parts.pop("sections", {})  # type: ignore[assignment]
    broken = state(host, **parts)
    broken.sections.update(sections)
    assert is_green(checked, name, host, state(host))
    assert not is_green(checked, name, host, broken)
    seen = healthy()
    seen = replace(seen, states=seen.states | {host.name: broken})
    jump = PLAN.jumphost.name
    assert {each.host for each in diagnose(seen).findings} & {host.name, jump}


def is_green(checked: type[EveryHost], name: str, host: Host, seen: HostState) -> bool:
    """Whether a check of a host passes, for each of its items."""
    check = getattr(checked, name)
    items = getattr(check, "items", None)
    given: dict[str, Any] = {
        "plan": PLAN,
        "planned": host,
        "state": seen,
        "evidence": SimpleNamespace(machine_public=MACHINE, target=SimpleNamespace(known_hosts=Path("/dev/null"))),
    }
    try:
        for item in items(PLAN, host) if items else [None]:
            wanted = inspect.signature(check).parameters
            check(checked(), **{key: value for key, value in (given | {"item": item}).items() if key in wanted})
    except (WrongError, UnreadableError):
        return False
    return True
