"""How long `invoke adopt` takes for many hosts, beside what it can't do without: one login on each.

Needs a site with many masters that its jump host leads to; changes nothing. In the lab, with a plan of twenty masters:

    UNDERLAY_PLAN=FILE .venv/bin/python -m benchmarks.adopt_hosts [ROUNDS]

`ssh` is one plain `ssh HOST true` for each master, 8 at a time; `start` is `invoke plan`, which contacts nobody. Each is
the best of some rounds, in turn, with no connection left from before.
"""

import sys

from benchmarks.many_hosts import invoke, plain, seconds
from targets import current


def main() -> None:
    """Measure and print."""
    target = current()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    addresses = " ".join(str(host.primary.address) for host in target.plan.hosts_of("master"))
    works = {
        "start": invoke("plan"),
        "ssh": plain,
        "adopt": invoke(f"adopt {addresses}"),
        "adopt --check": invoke(f"adopt --check {addresses}"),
    }
    found = [[seconds(work, target) for work in works.values()] for _ in range(rounds)]
    for name, times in zip(works, zip(*found, strict=True), strict=True):
        print(f"{name:14} {min(times):5.1f} s   all: {' '.join(f'{each:.1f}' for each in times)}")


if __name__ == "__main__":
    main()
