"""How long the firewall of a gateway with 1,000 published hosts takes, step by step.

Needs the lab, with the gateway deployed; leaves it as it was:

    .venv/bin/python -m benchmarks.large_site

A step is one round trip over a connection that is open. `read` is the fact, `compare` this machine's part, `load` what
the change runs on the gateway, in a throw-away network namespace with the rules that are there. The change travels in
the request of the guard, which is one round trip, too; probes, snapshot and confirmation come on top in `deploy`.
"""

import base64
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from targets import current
from underlay.access.target import Target
from underlay.compare import tables
from underlay.compare.firewall import canonical
from underlay.desired import nat
from underlay.facts import firewall as fact
from underlay.operations.firewall import firewall_change
from underlay.plan import REPO, Plan, load
from underlay.remote.guard.paths import COPY

HOSTS = 1000
PLAN = (REPO / "group_data" / "all.py").read_text()


def write(folder: Path, count: int) -> Path:
    """The repo's plan with so many more published hosts."""
    plan = PLAN.replace("192.168.0.0/24", "192.168.0.0/21") if count else PLAN
    lines = [
        f'    "web-{n}": {{"role": "server", "addresses": {{"mgmt": "100.64.{4 + n // 252}.{1 + n % 252}"}}, '
        f'"published": "192.168.{4 + n // 252}.{1 + n % 252}"}},\n'
        for n in range(count)
    ]
    end = plan.rindex("}")
    folder.mkdir()
    for name in ("lb_nginx", "jumphost"):
        (folder / f"{name}.py").write_text((REPO / "group_data" / f"{name}.py").read_text())
    path = folder / "all.py"
    path.write_text(plan[:end] + "".join(lines) + plan[end:])
    return path


def ssh(target: Target, command: str, stdin: str) -> str:
    """One round trip to the gateway."""
    argv = ["ssh", "-F", str(target.ssh_config), target.plan.gateway.name, f"sudo -n {command}"]
    return subprocess.run(argv, input=stdin, capture_output=True, text=True, check=True).stdout


def steps(target: Target, plan: Plan) -> tuple[float, float, float, int]:
    """Seconds to read, to compare and to load what brings the gateway to a plan, and the number of edits."""
    begun = time.monotonic()
    rules = nat.gateway_rules(plan)
    command = fact.command(rules)
    asked = time.monotonic()
    output = ssh(target, "sh", command)
    read = time.monotonic()
    found = fact.process(output.splitlines())
    change = firewall_change(canonical(rules, found.wanted), found)
    compared = time.monotonic()
    loading = 0.0
    if change and change.rules:
        live = base64.b64encode(tables.render(found.live).encode()).decode()
        rules_file = base64.b64encode(change.rules.encode()).decode()
        script = f"""echo {live} | base64 -d | iptables-restore
        file=$(mktemp); echo {rules_file} | base64 -d > $file
        date +%s.%N; python3 -IS {COPY} rules $file >/dev/null; date +%s.%N; rm $file
        """
        before, after = map(float, ssh(target, "unshare --net sh -e", script).split())
        loading = after - before
    edits = len(change.what) if change else 0
    return read - asked, compared - read + asked - begun, loading, edits


def main() -> None:
    """Print the table."""
    table = Table("gateway, change", "read", "compare", "load", "all three", "lines", "deploy")
    with tempfile.TemporaryDirectory() as folder:
        plans = {count: write(Path(folder) / str(count), count) for count in (0, HOSTS, HOSTS + 1)}
        target = current()

        def row(name: str, wanted: int, deployed: bool) -> None:
            times = steps(target, load(plans[wanted]))
            begun = time.monotonic()
            if deployed:
                argv = [sys.executable, "-m", "invoke", "deploy", "gateway", "--rollback-after", "300"]
                subprocess.run(
                    argv,
                    cwd=REPO,
                    env=os.environ | {"UNDERLAY_PLAN": str(plans[wanted])},
                    check=True,
                    stdout=2,
                    stderr=2,
                )
            took = f"{time.monotonic() - begun:.1f} s" if deployed else ""
            table.add_row(name, *(f"{each:.2f} s" for each in (*times[:3], sum(times[:3]))), str(times[3]), took)

        ssh(target, "true", "")
        try:
            row(f"of 2 hosts, {HOSTS:,} more", HOSTS, True)
            row(f"of {HOSTS:,} hosts, none", HOSTS, True)
            row(f"of {HOSTS:,} hosts, one more", HOSTS + 1, True)
        finally:
            row(f"of {HOSTS:,} hosts, all away", 0, True)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
