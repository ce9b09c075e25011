"""What only one role knows: `group_data/ROLE.py`, read and checked like the plan itself."""

import re
from pathlib import Path
from typing import Annotated

from netaddr import AddrFormatError, IPAddress
from pydantic import Field, StringConstraints

from underlay.literals import Literals, Problem
from underlay.plan import REPO, Frozen, Plan, PlanError, read_literals, report, validate

ServerName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Account = Annotated[str, StringConstraints(pattern=r"^[a-z_][a-z0-9_-]{0,31}$")]
PublicKey = Annotated[str, StringConstraints(pattern=r"^(sk-)?(ssh|ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/=]{32,}( [^\n]*)?$")]


class WebService(Frozen):
    """A virtual host of the L7 proxy.

    upstreams: `ADDRESS:PORT` each
    websockets: keep upgraded connections
    max_body: largest request body in nginx's notation; "0" is no limit
    extra: further nginx directives for its `location /`, each without the semicolon
    """

    upstreams: tuple[str, ...] = Field(min_length=1)
    websockets: bool = False
    max_body: Annotated[str, StringConstraints(pattern=r"^[0-9]+[kmg]?$")] = "1m"
    extra: tuple[str, ...] = ()


class LbNginx(Frozen):
    """`group_data/lb_nginx.py`: virtual hosts by their name."""

    web_services: dict[ServerName, WebService] = Field(default_factory=dict)


class Jumphost(Frozen):
    """`group_data/jumphost.py`: the people on call, account → public keys."""

    people_on_call: dict[Account, tuple[PublicKey, ...]] = Field(default_factory=dict)


def role_file(plan: Plan, role: str) -> Path:
    """The data file of a role: beside the plan in force if there is one, else the repo's own."""
    beside = plan.source.parent / f"{role}.py"
    return beside if beside.is_file() else REPO / "group_data" / f"{role}.py"


def jumphost(plan: Plan) -> Jumphost:
    """The jump host's data. Raises PlanError with everything that is wrong with it."""
    path = role_file(plan, "jumphost")
    source = read_literals(path)
    data = validate(Jumphost, source.values, (), source)
    if isinstance(data, list) or source.problems:
        raise PlanError(report(path, [*source.problems, *(data if isinstance(data, list) else [])]))
    return data


def lb_nginx(plan: Plan) -> LbNginx:
    """The load balancer's data, each upstream as `ADDRESS:PORT`. Raises PlanError with everything wrong with it."""
    path = role_file(plan, "lb_nginx")
    source = read_literals(path)
    data = validate(LbNginx, source.values, (), source)
    problems = [*source.problems, *(data if isinstance(data, list) else [])]
    if not isinstance(data, list):
        services = {}
        for name, service in data.web_services.items():
            upstreams = [_upstream(plan, text, name, source, problems) for text in service.upstreams]
            services[name] = service.model_copy(update={"upstreams": tuple(upstreams)})
        data = LbNginx(web_services=services)
    if isinstance(data, list) or problems:
        raise PlanError(report(path, problems))
    return data


def _upstream(plan: Plan, text: str, service: str, source: Literals, problems: list[Problem]) -> str:
    keys = ("web_services", service, "upstreams")
    name, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        problems.append(
            Problem(source.line(*keys), ".".join(keys), f"{text!r} has no port", "write HOST:PORT, like master-1:3000")
        )
        return text
    host = next((host for host in plan.hosts if host.name == name), None)
    if host is not None:
        return f"{host.primary.address}:{port}"
    try:
        return f"{IPAddress(name, version=4)}:{port}"
    except (AddrFormatError, ValueError):
        known = ", ".join(host.name for host in plan.hosts)
        problems.append(
            Problem(
                source.line(*keys),
                ".".join(keys),
                f"{name!r} is no host of the plan, nor an address",
                f"known: {known}",
            )
        )
        return text
