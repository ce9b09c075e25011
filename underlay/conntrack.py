"""The connection table, read where it is: a million entries pass by, and only what was asked for leaves the host.

This file is sent to the host and run by its own Python 3.10 or later, with nothing else, as root:
`python3 -I -S - COMMAND JSON` with the file as stdin. It writes one JSON object to stdout.

- `tally [ADDRESS, …]` → see `tally`
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

BLOCK = 1 << 18
# An entry has two tuples: as the connection was opened, and as its answers come. ICMP has no ports, and GRE has keys.
ENDS = re.compile(
    rb"^(\w+) [^=\n]*\bsrc=(\S+) dst=(\S+) [^\n]*? src=\S+ dst=(\S+)(?: sport=\d+ dport=(\d+))?", re.MULTILINE
)


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
        raise OSError(f"{' '.join(argv)} failed with {process.returncode}: {words}")


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
        for protocol, source, asked, answered_to, port in ENDS.findall(block):
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


def main(command: str, argument: str) -> int:
    """Run a command; the exit code."""
    commands: dict[str, Callable[[Any], Any]] = {
        "tally": lambda addresses: tally(blocks(["conntrack", "-L"]), addresses),
    }
    try:
        print(json.dumps(commands[command](json.loads(argument))))
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
