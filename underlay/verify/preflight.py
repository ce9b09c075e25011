"""What is missing before kubeadm runs: each node is asked at the same time, then they are compared."""

import json
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text
from typing_extensions import TypedDict

from underlay.access.anew import anew
from underlay.access.answers import UnreadableError
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target, announce
from underlay.console import console
from underlay.errors import exit_code
from underlay.nodes import difference, kubeadm_file
from underlay.nodes.kubeadm import Secrets, join
from underlay.nodes.kubeadm import api as kubeadm_api
from underlay.nodes.wanted import preparation
from underlay.observe import state as states
from underlay.observe.state import HostState
from underlay.plan import Host, Plan
from underlay.plan.roles import API_PORT
from underlay.remote import send
from underlay.remote.checks import preflight as program

State = Literal["good", "wrong", "note", "not read"]
SECONDS = 60
"""What the program on a node may take: kubeadm's own preflight, pings that get no answer, two seconds of writing."""
PORTS = {
    "master": (API_PORT, 2379, 2380, 10250, 10256, 10257, 10259),
    "worker": (10250, 10256),
}
"""Role → what the API server, etcd, kubelet, kube-proxy, the controller manager and the scheduler listen on."""
ETCD = "/var/lib/etcd"
SLOW, TOO_SLOW = 0.010, 0.100
"""Seconds of the slowest of a hundred fdatasync: what etcd wants, and its heartbeat, after which leaders change."""
APART = 0.5
"""Seconds that two clocks may be apart: etcd warns of one."""
FREE = 0.15
"""Of /var/lib: with less kubelet removes images, then pods."""
PROCESSORS, MEMORY = 2, 1700
"""Of a master, as kubeadm wants it; MiB."""
FAR = 8
"""With more nodes each pings two others, not all."""
ANY = Secrets("abcdef.0123456789abcdef", f"sha256:{'0' * 64}", "0" * 64)
"""Of the right shape: the local checks come before anybody is asked for them."""


class Answer(TypedDict, total=False):
    """See `remote.checks.preflight`."""

    ids: dict[str, str]
    processors: int
    memory: int
    room: tuple[int, int]
    joined: bool
    names: dict[str, list[str]]
    api: str
    pings: list[tuple[str, str, int, str, str]]
    ports: dict[str, str]
    sync: list[float]
    kubeadm: list[str]


@dataclass(frozen=True)
class Finding:
    """What was looked at on a node. A `note` keeps nothing from kubeadm; what was `not read` may."""

    host: str
    check: str
    state: State
    what: str = ""


@dataclass
class Node:
    """What a node said; each part may be why it did not."""

    host: Host
    answer: Answer | str = "it was not asked"
    state: HostState | str = "it was not asked"
    findings: list[Finding] = field(default_factory=list)

    def add(self, check: str, state: State, what: str = "") -> None:
        self.findings.append(Finding(self.host.name, check, state, what))

    def judge(self, check: str, wrong: Iterable[str], good: str = "") -> None:
        """Wrong for each of these reasons; good if there is none."""
        reasons = list(wrong)
        for each in reasons:
            self.add(check, "wrong", each)
        if not reasons:
            self.add(check, "good", good)


def run(target: Target, only: Host | None, as_json: bool) -> int:
    """Look at the nodes, or at one of them, and tell; the exit code."""
    if not as_json:
        announce(target)
    with anew(target) as own:
        findings = look(own, only)
    if as_json:
        print(json.dumps([each.__dict__ for each in findings], indent=2))
    else:
        _show(findings)
    wrong = [each for each in findings if each.state == "wrong"]
    return exit_code(wrong=wrong, unread=[each for each in findings if each.state == "not read"])


def look(target: Target, only: Host | None) -> list[Finding]:
    """What was found, in the order of the nodes. Of the others the ids and clocks are asked, too, to compare them."""
    plan, links = target.plan, Links(target)
    nodes = [Node(host) for host in plan.nodes]
    links.open({node.host.name for node in nodes})
    with ThreadPoolExecutor(max(1, 2 * len(nodes))) as pool:
        for node in nodes:
            pool.submit(_ask, links, plan, node, only in (None, node.host))
            pool.submit(_read, links, plan, node)
    return judged(plan, nodes, only, lab=target.name == "lab")


