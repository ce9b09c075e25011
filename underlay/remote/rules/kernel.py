"""The rules in the kernel, in this network namespace or an empty one."""

import ctypes
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from underlay.compare.tables import NATIVE, Ruleset, Table, parse, render
from underlay.remote.guard.programs import Refused, run
from underlay.remote.trace.nftables import (
    DUMP,
    GETRULE,
    IPV4,
    NEWRULE,
    REQUEST,
    Netlink,
    attribute,
    attributes,
    message,
    string,
)

ADD = ["iptables-restore", "--noflush", "--wait", "5"]
"""The program that changes tables and leaves alone what is not named."""
ATTEMPTS = 5
CLONE_NEWNET = 0x40000000

Chain = list[Any]
"""[policy (`-` for a user's chain), [rule, …]]"""
Tables = dict[str, dict[str, Chain] | None]
"""Table → chain → its policy and rules; None for a table that iptables can't show."""
Form = tuple[str, str, str]
"""Table, chain, and the rule as iptables prints it."""
Signature = frozenset[tuple[str, bytes]]
"""The expressions of a rule, whatever they have counted."""
Signatures = dict[tuple[str, str], list[Signature]]


@cache
def native() -> bool:
    """Whether iptables writes into nftables."""
    return "nf_tables" in run(["iptables", "--version"])


def read_tables(_: object = None) -> Tables:
    """The iptables tables that exist."""
    return as_json(parse(run(["iptables-save"]))) if shutil.which("iptables-save") else {}


def as_json(ruleset: Ruleset) -> Tables:
    """Tables as JSON has them."""
    return {
        name: {chain: [table.policies.get(chain, "-"), specs] for chain, specs in table.rules.items()}
        if table.readable
        else None
        for name, table in ruleset.items()
    }


def look() -> tuple[Ruleset, Signatures]:
    """The rules as iptables prints them, and their expressions in the same order (none of iptables-legacy)."""
    for _ in range(ATTEMPTS):
        tables = parse(run(["iptables-save"]))
        if not native():
            return tables, {}
        found: Signatures = {}
        for name, table in tables.items():
            if table.readable:
                found |= {(name, chain): [] for chain in table.rules}
                for chain, signature in expressions(name):
                    found.setdefault((name, chain), []).append(signature)
        if all(len(each) == len(tables[table].chain(chain)) for (table, chain), each in found.items()):
            return tables, found
    raise Refused("the rules change faster than they can be read, or iptables does not show all of them")


def expressions(table: str) -> Iterator[tuple[str, Signature]]:
    """The chain of each rule of an IPv4 table of nftables, and its signature."""
    kernel = Netlink()
    kernel.socket.settimeout(8)
    kernel.socket.send(message(GETRULE, REQUEST | DUMP, IPV4, attribute(1, table)))
    try:
        while True:
            for kind, _, body in kernel.receive():
                if kind in (2, 3):  # an error, or the end
                    return
                each = attributes(body)
                if kind == NEWRULE and string(each[1]) == table:
                    yield string(each[2]), frozenset(map(_signature, _elements(each.get(4, b""))))
    finally:
        kernel.socket.close()


def _elements(data: bytes) -> Iterator[bytes]:
    while len(data) >= 4:
        length = struct.unpack("H", data[:2])[0]
        yield data[4:length]
        data = data[max(4, length + 3 & ~3) :]


def _signature(expression: bytes) -> tuple[str, bytes]:
    parts = attributes(expression)
    name, data = string(parts[1]), parts.get(2, b"")
    if name == "counter":
        data = b""
    elif name in ("match", "target"):
        # What an extension of iptables keeps may hold counters and addresses of the kernel; nft can't make one.
        data = attributes(data)[1]
    return name, data


def marked(tables: Ruleset, signatures: Signatures, printed: dict[Form, Signature]) -> Ruleset:
    """The same tables; a rule that is another one than what is printed of it gets the mark NATIVE.

    printed: what the kernel makes of printed rules; of those that are not in it nothing is said
    """
    found = {}
    for name, table in tables.items():
        found[name] = Table(table.policies, {}, table.readable)
        for chain, specs in table.rules.items():
            there = signatures.get((name, chain), [])
            own = [printed.get((name, chain, spec)) for spec in specs]
            other = [bool(there) and mine is not None and mine != there[index] for index, mine in enumerate(own)]
            found[name].rules[chain] = [
                f"{spec}{NATIVE}" if odd else spec for spec, odd in zip(specs, other, strict=True)
            ]
    return found


def loaded(tables: Ruleset, partly: bool = False) -> list[tuple[Form, Signature]]:
    """Tables loaded as they are printed, alone: their rules as printed then, and what the kernel makes of them.

    partly: a table that does not load is left out; else Refused
    """

    def load() -> Any:
        for name, table in tables.items():
            try:
                run(ADD, render({name: table}))
            except Refused:
                if not partly:
                    raise
        printed, signatures = look()
        return [
            [name, chain, spec, sorted((part, data.hex()) for part, data in signature)]
            for name, table in printed.items()
            for chain, specs in table.rules.items()
            for spec, signature in zip(specs, signatures.get((name, chain), [()] * len(specs)), strict=True)
        ]

    return [
        ((name, chain, spec), frozenset((part, bytes.fromhex(data)) for part, data in signature))
        for name, chain, spec, signature in apart(load)
    ]


def native_rules() -> dict[str, dict[str, list[str]]]:
    """Table → chain → the rules of which iptables prints a part only: loaded again they would be others."""
    if not shutil.which("iptables-save"):
        return {}
    tables, signatures = look()
    found: dict[str, dict[str, list[str]]] = {}
    for name, table in marked(tables, signatures, dict(loaded(tables, partly=True))).items():
        for chain, specs in table.rules.items():
            if odd := [spec.removesuffix(NATIVE) for spec in specs if spec.endswith(NATIVE)]:
                found.setdefault(name, {})[chain] = odd
    return found


def apart(work: Callable[[], Any]) -> Any:
    """What a function returns in a network namespace of its own, which is gone then; as JSON has it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET):
                raise Refused(f"no network namespace can be made: {os.strerror(ctypes.get_errno())}")
            answer = {"answer": work()}
        except BaseException as error:  # noqa: BLE001 (whatever it is, the parent raises it)
            answer = {"error": str(error) or repr(error)}
        with os.fdopen(writer, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    answer = json.loads(text or '{"error": "it was killed"}')
    if "error" in answer:
        raise Refused(answer["error"])
    return answer["answer"]
