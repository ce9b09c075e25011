"""What differs from a plain host, and what changed on it since a time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from underlay.remote.trace.filters import base_chains, is_iptables

SECONDS = 3
"""For each program, and to walk through files."""
MOST = 60
"""Of each list, and characters times four of each text."""
OF_THE_KERNEL = (0, 32766, 32767)
"""Priorities of its own policy rules."""
SYSCTL_FOLDERS = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d")
NET = ("/proc/sys/net/ipv4", "/proc/sys/net/core", "/proc/sys/net/netfilter")
MOVING = re.compile(
    r"count$|_key$|promote_secondaries$|_mem$|buckets$|/neigh/|/route/|rps_|flow_limit|dev_weight|random|/nf_log/"
)
"""Sysctls that the kernel or networkd changes by itself, or that are not the namespace's."""
FOLDERS = (
    *("/etc", "/usr/local/bin", "/usr/local/sbin", "/usr/local/lib/systemd", "/usr/lib/systemd", "/usr/lib/sysctl.d"),
    *("/usr/lib/sysusers.d", "/run/systemd/network", "/run/systemd/system", "/run/systemd/transient", "/run/sysctl.d"),
    *("/root/.ssh", "/var/spool/cron", "/boot", "/usr/sbin", "/usr/lib/modules-load.d"),
)
FILES = 30_000
TOGETHER = 2.0
"""Seconds within which changes of one kind are one."""
JOURNAL = {
    "9d1aaa27d60140bd96365438aad20286": "stopped",
    "be02cf6855d2428ba40df7e9d022f03d": "could not start",
    "d9b373ed55a64feb8242e02dbe79a49c": "failed",
    "fe6faa94e7774663a0da52717891d8ef": "out of memory",
    "f77379a8490b408bbe5f6940505a777b": "boot, or a new journal",
    "c7a787079b354eaaa9e77b371893cd27": "the clock was set",
}
"""Messages of systemd, by their MESSAGE_ID."""
UNREADABLE = (OSError, ValueError, LookupError, TypeError, subprocess.SubprocessError)
"""What a program that is not there, or says what it never should, leads to."""


