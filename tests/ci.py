"""What CI runs, the quick parts first: `invoke test`."""

import os
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass

from lab import image, machine
from lab.flavour import DEFAULT, FLAVOURS
from lab.process import LabError, Progress
from lab.state import SUITES
from underlay.errors import COULD_NOT, GOOD
from underlay.plan import REPO


@dataclass(frozen=True)
class Stage:
    """A part of the tests: its name, the module to run with its arguments; its lab's Debian and hosts.

    alone: nothing else runs meanwhile, if the long tests of it run, too
    """

    name: str
    command: tuple[str, ...]
    suite: str = ""
    hosts: str = ""
    alone: bool = False


QUICK = (
    Stage("lint", ("ruff", "check", ".")),
    Stage("format", ("ruff", "format", "--check", ".")),
    Stage("types", ("mypy",)),
    Stage("unit and golden", ("pytest", "-q", "-n", "2", "tests/unit", "tests/golden")),
)

ON_EVERY_RELEASE = "second_run or notes or boot or cni or jump_host or nginx or all_good or deploy_machine"
"""What depends on the release: what is installed, made live, made to last, and what the packets then do."""
ON_EVERY_KIND = "managers or second_run or boot or lockout"
"""What depends on what brings the NICs up, each kind alone: taken over, changed, undone, booted."""
AT_ONCE = 2
"""Labs at the same time, on two cores: with three of them hosts answer too late now and then."""


def _in_lab(name: str, suite: str, modules: str, *options: str, hosts: str = "", alone: bool = False) -> Stage:
    paths = (f"tests/lab/test_{module}.py" for module in modules.split())
    argv = ("pytest", "-v", "--durations=5", "-p", "no:cacheprovider", *options, *paths)
    return Stage(name, argv, suite, hosts, alone)


IN_LABS = (
    _in_lab("Debian 13, changes", "trixie", "lab lab_errors adopt deploys guard_agent"),
    _in_lab("hosts of all kinds, proof", "trixie", "mutations verify guard", hosts="mixed"),
    _in_lab(
        "Debian 13, on call", "trixie", "trace status flows capture bundle backup report publish rotate access runbooks"
    ),
    _in_lab("Debian 13, among others", "trixie", "firewall forward additive neighbours oddities"),
    _in_lab("Debian 12", "bookworm", "deploys verify", "-k", ON_EVERY_RELEASE),
    _in_lab("many hosts, the lab itself", "trixie", "many lab_lifecycle", alone=True),
)
LONG = (
    Stage("any plan, any command line", ("pytest", "-q", "tests/unit/test_fuzz.py", "--hypothesis-profile=long")),
    Stage("packets that end, in kernels", ("pytest", "-q", "tests/kernel")),
    _in_lab("Debian 13, the operator's end", "trixie", "guard_ends sick"),
    _in_lab("Debian 13, faults 1/2", "trixie", "faults pairs", "--part", "1/2"),
    _in_lab("hosts of all kinds, faults 2/2", "trixie", "faults pairs", "--part", "2/2", hosts="mixed"),
    _in_lab("files for networkd", "trixie", "mutations faults", "-m", "networkd"),
    _in_lab("Debian 13, ways in", "trixie", "ways"),
    _in_lab("a minimal Debian", "trixie", "minimal_root"),
    _in_lab("a host from nothing", "trixie", "image", alone=True),
    _in_lab("a host from nothing, Debian 12", "bookworm", "image", alone=True),
    _in_lab("Debian 12, among others", "bookworm", "firewall additive"),
    _in_lab("hosts of all kinds, changes", "trixie", "managers deploys guard_agent", hosts="mixed"),
    _in_lab("Debian 12, hosts of all kinds", "bookworm", "managers deploys", hosts="mixed"),
    *(
        _in_lab(f"Debian 13, {kind}", "trixie", "managers deploys guard_agent", "-k", ON_EVERY_KIND, hosts=kind)
        for kind in FLAVOURS
        if kind != DEFAULT
    ),
)
"""What CI has no time for."""


def run(quick: bool, long: bool) -> int:
    """Run the stages up to the first that fails; the exit code. Prints what each took.

    quick: only those that need no lab
    long: also the tests that CI has no time for: `LONG`, and those that are marked so
    """
    begin = time.monotonic()
    with nullcontext() if quick else _images_meanwhile():
        passed = all(_run(stage) for stage in QUICK)
    if passed and not quick:
        passed = _run_in_labs((*IN_LABS, *LONG), ()) if long else _run_in_labs(IN_LABS, ("-m", "not long"))
    if passed:
        print(f"\nall passed in {time.monotonic() - begin:.0f} s")
    return GOOD if passed else COULD_NOT


@contextmanager
def _images_meanwhile() -> Iterator[None]:
    """Build the labs' images beside the quick parts, if there are none: that is mostly waiting for downloads."""

    def build() -> None:
        with suppress(LabError):  # the tests in labs will tell
            machine.check()
            for suite in SUITES:
                image.ensure(suite, Progress())

    with ThreadPoolExecutor(1) as pool:
        pool.submit(build)
        try:
            yield
        except BaseException:
            with suppress(LabError):
                machine.kill_cgroup(".build")
            raise


def _run_in_labs(stages: Sequence[Stage], selected: Sequence[str]) -> bool:
    """Each in a lab of its own, so that nobody's own lab is touched; all of them, also after one has failed."""
    ours = zlib.crc32(str(REPO).encode()) % 16**6  # two checkouts can be tested at the same time
    labs = {stage: f"{ours:06x}{number}" for number, stage in enumerate(stages)}
    alone = [stage for stage in stages if stage.alone and not selected]
    together = [stage for stage in stages if stage not in alone]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        passed = list(pool.map(lambda stage: _run(stage, selected, labs[stage]), together))
    passed += [_run(stage, selected, labs[stage]) for stage in alone]
    if failed := [stage.name for stage, good in zip((*together, *alone), passed, strict=True) if not good]:
        print(f"error: failed: {'; '.join(failed)}", file=sys.stderr)
    return not failed


def _run(stage: Stage, selected: Sequence[str] = (), lab: str = "") -> bool:
    argv = [sys.executable, "-m", *stage.command, *selected]
    print(f"\n### {stage.name}: {' '.join(argv[2:])}", flush=True)
    start = time.monotonic()
    wanted = {"UNDERLAY_SUITE": stage.suite, "UNDERLAY_LAB": lab, "UNDERLAY_HOSTS": stage.hosts}
    environment = os.environ | {name: value for name, value in wanted.items() if value}
    with subprocess.Popen(
        argv, cwd=REPO, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            # Whose line it is: several stages speak at the same time.
            print(f"{stage.name} | {line}" if lab else line, end="", flush=True)
    print(f"### {stage.name}: {time.monotonic() - start:.0f} s", flush=True)
    if process.returncode != 0:
        print(f"error: {stage.name} failed (exit code {process.returncode})", file=sys.stderr)
    return process.returncode == 0
