"""Read the rules of this host: one JSON object on stdout."""

import base64
import gzip
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from underlay.compare.tables import RulesetError, alone, read
from underlay.remote.guard.programs import Refused, run
from underlay.remote.rules.kernel import apart, as_json, loaded, look, marked
from underlay.remote.rules.place import canonical, put_all

OURS = "underlay-firewall.service"


def main(packed: str) -> None:
    """Answer a request, see the package."""
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    os.environ["LC_ALL"] = "C.UTF-8"
    request = json.loads(gzip.decompress(base64.b64decode(packed)))
    try:
        answer = answered(**request) if shutil.which("iptables-save") else {"missing": True}
    except (Refused, RulesetError, OSError) as error:
        answer = {"error": str(error)}
    print(json.dumps(answer))


def answered(own: str, program: str, wanted: str, boot: Sequence[tuple[str, str, Sequence[str]]]) -> dict[str, Any]:
    """The whole answer."""
    path = Path(own)
    text = path.read_text() if path.exists() else None
    recorded = read(text or "")
    planned, ours = canonical(read(wanted))
    tables, signatures = look()
    ours |= dict(loaded(alone(recorded), partly=True))
    enabled = {unit for unit, *_ in boot if _enabled(unit)}

    def next_boot() -> Any:
        problems = []
        for unit, file, argv in boot:
            if unit in enabled and Path(file).exists():
                try:
                    run([*argv, file])
                except Refused as error:
                    problems.append([unit, file, str(error)])
        others = look()[0]
        if text is not None and not Path(program).exists():
            problems.append([OURS, program, "the program that puts the rules in place is gone"])
        else:
            try:
                put_all(recorded)
            except Refused as error:
                problems.append([OURS, own, str(error)])
        there, signs = look()
        return problems, as_json(others), as_json(marked(there, signs, ours))

    failed, others, later = apart(next_boot)
    by_chain: dict[str, dict[str, list[Any]]] = {}
    for rule in planned:
        by_chain.setdefault(rule.table, {}).setdefault(rule.chain, ["ACCEPT", []])[1].append(rule.spec)
    live = as_json(marked(tables, signatures, {**dict(loaded(tables, partly=True)), **ours}))
    return {"live": live, "wanted": by_chain, "others": others, "boot": later, "failed": failed, "own": text}


def _enabled(unit: str) -> bool:
    try:
        argv = ["systemctl", "is-enabled", "--quiet", unit]
        return subprocess.run(argv, stderr=subprocess.DEVNULL, check=False).returncode == 0
    except FileNotFoundError:
        return False
