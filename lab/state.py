"""The record of the lab that runs on this machine: what others need to reach its hosts.

There is one lab to a machine, unless UNDERLAY_LAB=NAME asks for a further one: that has everything of its own, but the
images. The record says what was built; what runs is found out by looking (`lab.host`).
"""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

NAME = os.environ.get("UNDERLAY_LAB", "")
SUFFIX = f".{NAME}" if NAME else ""
RUNTIME = Path(f"/run/underlay-lab{SUFFIX}")
STATE = RUNTIME / "state.json"
VARIABLE = Path(f"/var/lib/underlay-lab{SUFFIX}")
IMAGES = Path("/var/lib/underlay-lab/images")  # every lab's
SUITES = ("trixie", "bookworm")  # Debian releases, the default first
NETNS_DIR = Path("/run/netns")
OUTSIDE_ADDRESS = "203.0.113.1"  # of TEST-NET-3 (RFC 5737): the internet, as the lab's hosts see it


class LabHost(BaseModel):
    """One host: its network namespace, the process that is its PID 1 (None: powered off) and its root folder."""

    model_config = ConfigDict(frozen=True)

    netns: Path
    leader: int | None
    root: Path


class LabState(BaseModel):
    """One lab. `complete` is False from the first change to the machine until every host is ready."""

    model_config = ConfigDict(frozen=True)

    checkout: Path  # the repository that the lab belongs to
    suite: str
    complete: bool
    key: Path  # the operator's private key
    known_hosts: Path
    hosts: dict[str, LabHost]  # those of the plan, and "internet"
    outside: str = OUTSIDE_ADDRESS
    plan: Path  # the file that it was built of
    image: Path
    flavour: str = "networkd"  # of the hosts that are deployed, or "mixed"

    def save(self) -> None:
        """Replace the record as one step: a reader sees the old one or this one."""
        STATE.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        new = STATE.with_suffix(".new")
        new.write_text(self.model_dump_json(indent=2) + "\n")
        os.replace(new, STATE)


def load() -> LabState | None:
    """The lab's record; None without one, or with one that can't be read (cut off, or of another version)."""
    try:
        return LabState.model_validate_json(STATE.read_text())
    except (FileNotFoundError, ValidationError):
        return None
