"""What is on the hosts and in no repo: kept in one archive, and brought back to a host that was installed anew.

Host keys, the guard's history, who may log in as the operator, the rules of others that are loaded at boot. Not the
homes of the jump host's people, and not a change that waits for its confirmation.
"""

import io
import json
import os
import shlex
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from typing_extensions import TypedDict

from underlay.access import answers
from underlay.access.answers import FloodError, UnreadableError, reading
from underlay.access.sessions import Links, UnreachableError, last_words
from underlay.access.target import Target
from underlay.desired.files import RULES, authorized_keys
from underlay.desired.units import RELOAD_SSH
from underlay.errors import OperatorError
from underlay.oncall.bundle import open_private, stem
from underlay.oncall.redact import fingerprint
from underlay.plan import Host, Plan, given
from underlay.remote import send
from underlay.remote.files import restore as replacing
from underlay.remote.guard.paths import COPY, HISTORY

SECONDS = 60
MOST = 64_000_000
"""Bytes of a host's part, packed."""
UNPACKED = 512_000_000
MANIFEST = "manifest.json"
STATE = "/var/lib/underlay"


Verdict = Literal["new", "differs", "same", "kept"]


class _Manifest(TypedDict):
    site: str
    hosts: dict[str, int | str]


@dataclass(frozen=True)
class Backup:
    """What was written: the file, and for each host how many files of it are in it, or why none is."""

    file: str
    hosts: dict[str, int | str]


def paths(host: Host) -> list[str]:
    """What is kept of each host: files and folders, as patterns of its shell."""
    return [
        "/etc/ssh/ssh_host_*",
        authorized_keys(host),
        RULES,
        str(COPY),
        str(HISTORY),
    ]


def prefixes(host: Host) -> list[str]:
    """Below what a file of a backup may be put back; `~USER` is the home that the account has there."""
    return [
        "/etc/ssh/ssh_host_",
        f"{authorized_keys(host)}/",
        f"{STATE}/",
    ]


def default_file(target: Target) -> Path:
    """`backup-lab-site-20261123-043000.tar`, here."""
    return Path(f"backup-{stem(target)}.tar")


def write(target: Target, path: Path) -> Backup:
    """Read all hosts that are deployed, at the same time, and write the archive; it has private keys.

    Raises OperatorError if it can't be written. Hosts that can't be asked are noted in it.
    """
    hosts = target.plan.deployed
    with open_private(path) as file, tarfile.open(fileobj=file, mode="w") as archive:
        links = Links(target)
        links.open(host.name for host in hosts)
        with ThreadPoolExecutor(len(hosts)) as pool:
            parts = pool.map(lambda host: _read(links, host), hosts)
            found = dict(zip((host.name for host in hosts), parts, strict=True))
        counts = {
            name: check(each, target.plan.host(name)) if isinstance(each, bytes) else each
            for name, each in found.items()
        }
        manifest = {"site": target.plan.site, "time": datetime.now(UTC).isoformat(timespec="seconds"), "hosts": counts}
        _add(archive, MANIFEST, json.dumps(manifest, indent=2).encode())
        for name, each in found.items():
            if isinstance(each, bytes):
                _add(archive, f"{name}.tar.gz", each)
    return Backup(str(path), counts)


def _read(links: Links, host: Host) -> bytes | str:
    """The files of a host as a packed tar, or why there is none."""
    kept = " ".join(paths(host))
    # Patterns that match nothing are no files; tar reads the names from its stdin, so there may be many.
    command = f"for f in {kept}; do if [ -e $f ]; then echo $f; fi; done | tar -C / -czPf - --files-from=-"
    try:
        done = links.run(host.name, command, seconds=SECONDS, most=MOST)
    except UnreachableError as error:
        return str(error)
    if done.returncode:
        return f"{host.name} was reached, but can't be read: {last_words(done.stderr, f'no answer within {SECONDS} s')}"
    try:
        with reading(f"the files of {host.name}"):
            check(done.stdout, host)
    except UnreadableError as error:
        return str(error)
    return done.stdout


def check(content: bytes, host: Host) -> int:
    """How many files are in a host's part of a backup. Raises ValueError or FloodError if one does not belong there.

    A bad host could put any file there, for the day on which somebody brings it back as root.
    """
    count = 0
    with tarfile.open(fileobj=io.BytesIO(answers.unpacked(content, UNPACKED)), mode="r:") as archive:
        for member in archive:
            path = f"/{member.name.lstrip('/')}"
            if os.path.normpath(path) != path or not _belongs(f"{path}/", host):
                raise ValueError(f"{path} does not belong there")
            plain = (member.isreg() and not member.issparse()) or member.isdir()
            if not plain or member.mode & ~0o777:
                raise ValueError(f"{path} is no file")
            count += member.isreg()
    return count


