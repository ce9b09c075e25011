"""What the site depends on beside the network: systems behind the load balancer, failed units, DNS, package sources."""

import errno
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from underlay.access.answers import UnreadableError
from underlay.desired import units
from underlay.doctor.cause import Cause
from underlay.doctor.causes.ends import is_probe
from underlay.doctor.investigation import Fix, Investigation, first, some
from underlay.doctor.survey import HostSurvey
from underlay.observe.health import Upstream
from underlay.plan import OUTSIDE, Host
from underlay.remote.survey.connections import OUR_PROBE
from underlay.text import command

API = "kubernetes_api"
REFUSED = (os.strerror(errno.ECONNREFUSED), OUR_PROBE)
"""What a host says of a connection to a port where nothing listens."""
UNIT = re.compile(r"[A-Za-z0-9_][\w:.\\@-]*", re.ASCII)
"""A name that systemd takes, and no option."""
OF_DEBIAN = ("/usr/lib/systemd/", "/lib/systemd/")
"""Where units are that came in packages."""
WAKE = {"stopped": "systemctl kill --signal=CONT", "frozen": "systemctl thaw"}
URI = re.compile(r"https?://[\w.:-]+(/[\w./+~-]*)?", re.ASCII)
"""Of a package source, with nothing in it that a shell or sed would take for its own."""
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
        if (unit.host, unit.name) in case.told:
            continue
        if unit in refusals or (unit.failed and case.is_deployed(unit.host) and not _is_of_others(case, unit)):
            yield _ended(case, unit, refusals.get(unit, []))
        elif unit.failed and case.is_deployed(unit.host):
            case.notes.append(f"{unit.host}: {unit.name} has failed: it is neither the plan's nor Debian's")


def _is_of_others(case: Investigation, unit: _Unit) -> bool:
    """Whether a failed unit is known to be neither the plan's nor the distribution's, nor one of the network."""
    path = case.look(case.plan.host(unit.host)).failed.get(unit.name, OF_DEBIAN[0])
    return not (path.startswith(OF_DEBIAN) or OF_THE_NETWORK.search(unit.name))


def _dead_units(case: Investigation) -> list[_Unit]:
    """Those that are not ours: ours are compared with the plan."""
    found = []
    for name, state in case.seen.states.items():
        ours = {unit.name for unit in units.ALL if unit not in units.MANAGERS}
        with suppress(UnreadableError):
            nics = [nic.nic for nic in case.plan.host(name).interfaces]
            ours |= {unit.name for unit in state.network.managing(nics)}
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
        heard = case.look(host).listeners if host else None
        there = [each["address"] for each in heard or () if str(each["port"]) == port and not is_probe(each)]
        if not refused and heard is not None and not there:
            continue  # no program there could let it wait: something on the way does
        units = [unit for unit in dead if unit.host == where]
        if refused and there and not {ip, "0.0.0.0"} & {*there}:  # noqa: S104  it is compared
            known = _server(case, name, host, where, port, f"{evidence}; it listens on {some(there)} only", refused)
            yield replace(known, fix="", advice=f"let it listen on {ip}, too, in the way in which it was installed")
            continue
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
    """Name servers that do not answer a host with a way out: `dns-silent`; what is wrong with a host: `names-lost`."""
    yield from _resolvers(case)
    for asked in _silent(case, lambda look: look.names, "asks name server"):
        home, fix = _server_at(case, asked.server)
        if asked.own:
            yield _own_names(case, asked)
            continue
        yield Cause(
            id="dns-silent",
            host=home.name if home else asked.server,
            cause=f"{home.name if home else asked.server}: it answers no DNS query",
            evidence=first(asked.evidence),
            fix=fix.command,
            at=fix.at,
            advice=fix.advice or f"look at the name server {home.name if home else asked.server}",
            plan=case.line(home) if home else "",
            hosts=frozenset({home.name if home else asked.server}),
        )


def _usual_server(case: Investigation, host: Host) -> str:
    """The name server that answers most of the other hosts, or empty."""
    others = [look.names for name, look in case.seen.looks.items() if name != host.name]
    good = Counter(server for names in others for server, error in names.items() if not error)
    return good.most_common(1)[0][0] if good else ""


