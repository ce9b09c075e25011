"""The operator's key: whether ssh can use it without asking anybody, and whether it wants to be touched."""

import os
import re
import subprocess
from pathlib import Path

from underlay.plan import given
from underlay.text import command

SECONDS = 5
TOUCH_SECONDS = 20
"""Somebody has so long to touch a key: as long as our sshd waits for a login."""


def problem(key: Path, agent: str = "") -> str:
    """Why a key can't be used here, and what to do; empty if it can, or if only ssh can tell.

    key: a private key, or the public one of a key that an agent has
    agent: the socket of that agent; empty for SSH_AUTH_SOCK's
    """
    public = key.with_name(f"{key.name}.pub")
    readable = os.access(key, os.R_OK)
    if not readable and not os.access(public, os.R_OK):
        return f"the key {key} can't be read: set operator.key in the plan"
    if readable and not _is_public(key):
        said = _run(["ssh-keygen", "-y", "-P", "", "-f", str(key)])
        if said is None or said[0] == 0 or "passphrase" not in said[1]:
            return ""  # good, or ssh says it better
        what, fix = f"the key {key} has a passphrase", f"{command('ssh-add', key)}, then again"
    else:
        public = key if readable else public
        what, fix = f"of the key {key} only the public part is here", "start the agent that has it, or plug it in"
    listed = _run(["ssh-add", "-l"], agent)
    print_ = _fingerprint(public if os.access(public, os.R_OK) else key)
    if listed is None or (print_ and print_ in listed[1].split()):
        return ""
    where = agent or os.environ.get("SSH_AUTH_SOCK", "")
    why = f"the agent at {where} does not have it" if where else "there is no agent (SSH_AUTH_SOCK is not set)"
    return f"{what}, and {why}: {fix}"


def wants_touch(key: Path) -> bool:
    """Whether it is on a security key, which a person touches for every login."""
    public = key.with_name(f"{key.name}.pub")
    if os.access(public, os.R_OK):
        key = public
    # ssh-keygen reads the public part of any key.
    said = _run(["ssh-keygen", "-l", "-f", str(key)])
    return said is not None and said[1].rstrip().endswith("-SK)")


def _is_public(key: Path) -> bool:
    try:
        return re.match(rb"(sk-)?(ssh|ecdsa)-\S+ ", given.content(key)[:200]) is not None
    except OSError:
        return False


def _fingerprint(key: Path) -> str:
    said = _run(["ssh-keygen", "-l", "-f", str(key)])
    words = said[1].split() if said and said[0] == 0 else []
    return next((word for word in words if word.startswith("SHA256:")), "")


def _run(argv: list[str], agent: str = "") -> tuple[int, str] | None:
    """Exit code and all words of a program; None if it can't be run."""
    environment = os.environ | {"LC_ALL": "C"} | ({"SSH_AUTH_SOCK": agent} if agent else {})
    try:
        done = subprocess.run(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode, (done.stdout + done.stderr).decode(errors="replace")
