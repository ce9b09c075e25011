"""A whole site that is as planned, made up: what each host says of itself, and how to change it."""

from collections.abc import Iterable
from dataclasses import replace

from underlay.compare import tables
from underlay.compare.difference import UnitState
from underlay.compare.filters import Filters
from underlay.compare.firewall import own
from underlay.compare.network import LiveNetwork
from underlay.compare.sshd import CONFIG, INCLUDE, Sshd
from underlay.compare.tables import Ruleset
from underlay.desired import nat, nginx, routing, units
from underlay.desired.files import SSHD, firewall_unit, network_files, sshd_file, sshd_settings
from underlay.desired.ruleset import Rule
from underlay.facts.firewall import Firewall
from underlay.observe.health import Link, RuleCounter
from underlay.observe.state import HostState
from underlay.plan import Host, Plan
from underlay.remote.guard.paths import COPY


def ruleset(rules: Iterable[Rule]) -> Ruleset:
    """Rules alone, as the tables of a host."""
    return tables.alone(own(rules))


def firewall(plan: Plan, **changed: object) -> Firewall:
    """The gateway's rules as planned, but for some of its properties."""
    names = ("live", "wanted", "at_boot", "recorded")
    planned = {name: ruleset(nat.gateway_rules(plan)) for name in names}
    record = tables.write(own(nat.gateway_rules(plan)))
    return replace(Firewall(record=record), **(planned | changed))  # type: ignore[arg-type]


def sshd(plan: Plan, host: Host) -> Sshd:
    """What sshd says that is as planned."""
    said = {"prohibit-password": "without-password"}
    settings = {key.lower(): said.get(value, value) for key, value in sshd_settings(plan, host).items()}
    return Sshd(settings, files={SSHD: sshd_file(plan, host), CONFIG: f"{INCLUDE}\n"})


def state(plan: Plan, host: Host, **changed: object) -> HostState:
    """What a host says that is as planned, but for some of its properties."""
    wanted = routing.host_network(plan, host)
    rules = nat.gateway_rules(plan)
    said = HostState(host.name, {})
    # Where the sections of a real host would be parsed into.
    said.__dict__.update(
        network=LiveNetwork(
            links=dict.fromkeys(wanted.nics, True),
            addresses=wanted.addresses,
            routes=wanted.routes,
            rules=wanted.rules,
            sysctls=wanted.sysctls,
            files={str(path): content for path, content in network_files(wanted, {}).items()},
        ),
        nics={nic: Link(True, True, 1500, "02:00:00:00:00:01") for nic in wanted.nics},
        units=dict.fromkeys((unit.name for unit in units.ALL), UnitState("active", "enabled")),
        files={
            SSHD: sshd_file(plan, host),
            nginx.PATH: nginx.configuration(plan),
            units.FIREWALL_FILE: firewall_unit(COPY),
        },
        filters=Filters(),
        sshd=sshd(plan, host),
        firewall=firewall(plan),
        counters=tuple(RuleCounter(rule.table, rule.chain, rule.spec, 7, 700) for rule in rules),
    )
    said.__dict__.update(changed)
    return said


def without_address(plan: Plan, host: Host, network: str) -> HostState:
    """A host that lacks its address in a network."""
    nic = host.interface(network)
    assert nic is not None
    planned = state(plan, host).network
    left = tuple(each for each in planned.addresses if each.cidr != nic.with_prefix)
    return state(plan, host, network=replace(planned, addresses=left))
