"""What runs on a host so that a change can't hurt: snapshot, timer, change, confirm or rollback, history.

Runs as root on any Python 3.10 or later with systemd, with nothing else. `begin` comes over ssh as
`python3 -c BOOTSTRAP begin`: the first line of stdin is this file (base64), the rest is the request (JSON). It leaves a
copy of itself at COPY, which is what everything else runs: `python3 COPY COMMAND …`. Each command writes one JSON
object to stdout and exits with 0 when done, 1 when refused or failed (the object then has "error"); ssh's own 255 is
none of these.

- `begin`, request {token, who, commit, what: [LINE, …], seconds, change, sysctls: [KEY, …], touches: [PATH, …],
  services: [UNIT, …]}. The last three name what may change beside what is always looked at. `change` is
  {live: SHELL, files: {PATH: {content: BASE64, mode: "644"} | null}, check: SHELL, activate: SHELL}, run in the order
  check (nothing has changed yet; the new files are below $STAGE), live, files, activate; or {restore: NUMBER, check:
  SHELL}: back to the state before that confirmed change
- `confirm TOKEN`: keep the change
- `rollback TOKEN WHY`: undo it now
- `status`, `history`, `history NUMBER`
- of the host itself: `apply TOKEN`, `expire TOKEN` (the timer), `boot`

What is kept below GUARD, and why no end of any process and no power cut leaves anything in between:

- PENDING is the lock, and the snapshot. It is prepared aside, made durable, and appears by one rename once the timer is
  armed; so whoever sees it can undo it. It goes by one rename, too: into HISTORY, which is the commit point, or to
  UNDONE after everything is as it was. Between the two, the timer's service (started again if it is killed), `boot`
  after a power cut, or the next `begin` after the deadline starts the same rollback from its beginning.
- `apply` and the rollback run in services of systemd, so a connection that breaks does not stop them half-way.
- MUTEX, a lock of the kernel's, is held by whoever is about to move PENDING: of a confirmation and the timer, one wins.

A rollback makes files, links, IPv4 addresses, routes, policy rules, sysctls and iptables tables what they were, in
their order, and starts the services that ran. What is right already is not touched, so open connections live on. A
table that differs is replaced as a whole, in one commit: rules that others added to that very table between `begin` and
the rollback are lost, those from before are kept. NICs that appeared since then, and their addresses and routes, are
left alone. IPv6 is left alone.
"""

from __future__ import annotations

import base64
import difflib
import fcntl
import glob
import gzip
import itertools
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

BOOTSTRAP = "import base64,sys;SOURCE=base64.b64decode(sys.stdin.readline());exec(SOURCE)"
SOURCE: bytes
"""This file, when it came over ssh."""

GUARD = Path("/var/lib/underlay/guard")
COPY = GUARD / "agent.py"
MUTEX = GUARD / "mutex"
NEXT, PENDING, UNDONE = GUARD / "next", GUARD / "pending", GUARD / "undone"
HISTORY = GUARD / "history"
KEPT = 50
"""Confirmed changes in the history."""

TIMER = "underlay-guard-rollback"
APPLY = "underlay-guard-apply"
BOOT_UNIT = Path("/etc/systemd/system/underlay-guard-boot.service")
BOOT_WANTED = Path("/etc/systemd/system/sysinit.target.wants") / BOOT_UNIT.name
BOOT_TEXT = f"""\
[Unit]
Description=Roll back the network change that was not confirmed before the power went
DefaultDependencies=no
RequiresMountsFor=/etc {GUARD}
After=local-fs.target systemd-remount-fs.service
Before=sysinit.target systemd-sysctl.service systemd-networkd.service network-pre.target netfilter-persistent.service
Before=ssh.service ssh.socket
ConditionPathExists={PENDING}

[Service]
Type=oneshot
ExecStart=/usr/bin/python3 {COPY} boot

[Install]
WantedBy=sysinit.target
"""
SERVICES = ("ssh.service", "ssh.socket", "systemd-networkd.service", "nginx.service")
"""Those that run at `begin` run again after a rollback."""
MARGIN = 10
"""Seconds after its deadline when a pending change that nobody undid is stale."""
PATIENCE = 10
"""Seconds to wait for another run of this program."""
PASSES = 15
FOREVER = 2**32 - 1

State = dict[str, Any]
"""A snapshot: for each of ASPECTS what its reader returns, and `files`: path → file (see `read_file`), `folders`: those
that were not there."""
Command = tuple[Sequence[str], str]
"""A program with its arguments, and its stdin."""


