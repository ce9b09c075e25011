"""What is done to hosts: each operation reads one fact, compares, and changes only the difference, with one script."""

import base64
import shlex
from collections.abc import Mapping


def write_file(path: str, content: str, mode: str = "644") -> str:
    """Shell commands that replace a file as one step: a reader sees the old one or the new one."""
    target, new = shlex.quote(path), shlex.quote(f"{path}.new")
    folder = shlex.quote(path.rsplit("/", 1)[0])
    encoded = base64.b64encode(content.encode()).decode()
    return (
        f"mkdir -p {folder}\necho {encoded} | base64 -d > {new}\nchmod {mode} {new}\nsync {new}\nmv -f {new} {target}\n"
    )


def differences(wanted: Mapping[str, str], present: Mapping[str, str]) -> list[str]:
    """The paths whose content is missing or another one."""
    return [path for path, content in wanted.items() if present.get(path) != content]
