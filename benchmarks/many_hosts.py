"""How long commands take, beside what they can't do without: one login on each host.

Needs a site with many masters, deployed; changes nothing. In the lab, with a plan of a hundred masters:

    UNDERLAY_PLAN=FILE .venv/bin/python -m benchmarks.many_hosts [ROUNDS]

`ssh` is one plain `ssh HOST true` for each master, 8 at a time, with a connection of its own through the jump host;
the others are `invoke deploy master`, which changes nothing, `invoke adopt` of all masters, and what judges the site,
with no connection left from before. Each is the best of some rounds, in turn.
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
from underlay.errors import GOOD, WRONG
from underlay.plan import REPO

AT_ONCE = 8
COMMANDS = ("deploy master", "doctor", "verify", "status", "drift")


def plain(target: Target) -> None:
    """Log in on each master."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        fresh = configured(target, Path(folder), {"*": {"ControlPath": "none"}})
        argv = ["ssh", "-n", "-F", str(fresh.ssh_config)]
        calls = [[*argv, host.name, "true"] for host in target.plan.hosts_of("master")]
        list(pool.map(lambda call: subprocess.run(call, check=True), calls))


def invoke(words: str) -> Callable[[Target], None]:
    """A command of this repo, which must find nothing that it can't look at."""

    def run(_: Target) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "invoke", *words.split()], cwd=REPO, capture_output=True, check=False
        )
        if done.returncode not in (GOOD, WRONG):
            raise SystemExit(f"{words}: {done.stdout.decode()}{done.stderr.decode()}")

    return run


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
    works = {"ssh": plain} | {words: invoke(words) for words in COMMANDS}
    masters = (str(host.primary.address) for host in target.plan.hosts_of("master"))
    works["adopt"] = invoke(f"adopt {' '.join(masters)}")
    found = [[seconds(work, target) for work in works.values()] for _ in range(rounds)]
    for name, times in zip(works, zip(*found, strict=True), strict=True):
        print(f"{name:14} {min(times):5.1f} s   all: {' '.join(f'{each:.1f}' for each in times)}")


if __name__ == "__main__":
    main()