class Refused(Exception):  # noqa: N818
    """What a person is told; `facts` go into the answer beside it."""

    def __init__(self, what: str, **facts: Any) -> None:
        super().__init__(what)
        self.facts = facts


# --- programs and durable files -------------------------------------------------------------------------------------


def run(argv: Sequence[str], stdin: str = "", timeout: float = 60) -> str:
    """The output of a program. Refused, with what it said, if it fails."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, errors="replace", timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Refused(f"can't run {' '.join(argv)}: {error}") from error
    if done.returncode:
        raise Refused(f"failed with {done.returncode}: {' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def shell(commands: str, what: str, **env: str) -> None:
    """Run shell commands; they end at the first that fails. Refused with their output."""
    # From memory: one argument of a program is 128 KiB at most, and a large site's rules are more.
    script = os.memfd_create("commands")
    with os.fdopen(script, "w", closefd=False) as file:
        file.write(f"set -e\n{commands}\n")
    done = subprocess.run(
        ["/bin/sh", f"/proc/self/fd/{script}"],
        pass_fds=[script],
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    os.close(script)
    if done.returncode:
        output = done.stdout.strip()[-4000:]
        raise Refused(f"{what} failed with {done.returncode}: {output or 'it said nothing'}", output=output)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, content: bytes, mode: int = 0o600, uid: int = 0, gid: int = 0) -> None:
    """Replace a file as one durable step."""
    new = beside(path)
    with suppress(FileNotFoundError):
        new.unlink()
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fchown(handle, uid, gid)
        os.fchmod(handle, mode)
        os.fsync(handle)
    os.replace(new, path)
    sync(path.parent)


def beside(path: Path) -> Path:
    """Where the new version of a file is made: a name that no daemon's pattern for its folder takes."""
    return path.with_name(f".{path.name}.guard-new")


def save(path: Path, value: Any) -> None:
    """Write JSON, packed if the name ends with .gz."""
    content = json.dumps(value).encode()
    write(path, gzip.compress(content) if path.suffix == ".gz" else content)


def load(path: Path) -> Any:
    """Read what `save` wrote; None if it is not there."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return json.loads(gzip.decompress(content) if path.suffix == ".gz" else content)


def move(source: Path, target: Path) -> None:
    """Rename a folder, durably; `target` must not be there."""
    os.rename(source, target)
    for folder in {source.parent, target.parent}:
        sync(folder)


# --- the files of a change ------------------------------------------------------------------------------------------


def read_file(path: str) -> dict[str, Any] | None:
    """{content: BASE64, mode, uid, gid}, or {link: TARGET} for a symbolic link; None if nothing is there."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(found.st_mode):
        return {"link": os.readlink(path)}
    if not stat.S_ISREG(found.st_mode):
        raise Refused(f"{path} is no file")
    content = base64.b64encode(Path(path).read_bytes()).decode()
    return {"content": content, "mode": f"{stat.S_IMODE(found.st_mode):o}", "uid": found.st_uid, "gid": found.st_gid}


def write_file(path: str, file: dict[str, Any] | None) -> None:
    """Make a file what `read_file` returned; nothing is done if it is so."""
    target = Path(path)
    with suppress(FileNotFoundError, NotADirectoryError):
        beside(target).unlink()
    if read_file(path) == file:
        return
    if file is None:
        target.unlink()
        sync(target.parent)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if "link" in file:
        beside(target).symlink_to(file["link"])
        os.replace(beside(target), target)
        sync(target.parent)
    else:
        write(target, base64.b64decode(file["content"]), int(file["mode"], 8), file["uid"], file["gid"])


def wanted_files(files: dict[str, dict[str, Any] | None], present: dict[str, Any]) -> dict[str, Any]:
    """The files of a request in the form of `read_file`: owner and mode are kept where the request names none."""
    wanted: dict[str, Any] = {}
    for path, file in files.items():
        if file is None:
            wanted[path] = None
            continue
        old = present[path] or {}
        owner = {"uid": old.get("uid", 0), "gid": old.get("gid", 0)}
        mode = f"{int(file.get('mode') or old.get('mode', '644'), 8):o}"
        wanted[path] = {"content": file["content"], "mode": mode, **owner}
    return wanted


def missing_folders(paths: Iterable[str]) -> list[str]:
    """The folders that these files need and that are not there, the deepest first."""
    found = {str(parent) for path in paths for parent in Path(path).parents if not parent.exists()}
    return sorted(found, key=len, reverse=True)


