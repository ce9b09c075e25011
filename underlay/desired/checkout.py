"""This repo as files: what the deploy machine needs to run it on the site itself."""

import re

from underlay.plan import REPO, Plan
from underlay.plan.roles import role_file

FOLDER = "/opt/underlay"
CONTENTS = (
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "config.py",
    "deploys",
    "docs",
    "group_data",
    "inv",
    "inventory.py",
    "pyproject.toml",
    "requirements.txt",
    "targets.py",
    "tasks.py",
    "templates",
    "tests/site",
    "underlay",
)


def files(plan: Plan) -> dict[str, bytes]:
    """Relative path → content of the repo as it belongs on the deploy machine.

    The plan in force is its plan, with target "ssh": over there the real hosts are the only target.
    """
    found: dict[str, bytes] = {}
    for name in CONTENTS:
        path = REPO / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                found[str(file.relative_to(REPO))] = file.read_bytes()
    text = re.sub(r"""(?m)^(target\b[^"'\n]*)["']\w+["']""", r'\1"ssh"', plan.source.read_text())
    found["group_data/all.py"] = text.encode()
    for role in ("jumphost", "lb_nginx"):
        found[f"group_data/{role}.py"] = role_file(plan, role).read_bytes()
    if plan.kubernetes and (source := plan.kubernetes.source):
        found[f"group_data/{source.key}"] = (plan.source.parent / source.key).read_bytes()
    return found


def pinned_packages() -> dict[str, str]:
    """The packages of requirements.txt: normalised name → version."""
    found = re.findall(r"(?m)^(\S+)==(\S+)", (REPO / "requirements.txt").read_text())
    return {normalised(name): version for name, version in found}


def normalised(name: str) -> str:
    """The name of a Python package as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()