def odd(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """See the module."""
    found: list[tuple[str, str, float]] = []
    parts = (rules(asked), routes(asked), neighbours(), queues(), chains(asked), transforms(), sysctls(asked), units())
    for part in parts:
        # A program that this host does not have shows nothing of its kind.
        with suppress(*UNREADABLE):
            found += [each for each, _ in zip(part, range(MOST), strict=False)]
    return [{"what": what, "text": text[: 4 * MOST], "since": since} for what, text, since in found]


Odd = Iterator["tuple[str, str, float]"]


def output(*argv: str) -> str:
    """What a program prints. OSError if there is none, SubprocessError if it takes too long."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
        check=False,
        env={**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"},
    )
    return done.stdout


# --- what is odd now ------------------------------------------------------------------------------------------------


def rules(asked: dict[str, Any]) -> Odd:
    """Policy rules that are neither the kernel's nor the plan's."""
    ours = range(*asked["priorities"])
    for family in ("-4", "-6"):
        for each in json.loads(output("ip", family, "-j", "rule") or "[]"):
            is_ours = family == "-4" and each["priority"] in ours and each.get("protocol") == "static"
            if not is_ours and (each["priority"] not in OF_THE_KERNEL or each.get("src", "all") != "all"):
                yield "policy rule", rule_text(each), 0


def rule_text(rule: dict[str, Any]) -> str:
    """A policy rule, in the words of `ip rule`."""

    def end(name: str) -> str:
        length = f"/{rule[name + 'len']}" if f"{name}len" in rule else ""
        return f"{rule[name]}{length}"

    words = [str(rule["priority"]), "not" if "not" in rule else "", f"from {end('src')}"]
    words += [f"to {end('dst')}"] if "dst" in rule else []
    words += [f"{key} {rule[key]}" for key in ("fwmark", "iif", "oif", "ipproto", "sport", "dport") if key in rule]
    words += [f"lookup {rule['table']}" if "table" in rule else str(rule.get("action", ""))]
    return " ".join(filter(None, words))


def routes(asked: dict[str, Any]) -> Odd:
    """Routes that somebody made by hand, that refuse packets, or in tables that are not the plan's."""
    ours = {"local", "main", "default", *map(str, range(*asked["tables"]))}
    for each in json.loads(output("ip", "-4", "-j", "route", "show", "table", "all") or "[]"):
        table, kind = each.get("table", "main"), each.get("type", "unicast")
        # What `ip route` makes is of the protocol "boot", which it does not show.
        by_hand = "protocol" not in each
        refuses = kind in ("blackhole", "unreachable", "prohibit", "throw")
        if table not in ours or by_hand or refuses:
            words = ["" if kind == "unicast" else kind, each["dst"]]
            words += [f"{word} {each[key]}" for key, word in (("gateway", "via"), ("dev", "dev")) if key in each]
            words += [f"metric {each['metric']}"] if "metric" in each else []
            yield "route", " ".join(filter(None, [*words, f"table {table}"])), 0


def neighbours() -> Odd:
    """Neighbours that somebody entered for good."""
    for each in json.loads(output("ip", "-4", "-j", "neighbour", "show", "nud", "permanent") or "[]"):
        yield "permanent neighbour", f"{each['dst']} is {each.get('lladdr', '?')} on {each['dev']}", 0


def queues() -> Odd:
    """Queueing disciplines that the kernel did not choose itself: those have no handle."""
    for line in output("tc", "qdisc", "show").splitlines():
        words = line.split()
        if len(words) > 4 and words[2] != "0:":
            yield "queue", re.sub(r" refcnt \d+", "", line).strip(), 0


def chains(asked: dict[str, Any]) -> Odd:
    """Base chains of nftables that are not the plan's."""
    for family, table, chain, hook, priority, policy in base_chains():
        if is_iptables(family, table, chain) and asked["iptables"]:
            continue
        yield "filter", f"chain {family} {table} {chain} at {hook}, priority {priority}, policy {policy}", 0
    for path in ("ip", "ip6", "arp"):
        with suppress(OSError):
            for name in Path(f"/proc/net/{path}_tables_names").read_text().split():
                yield "filter", f"table {name} of {path}tables-legacy", 0


def transforms() -> Odd:
    """IPsec."""
    count = output("ip", "-o", "xfrm", "policy").count(" dir ")
    if count:
        yield "IPsec", f"{count} policies: ip xfrm policy", 0


def units() -> Odd:
    """Units that have failed."""
    names = [line.split()[0] for line in output("systemctl", "list-units", "--failed", "--plain", "-q").splitlines()]
    if not names:
        return
    shown = output("systemctl", "show", "--timestamp=unix", "--property=Id,StateChangeTimestamp", "--", *names[:MOST])
    for block in shown.strip().split("\n\n"):
        unit = dict(line.partition("=")[::2] for line in block.splitlines())
        since = unit.get("StateChangeTimestamp", "").removeprefix("@")
        yield "unit", f"{unit['Id']} has failed", float(since) if since.isdigit() else 0


def sysctls(asked: dict[str, Any]) -> Odd:
    """Network sysctls that are not what this host's files say; or that no file sets, and are not the kernel's own."""
    look = ("grep", "-rsH", "", *NET)
    live, fresh = values(output(*look)), values(output("unshare", "--net", *look))
    # Those of a NIC begin as those of conf/default.
    for key in live:
        if (nic := re.match(r"(net/ipv4/conf/)([^/]+)(/.*)", key)) and nic[2] in asked["nics"]:
            fresh[key] = live.get(f"{nic[1]}default{nic[3]}", live[key])
    wanted = on_disk(live)
    for key, value in live.items():
        if MOVING.search(key):
            continue
        if key.endswith("/forwarding") and value == live.get("net/ipv4/ip_forward"):
            continue  # it follows from that
        told = wanted.get(key)
        name = key.replace("/", ".") if "." not in key else key
        if told is not None and told != value:
            yield "sysctl", f"{name} = {value}, and the files give {told}", 0
        elif told is None and key in fresh and fresh[key] != value and "/conf/all/" not in key:
            yield "sysctl", f"{name} = {value}, without a file; a fresh kernel has {fresh[key]}", 0


def values(listed: str) -> dict[str, str]:
    """What `grep` shows of sysctls: key, with slashes → value."""
    found = {}
    for line in listed.splitlines():
        path, colon, value = line.partition(":")
        if colon:
            found[path.removeprefix("/proc/sys/")] = " ".join(value.split())
    return found


def on_disk(live: Iterable[str]) -> dict[str, str]:
    """What the files of sysctl.d give, as systemd reads them: of equal names the first folder's, later names win.

    A glob is for the keys that no line names, as a setting or with `-` and no value.
    """
    files: dict[str, Path] = {}
    for folder in SYSCTL_FOLDERS:
        with suppress(OSError):
            for path in sorted(Path(folder).glob("*.conf")):
                files.setdefault(path.name, path)
    named: dict[str, str | None] = {}
    globs: dict[str, str] = {}
    for _, path in sorted(files.items()):
        with suppress(OSError):
            for line in path.read_text(errors="replace").splitlines():
                name, equals, value = line.strip().partition("=")
                key, value = slashed(name.strip().lstrip("-").strip()), " ".join(value.split())
                if not key.startswith("net/"):
                    continue
                if any(each in key for each in "*?["):
                    globs[key] = value
                elif equals or name.startswith("-"):
                    named[key] = value if equals else None
    matched = {key: value for glob, value in globs.items() for key in live if fnmatchcase(key, glob)}
    return {key: value for key, value in {**matched, **named}.items() if value is not None}


def slashed(name: str) -> str:
    """The name of a sysctl with slashes between its parts: as sysctl.d(5), which looks at the first separator."""
    first = next((each for each in name if each in "./"), "/")
    return name if first == "/" else name.translate(str.maketrans("./", "/."))


# --- what changed ---------------------------------------------------------------------------------------------------


def changed(since: float) -> list[list[Any]]:
    """See the module."""
    found: list[tuple[float, str, str]] = []
    for part in (packages(since), files(since), journal(since)):
        with suppress(*UNREADABLE):
            found += part
    return [list(each) for each in gathered(found)[:MOST]]


def gathered(changes: Iterable[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """The latest first; what happened at about the same time, and is of one kind, as one line."""
    found: list[tuple[float, str, list[str]]] = []
    latest: dict[str, int] = {}
    for when, what, text in sorted(changes, reverse=True):
        at = latest.get(what)
        if at is not None and found[at][0] - when <= TOGETHER:
            if text not in found[at][2]:
                found[at][2].append(text)
        else:
            latest[what] = len(found)
            found.append((when, what, [text]))
    return [(when, what, some(texts)) for when, what, texts in found]


def some(texts: Sequence[str]) -> str:
    """The first of several, and how many more there are."""
    more = f" and {len(texts) - 4} more" if len(texts) > 4 else ""
    return ", ".join(text[: 2 * MOST] for text in texts[:4]) + more


def packages(since: float) -> Iterator[tuple[float, str, str]]:
    """What dpkg did."""
    for path in (Path("/var/log/dpkg.log.1"), Path("/var/log/dpkg.log")):
        with suppress(OSError):
            if path.stat().st_mtime < since:
                continue
            with path.open("rb") as log:
                log.seek(max(0, path.stat().st_size - 1_000_000))
                lines = log.read().decode(errors="replace").splitlines()
            for line in lines:
                words = line.split()
                if len(words) > 3 and words[2] in ("install", "upgrade", "remove", "purge"):
                    with suppress(ValueError):
                        when = time.mktime(time.strptime(f"{words[0]} {words[1]}", "%Y-%m-%d %H:%M:%S"))
                        if when >= since:
                            yield when, f"packages: {words[2]}", words[3].partition(":")[0]


def files(since: float) -> Iterator[tuple[float, str, str]]:
    """Files that were written, moved or given other rights; and folders of which something was taken away."""
    seen, end = 0, time.monotonic() + SECONDS / 2
    homes = [str(path) for path in Path("/home").glob("*/.ssh")]
    for top in (*FOLDERS, *homes):
        for folder, _, names in os.walk(top):
            latest = 0.0
            for name in names:
                path = os.path.join(folder, name)
                with suppress(OSError):
                    # The time of the last change of the file itself: that of its content can be set at will.
                    when = os.lstat(path).st_ctime
                    latest = max(latest, when)
                    if when >= since:
                        yield when, f"files in {folder}", name
            with suppress(OSError):
                when = os.lstat(folder).st_mtime
                # Those of /run begin empty with each boot.
                if when >= since and when - latest > TOGETHER and not top.startswith("/run/"):
                    yield when, f"files in {folder}", "something was taken away or renamed"
            seen += 1 + len(names)
            if seen > FILES or time.monotonic() > end:
                yield time.time(), "files", f"not all were looked at: it ended in {folder}"
                return


def journal(since: float) -> Iterator[tuple[float, str, str]]:
    """Boots, services that ended, and what else systemd says of that kind."""
    fields = "--output-fields=MESSAGE_ID,UNIT,USER_UNIT"
    matches = [f"MESSAGE_ID={each}" for each in JOURNAL]
    for line in output(
        "journalctl", "-q", "-o", "json", fields, "-n", "500", f"--since=@{since:.0f}", *matches
    ).splitlines():
        entry = json.loads(line)
        unit = entry.get("UNIT") or ""
        what = JOURNAL.get(str(entry.get("MESSAGE_ID")), "")
        if what and isinstance(unit, str) and (not unit or unit.endswith(".service")):
            yield int(entry["__REALTIME_TIMESTAMP"]) / 1e6, what, unit or "the host"