def put_files(wanted: State) -> list[str]:
    """Make the files what they were. Returns what could not be done."""
    problems = []
    for path, file in wanted["files"].items():
        try:
            write_file(path, file)
        except (OSError, Refused) as error:
            problems.append(f"{path}: {error}")
    for folder in wanted["folders"]:
        with suppress(OSError):  # not there, or somebody else's file is in it
            os.rmdir(folder)
    return problems


# --- the live state: readers ----------------------------------------------------------------------------------------


def read_links(_: State) -> dict[str, list[Any]]:
    """NIC → [it is up, its MTU]."""
    return {link["ifname"]: ["UP" in link["flags"], link["mtu"]] for link in json.loads(run(["ip", "-j", "link"]))}


def read_addresses(_: State) -> dict[str, list[list[str]]]:
    """NIC → its IPv4 addresses in their order, each as `ip address add` takes it, and its life time."""
    return addresses(json.loads(run(["ip", "-j", "-N", "-4", "address"])))


def addresses(links: list[dict[str, Any]]) -> dict[str, list[list[str]]]:
    """Read the JSON of `ip address`."""
    return {link["ifname"]: [address(info) for info in link["addr_info"]] for link in links if link}


def address(info: dict[str, Any]) -> list[str]:
    """One address as [arguments, life time]; which one is secondary follows from the order."""
    peer = f" peer {info['address']}" if "address" in info else ""
    parts = [f"{info['local']}{peer}/{info['prefixlen']}"]
    words = {"brd": "broadcast", "scope": "scope", "label": "label", "metric": "metric", "proto": "protocol"}
    parts += [f"{word} {info[key]}" for word, key in words.items() if key in info]
    parts += ["noprefixroute"] if info.get("noprefixroute") else []
    life = info.get("valid_life_time", FOREVER)
    preferred = info.get("preferred_life_time", FOREVER)
    return [" ".join(parts), "" if life == FOREVER else f"valid_lft {life} preferred_lft {preferred}"]


def read_routes(_: State) -> list[str]:
    """The IPv4 routes of all tables in their order, each as `ip route` takes it."""
    return [route(line) for line in run(["ip", "-N", "-o", "-4", "route", "show", "table", "all"]).splitlines()]


ROUTE_TYPES = ["unspec", "unicast", "local", "broadcast", "anycast", "multicast"]
ROUTE_TYPES += ["blackhole", "unreachable", "prohibit", "throw", "nat"]
"""By their numbers in the kernel."""
MOMENTARY = {"\\", "dead", "linkdown", "offload", "rt_offload", "offload_failed", "trap", "rt_trap", "[detached]"}
"""Words that `ip` shows and does not take."""


def route(line: str) -> str:
    """A line of `ip -N route` as `ip route` takes it: with the name of the type."""
    words = [word for word in line.replace("\\", " ").split() if word not in MOMENTARY]
    if words[0].isdigit():
        words[0] = ROUTE_TYPES[int(words[0])]
    return " ".join(words)


def read_rules(_: State) -> list[str]:
    """The IPv4 policy rules in their order, each as `ip rule` takes it."""
    return [rule(line) for line in run(["ip", "-N", "-4", "rule"]).splitlines()]


def rule(line: str) -> str:
    """A line of `ip rule` as `ip rule` takes it."""
    line = line.replace("lookup [l3mdev-table]", "l3mdev").replace(" ipproto-", " ")
    priority, _, rest = line.partition(":")
    words = [word for word in rest.split() if word not in MOMENTARY and word != "[unresolved]"]
    return " ".join(["priority", priority, *words])


def read_tables(_: State) -> dict[str, str]:
    """The iptables tables that exist, each as `iptables-save --counters` prints it."""
    return tables(run(["iptables-save", "--counters"])) if shutil.which("iptables-save") else {}


def tables(saved: str) -> dict[str, str]:
    """Cut the output of `iptables-save` at its tables."""
    return {text[1:].split("\n", 1)[0]: text for text in re.findall(r"^\*.*?^COMMIT\n", saved, re.M | re.S)}


def without_counters(table: str) -> str:
    """What of a table does not change by itself."""
    return re.sub(r"^\[\d+:\d+\] ", "", re.sub(r"^(:\S+ \S+) \[\d+:\d+\]$", r"\1", table, flags=re.M), flags=re.M)


