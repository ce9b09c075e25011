"""How long a deploy takes that changes nothing, beside what it can't do without: one login on each host.

Needs a site with many masters, deployed; changes nothing. In the lab, with a plan of a hundred masters:

    UNDERLAY_PLAN=FILE .venv/bin/python -m benchmarks.many_hosts [ROUNDS]

`ssh` is one plain `ssh HOST true` for each master, 8 at a time, with a connection of its own through the jump host;
`deploy` is `invoke deploy master`, with no connection left from before. Each is the best of some rounds, in turn.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from targets import current
from underlay.access.target import Target, configured
from underlay.plan import REPO

AT_ONCE = 8


def plain(target: Target) -> None:
    """Log in on each master."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        fresh = configured(target, Path(folder), {"*": {"ControlPath": "none"}})
        argv = ["ssh", "-n", "-F", str(fresh.ssh_config)]
        calls = [[*argv, host.name, "true"] for host in target.plan.hosts_of("master")]
        list(pool.map(lambda call: subprocess.run(call, check=True), calls))


def deploy(_: Target) -> None:
    """Deploy the masters."""
    argv = [sys.executable, "-m", "invoke", "deploy", "master"]
    subprocess.run(argv, cwd=REPO, check=True, capture_output=True)


def leave(target: Target) -> None:
    """End the connections that are open."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        argv = ["ssh", "-F", str(target.ssh_config), "-O", "exit"]
        list(
            pool.map(
                lambda each: subprocess.run([*argv, each.name], check=False, capture_output=True), target.endpoints
            )
        )


def seconds(work: Callable[[Target], None], target: Target) -> float:
    """How long it takes."""
    leave(target)
    begun = time.monotonic()
    work(target)
    return time.monotonic() - begun


def main() -> None:
    """Measure and print."""
    target = current()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    found = [(seconds(plain, target), seconds(deploy, target)) for _ in range(rounds)]
    for name, times in zip(("ssh", "deploy"), zip(*found, strict=True), strict=True):
        print(f"{name:8} {min(times):5.1f} s   all: {' '.join(f'{each:.1f}' for each in times)}")


if __name__ == "__main__":
    main()
