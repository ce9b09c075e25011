"""What CI runs, the quick parts first: `invoke test`."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass

from underlay.plan import REPO

LAB = "tests/lab"


@dataclass(frozen=True)
class Stage:
    """A part of the tests: its name, the module to run with its arguments, and the lab's Debian, if it needs one."""

    name: str
    command: tuple[str, ...]
    suite: str = ""


ON_EVERY_RELEASE = "second_run or notes or boot or cni or jump_host or nginx or all_good or deploy_machine"
"""What depends on the release: what is installed, made live, made to last, and what the packets then do."""

STAGES = (
    Stage("lint", ("ruff", "check", ".")),
    Stage("format", ("ruff", "format", "--check", ".")),
    Stage("types", ("mypy",)),
    Stage("unit and golden", ("pytest", "-q", "-n", "2", "tests/unit", "tests/golden")),
    Stage("lab, Debian 13", ("pytest", "-v", "--durations=5", LAB), "trixie"),
    Stage(
        "lab, Debian 12",
        ("pytest", "-v", "-k", ON_EVERY_RELEASE, f"{LAB}/test_deploys.py", f"{LAB}/test_verify.py"),
        "bookworm",
    ),
)


def run(long: bool) -> int:
    """Run the stages up to the first that fails; 0 if all passed, else 1. Prints what each took.

    long: also the tests that are marked so, which CI has no time for
    """
    begin = time.monotonic()
    for stage in STAGES:
        print(f"\n### {stage.name}: {' '.join(stage.command)}", flush=True)
        start = time.monotonic()
        environment = os.environ | ({"UNDERLAY_SUITE": stage.suite} if stage.suite else {})
        selected = ("-m", "not long") if stage.suite and not long else ()
        done = subprocess.run([sys.executable, "-m", *stage.command, *selected], cwd=REPO, env=environment, check=False)
        print(f"### {stage.name}: {time.monotonic() - start:.0f} s", flush=True)
        if done.returncode != 0:
            print(f"error: {stage.name} failed (exit code {done.returncode})", file=sys.stderr)
            return 1
    print(f"\nall passed in {time.monotonic() - begin:.0f} s")
    return 0