def _ask(links: Links, plan: Plan, node: Node, whole: bool) -> None:
    wanted = request(plan, node.host) if whole else {}
    stdin = send.line(program) + json.dumps(wanted).encode()
    try:
        node.answer = links.ask(node.host.name, shlex.join(send.argv()), Answer, seconds=SECONDS, stdin=stdin)
    except UnreachableError as error:
        node.answer = str(error)


def _read(links: Links, plan: Plan, node: Node) -> None:
    try:
        node.state = states.read(links, plan, node.host, {"node"})
    except UnreachableError as error:
        node.state = str(error)


def request(plan: Plan, host: Host) -> dict[str, object]:
    """What the program on a node is asked."""
    wanted = preparation(plan, host)
    assert wanted
    found: dict[str, object] = {
        "names": list(_names(wanted.names)),
        "api": [wanted.cluster.endpoint, API_PORT],
        "pings": [list(each) for each in pings(plan, host)],
        "ports": list(PORTS[host.role]),
        "kubeadm": configuration(plan, host),
    }
    if host.role == "master":
        found["sync"] = ETCD
    return found


def configuration(plan: Plan, host: Host) -> str:
    """What the local checks of `kubeadm join` read: a first master is looked at as a further one."""
    assert plan.kubernetes
    found = join(plan, host, ANY)
    # It does not wait for an API that may not be there yet.
    if kubeadm_api(plan.kubernetes.minor) == "v1beta4":
        found["timeouts"] = {"discovery": "1s"}
    else:
        found["discovery"]["timeout"] = "1s"
    return kubeadm_file.yaml([found])


def _names(lines: Sequence[str]) -> dict[str, str]:
    return {name: address for address, name in (line.split() for line in lines)}


def pings(plan: Plan, host: Host) -> Iterator[tuple[str, str, str]]:
    """NIC, own address and other's, for each network in which both are: all other nodes, or the next two of many."""
    nodes = plan.nodes
    at = nodes.index(host)
    others = [*nodes[at + 1 :], *nodes[:at]]
    for other in others if len(nodes) <= FAR else others[:2]:
        for nic in host.interfaces:
            if there := other.interface(nic.network):
                yield nic.nic, str(nic.address), str(there.address)


# --- what follows from the answers ----------------------------------------------------------------------------------


def judged(plan: Plan, nodes: Sequence[Node], only: Host | None, *, lab: bool) -> list[Finding]:
    """What is wrong, or good, with these nodes; lab: what only a kernel of its own can do is no fault."""
    for node in nodes:
        if only in (None, node.host):
            _prepared(plan, node, lab=lab)
            if isinstance(node.answer, str):
                node.add("node", "not read", node.answer)
            else:
                _alone(plan, node, node.answer)
    _together(nodes, only, lab=lab)
    return [each for node in nodes if only in (None, node.host) for each in node.findings]


def _prepared(plan: Plan, node: Node, *, lab: bool) -> None:
    wanted, state = preparation(plan, node.host), node.state
    assert wanted
    try:
        if isinstance(state, str):
            raise UnreadableError(state)
        found = difference.differences(wanted, state.node)
        lacking = difference.lacking(state.node)
    except UnreadableError as error:
        node.add("prepared", "not read", str(error))
        return
    advice = f" (./inv deploy {node.host.role})"
    node.judge("prepared", (f"{each.where}: {each.what}{advice}" for each in found))
    for each in lacking:
        if state.node.container:
            node.add("kernel", "note" if lab else "wrong", each)


def _alone(plan: Plan, node: Node, said: Answer) -> None:
    """What one node's answer says by itself."""
    wanted = preparation(plan, node.host)
    assert wanted
    seen = said.get("names", {})
    node.judge(
        "names",
        (
            f"{name} is {', '.join(dict.fromkeys(seen.get(name, []))) or 'not known'}, not {address}"
            for name, address in _names(wanted.names).items()
            if seen.get(name, [])[:1] != [address]
        ),
    )
    _api(wanted.cluster.endpoint, node, said.get("api", "it was not tried"))
    node.judge("packets", _packets(plan, said))
    free, size = said.get("room", (0, 1))
    full = [f"{free / 1e9:.1f} GB of {size / 1e9:.1f} are free: kubelet removes images below {FREE:.0%}"]
    node.judge("room in /var/lib", full if free < FREE * size else ())
    if node.host.role == "master":
        _master(node, said)
    if said.get("joined"):
        node.add("kubeadm", "note", "it is in a cluster: its ports, and kubeadm's own preflight, are not judged")
        return
    node.judge("ports", (f"{port} is taken by {program}" for port, program in said.get("ports", {}).items()))
    told = said.get("kubeadm", [])
    node.judge("kubeadm", (each for each in told if each.startswith("[ERROR")))
    for each in told:
        if each.startswith("[WARNING"):
            node.add("kubeadm", "note", each)