def read_sysctls(wanted: State) -> dict[str, str]:
    """The sysctls of the snapshot, and all that forwarding changes with it: path below /proc/sys → value."""
    found = {}
    root = "/proc/sys/"
    paths = {f"{root}{key}" for key in wanted["sysctls"]} | {f"{root}net/ipv4/ip_forward"}
    # Hundreds of files: pathlib takes longer for them than all the rest of a snapshot.
    for path in sorted({*paths, *glob.glob(f"{root}net/ipv4/conf/*/*")}):
        with suppress(OSError), open(path) as file:  # its NIC has gone, or it can only be written
            found[path.removeprefix(root)] = file.read().strip()
    return found


def sysctl_path(key: str) -> str:
    """`net.ipv4.ip_forward` as a path; the dot of a NIC's name is a slash in a key with dots, as in sysctl(8)."""
    separator = re.search(r"[./]", key)
    return key.translate(str.maketrans("./", "/.")) if separator and separator[0] == "." else key


def read_services(wanted: State) -> list[str]:
    """Which of the services of the snapshot run."""
    asked = wanted["services"]
    return [name for name, state in zip(asked, units(*asked), strict=True) if state in ("active", "reloading")]


def units(*names: str) -> list[str]:
    """The states of units of systemd; one that is not there is inactive."""
    return run(["systemctl", "show", "--property=ActiveState", "--value", *names]).split()


# --- the live state: from one to another, as commands ---------------------------------------------------------------


def plan_links(live: dict[str, Any], wanted: dict[str, Any], nics: set[str]) -> list[Command]:
    """Set NICs up or down and their MTU."""
    return [
        (["ip", "link", "set", nic, "mtu", str(wanted[nic][1]), "up" if wanted[nic][0] else "down"], "")
        for nic in sorted(nics)
        if live[nic] != wanted[nic]
    ]


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


def plan_tables(live: dict[str, str], wanted: dict[str, str], _: set[str]) -> list[Command]:
    """Each iptables table that differs, in one commit; one that was not there goes again."""
    return [
        (["iptables-restore", "--counters", "--wait", "5"], wanted.get(name, f"*{name}\nCOMMIT\n"))
        for name in {**live, **wanted}
        if without_counters(live.get(name, "")) != without_counters(wanted.get(name, ""))
    ]


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


ASPECTS: dict[str, tuple[Callable[[State], Any], Callable[[Any, Any, set[str]], list[Command]]]] = {
    "links": (read_links, plan_links),
    "addresses": (read_addresses, plan_addresses),
    "routes": (read_routes, plan_routes),
    "rules": (read_rules, plan_rules),
    "tables": (read_tables, plan_tables),
    "sysctls": (read_sysctls, plan_sysctls),
    "services": (read_services, plan_services),
}
"""In the order of a rollback: the kernel drops addresses' routes with them, and a NIC's with it."""


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
    for folder, service in (("/etc/ssh/", "ssh.service"), ("/etc/nginx/", "nginx.service")):
        add(folder, service, "systemctl", "reload-or-restart", service)
    return commands


# --- snapshot, restore, diff ----------------------------------------------------------------------------------------


def snapshot(files: Iterable[str], sysctls: Iterable[str], services: Iterable[str]) -> State:
    """Everything as it is now. Refused if any of it can't be read: unknown is never empty."""
    state: State = {"files": {path: read_file(path) for path in files}, "folders": missing_folders(files)}
    state |= {"sysctls": dict.fromkeys(map(sysctl_path, sysctls)), "services": [*dict.fromkeys(services)]}
    for aspect, (read, _) in ASPECTS.items():
        state[aspect] = read(state)
    return state


def restore_pass(wanted: State) -> tuple[int, list[str]]:
    """Compare the live state, aspect by aspect, and run what fixes it: how many commands, and what failed."""
    count = 0
    problems = []
    for aspect, (read, plan) in ASPECTS.items():
        try:
            links = read_links(wanted)
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


def networkd_is_busy() -> bool:
    """Whether networkd is about to change a NIC."""
    for link in Path("/run/systemd/netif/links").glob("*"):
        with suppress(OSError):
            if re.search(r"^ADMIN_STATE=(pending|initialized|configuring)$", link.read_text(), re.M):
                return True
    return False


