"""A person's own ssh configuration, as far as it is about the way to a host: a bastion, an agent, ciphers.

It is ssh that reads it (`ssh -G`), with all its Include, Match and patterns, for the plan's name of a host and for its
address. Taken is what is named here and nothing else: whom to log in as, which host key to trust and what to run is the
plan's.
"""

import os
import shlex
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from underlay.access import answers
from underlay.access.endpoints import Endpoint
from underlay.access.ssh_config import TargetError

WAY = ("proxyjump", "proxycommand", "bindaddress", "bindinterface", "addressfamily")
FILES = ("identityagent", "certificatefile", "pkcs11provider", "securitykeyprovider")
KEYS = (
    *FILES,
    *("ciphers", "macs", "kexalgorithms", "hostkeyalgorithms", "casignaturealgorithms", "pubkeyacceptedalgorithms"),
)
SECONDS = 10
AT_ONCE = 8

Settings = list[tuple[str, str]]
"""Keywords of ssh, each with its value; one may be there several times."""


def read(config: Path, endpoints: Iterable[Endpoint], sockets: Path) -> dict[str, Settings]:
    """Host → what holds for it, of those that are reached without a jump; and `*` for all others.

    sockets: the folder of shared connections. Raises TargetError.
    """
    if not (config.is_file() and os.access(config, os.R_OK)):
        raise TargetError(f"{config} is no file that can be read: set operator.ssh_config in the plan")
    first = [each for each in endpoints if not each.jump]
    plain = set(_said(None, first[0])) if first else set()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        told = pool.map(lambda each: _said(config, each), first)
        found = {
            each.name: [(key, value) for key, value in said if (key, value) not in plain]
            for each, said in zip(first, told, strict=True)
        }
    made = {name: [_direct(config, sockets, *each) for each in settings] for name, settings in found.items()}
    jumps = {each.jump for each in endpoints if each.jump}
    made["*"] = [_direct(config, sockets, *each) for name in jumps for each in found.get(name, []) if each[0] in KEYS]
    return {name: settings for name, settings in made.items() if settings}


def _said(config: Path | None, endpoint: Endpoint) -> Settings:
    """What ssh makes of a configuration for a host. `always`: its patterns are tried with the address, too."""
    options = [f"HostName={endpoint.address}", "CanonicalizeHostname=always"]
    argv = ["ssh", "-G", "-F", str(config or "none"), *(f"-o{each}" for each in options), endpoint.name]
    try:
        done = answers.run(argv, seconds=SECONDS, most=200_000)
    except (OSError, subprocess.TimeoutExpired, answers.FloodError) as error:
        raise TargetError(f"{config} can't be read by ssh: {answers.short(error)}") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise TargetError(f"{config} can't be read by ssh: {answers.short(said[0] if said else done.returncode)}")
    rows = (line.partition(" ") for line in done.stdout.decode(errors="replace").splitlines())
    return [(key, value) for key, _, value in rows if key in (*WAY, *KEYS)]


def _direct(config: Path, sockets: Path, key: str, value: str) -> tuple[str, str]:
    """A bastion is entered with the person's own configuration, once for all hosts behind it."""
    if key in FILES and " " in value:
        value = f'"{value}"'
    if key != "proxyjump":
        return key, value
    *before, last = value.split(",")
    shared = ("ControlMaster=auto", f"ControlPath={sockets}/%C", "ControlPersist=30")
    argv = ["ssh", "-F", str(config), *(f"-o{each}" for each in shared)]
    argv += ["-J", ",".join(before)] if before else []
    words = shlex.join([*argv, last if "://" in last else f"ssh://{last}"]).replace("%", "%%")
    return "proxycommand", f"{words} -W '[%h]:%p'"
