"""The connection table, read where it is: a million entries pass by, and only what was asked for leaves the host.

As a program, as root: `main(COMMAND, JSON)` writes one JSON object to stdout.

- `tally [ADDRESS, …]` → see `tally`
- `find {hosts: [ADDRESS, …], published: [ADDRESS, …], protocol: TEXT, name: TEXT, id: NUMBER or null, limit: NUMBER}`
  → see `find`
- `renew {to: {ADDRESS: ADDRESS, …}, as: {ADDRESS: ADDRESS, …}, inner: [ADDRESS, …], ours: [ADDRESS, …], gone: …}`,
  or `-` for the same on stdin → see `renew`; `told` does it, too, and tells a person
- `delete {protocol, source, destination, …}` (a `Connection` as a dict) → `{"deleted": NUMBER}`
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

BLOCK = 1 << 18
# An entry has two tuples: as the connection was opened, and as its answers come. ICMP has no ports, and GRE has keys.
ENDS = re.compile(
    rb"^(\w+) [^=\n]*\bsrc=(\S+) dst=(\S+)(?: sport=(\d+) dport=(\d+))? (?:\S+ )*?"
    rb"src=(\S+) dst=(\S+)(?: sport=\d+ dport=(\d+))?",
    re.MULTILINE,
)
Ends = tuple[bytes, bytes, bytes, bytes, bytes, bytes, bytes, bytes]
"""Of an entry: protocol; source, destination, source port and destination port as it was opened; the address that its
answers come from, the address and the port that they go to. The ports are empty where the protocol has none."""


def blocks(argv: list[str], size: int = BLOCK) -> Iterator[bytes]:
    """The output of a program in blocks of whole lines. Raises OSError if it fails."""
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        rest = b""
        while block := process.stdout.read(size):
            lines, end, rest = (rest + block).rpartition(b"\n")
            yield lines + end
        yield rest
        words = process.stderr.read().decode(errors="replace").strip()
    if process.returncode:
        raise OSError(f"{' '.join(argv[:2])} failed with {process.returncode}: {words}")


def opened(*options: str) -> Generator[Ends, None, None]:
    """The entries of the table, as they come; the options are those of `conntrack -L`. Raises OSError."""
    for block in blocks(["conntrack", "-L", *options]):
        yield from ENDS.findall(block)


def tally(table: Iterable[bytes], addresses: list[str]) -> dict[str, Any]:
    """Counts of one pass over the table (`conntrack -L` in blocks of whole lines).

    entries: how many there are
    protocols: name → entries
    flows: each of `addresses` → entries that were opened to it, or leave as it
    ports: source address that the gateway translates to → protocol → distinct source ports in use
    """
    protocols: Counter[bytes] = Counter()
    flows: Counter[bytes] = Counter()
    wanted = {address.encode() for address in addresses}
    used: dict[bytes, dict[bytes, bytearray]] = {}
    for block in table:
        for protocol, source, asked, _, _, _, answered_to, port in ENDS.findall(block):
            protocols[protocol] += 1
            if asked in wanted:
                flows[asked] += 1
            if answered_to == source:
                continue
            if answered_to in wanted and answered_to != asked:
                flows[answered_to] += 1
            if port:
                of_address = used.setdefault(answered_to, {})
                # A byte a port: the size is known, whatever the table holds.
                of_address.setdefault(protocol, bytearray(65536))[int(port) & 0xFFFF] = 1
    return {
        "entries": sum(protocols.values()),
        "protocols": {name.decode(): count for name, count in protocols.items()},
        "flows": {address: flows[address.encode()] for address in addresses},
        "ports": {
            address.decode(): {name.decode(): sum(ports) for name, ports in of_address.items()}
            for address, of_address in used.items()
        },
    }


@dataclass(frozen=True)
class Connection:
    """An entry of the table.

    id: the kernel's, as long as the entry lives
    state: of TCP as the kernel tracks it; UNREPLIED or ASSURED for protocols that have none, or empty
    timeout: seconds until it goes, unless a packet comes
    source, destination: as the connection was opened; ports None where the protocol has none
    answered_by, answered_to: between whom the answers go: they differ from `destination` and `source` where an address
      or a port is translated
    icmp: type, code and id; None for other protocols
    packets, bytes: both ways together; None where the kernel does not count (net.netfilter.nf_conntrack_acct)
    age: seconds; None where the kernel keeps no time (net.netfilter.nf_conntrack_timestamp)
    """

    id: int
    protocol: str
    state: str
    timeout: int
    source: str
    source_port: int | None
    destination: str
    destination_port: int | None
    answered_by: str
    answered_by_port: int | None
    answered_to: str
    answered_to_port: int | None
    icmp: tuple[int, int, int] | None
    packets: int | None
    bytes: int | None
    age: int | None

    @property
    def name(self) -> str:
        """What it was opened as; no other entry has the same: `tcp 192.0.2.1:40000 192.0.2.2:22`."""
        return f"{self.protocol} {_end(self.source, self._first)} {_end(self.destination, self.destination_port)}"

    @property
    def _first(self) -> int | None:
        return self.icmp[2] if self.icmp else self.source_port

    @property
    def translated(self) -> str:
        """What NAT makes of it: `to 100.64.0.52:22`, `as 192.168.0.51:5000`, both, or nothing."""
        to = _end(self.answered_by, self.answered_by_port)
        seen_as = _end(self.answered_to, self.answered_to_port)
        words = [f"to {to}"] if to != _end(self.destination, self.destination_port) else []
        words += [f"as {seen_as}"] if seen_as != _end(self.source, self.source_port) else []
        return " ".join(words)

    @property
    def arguments(self) -> list[str]:
        """The options of `conntrack` that match this entry and no other."""
        found = ["--proto", self.protocol, "--orig-src", self.source, "--orig-dst", self.destination]
        if self.icmp:
            kind, code, identifier = map(str, self.icmp)
            found += ["--icmp-type", kind, "--icmp-code", code, "--icmp-id", identifier]
        elif self.source_port is not None:
            found += ["--orig-port-src", str(self.source_port), "--orig-port-dst", str(self.destination_port)]
        return found


def _end(address: str, port: int | None) -> str:
    return address if port is None else f"{address}:{port}"


def parse(line: str) -> Connection:
    """An entry as `conntrack -L -o id,timestamp` prints it. Raises ValueError."""
    words = line.split()
    ways: list[dict[str, str]] = []
    other: dict[str, str] = {}
    plain = []
    for word in words[2:]:
        key, equals, value = word.partition("=")
        if key == "src":
            ways.append({})
        if not equals:
            plain.append(word.strip("[]"))
        # The id of an echo stands in both tuples; the entry's own comes after them, and after these marks.
        elif ways and key in WITHIN and key not in ways[-1] and not (key == "id" and "type" not in ways[-1]):
            ways[-1][key] = value
        else:
            other[key] = value
    if len(ways) != 2 or "id" not in other:
        raise ValueError(f"not an entry of a connection table: {line!r}")
    there, back = ways
    states = [word for word in plain if word.replace("_", "").isalpha()]
    return Connection(
        id=int(other["id"]),
        protocol=words[0],
        state=" ".join(states),
        timeout=next((int(word) for word in plain if word.isdigit()), 0),
        source=there["src"],
        source_port=_number(there, "sport"),
        destination=there["dst"],
        destination_port=_number(there, "dport"),
        answered_by=back["src"],
        answered_by_port=_number(back, "sport"),
        answered_to=back["dst"],
        answered_to_port=_number(back, "dport"),
        icmp=(int(there["type"]), int(there["code"]), int(there["id"])) if "type" in there else None,
        packets=_sum(ways, "packets"),
        bytes=_sum(ways, "bytes"),
        age=_number(other, "delta-time"),
    )


WITHIN = frozenset(("src", "dst", "sport", "dport", "type", "code", "id", "packets", "bytes"))
"""What stands in each of an entry's two tuples."""