def restore(wanted: State, changed: Iterable[str]) -> list[str]:
    """Make the host what a snapshot says; `changed`: the files that differ, or did. Returns what could not be done.

    The live state comes before the services as well, so the way to the host is open as early as can be, and after
    them, until it stays.
    """
    put_files(wanted)
    restore_pass(wanted)
    for argv, stdin in activation(changed, wanted["services"]):
        with suppress(Refused):  # what it was for is looked at below
            run(argv, stdin)
    quiet = 0
    problems: list[str] = []
    for _ in range(PASSES):
        # networkd takes news from the kernel and from `reload` when it gets to it.
        time.sleep(0.25)
        busy = networkd_is_busy()
        problems = put_files(wanted)
        count, failed = restore_pass(wanted)
        problems += failed
        quiet = 0 if count or busy else quiet + 1
        if quiet == 2:
            break
    else:
        problems.append("it does not stay what it was")
    gone = sorted(set(wanted["links"]) - set(read_links(wanted)))
    return problems + [f"NIC {nic} is gone" for nic in gone]


def as_text(state: State) -> dict[str, str]:
    """A snapshot as people read it: heading → lines."""
    texts = {f"iptables {name}": without_counters(table) for name, table in state["tables"].items()}
    texts["addresses"] = lines(f"{nic} {text}" for nic, each in state["addresses"].items() for text, _ in each)
    texts["links"] = lines(f"{nic} {'up' if up else 'down'} mtu {mtu}" for nic, (up, mtu) in state["links"].items())
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


# --- the pending change ---------------------------------------------------------------------------------------------


@contextmanager
def mutex(when_held: Callable[[], None] | None = None) -> Iterator[None]:
    """Keep every other run of this program from moving the pending change.

    `when_held` is called as long as another run has it, which then is waited for without end.
    """
    deadline = time.monotonic() + PATIENCE
    with MUTEX.open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if when_held:
                    when_held()
                elif time.monotonic() > deadline:
                    raise Refused("another run of the guard is busy on this host: try again") from None
            time.sleep(0.02)
        yield


