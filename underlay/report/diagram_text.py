"""Plan → a picture of the site as text, for people's own documents: Mermaid and PlantUML. Pure.

Names of networks and hosts are letters, digits and hyphens. In both notations a name may be a word of its own (`end`)
and a hyphen an arrow's beginning, so identifiers are made of them, and the names are what is shown.
"""

import json
from collections.abc import Iterator

from underlay.plan import Host, Network, Plan
from underlay.report.diagram import WHAT


def mermaid(plan: Plan) -> str:
    """The picture as a Mermaid flowchart (https://mermaid.js.org/syntax/flowchart.html)."""
    # A title is YAML, of which JSON is a part.
    lines = ["---", f"title: {json.dumps(plan.site, ensure_ascii=False)}", "---", "flowchart TB"]
    lines.append('    internet(["internet"]) --- router')
    lines.append(f'    router["<b>upstream router</b><br>{plan.enterprise.upstream}"] --- {_id(plan.enterprise)}')
    for network in plan.networks:
        text = "<br>".join([f"<b>{network.name}</b>", *_ranges(plan, network)])
        lines.append(f'    {_id(network)}[/"{text}"/]')
    for host in plan.hosts:
        text = "<br>".join([f"<b>{host.name}</b>", *_about(host)])
        lines.append(f'    {_id(host)}["{text}"]')
    lines += [f"    {one} --- {other}" for one, other in _cables(plan)]
    for host in plan.published:
        lines.append(f'    {_id(plan.gateway)} -. "{_published(host)}" .-> {_id(host)}')
    return "\n".join(lines) + "\n"


def plantuml(plan: Plan) -> str:
    """The picture as a PlantUML deployment diagram (https://plantuml.com/deployment-diagram)."""
    lines = ["@startuml", f"title {plan.site}", "cloud internet"]
    lines.append(_shape("rectangle", "router", ["upstream router", str(plan.enterprise.upstream)]))
    lines += [_shape("queue", _id(each), [each.name, *_ranges(plan, each)]) for each in plan.networks]
    lines += [_shape("node", _id(each), [each.name, *_about(each)]) for each in plan.hosts]
    lines += ["internet -- router", f"router -- {_id(plan.enterprise)}"]
    lines += [f"{one} -- {other}" for one, other in _cables(plan)]
    lines += [f"{_id(plan.gateway)} ..> {_id(host)} : {_published(host)}" for host in plan.published]
    return "\n".join([*lines, "@enduml"]) + "\n"


def _shape(kind: str, name: str, texts: list[str]) -> str:
    first, *others = texts
    text = r"\n".join([f"<b>{first}</b>", *others])
    return f'{kind} "{text}" as {name}'


def _about(host: Host) -> list[str]:
    return [WHAT[host.role], *(f"{nic.nic} {nic.address}" for nic in host.interfaces)]


def _cables(plan: Plan) -> Iterator[tuple[str, str]]:
    """The ends of each cable, in the order in which they are drawn from top to bottom."""
    for host in plan.hosts:
        for nic in host.interfaces:
            network = plan.network(nic.network)
            down = network == plan.enterprise and len(host.interfaces) > 1
            yield (_id(network), _id(host)) if down else (_id(host), _id(network))


def _id(part: Host | Network) -> str:
    return f"{type(part).__name__.lower()}_{part.name.replace('-', '_')}"


def _ranges(plan: Plan, network: Network) -> list[str]:
    zones = (zone for zone in plan.zones if zone.network == network.name)
    return [str(network.cidr), *(f"{zone.name} {zone.cidr}" for zone in zones)]


def _published(host: Host) -> str:
    """Its address, with the ports that may be asked where not all may."""
    return f"{host.published} {', '.join(host.ports)}" if host.ports else str(host.published)
