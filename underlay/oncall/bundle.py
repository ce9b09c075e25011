"""One archive with everything that a colleague needs to help, and without secrets."""

import io
import json
import os
import platform
import re
import shlex
import subprocess
import tarfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from rich.console import Console

from underlay.access import answers
from underlay.access.anew import anew
from underlay.access.sessions import Links, UnreachableError
from underlay.access.target import Target
from underlay.desired import checkout, nginx, units
from underlay.desired.files import BOOT, RULES, authorized_keys
from underlay.errors import OperatorError
from underlay.guard import history
from underlay.observe import drift
from underlay.oncall import status
from underlay.oncall.redact import redact
from underlay.plan import REPO, Host
from underlay.plan.roles import role_file
from underlay.remote import send
from underlay.remote.files import collect
from underlay.remote.guard.paths import COPY, HISTORY
from underlay.report import tables
from underlay.text import printable

SECONDS = 10
"""What a host may take for all of it."""
COMMAND_SECONDS = 7
MOST = 2_000_000
"""Bytes of one text that are kept."""
UNPACKED = 64_000_000
"""Bytes of all that one host may tell."""
UNITS = " ".join(f"-u {name}" for name in (*(unit.name for unit in units.ALL), "'underlay-guard-*'"))
FILES = (
    *("/etc/os-release", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/etc/apt/sources.list"),
    *(
        "/etc/apt/sources.list.d/*",
        "/etc/systemd/network/*",
        "/etc/systemd/network/*.d/*",
        "/run/systemd/network/*",
        "/etc/systemd/networkd.conf.d/*",
        "/etc/sysctl.d/*",
    ),
    *("/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/*"),
)
"""On every host. Never a folder that has keys beside the configuration."""
COMMANDS = {
    "system": "uname -a; uptime; free -b; df -h; df -i; timedatectl 2>/dev/null || date",
    "links": "ip -d -s link",
    "addresses": "ip address",
    "routes": "ip route show table all",
    "rules": "ip rule",
    "neighbours": "ip neigh",
    "sockets": "ss -s; ss -tulpn",
    # What may be secret of these is the key of TCP fast open and the secrets of IPv6 addresses.
    "sysctls": "sysctl -a --pattern '^net\\.(ipv4|netfilter|core)' | grep -v -e key -e secret",
    "units": "systemctl list-units --all --no-pager --plain; systemctl --failed --no-pager",
    # Only names: a command line may hold a password.
    "processes": "ps -eo pid,ppid,user,stat,etime,rss,pcpu,comm",
    "packages": "dpkg-query --show",
    "journal": f"journalctl --no-pager --since -1h --lines 5000 {UNITS}",
    "kernel": "journalctl --no-pager -k --since -1h --lines 1000",
    "sshd": "sshd -T",
    "host-keys": "for f in /etc/ssh/ssh_host_*.pub; do ssh-keygen -lf $f; done",
    "guard": f"if [ -e {COPY} ]; then python3 {COPY} status; fi",
    "history": f"if [ -e {COPY} ]; then "
    f"for n in $(ls {HISTORY} | sort -n | tail -5); do python3 {COPY} history $n; done; fi",
}


@dataclass(frozen=True)
class Bundle:
    """What was written: the file, its bytes, and for each host why it is not in it (empty if it is)."""

    file: str
    bytes: int
    hosts: dict[str, str]


def default_file(target: Target) -> Path:
    """`lab-site-20261123-043000.tar.gz`, here."""
    return Path(f"{stem(target)}.tar.gz")


def stem(target: Target) -> str:
    """The site and the time, fit for the name of a file."""
    name = re.sub(r"[^A-Za-z0-9.-]+", "-", target.plan.site)
    return f"{name}-{datetime.now():%Y%m%d-%H%M%S}"


def write(target: Target, path: Path) -> Bundle:
    """Gather and write. Hosts that can't be asked are noted. Raises OperatorError if the file can't be written."""
    file = open_private(path)
    with file:
        hosts = target.plan.deployed
        texts, missing = gather(target, hosts)
        folder = path.name.removesuffix(".gz").removesuffix(".tar")
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, text in sorted(texts.items()):
                content = printable(redact(text)).encode()
                member = tarfile.TarInfo(f"{folder}/{name}")
                member.size, member.mtime, member.mode = len(content), int(time.time()), 0o644
                archive.addfile(member, io.BytesIO(content))
    return Bundle(str(path), path.stat().st_size, missing)


def open_private(path: Path) -> io.BufferedWriter:
    """A new file that only its owner may read. Raises OperatorError."""
    try:
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    except FileExistsError:
        raise OperatorError(f"{path} is there already: name another file with --output") from None
    except OSError as error:
        raise OperatorError(f"{path} can't be written: {error.strerror}") from error


def gather(target: Target, hosts: Sequence[Host]) -> tuple[dict[str, str], dict[str, str]]:
    """Name → text of all that belongs into the archive; host → why nothing of it is there, empty if all is."""
    with anew(target) as own:
        return _gather(Links(own), hosts)


def _gather(links: Links, hosts: Sequence[Host]) -> tuple[dict[str, str], dict[str, str]]:
    target = links.target
    links.open(host.name for host in hosts)

    def of_host(host: Host) -> dict[str, str] | UnreachableError:
        try:
            return _collect(links, host)
        except UnreachableError as error:
            return error

    parts: dict[str, Callable[[], str]] = {
        "status.txt": lambda: _status(links),
        "drift.json": lambda: _drift(links, hosts),
        "history.json": lambda: _history(links, hosts),
        "plan.txt": lambda: _page(lambda page: tables.show(target.plan, page)),
        "versions.txt": _versions,
    }
    with ThreadPoolExecutor(len(hosts) + len(parts)) as pool:
        told = pool.map(lambda part: part(), parts.values())
        found = dict(zip((host.name for host in hosts), pool.map(of_host, hosts), strict=True))
        of_site = dict(zip(parts, told, strict=True))
    texts = {
        f"hosts/{name}/{each}": text
        for name, of_one in found.items()
        if isinstance(of_one, dict)
        for each, text in of_one.items()
    }
    missing = {name: str(each) if isinstance(each, UnreachableError) else "" for name, each in found.items()}
    texts |= of_site
    for path in (target.plan.source, role_file(target.plan, "jumphost"), role_file(target.plan, "lb_nginx")):
        texts[f"plan/{path.name}"] = path.read_text()
    rows = "".join(f"{name}: {why or 'is in this archive'}\n" for name, why in missing.items())
    texts["README.txt"] = f"{target}\n{datetime.now(UTC).isoformat(timespec='seconds')}\n\n{rows}\n{NOTE}"
    return texts, missing


NOTE = """\
hosts/HOST/    what the host said to commands (live state, journals of the last hour, versions), and its files
status.txt     the site on one screen
drift.json     what differs from the plan
history.json   the confirmed changes of each host
plan/, plan.txt  the plan, and what follows from it
versions.txt   of what this was made with

Private keys, passwords, tokens and password hashes are left out; public keys are shown as fingerprints.
"""


def _collect(links: Links, host: Host) -> dict[str, str]:
    commands, files = dict(COMMANDS), [*FILES, authorized_keys(host)]
    match host.role:
        case "gateway":
            commands["iptables"] = "iptables-save -c"
            commands["nftables"] = "nft list ruleset"
            commands["conntrack"] = (
                "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max; conntrack -S; "
                "conntrack -L 2>/dev/null | head -n 5000"
            )
            files += [RULES, *(file for _, file, _ in BOOT)]
        case "jumphost":
            commands["people"] = "getent group underlay-oncall; last -n 50 2>/dev/null || true"
            commands["checkout"] = f"ls -la {checkout.FOLDER}; ls -d {checkout.FOLDER}/.venv/lib/*/site-packages/*-info"
        case "lb_nginx":
            commands["nginx"] = "nginx -t; nginx -V"
            files += [nginx.PATH, "/var/log/nginx/error.log"]
    wanted = {"commands": commands, "files": files, "seconds": COMMAND_SECONDS, "most": MOST}
    command = shlex.join(send.argv(json.dumps(wanted)))
    texts: dict[str, str] = links.ask(
        host.name, command, dict[str, str], seconds=SECONDS, stdin=send.line(collect), unpack=UNPACKED
    )
    if strange := [name for name in texts if name not in commands and not _is_one_of(name, files)]:
        raise UnreachableError(f"{host.name} was reached, but not read: nobody asked for {answers.short(strange[0])}")
    return {(f"files{name}" if name.startswith("/") else f"{name}.txt"): text[:MOST] for name, text in texts.items()}


def _is_one_of(path: str, patterns: Sequence[str]) -> bool:
    """Whether a file was asked for: its name becomes one in the archive, and a place where that is unpacked."""
    plain = path.isprintable() and os.path.normpath(path) == path
    # Where a home is only the host knows.
    wanted = (each.partition("/")[2] if each.startswith("~") else each for each in patterns)
    return plain and any(PurePosixPath(path).match(each) for each in wanted)


def _status(links: Links) -> str:
    found = status.look(links)
    return _page(lambda page: page.print(status.page(links.target.plan, found), highlight=False))


def _page(show: Callable[[Console], None]) -> str:
    text = io.StringIO()
    show(Console(file=text, width=160, color_system=None))
    return text.getvalue()


def _drift(links: Links, hosts: Sequence[Host]) -> str:
    found = drift.look(links, hosts)
    document: dict[str, Any] = {
        name: {"error": each} if isinstance(each, str) else [asdict(one) for one in each]
        for name, each in found.items()
    }
    return json.dumps(document, indent=2)


def _history(links: Links, hosts: Sequence[Host]) -> str:
    found = history.read(links.target, hosts, links)
    document = {name: {"error": str(each)} if isinstance(each, Exception) else each for name, each in found.items()}
    return json.dumps(document, indent=2)


def _versions() -> str:
    lines = [f"Python {platform.python_version()} on {platform.platform()}"]
    for argv in (["ssh", "-V"], ["git", "-C", str(REPO), "log", "-1", "--format=commit %H"]):
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
            lines.append((done.stdout or done.stderr).strip())
        except (OSError, subprocess.TimeoutExpired) as error:
            lines.append(f"{argv[0]}: {error}")
    packages = sorted(f"{each.metadata['Name']} {each.version}" for each in metadata.distributions())
    return "\n".join([*lines, *packages, ""])
