"""The rules of a gateway read back: which facts of a plan make them, and which of them none explains. Pure.

The other way round than `desired.nat`: rules in whichever order and form somebody typed them → networks, published
addresses, the address that all others leave with. The order of the facts is the one in which a plan makes the rules.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from netaddr import AddrFormatError, IPAddress, IPNetwork

from underlay.compare.tables import BUILTIN_CHAINS, NATIVE, TABLES, Table, words
from underlay.desired.ruleset import Rule

Tables = Mapping[str, Table]
PLAIN = {"-s", "-d", "-i", "-o", "-j", "-m", "--comment", "--to-source", "--to-destination"}
"""Options of a rule that looks at nothing else than the plan's do."""
TO = {"SNAT": "--to-source", "DNAT": "--to-destination"}
"""Target → its option, which people write as `--to`."""


@dataclass(frozen=True)
class Facts:
    """What rules say of a site.

    networks: internal networks, in the plan's order
    published: enterprise address → internal one, mapped 1:1 in both directions, in the plan's order
    halves: mapped in one direction only, as `ENTERPRISE INTERNAL`
    outer: the addresses that other sources leave with; a plan has one
    own: internal network → the gateway's address in it
    """

    networks: tuple[IPNetwork, ...] = ()
    published: Mapping[IPAddress, IPAddress] = field(default_factory=dict)
    halves: tuple[tuple[IPAddress, IPAddress], ...] = ()
    outer: tuple[IPAddress, ...] = ()
    own: Mapping[IPNetwork, IPAddress] = field(default_factory=dict)


def facts(live: Tables) -> Facts:
    """What the rules of a gateway say."""
    dnat = {IPAddress(outer): IPAddress(inner) for outer, inner in _dnat(live)}
    snat, networks, outer = dict[IPAddress, IPAddress](), list[IPNetwork](), list[IPAddress]()
    for source, address in _snat(live):
        if source.prefixlen == 32:
            snat.setdefault(source.ip, address)
        else:
            networks.append(source)
            outer.append(address)
    own = {}
    for source, destination in _untracked(live):
        if source.prefixlen < 32 and destination.prefixlen < 32:
            networks += [source, destination]
        elif source.ip in destination:
            own[destination] = source.ip
    networks += own
    networks += _accepted(live)
    # Rules for published hosts are put in front of each other: the last one is the plan's first.
    both = {each: dnat[each] for each in reversed(dnat) if snat.get(dnat[each]) == each}
    halves = dict.fromkeys([*dnat.items(), *((address, host) for host, address in snat.items())])
    return Facts(
        networks=tuple(dict.fromkeys(networks)),
        published=both,
        halves=tuple(each for each in halves if each[0] not in both),
        outer=tuple(dict.fromkeys(outer)),
        own=own,
    )


def unexplained(live: Tables, wanted: Iterable[Rule]) -> list[Rule]:
    """The rules that are there and in no plan, those of the tables and chains that a plan has rules in."""
    planned = {(rule.table, rule.chain, form(rule.spec)) for rule in wanted}
    return [rule for rule in _all(live) if (rule.table, rule.chain, form(rule.spec)) not in planned]


def lacking(live: Tables, wanted: Iterable[Rule]) -> list[Rule]:
    """The rules of a plan that are not there."""
    there = {(rule.table, rule.chain, form(rule.spec)) for rule in _all(live)}
    return [rule for rule in wanted if (rule.table, rule.chain, form(rule.spec)) not in there]


def form(spec: str) -> tuple[str, ...]:
    """A rule as words that are the same for all ways to write it: those of iptables of each version, and people's."""
    found = words(spec)
    if found[-2:] == ["CT", "--notrack"]:
        found = [*found[:-2], "NOTRACK"]
    target = found[found.index("-j") + 1] if "-j" in found[:-1] else ""
    found = [TO.get(target, word) if word == "--to" else word for word in found]
    return tuple(_address(word) for word in found)


def _address(word: str) -> str:
    """An address alone, a network with its length and without host bits; any other word as it is."""
    if word[:1].isdigit() and word.count(".") >= 3:
        try:
            network = IPNetwork(word).cidr
        except (AddrFormatError, ValueError):
            return word
        return str(network.ip) if network.prefixlen == 32 else str(network)
    return word


def _all(live: Tables) -> Iterator[Rule]:
    for table in TABLES:
        for chain in BUILTIN_CHAINS[table]:
            for spec in live[table].chain(chain) if table in live else ():
                yield Rule(table, chain, spec)


def _matching(live: Tables, table: str, chain: str, target: str) -> Iterator[dict[str, str]]:
    """Rules of a target that look at nothing but addresses, NICs and a comment: option → value."""
    for spec in live[table].chain(chain) if table in live else ():
        said = form(spec)
        # All that such a rule has is pairs, and each of them once.
        options = dict(zip(said[::2], said[1::2], strict=False))
        pairs = len(said) == 2 * len(options) and set(options) <= PLAIN and options.get("-m", "comment") == "comment"
        if pairs and options.get("-j") == target and not spec.endswith(NATIVE):
            yield options


def _dnat(live: Tables) -> Iterator[tuple[str, str]]:
    for rule in _matching(live, "nat", "PREROUTING", "DNAT"):
        if "/" not in rule.get("-d", "/") and "-s" not in rule and _is_address(rule.get("--to-destination", "")):
            yield rule["-d"], rule["--to-destination"]


def _snat(live: Tables) -> Iterator[tuple[IPNetwork, IPAddress]]:
    for rule in _matching(live, "nat", "POSTROUTING", "SNAT"):
        if "-s" in rule and "-d" not in rule and _is_address(rule.get("--to-source", "")):
            yield IPNetwork(rule["-s"]), IPAddress(rule["--to-source"])


def _untracked(live: Tables) -> Iterator[tuple[IPNetwork, IPNetwork]]:
    for chain in ("PREROUTING", "OUTPUT"):
        for rule in _matching(live, "raw", chain, "NOTRACK"):
            if "-s" in rule and "-d" in rule:
                yield IPNetwork(rule["-s"]), IPNetwork(rule["-d"])


def _accepted(live: Tables) -> list[IPNetwork]:
    """The networks that are forwarded in both directions; rules for them are put in front of each other, too."""
    ends: dict[str, list[IPNetwork]] = {"-s": [], "-d": []}
    for rule in _matching(live, "filter", "FORWARD", "ACCEPT"):
        for end, networks in ends.items():
            if end in rule and len({"-s", "-d"} & set(rule)) == 1 and "/" in rule[end]:
                networks.insert(0, IPNetwork(rule[end]))
    return [each for each in ends["-s"] if each in ends["-d"]]


def _is_address(text: str) -> bool:
    return "/" not in text and "-" not in text and ":" not in text and _address(text) == text and text[:1].isdigit()
