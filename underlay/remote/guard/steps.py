"""The live state from one to another, as commands: for each part of it those that make it what it was."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from underlay.remote.guard.live import ROUTE_TYPES
from underlay.remote.guard.programs import Command


def plan_links(live: dict[str, Any], wanted: dict[str, Any], nics: set[str]) -> list[Command]:
    """Set NICs up or down and their MTU."""
    return [
        (["ip", "link", "set", nic, "mtu", str(wanted[nic][1]), "up" if wanted[nic][0] else "down"], "")
        for nic in sorted(nics)
        if live[nic] != wanted[nic]
    ]


def plan_masters(live: dict[str, str | None], wanted: dict[str, str | None], _: set[str]) -> list[Command]:
    """Take away the NICs that were made of others, the last one first, and give the others back to what had them."""
    commands: list[Command] = []
    for nic in reversed(wanted):
        now, then = live.get(nic), wanted[nic]
        if now is None or now == then:
            continue  # one that is gone can't be had back
        if then is None:
            commands.append((["ip", "link", "del", nic], ""))
        elif then:
            commands += [(["ip", "link", "set", nic, *words], "") for words in (["down"], ["master", then], ["up"])]
        else:
            commands.append((["ip", "link", "set", nic, "nomaster"], ""))
    return commands


def in_order(live: list[str], wanted: list[str]) -> tuple[list[str], list[str]]:
    """What to remove, and what to append after that, so that a list becomes another one."""
    kept = [item for item in live if item in wanted]
    if wanted[: len(kept)] == kept:
        return [item for item in live if item not in wanted], wanted[len(kept) :]
    return live, wanted


def plan_addresses(live: dict[str, Any], wanted: dict[str, Any], nics: set[str]) -> list[Command]:
    """Addresses of each NIC in their order; the first one of a network is its primary.

    With a primary the kernel removes, or promotes, its secondaries: only addresses behind all that stay are removed by
    themselves, else all of a NIC are set anew.
    """
    commands: list[Command] = []
    for nic in sorted(nics):
        life = dict(wanted.get(nic, []))
        now, then = [text for text, _ in live.get(nic, [])], list(life)
        remove, add = in_order(now, then)
        if remove and now[-len(remove) :] != remove:
            remove, add = now, then
        for text in reversed(remove):
            commands.append((["ip", "-4", "address", "del", *own(text), "dev", nic], ""))
        for text in add:
            commands.append((["ip", "-4", "address", "add", *text.split(), *life[text].split(), "dev", nic], ""))
    return commands


def own(text: str) -> list[str]:
    """Of an address the part that names it."""
    words = text.split()
    return words[: 3 if "peer" in words else 1]


def option(words: list[str], name: str) -> str:
    """The word behind another one."""
    return words[words.index(name) + 1] if name in words else ""


def route_key(text: str) -> tuple[str, ...]:
    """What the kernel tells routes apart by: those with the same key are used in their order."""
    words = text.split()
    destination = words[1] if words[0] in ROUTE_TYPES else words[0]
    return destination, *(option(words, name) for name in ("table", "tos", "metric"))


def route_nics(text: str) -> set[str]:
    """The NICs that a route leaves by."""
    words = text.split()
    return {after for word, after in itertools.pairwise(words) if word == "dev"}


def grouped(items: Iterable[str], key: Callable[[str], Any]) -> dict[Any, list[str]]:
    """Items with the same key, in their order."""
    groups: dict[Any, list[str]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def plan_routes(live: list[str], wanted: list[str], nics: set[str]) -> list[Command]:
    """Routes of all tables. First the ones that others need: those of the kernel, then connected ones."""
    now, then = (grouped((text for text in each if route_nics(text) <= nics), route_key) for each in (live, wanted))
    removed: list[str] = []
    added: list[str] = []
    for key in {**now, **then}:
        remove, add = in_order(now.get(key, []), then.get(key, []))
        removed += remove
        added += add
    added.sort(key=lambda text: (" table 255" not in text, " via " in text))
    commands: list[Command] = [(["ip", "-4", "route", "del", *text.split()], "") for text in removed]
    return commands + [(["ip", "-4", "route", "append", *text.split()], "") for text in added]


def plan_rules(live: list[str], wanted: list[str], _: set[str]) -> list[Command]:
    """Policy rules in their order: a new one comes behind those of the same priority."""
    now, then = (grouped(each, lambda text: text.split()[1]) for each in (live, wanted))
    commands: list[Command] = []
    for priority in {**now, **then}:
        remove, add = in_order(now.get(priority, []), then.get(priority, []))
        commands += [(["ip", "-4", "rule", "del", *text.split()], "") for text in remove]
        commands += [(["ip", "-4", "rule", "add", *text.split()], "") for text in add]
    return commands


def plan_sysctls(live: dict[str, str], wanted: dict[str, str], _: set[str]) -> list[Command]:
    """The sysctls that differ, forwarding first: it sets others."""
    changed = [key for key, value in wanted.items() if key in live and live[key] != value]
    changed.sort(key=lambda key: (key != "net/ipv4/ip_forward", "/conf/all/" not in key, key))
    return [(["sysctl", "-qw", f"{key}={wanted[key]}"], "") for key in changed]


def plan_services(live: list[str], wanted: list[str], _: set[str]) -> list[Command]:
    """Start what ran."""
    stopped = [name for name in wanted if name not in live]
    reset: list[Command] = [(["systemctl", "reset-failed", name], "") for name in stopped]
    return reset + [(["systemctl", "start", name], "") for name in stopped]


def activation(changed: Iterable[str], services: Iterable[str]) -> list[Command]:
    """What makes running services take files that changed back."""
    commands: list[Command] = []

    def add(prefix: str, service: str, *argv: str) -> bool:
        wanted = any(path.startswith(prefix) for path in changed) and (not service or service in services)
        if wanted:
            commands.append((argv, ""))
        return wanted

    add("/etc/systemd/system/", "", "systemctl", "daemon-reload")
    networkd = "systemd-networkd.service"
    # networkd reads its own configuration at start only.
    if not add("/etc/systemd/networkd.conf", networkd, "systemctl", "restart", networkd):
        add("/etc/systemd/network/", networkd, "networkctl", "reload")
    # Where a socket starts it, a reload would end sshd: it can't listen anew.
    reload = "try-restart" if "ssh.socket" in services else "reload-or-restart"
    add("/etc/ssh/", "ssh.service", "systemctl", reload, "ssh.service")
    add("/etc/nginx/", "nginx.service", "systemctl", "reload-or-restart", "nginx.service")
    return commands
