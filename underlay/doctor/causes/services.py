"""What the site depends on beside the network: systems behind the load balancer, failed units, DNS, package sources."""

import errno
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from underlay.desired import units
from underlay.doctor.cause import Cause
from underlay.doctor.investigation import Fix, Investigation, first
from underlay.doctor.survey import HostSurvey
from underlay.observe.health import Upstream
from underlay.plan import OUTSIDE, Host
from underlay.remote.survey import OUR_PROBE
from underlay.text import command

API = "kubernetes_api"
REFUSED = (os.strerror(errno.ECONNREFUSED), OUR_PROBE)
"""What a host says of a connection to a port where nothing listens."""
UNIT = re.compile(r"[A-Za-z0-9_][\w:.\\@-]*", re.ASCII)
"""A name that systemd takes, and no option."""
OF_THE_NETWORK = re.compile(
    "net|route|dhcp|frr|bird|keepalived|ssh|fire|ufw|tables|fail2ban|vpn|wg-|wireguard|ipsec|swan|tailscale|zerotier"
    "|docker|containerd|podman|kube|cni|calico|cilium|flannel",
    re.IGNORECASE,
)
"""What makes addresses, routes, rules or ways in: starting it may cut the way to its host."""


@dataclass(frozen=True)
class _Unit:
    """A service that should run and does not: it failed, or it is enabled and was stopped."""

    host: str
    name: str
    failed: bool


def services(case: Investigation) -> Iterator[Cause]:
    """`unit-failed`, `api-down`, `upstream-down`.

    A system that nobody has installed yet is a note: it is not the underlay's. It is a finding if a service on its host
    has ended, if it hangs, or if others of its kind answer.
    """
    dead = _dead_units(case)
    refusals: dict[_Unit, list[str]] = {}
    for lb in case.plan.hosts_of("lb_nginx"):
        state = case.state(lb)
        if state is None:
            continue
        groups: dict[str, list[Upstream]] = {}
        for each in state.upstreams:
            groups.setdefault(each.name, []).append(each)
        for name, servers in groups.items():
            yield from _group(case, lb, name, servers, dead, refusals)
    for unit in dead:
        if unit in refusals or (unit.failed and case.is_deployed(unit.host)):
            yield _ended(case, unit, refusals.get(unit, []))


def _dead_units(case: Investigation) -> list[_Unit]:
    """Those that are not ours: ours are compared with the plan."""
    found = []
    ours = {unit.name for unit in units.ALL}
    for name, state in case.seen.states.items():
        failed = [unit for unit in state.failed_units if unit not in ours]
        idle = case.look(case.plan.host(name)).services
        found += [_Unit(name, unit, True) for unit in failed]
        found += [_Unit(name, unit, False) for unit in idle if unit not in (*ours, *failed)]
    return found


def _ended(case: Investigation, unit: _Unit, evidence: list[str]) -> Cause:
    how = "has failed" if unit.failed else "is enabled, and does not run"
    return Cause(
        id="unit-failed",
        host=unit.host,
        cause=f"{unit.host}: {unit.name} {how}",
        evidence=(f"systemctl status {unit.name}: it {how}", *first(evidence)),
        fix=_restart(case, unit.host, unit.name),
        advice=f"why it ended: {case.ssh(unit.host, command('journalctl', '-n', 50, f'--unit={unit.name}'))}",
        plan=case.line(case.plan.host(unit.host)),
        hosts=frozenset({unit.host}),
    )


def _restart(case: Investigation, host: str, unit: str, verb: str = "restart") -> str:
    """The command that brings a unit back; none for what is no name of a unit."""
    if not UNIT.fullmatch(unit):
        return ""
    make = case.change if OF_THE_NETWORK.search(unit) else case.ssh
    return make(host, command("systemctl", verb, unit))