def _own_names(case: Investigation, asked: "_Asked") -> Cause:
    """A name server that does not answer this host alone."""
    host, server = asked.host, asked.server
    found, usual = case.look(host).resolver, _usual_server(case, host)
    alone = found is not None and server in found["servers"] and not asked.others and usual
    fix, advice = "", f"its own firewall, or the way: ./inv trace {host.name} {server} --port 53 --proto udp"
    if alone and found is not None and not found["linked"]:
        line = f"s/^nameserver[[:space:]]+{re.escape(server)}[[:space:]]*$/nameserver {usual}/"
        fix = case.ssh(host.name, command("sed", "-i", "-E", line, "/etc/resolv.conf"))
        advice = "what wrote it there may do so again"
    elif alone:
        advice = f"/etc/resolv.conf is made by another program ({found['linked'] if found else ''}): tell it {usual}"
    elif os.strerror(errno.EPERM) in asked.evidence[0]:
        look = case.ssh(host.name, "sh -c 'iptables-save; nft list ruleset'")
        advice = f"a packet filter of its own forbids it: {look}"
    why = f"no other host asks it: they ask {usual}" if alone else f"it answers {some(asked.others)}"
    return Cause(
        id="names-lost",
        host=host.name,
        cause=f"{host.name}: the name server {server} does not answer it"
        + (", which no other host asks" if alone else ", and answers others"),
        evidence=(*first(asked.evidence), why),
        fix=fix,
        advice=advice,
        plan=case.line(host),
        hosts=frozenset({host.name}),
    )


def _resolvers(case: Investigation) -> Iterator[Cause]:
    """What a host's own files say about names, beside those of the others."""
    for host in case.deployed:
        found, usual = case.look(host).resolver, _usual_server(case, host)
        if found is None:
            continue
        others = [each.resolver for name, each in case.seen.looks.items() if name != host.name and each.resolver]
        asks = {"dns", "resolve"}
        wrong: list[tuple[str, str, str]] = []
        if not found["servers"] and usual and not found["linked"]:
            line = f"echo nameserver {usual} >> /etc/resolv.conf && chmod 644 /etc/resolv.conf"
            wrong.append(("/etc/resolv.conf names no name server", "grep nameserver /etc/resolv.conf: nothing", line))
        elif found["linked"] and found["mode"] == -1 and usual:
            said = f"readlink /etc/resolv.conf: {found['linked']}, which is not there"
            line = f"rm /etc/resolv.conf && echo nameserver {usual} > /etc/resolv.conf"
            wrong.append(("/etc/resolv.conf is a link that leads nowhere: it asks no name server", said, line))
        elif found["mode"] != -1 and not found["mode"] & 0o004:
            mode = f"ls -lL /etc/resolv.conf: mode {found['mode']:o}"
            wrong.append(("only root can read /etc/resolv.conf", mode, "chmod 644 /etc/resolv.conf"))
        if found["order"] and not asks & {*found["order"]} and any(asks & {*each["order"]} for each in others):
            said = f"/etc/nsswitch.conf: hosts: {' '.join(found['order'])}"
            line = "sed -i -E 's/^hosts:.*/& dns/' /etc/nsswitch.conf"
            wrong.append(("its /etc/nsswitch.conf lets nobody ask a name server", said, line))
        for number, (address, *names) in found["hosts"]:
            if name := _misled(case, host, address, names):
                said = f"/etc/hosts, line {number}: {address} {' '.join(names)}"
                line = f"sed -i {number}s/^/#/ /etc/hosts"
                wrong.append((f"its /etc/hosts leads {name} to {address}", said, line))
        for what, evidence, line in wrong:
            yield Cause(
                id="names-lost",
                host=host.name,
                cause=f"{host.name}: {what}",
                evidence=(evidence, *([f"the other hosts ask {usual}"] if usual else [])),
                fix=case.ssh(host.name, command("sh", "-c", line)),
                advice="find out what wrote it" + (", or start what makes that file" if found["linked"] else ""),
                plan=case.line(host),
                hosts=frozenset({host.name}),
            )


def _misled(case: Investigation, host: Host, address: str, names: list[str]) -> str:
    """The first of some names that an address in /etc/hosts does not belong to, as far as that is known."""
    sources = {(urlsplit(uri).hostname or "") for uri, error in case.look(host).sources.items() if error}
    loopback = address.startswith("127.") or address == "::1"
    for name in names:
        if name == "localhost" and not loopback:
            return name
        planned = next((each for each in case.plan.hosts if name in (each.name, f"{each.name}.")), None)
        own = {str(each) for each in case.addresses(planned)} if planned else set()
        others = {str(planned.published)} if planned and planned.published else set()
        if planned and planned != host and ":" not in address and address not in own | others:
            return name
        if name in sources and not planned:
            return name
    return ""


def packages(case: Investigation) -> Iterator[Cause]:
    """Package sources that a host with a way out does not reach: `packages-unreachable`."""
    for asked in _silent(case, lambda look: look.sources, "connects to"):
        home, fix = _server_at(case, asked.server if ":" in asked.server else f"{asked.server}:80")
        if asked.own:
            yield _own_source(case, asked)
            continue
        yield Cause(
            id="packages-unreachable",
            host=home.name if home else asked.server,
            cause=f"{home.name if home else asked.server}: no packages from there: a deploy that needs one fails",
            evidence=first(asked.evidence),
            fix=fix.command,
            at=fix.at,
            advice=fix.advice or f"look at the web server of {home.name if home else asked.server}",
            plan=case.line(home) if home else "",
            latent=True,
        )