def _number(values: dict[str, str], key: str) -> int | None:
    return int(values[key]) if key in values else None


def _sum(ways: list[dict[str, str]], key: str) -> int | None:
    return sum(int(way[key]) for way in ways) if all(key in way for way in ways) else None


def find(table: Iterable[bytes], wanted: dict[str, Any]) -> dict[str, Any]:
    """Entries of the table (`conntrack -L -o id,timestamp` in blocks of whole lines).

    wanted: `hosts`: addresses of which one is an end of it, as it was opened or translated; `published`: addresses that
      it was opened to or leaves as; `protocol`; `name`: see `Connection.name`; `id`; each is empty or null for any.
      `limit`: how many entries at most
    → {entries: how many there are, matching: how many of them are wanted, found: the first of those as dicts}
    """
    hosts = [f"={address} ".encode() for address in wanted["hosts"]]
    published = {address.encode() for address in wanted["published"]}
    protocol = f"{wanted['protocol']} ".lstrip().encode()
    mark = f" id={wanted['id']}".encode() if wanted["id"] is not None else b""
    named = wanted["name"]
    ends = [f"={end.partition(':')[0]} ".encode() for end in named.split()[1:]]
    entries = matching = 0
    found: list[dict[str, Any]] = []
    for block in table:
        lines = block.splitlines()
        entries += len(lines)
        for line in lines:
            if not line.startswith(protocol):
                continue
            if hosts and not any(each in line for each in hosts):
                continue
            if published and not _leads_to(line, published):
                continue
            # The kernel's id may also be an echo's: what only looks alike is sorted out below.
            if mark not in line or not all(end in line for end in ends):
                continue
            if mark or named or len(found) < wanted["limit"]:
                connection = parse(line.decode())
                if (mark and connection.id != wanted["id"]) or (named and connection.name != named):
                    continue
                found.append(asdict(connection))
            matching += 1
    return {"entries": entries, "matching": matching, "found": found[: wanted["limit"]]}