def _api(endpoint: str, node: Node, said: str) -> None:
    where = f"{endpoint}:{API_PORT}"
    match said:
        case "open":
            node.add("way to the API", "good")
        case "refused":
            why = "refused: so it is until the first master runs, or is the load balancer not deployed?"
            node.add("way to the API", "note", f"{where}: {why}")
        case _:
            node.add("way to the API", "wrong", f"{where}: {said}")


def _packets(plan: Plan, said: Answer) -> Iterator[str]:
    for source, end, size, full, small in said.get("pings", []):
        if full != "answered":
            what = "small ones do: the MTU is not that of the way" if small == "answered" else "none does"
            yield f"{source} to {end}: no packet of {size} bytes gets through ({full}), {what}; {plan.line_of(end)}"


def _master(node: Node, said: Answer) -> None:
    processors, memory = said.get("processors", 0), said.get("memory", 0)
    small = [f"{processors} processors: kubeadm wants {PROCESSORS}"] if processors < PROCESSORS else []
    small += [f"{memory} MiB of memory: kubeadm wants {MEMORY}"] if memory < MEMORY else []
    node.judge("size", small)
    times = sorted(said.get("sync", []))
    if not times:
        node.add("disk of etcd", "not read", f"{ETCD} could not be measured")
        return
    slowest = times[int(len(times) * 0.99)]
    middle = times[len(times) // 2]
    what = f"99 of 100 fdatasync take up to {slowest * 1000:.1f} ms, half of them {middle * 1000:.1f}"
    if slowest > TOO_SLOW:
        node.add("disk of etcd", "wrong", f"{what}: leaders change with more than {TOO_SLOW * 1000:.0f}")
    elif slowest > SLOW:
        node.add("disk of etcd", "note", f"{what}: etcd wants less than {SLOW * 1000:.0f}")
    else:
        node.add("disk of etcd", "good", what)


def _together(nodes: Sequence[Node], only: Host | None, *, lab: bool) -> None:
    """What only a look at all nodes tells: ids that two have, clocks that are apart."""
    owners: dict[tuple[str, str], list[str]] = defaultdict(list)
    for node in nodes:
        for kind, value in (node.answer.get("ids", {}) if not isinstance(node.answer, str) else {}).items():
            owners[kind, value].append(node.host.name)
    for node in nodes:
        if isinstance(node.answer, str) or only not in (None, node.host):
            continue
        own = node.answer.get("ids", {})
        twice = [(kind, [each for each in owners[kind, own[kind]] if each != node.host.name]) for kind in own]
        found = [f"its {kind} is that of {', '.join(others)}" for kind, others in twice if others]
        # Containers have the one of their machine.
        shared = [each for each in found if lab and "product_uuid" in each]
        node.judge("ids", (each for each in found if each not in shared))
        for each in shared:
            node.add("ids", "note", each)
    _clocks(nodes)


def _clocks(nodes: Sequence[Node]) -> None:
    offsets: dict[str, tuple[float, float]] = {}
    for node in nodes:
        try:
            if not isinstance(node.state, str):
                offsets[node.host.name] = (node.state.clock.offset, node.state.clock.round_trip / 2)
        except UnreadableError:
            continue
    apart: dict[str, list[str]] = {name: [] for name in offsets}
    for (one, (first, unsure)), (other, (second, more)) in combinations(offsets.items(), 2):
        if abs(first - second) - unsure - more > APART:
            for name, against in ((one, other), (other, one)):
                apart[name].append(f"{abs(first - second):.1f} s from that of {against}")
    for node in nodes:
        if node.host.name in apart:
            node.judge("clock", apart[node.host.name])
        else:
            node.add("clock", "not read", "it did not tell the time")


def _show(findings: Sequence[Finding]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("node", "check", "result"):
        table.add_column(title, overflow="fold")
    colours = {"good": "green", "wrong": "bold red", "note": "yellow", "not read": "yellow"}
    for each in findings:
        word = each.state.upper() if each.state == "wrong" else each.state
        table.add_row(
            each.host, each.check, Text(": ".join(filter(None, (word, each.what))), style=colours[each.state])
        )
    console().print(table)