def _own_source(case: Investigation, asked: "_Asked") -> Cause:
    """A package source, or a proxy of apt's, that this host alone does not reach."""
    host = asked.host
    files = "/etc/apt/sources.list /etc/apt/sources.list.d"
    good = Counter(
        uri
        for name, look in case.seen.looks.items()
        for uri, error in look.sources.items()
        if name != host.name and not error and URI.fullmatch(uri)
    )
    fix, advice = "", f"its own firewall, or the way: ./inv trace {host.name} {asked.server.partition(':')[0]}"
    if asked.uri.startswith("proxy "):
        look = command("grep", "-rin", "proxy", "/etc/apt/apt.conf.d")
        advice = f"where that proxy is set: {case.ssh(host.name, look)}"
    elif not asked.others and URI.fullmatch(asked.uri) and good:
        bad, usual = asked.uri, good.most_common(1)[0][0]
        line = f"grep -rlF {bad} {files} | xargs sed -i 's|{bad}|{usual}|g'"
        fix = case.ssh(host.name, command("sh", "-c", line))
        advice = "what wrote it there may do so again"
    return Cause(
        id="packages-unreachable",
        host=host.name,
        cause=f"{host.name}: it can't reach {'the proxy' if asked.uri.startswith('proxy ') else 'its package source'} "
        f"{asked.server}" + (", which others can" if asked.others else ", which no other host has"),
        evidence=first(asked.evidence),
        fix=fix,
        advice=advice,
        plan=case.line(host),
        latent=True,
    )


@dataclass(frozen=True)
class _Asked:
    """A server that does not answer: one host (`own`: it is that host's fault), or all that ask it.

    others: the hosts that it answers
    """

    server: str
    uri: str
    host: Host
    own: bool
    others: list[str]
    evidence: list[str]


def _silent(case: Investigation, errors: Callable[[HostSurvey], dict[str, str]], verb: str) -> Iterator[_Asked]:
    """Servers that do not answer the hosts; what an earlier cause explains is left out.

    What answers another host is no server's fault, nor what no other host asks while all others are answered.
    """
    blamed = {name for each in case.found if not each.latent for name in each.hosts}
    bad: dict[str, dict[Host, tuple[str, str]]] = {}
    good: dict[str, list[str]] = {}
    for host in case.deployed:
        for uri, error in errors(case.look(host)).items():
            server = uri.partition("://")[2].partition("/")[0] or uri
            if not error:
                good.setdefault(server, []).append(host.name)
            elif host.name not in blamed and OUTSIDE not in blamed:
                bad.setdefault(server, {})[host] = uri, f"{host.name} {verb} {server}: {error}"
    for server, silent in bad.items():
        home, _ = _server_at(case, server)
        if home is not None and home.name in blamed:
            continue
        there = good.get(server, [])
        served = {name for names in good.values() for name in names} - {host.name for host in silent}
        alone = len(silent) == 1 and home is None and bool(served)
        if there or alone:
            for host, (uri, evidence) in silent.items():
                yield _Asked(server, uri, host, True, there, [evidence])
        else:
            host, (uri, _) = next(iter(silent.items()))
            yield _Asked(server, uri, host, False, [], [evidence for _, evidence in silent.values()])


def _server_at(case: Investigation, server: str) -> tuple[Host | None, Fix]:
    """The host of the plan that serves at an address, and what brings its service back, as far as that is seen."""
    address, _, port = server.partition(":")
    home = next((each for each in case.plan.hosts if str(each.primary.address) == address), None)
    if home is None:
        return None, Fix("")
    heard = case.look(case.gateway).arp.get(case.gateway.primary.nic, {})
    if not heard.get(address, ["not asked"]):
        return home, case.switch_on(home)
    unit = next((each for each in _dead_units(case) if each.host == home.name), None)
    stuck = next((each for each in case.look(home).stuck if each["how"] in WAKE and UNIT.fullmatch(each["unit"])), None)
    if unit is None and stuck is not None:
        how = f"{stuck['unit']} is {'frozen' if stuck['at'] else 'stopped by a signal'} there"
        return home, Fix(case.ssh(home.name, f"{WAKE[stuck['how']]} {stuck['unit']}"), "", how)
    there = next((each["unit"] for each in case.look(home).listeners or () if str(each["port"]) == port), "")
    if unit is None and there.endswith(".service"):
        return home, Fix(_restart(case, home.name, there), "", f"{there} listens there")
    if unit is None:
        return home, Fix("")
    return home, Fix(_restart(case, unit.host, unit.name, "start"), "", f"{unit.name} does not run there")
