"""What filters packets on this host beside the iptables that its command `iptables` is; reads only, as root.

Prints one JSON object:

- `tables`: [[PROGRAM, TABLE, {CHAIN: [POLICY, [RULE, …]]}], …], of the iptables that `iptables` is not, and of
  arptables-legacy. POLICY is `-` for a chain that is not built in; RULE is what follows `-A CHAIN`. Instead of the
  chains stands why they can't be read
- `chains`: [{family, table, chain, hook, priority, policy, does: [WHAT, …]}, …], the base chains of nftables that may
  hold IPv4 packets up or translate them, but for those of iptables; WHAT are words for what their rules may do
- `policies`: [[TABLE, CHAIN], …], the chains of an iptables of the nftables kind whose policy is DROP
- `units`: unit → [ActiveState, UnitFileState], of UNITS
- `nft`: whether there is the program to change nftables with

Legacy tables are only asked for where they are there: asking makes them.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Iterator
from typing import Any

from underlay.compare.tables import BUILTIN_CHAINS
from underlay.remote.trace.nftables import FAMILIES, GETCHAIN, GETRULE, Netlink, attributes, elements, number, string

UNITS = ("firewalld.service", "nftables.service")
HOOKS = {
    "netdev": ("ingress", "egress"),
    "arp": ("input", "output", "forward"),
    "": ("prerouting", "input", "forward", "output", "postrouting", "ingress"),
}
TRACE = "underlay-trace-"
"""How tables begin that a trace of ours makes for a moment."""
EXPRESSIONS = {
    "reject": "rejects",
    "queue": "queues",
    "notrack": "exempts from connection tracking",
    **dict.fromkeys(("nat", "masq", "redir", "tproxy"), "translates"),
    **dict.fromkeys(("fwd", "synproxy"), "drops"),
}
TARGETS = {
    "REJECT": "rejects",
    "NFQUEUE": "queues",
    "TARPIT": "drops",
    "DROP": "drops",
    "CT": "exempts from connection tracking",
    "NOTRACK": "exempts from connection tracking",
    **dict.fromkeys(("DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP", "TPROXY"), "translates"),
}
DROP = 0
SECONDS = 5


# --- iptables and arptables -----------------------------------------------------------------------------------------


def parallel() -> Iterator[list[Any]]:
    """See `tables` of the module."""
    main = os.path.basename(os.path.realpath(shutil.which("iptables") or ""))
    if "legacy" in main:
        there = {table for family, table, chain, *_ in base_chains() if is_iptables(family, table, chain)}
        for table in sorted(there):
            yield ["iptables-nft", table, saved("iptables-nft", table)]
    else:
        for table in names("ip"):
            yield ["iptables-legacy", table, saved("iptables-legacy", table)]
    for table in names("arp"):
        yield ["arptables-legacy", table, listed("arptables-legacy", table)]


def names(family: str) -> list[str]:
    """The legacy tables that are there in this network namespace."""
    try:
        with open(f"/proc/net/{family}_tables_names") as file:
            return file.read().split()
    except FileNotFoundError:
        return []


def output(*argv: str) -> str:
    """What a program prints. OSError if it can't."""
    done = subprocess.run(argv, capture_output=True, timeout=SECONDS, check=False)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise OSError(f"{argv[0]}: {words[-1]}")
    return done.stdout.decode(errors="replace")


def saved(program: str, table: str) -> dict[str, list[Any]] | str:
    """The chains of a table of an iptables, or why they can't be read."""
    found: dict[str, list[Any]] = {}
    try:
        lines = output(f"{program}-save", "-t", table).split("\n")
    except (OSError, subprocess.TimeoutExpired) as error:
        return reason(error)
    for line in lines:
        sign, _, rest = line.partition(" ")
        chain, _, spec = rest.partition(" ")
        if line.startswith(":"):
            found[sign[1:]] = [chain, []]
        elif sign == "-A" and chain in found:
            found[chain][1].append(spec)
        elif "is incompatible" in line:
            return line.lstrip("# ")
    return found