def _group(
    case: Investigation,
    lb: Host,
    name: str,
    servers: list[Upstream],
    dead: list[_Unit],
    refusals: dict[_Unit, list[str]],
) -> Iterator[Cause]:
    """The servers of one system, as the load balancer reaches them."""
    # Of an API server more is known than that it takes a connection.
    connects = case.look(lb).connect
    errors = {each.address: connects.get(each.address, each.error) for each in servers}
    for address, error in errors.items():
        ip, _, port = address.rpartition(":")
        host = next((host for host in case.plan.hosts if any(str(nic.address) == ip for nic in host.interfaces)), None)
        if not error or (host and (case.is_cut(host.name) or host.name in case.seen.failures)):
            continue
        where = host.name if host else ip
        evidence = f"{lb.name} connects to {address} for {name}: {error}"
        refused = error in REFUSED
        units = [unit for unit in dead if unit.host == where]
        if refused and len(units) == 1:
            refusals.setdefault(units[0], []).append(evidence)
        elif refused and all(errors.values()):
            case.notes.append(f"{name}: nothing listens on port {port} of {where}")
        else:
            yield _server(case, name, host, where, port, evidence, refused)


def _server(
    case: Investigation, name: str, host: Host | None, where: str, port: str, evidence: str, refused: bool
) -> Cause:
    owner = case.look(host).owners.get(port, "") if host else ""
    unit = owner if owner.endswith(".service") else ""
    look = command("sh", "-c", "ss -ltnp; systemctl --failed; journalctl -n 50")
    fix = "" if host is None else _restart(case, where, unit) if unit else case.ssh(where, look)
    what = "its API server" if name == API else f"its server of {name}"
    return Cause(
        id="api-down" if name == API else "upstream-down",
        host=where,
        cause=f"{where}: {what} (port {port}) {'does not listen' if refused else 'does not answer'}",
        evidence=(evidence, *((f"{owner} listens there",) if owner else ())),
        fix=fix,
        advice="" if unit else f"start what serves port {port} there, in the way in which it was installed",
        plan=case.line(host) if host else "",
        hosts=frozenset({where}),
    )


def names(case: Investigation) -> Iterator[Cause]:
    """Name servers that do not answer a host with a way out: `dns-silent`."""
    for server, evidence in _silent(case, lambda look: look.names, "asks name server"):
        home, fix = _server_at(case, server)
        yield Cause(
            id="dns-silent",
            host=home.name if home else server,
            cause=f"{home.name if home else server}: it answers no DNS query",
            evidence=first(evidence),
            fix=fix.command,
            at=fix.at,
            advice=fix.advice or f"look at the name server {home.name if home else server}",
            plan=case.line(home) if home else "",
            hosts=frozenset({home.name if home else server}),
        )


def packages(case: Investigation) -> Iterator[Cause]:
    """Package sources that a host with a way out does not reach: `packages-unreachable`."""
    for server, evidence in _silent(case, lambda look: look.sources, "connects to"):
        home, fix = _server_at(case, server.partition(":")[0])
        yield Cause(
            id="packages-unreachable",
            host=home.name if home else server,
            cause=f"{home.name if home else server}: no packages from there: a deploy that needs one fails",
            evidence=first(evidence),
            fix=fix.command,
            at=fix.at,
            advice=fix.advice or f"look at the web server of {home.name if home else server}",
            plan=case.line(home) if home else "",
            latent=True,
        )


def _silent(
    case: Investigation, errors: Callable[[HostSurvey], dict[str, str]], verb: str
) -> Iterator[tuple[str, list[str]]]:
    """Servers that do not answer the hosts, with the evidence; what an earlier cause explains is left out."""
    blamed = {name for each in case.found for name in each.hosts}
    bad: dict[str, list[str]] = {}
    for host in case.deployed:
        for uri, error in errors(case.look(host)).items():
            if error and host.name not in blamed and OUTSIDE not in blamed:
                server = uri.partition("://")[2].partition("/")[0] or uri
                bad.setdefault(server, []).append(f"{host.name} {verb} {server}: {error}")
    for server, evidence in bad.items():
        home, _ = _server_at(case, server.partition(":")[0])
        if home is None or home.name not in blamed:
            yield server, evidence


def _server_at(case: Investigation, address: str) -> tuple[Host | None, Fix]:
    """The host of the plan that serves at an address, and what brings its service back, as far as that is seen."""
    home = next((each for each in case.plan.hosts if str(each.primary.address) == address), None)
    if home is None:
        return None, Fix("")
    heard = case.look(case.gateway).arp.get(case.gateway.primary.nic, {})
    if not heard.get(address, ["not asked"]):
        return home, case.switch_on(home)
    unit = next((each for each in _dead_units(case) if each.host == home.name), None)
    if unit is None:
        return home, Fix("")
    return home, Fix(_restart(case, unit.host, unit.name, "start"), "", f"{unit.name} does not run there")