def _belongs(path: str, host: Host) -> bool:
    # Where a home is the host says, and looks again when it is put back.
    return any(
        path.endswith(f"/{each.partition('/')[2]}") if each.startswith("~") else path.startswith(each)
        for each in prefixes(host)
    )


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mtime, member.mode = len(content), int(time.time()), 0o600
    archive.addfile(member, io.BytesIO(content))


def load(path: Path, plan: Plan, host: Host) -> bytes:
    """A host's part of an archive. Raises OperatorError if there is none, or it is of another site."""
    try:
        with given.opened(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            manifest: _Manifest = answers.parsed(_Manifest, _member(archive, MANIFEST))
            if manifest["site"] != plan.site:
                raise OperatorError(f"{path} is of the site {manifest['site']!r}, and the plan's is {plan.site!r}")
            counts = manifest["hosts"]
            if not isinstance(counts.get(host.name), int):
                why = counts.get(host.name, f"it has {', '.join(counts)}")
                raise OperatorError(f"{path} has nothing of {host.name}: {why}")
            content = _member(archive, f"{host.name}.tar.gz")
        check(content, host)
        return content
    except OSError as error:
        raise OperatorError(f"{path} can't be read: {error.strerror or error}") from error
    except (tarfile.TarError, KeyError, ValueError, FloodError) as error:
        raise OperatorError(f"{path} is no backup of `./inv backup`: {answers.short(error)}") from error


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise KeyError(name)
    content = file.read(MOST + 1)
    if len(content) > MOST:
        raise ValueError(f"{name} is too large")
    return content


def connected(target: Target, host: Host) -> Links:
    """The way to a host. Raises UnreachableError; OperatorError if it has another key than the known one."""
    links = Links(target)
    links.open([host.name])
    try:
        links.check(host.name)
    except UnreachableError as error:
        if "Host key verification failed" not in str(error):
            raise
        raise OperatorError(f"{host.name} shows another host key than the known one. {ANOTHER_KEY}") from error
    return links


ANOTHER_KEY = (
    "If it was installed anew, read its fingerprint at its console (ssh-keygen -lf "
    "/etc/ssh/ssh_host_ed25519_key.pub) and give it with --host-key"
)


def restore(links: Links, host: Host, content: bytes, *, dry: bool) -> dict[str, str]:
    """Bring a host's files back: path → `new`, `differs`, `same` or `kept` (see `remote.files.restore`).

    `dry` changes nothing. sshd uses the host keys from then on. Raises UnreachableError, OperatorError.
    """
    wanted = {
        "write": not dry,
        "prefixes": prefixes(host),
        "state": STATE,
        "own": [str(HISTORY), RULES],
    }
    command = shlex.join(send.argv(json.dumps(wanted))) + ("" if dry else f" && {{ {RELOAD_SSH}; }}")
    done = links.run(host.name, command, seconds=SECONDS, stdin=send.line(replacing) + content)
    if done.returncode:
        raise OperatorError(f"{host.name}: not restored: {last_words(done.stderr, 'it gave no reason')}")
    with reading(f"what {host.name} says"):
        rows: list[tuple[str, Verdict]] = answers.parsed(list[tuple[str, Verdict]], done.stdout)
        return dict(rows)


def show(found: Mapping[str, str], console: Console) -> None:
    """Print what a restore finds or does; a history is one line."""
    counts: Counter[tuple[str, str]] = Counter()
    for path, what in found.items():
        shown = f"{HISTORY}/…" if Path(path).is_relative_to(HISTORY) else path
        counts[what, shown] += 1
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("file", "on the host", ""):
        table.add_column(column, overflow="fold")
    for (what, path), count in counts.items():
        table.add_row(path, MEANING[what], f"{count} files" if count > 1 else "")
    console.print(table, highlight=False, markup=False)


MEANING = {
    "new": "not there: is written",
    "differs": "differs: is replaced",
    "same": "is the same",
    "kept": "has its own: is left alone",
}


@contextmanager
def installed_anew(target: Target, host: Host, shown: str) -> Iterator[Target]:
    """The target, with a host that has another key than the known one: that of the fingerprint `shown`.

    Raises OperatorError if it has neither; nothing but an attempt to log in has gone there then.
    """
    with tempfile.TemporaryDirectory(prefix="underlay-") as folder:
        known, config = Path(folder, "known_hosts"), Path(folder, "ssh_config")
        # The first value that ssh reads for a keyword counts. A shared connection may be one to the old machine.
        config.write_text(
            f"Host {host.name}\n    UserKnownHostsFile {known}\n    StrictHostKeyChecking accept-new\n"
            f"    ControlPath none\nMatch all\n    Include {target.ssh_config}\n"
        )
        anew = replace(target, ssh_config=config)
        connected(anew, host)
        keys = [fingerprint(line.split()[2]) for line in known.read_text().splitlines()]
        if keys != [shown]:
            raise OperatorError(f"{host.name} shows the host key {' '.join(keys)}, not {shown}. {ANOTHER_KEY}")
        # From now on it is this key and no other.
        config.write_text(config.read_text().replace("accept-new", "yes"))
        yield anew