def clock() -> float:
    """Seconds since the host was started, whatever somebody does to its clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Differs from boot to boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def wall(after: float = 0) -> str:
    """The time of day, for people."""
    return (datetime.now(timezone.utc) + timedelta(seconds=after)).isoformat(timespec="seconds")  # noqa: UP017


def pending(token: str | None = None) -> dict[str, Any] | None:
    """The change that waits for its confirmation, if there is one (with this token)."""
    meta: dict[str, Any] | None = load(PENDING / "meta.json")
    return meta if meta and token in (None, meta["token"]) else None


def outcome(token: str | None = None) -> dict[str, Any] | None:
    """The last change that was undone, and why, if it was the one with this token."""
    meta: dict[str, Any] | None = load(UNDONE / "outcome.json")
    return meta if meta and token in (None, meta["token"]) else None


def numbers() -> list[int]:
    """The confirmed changes, the oldest first."""
    return sorted(int(path.parent.name) for path in HISTORY.glob("*/entry.json"))


def entry(number: int) -> dict[str, Any]:
    """A confirmed change. Refused if it is not kept."""
    meta: dict[str, Any] | None = load(HISTORY / str(number) / "entry.json")
    if meta is None:
        kept = numbers()
        raise Refused(f"no confirmed change {number} here: there are {f'{kept[0]} to {kept[-1]}' if kept else 'none'}")
    return meta


def undo(meta: dict[str, Any], why: str, live: bool = True) -> None:
    """Bring everything back to what it was and let go of the pending change. The mutex is held.

    live: False at boot: what was live is gone.
    """
    (PENDING / "reserve").unlink(missing_ok=True)
    problems: list[str] = []
    if (PENDING / "applying").exists():
        before = load(PENDING / "before.json.gz")
        problems = restore(before, meta["changed"]) if live else put_files(before)
    save(PENDING / "outcome.json", {**public(meta), "why": why, "time": wall(), "problems": problems})
    if UNDONE.exists():
        shutil.rmtree(UNDONE)
    move(PENDING, UNDONE)


def public(meta: dict[str, Any]) -> dict[str, Any]:
    """What of a change is told."""
    return {key: meta[key] for key in ("token", "who", "commit", "what", "since", "deadline", "seconds", "restore")}


def describe() -> dict[str, Any] | None:
    """The pending change as it is told, with its phase: armed, applying or applied."""
    meta = pending()
    if meta is None:
        return None
    phase = next((name for name in ("applied", "applying") if (PENDING / name).exists()), "armed")
    return {**public(meta), "phase": phase, "left": round(max(0.0, meta["expires"] - clock()), 1)}


def timer_lives() -> bool:
    """Whether the host is still going to roll back by itself, or does so now."""
    return not {"active", "activating", "deactivating"}.isdisjoint(units(f"{TIMER}.timer", f"{TIMER}.service"))


def disarm(*suffixes: str) -> None:
    """Stop the timer, and by that the rollback; best effort, an `expire` that finds nothing to undo does nothing."""
    with suppress(Refused):
        run(["systemctl", "stop", *(f"{TIMER}.{suffix}" for suffix in suffixes or ("timer", "service"))])


def service(name: str, *command: str, after: float | None = None, wait: bool = False) -> str:
    """Run a command of this program as a service of systemd: whatever happens to this process, that goes on.

    after: seconds from now
    """
    argv = ["systemd-run", "--quiet", "--collect", f"--unit={name}"]
    if after is None:
        # Of `apply`: it is only ever stopped for a rollback, which fixes whatever it was doing.
        argv += ["--property=KillSignal=SIGKILL", *(["--wait"] if wait else [])]
    else:
        argv += [f"--on-active={after}", "--timer-property=AccuracySec=50ms"]
    if name == TIMER:
        restart = {"Type": "oneshot", "Restart": "on-failure", "RestartSec": "500ms", "StartLimitIntervalSec": "0"}
        argv += [f"--property={key}={value}" for key, value in restart.items()]
    return run([*argv, "/usr/bin/python3", "-IS", str(COPY), *command], timeout=600)


def arm(token: str, seconds: float) -> None:
    """Have the host roll back by itself. Refused unless systemd says that it will."""
    for attempt in range(20):
        try:
            service(TIMER, "expire", token, after=seconds)
            break
        except Refused as error:
            if attempt == 19 or "already" not in str(error):
                raise Refused(f"the host can't arm its timer, so nothing was changed: {error}") from error
            disarm()  # of a run that was killed before its change was pending
            time.sleep(0.1)  # a unit that was just stopped keeps its name for a moment
    if units(f"{TIMER}.timer") != ["active"]:
        raise Refused("the host's timer is not armed, so nothing was changed")


# --- the commands ---------------------------------------------------------------------------------------------------


def begin(request: dict[str, Any]) -> dict[str, Any]:
    """Snapshot, arm, change. The answer comes when the change waits for its confirmation."""
    token, seconds = request["token"], float(request["seconds"])
    if not re.fullmatch(r"[\w-]{1,64}", token) or not 0 < seconds <= 3600:
        raise Refused("a request needs a token of letters and digits, and 1 to 3600 seconds")
    if outcome(token) or any(entry(number)["token"] == token for number in numbers()):
        raise Refused("this token was used before")
    if not shutil.which("systemd-run"):
        raise Refused("this host has no systemd-run: nothing could roll back, so nothing was changed")
    HISTORY.mkdir(parents=True, exist_ok=True)
    GUARD.chmod(0o700)
    free()
    with mutex():
        if found := describe():
            raise held(found)
        try:
            prepare(request, token, seconds)
            move(NEXT, PENDING)
        except BaseException:
            disarm()
            shutil.rmtree(NEXT, ignore_errors=True)
            raise
    start(token)
    deadline = time.monotonic() + seconds + 60
    while (meta := pending(token)) and time.monotonic() < deadline:
        if (PENDING / "applied").exists():
            return {"state": "pending", **public(meta)}
        time.sleep(0.1)  # `apply` was killed, so the timer is at work
    undone = outcome(token)
    raise Refused(f"the change was rolled back: {undone['why'] if undone else 'unknown'}", last_rollback=undone)


def start(token: str) -> None:
    """Have systemd run `apply`, to its end."""
    for _ in range(20):
        try:
            service(APPLY, "apply", token, wait=True)
            return
        except Refused as error:
            found = describe()
            if not found or found["token"] != token or found["phase"] != "armed":
                return  # it ran, and failed
            why = str(error)
            time.sleep(0.1)  # the unit of the last change keeps its name for a moment
    rollback(token, f"systemd did not run it: {why}")


def free() -> None:
    """Refused, with who and since when, if a change is pending; one that nobody will undo any more is undone first."""
    found, meta = describe(), pending()
    if found is None or meta is None:
        return
    late = meta["boot"] != boot_id() or clock() > meta["expires"] + MARGIN
    if not late or timer_lives():
        raise held(found)
    rollback(meta["token"], "its time was over and nobody had undone it")


def held(found: dict[str, Any]) -> Refused:
    """Why not now."""
    when = f"since {found['since']}, undone at {found['deadline']} unless confirmed"
    return Refused(f"a change of {found['who']} is pending on this host {when}", pending=found)


def prepare(request: dict[str, Any], token: str, seconds: float) -> None:
    """Everything that can go wrong before anything changes: all that a rollback needs is on disk, the timer armed."""
    shutil.rmtree(NEXT, ignore_errors=True)
    NEXT.mkdir()
    change = request["change"]
    number = change.get("restore")
    past = state_before(number) if number else None
    files = {**change.get("files", {}), **(past["files"] if past else {})}
    sysctls = [*request.get("sysctls", []), *(past["sysctls"] if past else [])]
    services = [*SERVICES, *request.get("services", [])]
    before = snapshot([*files, *request.get("touches", [])], sysctls, services)
    wanted = past["files"] if past else wanted_files(files, before["files"])
    changed = [path for path in before["files"] if path not in wanted or wanted[path] != before["files"][path]]
    stage = NEXT / "stage"
    for path, file in wanted.items():
        if file and "content" in file:
            staged = stage / path.lstrip("/")
            staged.parent.mkdir(parents=True, exist_ok=True)
            write(staged, base64.b64decode(file["content"]))
    if change.get("check"):
        shell(change["check"], "the check of the new files", STAGE=str(stage))
    save(NEXT / "before.json.gz", before)
    save(NEXT / "change.json.gz", {**change, "files": wanted, "past": past})
    # Room for the way back: files, their outcome, an entry of the history.
    with (NEXT / "reserve").open("wb") as reserve:
        os.posix_fallocate(reserve.fileno(), 0, 2**20 + sum(len(str(file)) for file in before["files"].values()))
    install()
    arm(token, seconds)
    times = {"since": wall(), "deadline": wall(seconds), "expires": clock() + seconds, "seconds": seconds}
    known = {key: request[key] for key in ("token", "who", "commit", "what")}
    save(NEXT / "meta.json", {**known, **times, "boot": boot_id(), "changed": changed, "restore": number})


def install() -> None:
    """Leave this program on the host, and the unit that runs it at boot."""
    source = globals().get("SOURCE") or Path(__file__).read_bytes()
    for path, content, mode in ((COPY, source, 0o700), (BOOT_UNIT, BOOT_TEXT.encode(), 0o644)):
        if not path.exists() or path.read_bytes() != content:
            write(path, content, mode)
    if not BOOT_WANTED.is_symlink():
        BOOT_WANTED.parent.mkdir(parents=True, exist_ok=True)
        BOOT_WANTED.symlink_to(BOOT_UNIT)
        sync(BOOT_WANTED.parent)


def state_before(number: int) -> State:
    """The state before a confirmed change. Of files and sysctls that only later changes touched, it is the earliest."""
    entry(number)
    state: State = {}
    for later in (each for each in reversed(numbers()) if each >= number):
        found: State = load(HISTORY / str(later) / "before.json.gz")
        joined = {key: {**state.get(key, {}), **found[key]} for key in ("files", "sysctls")}
        folders = [*found["folders"], *(each for each in state.get("folders", []) if each not in found["folders"])]
        state = {**found, **joined, "folders": sorted(folders, key=len, reverse=True)}
    return state


def mark(name: str) -> None:
    """Remember, durably, how far the pending change is."""
    write(PENDING / name, b"")


def apply(token: str) -> dict[str, Any]:
    """Make the pending change. What fails is undone at once."""
    with mutex():
        meta = pending(token)
        if meta is None:
            raise Refused("the change is not pending any more")
        change = load(PENDING / "change.json.gz")
        mark("applying")
        try:
            make(change, meta)
        except (Refused, OSError) as error:
            undo(meta, str(error))
            disarm("timer")
            raise
        mark("applied")
    return {"state": "applied"}


def make(change: dict[str, Any], meta: dict[str, Any]) -> None:
    """The change itself."""
    if change["past"]:
        if problems := restore(change["past"], meta["changed"]):
            raise Refused(f"the host can't be what it was: {'; '.join(problems)}")
        return
    if change.get("live"):
        shell(change["live"], "the live change")
    for path, file in change["files"].items():
        write_file(path, file)
    if change.get("activate"):
        shell(change["activate"], "the activation")


def confirm(token: str) -> dict[str, Any]:
    """Keep the pending change: from here on it is what the host boots into."""
    with mutex():
        meta = pending(token)
        if meta is None:
            return confirmed(token)
        if not (PENDING / "applied").exists():
            raise Refused("the change is not made yet, or could not be", pending=describe())
        (PENDING / "reserve").unlink(missing_ok=True)
        before = load(PENDING / "before.json.gz")
        after = snapshot(before["files"], before["sysctls"], (*SERVICES, *before["services"]))
        for path in before["files"]:  # also what the commands wrote
            with suppress(FileNotFoundError):
                sync(Path(path))
                sync(Path(path).parent)
        write(PENDING / "diff.gz", gzip.compress(difference(before, after).encode()))
        number = max(numbers(), default=0) + 1
        save(PENDING / "entry.json", {"number": number, "time": wall(), **public(meta)})
        move(PENDING, HISTORY / str(number))
        disarm()
        tidy(HISTORY / str(number))
    return {"state": "confirmed", **entry(number)}


def tidy(folder: Path) -> None:
    """Leave of the last change what the history needs, and of the oldest ones nothing."""
    shutil.rmtree(folder / "stage", ignore_errors=True)
    for name in ("change.json.gz", "meta.json", "applying", "applied", "why"):
        (folder / name).unlink(missing_ok=True)
    kept = {str(number) for number in numbers()[-KEPT:]}
    for old in HISTORY.iterdir():
        if old.name not in kept:
            shutil.rmtree(old, ignore_errors=True)


def confirmed(token: str) -> dict[str, Any]:
    """The answer to somebody who asks again. Refused with what became of the change if it was not confirmed."""
    if (kept := numbers()) and (last := entry(kept[-1]))["token"] == token:
        return {"state": "confirmed", **last}
    if undone := outcome(token):
        raise Refused(f"rolled back at {undone['time']}: {undone['why']}", last_rollback=undone)
    raise Refused("no such change is pending on this host", pending=describe())


def rollback(token: str, why: str) -> dict[str, Any]:
    """Undo the pending change now, by what the timer would run; a connection that it cuts does not stop it."""
    if pending(token):
        with suppress(OSError):  # the timer was quicker
            write(PENDING / "why", why.encode())
        try:
            run(["systemctl", "start", f"{TIMER}.service"], timeout=300)
        except Refused:
            with suppress(Refused):  # that one may be at work already
                service(TIMER, "expire", token)
    deadline = time.monotonic() + 60
    while pending(token) and time.monotonic() < deadline:
        time.sleep(0.1)
    if undone := outcome(token):
        return {"state": "rolled back", **undone}
    raise Refused(f"no such change is pending on this host: {token}", **status())


def expire(token: str) -> dict[str, Any]:
    """What the timer runs: undo the change if it is still pending, even in the middle of being made."""

    def stop_apply() -> None:
        if pending(token):
            with suppress(Refused):
                run(["systemctl", "stop", f"{APPLY}.service"])

    with mutex(stop_apply):
        meta = pending(token)
        if meta is None:
            return {"state": "nothing to undo"}
        why = PENDING / "why"
        undo(meta, why.read_text() if why.exists() else f"not confirmed within {meta['seconds']:g} s")
        disarm("timer")
    return {"state": "rolled back"}


def boot() -> dict[str, Any]:
    """After a power cut: the files of the last confirmed state, before anything reads them."""
    with mutex():
        meta = pending()
        if meta is None:
            return {"state": "nothing to undo"}
        undo(meta, "the host was switched off or booted before the change was confirmed", live=False)
    return {"state": "rolled back"}


def status() -> dict[str, Any]:
    """What is pending, what was confirmed last, what was undone last."""
    kept = numbers()
    return {"pending": describe(), "last": entry(kept[-1]) if kept else None, "last_rollback": outcome()}


def history(number: str | None = None) -> dict[str, Any]:
    """All confirmed changes that are kept, the latest first, or one of them with its diff."""
    if number is None:
        return {"history": [entry(each) for each in reversed(numbers())]}
    found = entry(int(number))
    return {**found, "diff": gzip.decompress((HISTORY / number / "diff.gz").read_bytes()).decode()}


def main(arguments: list[str]) -> int:
    """Run a command; the exit code."""
    commands: dict[str, Callable[..., dict[str, Any]]] = {
        "begin": lambda: begin(json.load(sys.stdin)),
        **{each.__name__: each for each in (apply, confirm, rollback, expire, boot, status, history)},
    }
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    os.environ["LC_ALL"] = "C.UTF-8"
    os.umask(0o022)
    try:
        answer = commands[arguments[0]](*arguments[1:])
    except Refused as error:
        answer = {"error": str(error), **error.facts}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
