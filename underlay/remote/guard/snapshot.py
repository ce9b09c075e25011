"""A snapshot of a host: made, made true again, and compared for people."""

import base64
import difflib
import re
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from underlay.remote.guard import live, steps
from underlay.remote.guard.files import missing_folders, put_files, read_file
from underlay.remote.guard.live import State
from underlay.remote.guard.programs import Command, Refused, run
from underlay.remote.rules.kernel import Chain, read_tables
from underlay.remote.rules.undo import plan_tables

PASSES = 15
"""Looks at the host at most until it is what it was and stays so."""
SETTLES = 5
"""Seconds at most to wait for who brings the NICs up."""
QUIET = 2
"""Looks one after the other that found nothing to do: it stays."""
ASPECTS: dict[str, tuple[Callable[[State], Any], Callable[[Any, Any, set[str]], list[Command]]]] = {
    "masters": (live.read_masters, steps.plan_masters),
    "links": (live.read_links, steps.plan_links),
    "addresses": (live.read_addresses, steps.plan_addresses),
    "routes": (live.read_routes, steps.plan_routes),
    "rules": (live.read_rules, steps.plan_rules),
    "tables": (read_tables, plan_tables),
    "sysctls": (live.read_sysctls, steps.plan_sysctls),
    "services": (live.read_services, steps.plan_services),
}
"""In the order of a rollback: the kernel drops addresses' routes with them, and a NIC's with it."""


def snapshot(files: Iterable[str], sysctls: Iterable[str], services: Iterable[str], links: Iterable[str] = ()) -> State:
    """Everything as it is now. Refused if any of it can't be read: unknown is never empty.

    links: the NICs that a change may make, or make legs of others
    """
    state: State = {"files": {path: read_file(path) for path in files}, "folders": missing_folders(files)}
    state |= {"sysctls": dict.fromkeys(map(live.sysctl_path, sysctls)), "services": [*dict.fromkeys(services)]}
    state["masters"] = dict.fromkeys(links)
    for aspect, (read, _) in ASPECTS.items():
        state[aspect] = read(state)
    return state


def restore_pass(wanted: State) -> tuple[int, list[str]]:
    """Compare the live state, aspect by aspect, and run what fixes it: how many commands, and what failed."""
    count = 0
    problems = []
    for aspect, (read, plan) in ASPECTS.items():
        if aspect not in wanted:
            continue  # it was kept by an earlier version
        try:
            links = live.read_links(wanted)
            commands = plan(read(wanted), wanted[aspect], set(links) & set(wanted["links"]))
        except Refused as error:
            problems.append(f"{aspect}: {error}")
            continue
        count += len(commands)
        for argv, stdin in commands:
            try:
                run(argv, stdin)
            except Refused as error:
                # What failed may be what an earlier command took along: the next pass tells.
                problems.append(str(error))
    return count, problems


def busy() -> bool:
    """Whether networkd or NetworkManager is about to change a NIC."""
    for link in Path("/run/systemd/netif/links").glob("*"):
        with suppress(OSError):
            if re.search(r"^ADMIN_STATE=(pending|initialized|configuring)$", link.read_text(), re.M):
                return True
    if Path("/run/NetworkManager").is_dir():
        with suppress(Refused):
            states = run(["nmcli", "-t", "-f", "STATE", "device"], timeout=5).splitlines()
            return any(each.startswith(("connecting", "deactivating")) for each in states)
    return False


def wait_quiet(most: float) -> None:
    """Wait for who brings the NICs up: what it still changes is to be seen before anybody confirms. At most so long."""
    end = time.monotonic() + min(SETTLES, most)
    while time.monotonic() < end and busy():
        time.sleep(0.1)


def restore(wanted: State, changed: Iterable[str]) -> list[str]:
    """Make the host what a snapshot says; `changed`: the files that differ, or did. Returns what could not be done.

    Of the iptables tables it has the changes that are taken back, the latest one first (`rules.undo.Change`).

    The live state comes before the services as well, so the way to the host is open as early as can be, and after
    them, until it stays.
    """
    put_files(wanted)
    restore_pass(wanted)
    for argv, stdin in steps.activation(changed, wanted["services"]):
        with suppress(Refused):  # what it was for is looked at below
            run(argv, stdin)
    quiet = 0
    problems: list[str] = []
    for _ in range(PASSES):
        # networkd takes news from the kernel and from `reload` when it gets to it.
        time.sleep(0.25)
        at_work = busy()
        problems = put_files(wanted)
        count, failed = restore_pass(wanted)
        problems += failed
        quiet = 0 if count or at_work else quiet + 1
        if quiet == QUIET:
            break
    else:
        problems.append("it does not stay what it was")
    gone = sorted(set(wanted["links"]) - set(live.read_links(wanted)))
    return problems + [f"NIC {nic} is gone" for nic in gone]


def as_text(state: State) -> dict[str, str]:
    """A snapshot as people read it: heading → lines."""
    texts = {f"iptables {name}": table_text(table) for name, table in state["tables"].items()}
    texts["addresses"] = lines(f"{nic} {text}" for nic, each in state["addresses"].items() for text, _ in each)
    texts["links"] = lines(f"{nic} {'up' if up else 'down'} mtu {mtu}" for nic, (up, mtu) in state["links"].items())
    texts["links made of others"] = lines(
        f"{nic} {f'in {master}' if master else 'by itself'}"
        for nic, master in state.get("masters", {}).items()
        if master is not None
    )
    texts["routes"] = lines(state["routes"])
    texts["rules"] = lines(state["rules"])
    texts["sysctls"] = lines(f"{key} = {value}" for key, value in state["sysctls"].items())
    texts["services"] = lines(state["services"])
    for path, file in state["files"].items():
        if file and "link" in file:
            texts[path] = f"a link to {file['link']}\n"
        elif file:
            content = base64.b64decode(file["content"]).decode(errors="replace")
            texts[path] = f"(mode {file['mode']}, owner {file['uid']}:{file['gid']})\n{content}"
    return texts


def table_text(table: dict[str, Chain] | None) -> str:
    """A table as people read it."""
    if table is None:
        return "what iptables can't show\n"
    policies = [f":{chain} {policy}" for chain, (policy, _) in table.items()]
    return lines([*policies, *(f"-A {chain} {spec}" for chain, (_, rules) in table.items() for spec in rules)])


def lines(items: Iterable[str]) -> str:
    """One line for each."""
    return "".join(f"{item}\n" for item in items)


def difference(before: State, after: State) -> str:
    """What changed, as one unified diff."""
    old, new = as_text(before), as_text(after)
    found: list[str] = []
    for name in {**old, **new}:
        texts = (old.get(name, "").splitlines(), new.get(name, "").splitlines())
        found += difflib.unified_diff(*texts, fromfile=name, tofile=name, lineterm="")
    return lines(found)