def listed(program: str, table: str) -> dict[str, list[Any]] | str:
    """Of arptables-legacy: what its own `-save` prints has no rules."""
    found: dict[str, list[Any]] = {}
    chain = ""
    try:
        lines = output(program, "-t", table, "-n", "-L").split("\n")
    except (OSError, subprocess.TimeoutExpired) as error:
        return reason(error)
    for line in lines:
        if match := re.match(r"Chain (\S+) \((?:policy (\w+))?", line):
            chain = match[1]
            found[chain] = [match[2] or "-", []]
        elif line.strip() and chain:
            found[chain][1].append(line.strip())
    return found


def reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no {error.filename} here"
    return str(error)


# --- nftables -------------------------------------------------------------------------------------------------------


def dumped(kind: int) -> Iterator[tuple[int, dict[int, bytes]]]:
    """All objects of a kind; none where the kernel has no nftables."""
    try:
        yield from Netlink().dump(kind)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise


def base_chains() -> Iterator[tuple[str, str, str, str, int, str]]:
    """Family, table, chain, hook, priority and policy of those that may see IPv4 packets."""
    for number_of, chain in dumped(GETCHAIN):
        family = FAMILIES.get(number_of)
        if family is None or 4 not in chain:
            continue
        place = attributes(chain[4])
        hooks = HOOKS.get(family, HOOKS[""])
        hook = number(place[1])
        priority = struct.unpack("!i", place[2])[0]
        policy = "drop" if 5 in chain and number(chain[5]) == DROP else "accept"
        at = hooks[hook] if hook < len(hooks) else str(hook)
        yield family, string(chain[1]), string(chain[3]), at, priority, policy


def is_iptables(family: str, table: str, chain: str) -> bool:
    """Whether a base chain is one that iptables makes."""
    return family == "ip" and chain in BUILTIN_CHAINS.get(table, ())


def chains() -> Iterator[dict[str, Any]]:
    """See the module."""
    bases = [each for each in base_chains() if not (is_iptables(*each[:3]) or each[1].startswith(TRACE))]
    if not bases:
        return
    does: dict[tuple[str, str, str], set[str]] = {}
    leads: dict[tuple[str, str, str], set[str]] = {}
    for number_of, rule in dumped(GETRULE):
        at = (FAMILIES.get(number_of, ""), string(rule[1]), string(rule[2]))
        for each in elements(rule.get(4, b"")):
            word, to = meaning(string(each[1]), attributes(each.get(2, b"")))
            does.setdefault(at, set()).update({word} - {""})
            leads.setdefault(at, set()).update({to} - {""})
    for family, table, chain, hook, priority, policy in bases:
        known, todo = {chain}, [chain]
        while todo:
            further = leads.get((family, table, todo.pop()), set()) - known
            known |= further
            todo += further
        words = set().union(*(does.get((family, table, each), set()) for each in known))
        if words or policy == "drop":
            place = {"family": family, "table": table, "chain": chain}
            yield {**place, "hook": hook, "priority": priority, "policy": policy, "does": sorted(words)}


def policies() -> list[list[str]]:
    """See the module."""
    found = [each for each in base_chains() if is_iptables(*each[:3])]
    return [[table, chain] for _, table, chain, _, _, policy in found if policy == "drop"]


def meaning(name: str, data: dict[int, bytes]) -> tuple[str, str]:
    """What an expression of a rule does to a packet, in a word, and the chain that it leads to."""
    if name == "immediate" and number(data.get(1, b"\1")) == 0:  # register 0 is the verdict
        verdict = attributes(attributes(data[2]).get(2, b""))
        return ("drops" if number(verdict[1]) == DROP else ""), string(verdict.get(2, b""))
    if name == "lookup" and 3 in data and number(data[3]) == 0:
        return "decides by a map", ""
    if name == "target":
        return TARGETS.get(string(data.get(1, b"")), ""), ""
    return EXPRESSIONS.get(name, ""), ""


# --- all of it ------------------------------------------------------------------------------------------------------


def units() -> dict[str, list[str]]:
    """See the module."""
    found = {}
    shown = output("systemctl", "show", "--property=Id,ActiveState,UnitFileState", *UNITS)
    for block in shown.strip().split("\n\n"):
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        found[values["Id"]] = [values["ActiveState"], values["UnitFileState"]]
    return found


def main() -> None:
    """Print what the module's docstring says."""
    os.environ["LC_ALL"] = "C.UTF-8"
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = {"tables": list(parallel()), "chains": list(chains()), "policies": policies(), "units": units()}
    print(json.dumps({**found, "nft": bool(shutil.which("nft"))}))