def _leads_to(line: bytes, addresses: set[bytes]) -> bool:
    match = ENDS.match(line)
    if match is None:
        return False
    _, source, asked, _, _, _, answered_to, _ = match.groups()
    return asked in addresses or (answered_to != source and answered_to in addresses)


def delete(connection: Connection) -> dict[str, int]:
    """Take one entry out of the table. Raises OSError."""
    return {"deleted": _deleted(["conntrack", "-D", *connection.arguments])}


QUIET = 2
"""Looks one after the other that find no outdated connection."""
LOOKS = 10
PAUSE = 0.25


def outdated(
    entries: Iterable[Ends], wanted: dict[str, Any], own: Collection[str] = ()
) -> tuple[int, Counter[tuple[str, ...]]]:
    """How many entries concern translations that changed; and of those that do not have the one that holds now, how
    many each of these options of `conntrack` matches, that match no others.

    wanted: `to`: address → where what is sent there must go, itself for nowhere else; `as`: host → the address as which
      what it sends must leave; `inner`, `ours`: where our rules lead, and what a source is translated to by them, now
      or before, since a translation by others is not outdated; `gone`: of `ours`, what nothing leaves as any more
    own: addresses of this host, which are not translated where they send
    """
    local = {each.encode() for each in own}
    to, seen_as = ({key.encode(): value.encode() for key, value in wanted[name].items()} for name in ("to", "as"))
    inner, ours, gone = ({each.encode() for each in wanted[name]} for name in ("inner", "ours", "gone"))
    looked = 0
    found: Counter[tuple[str, ...]] = Counter()
    for _, source, asked, _, _, answered_by, answered_to, _ in entries:
        left = answered_to != source
        concerned = asked in to or source in seen_as or (left and answered_to in gone)
        if not concerned or source in local:
            continue
        looked += 1
        if asked in to and answered_by != to[asked] and (answered_by == asked or answered_by in inner):
            found["--orig-dst", asked.decode(), "--reply-src", answered_by.decode()] += 1
        elif left and (
            answered_to in gone or (answered_to in ours and answered_to != seen_as.get(source, answered_to))
        ):
            found["--orig-src", source.decode(), "--reply-dst", answered_to.decode()] += 1
    return looked, found


def renew(wanted: dict[str, Any]) -> dict[str, int]:
    """End the connections with an outdated translation: their next packet gets the one that holds now.

    wanted: see `outdated`. The rules are in place: whatever comes from now on gets the new translation. But a packet
    that was on its way meanwhile may bring an old one back, so it looks again.
    → {looked: how many connections of these hosts and addresses there are, ended, left}
    """
    shown = subprocess.run(["ip", "-4", "-o", "address"], capture_output=True, text=True, check=True).stdout
    own = re.findall(r" inet ([\d.]+)", shown)
    ended = quiet = looked = 0
    stale: Counter[tuple[str, ...]] = Counter()
    for _ in range(LOOKS):
        looked, stale = outdated(opened(), wanted, own)
        for options in stale:
            ended += _deleted(["conntrack", "-D", *options])
        quiet = 0 if stale else quiet + 1
        if quiet == QUIET:
            break
        time.sleep(PAUSE)
    return {"looked": looked, "ended": ended, "left": sum(stale.values())}


def told(found: dict[str, int]) -> str:
    """What `renew` did, for people; empty if there was nothing to do."""
    done = f"{found['ended']} open connections had the old translation: ended"
    left = f"{found['left']} STILL HAVE IT" if found["left"] else ""
    return "; ".join(filter(None, [done if found["ended"] else "", left]))


def _deleted(argv: list[str]) -> int:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    # Its exit code is 1 also where nothing matched; it says how many did in any case.
    count = re.search(r"(\d+) flow entries have been deleted", done.stderr)
    if count is None:
        raise OSError(f"{' '.join(argv)} failed with {done.returncode}: {done.stderr.strip()}")
    return int(count[1])


def main(command: str, argument: str) -> int:
    """Run a command; the exit code."""
    commands: dict[str, Callable[[Any], Any]] = {
        "tally": lambda addresses: tally(blocks(["conntrack", "-L"]), addresses),
        "find": lambda wanted: find(blocks(["conntrack", "-L", "-o", "id,timestamp"]), wanted),
        "delete": lambda fields: delete(Connection(**fields)),
        "renew": renew,
    }
    try:
        wanted = json.loads(sys.stdin.read() if argument == "-" else argument)
        print(told(renew(wanted)) if command == "told" else json.dumps(commands[command](wanted)))
    except (OSError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0
