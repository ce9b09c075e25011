"""`./inv image`."""

import sys
import time
from pathlib import Path

from invoke import Context, Exit, task

from underlay.commands import parameters
from underlay.errors import GOOD, WRONG, OperatorError, report_and_exit
from underlay.plan import load


@task(
    positional=["host"],
    help={
        "host": "a host of the plan",
        "format": "raw, for a disk of a real machine, or qcow2; default raw",
        "seed_only": "only the seed of cloud-init, as a disk for an image that you have",
        "output": "the file here; default: the host's name with .raw, .qcow2 or -seed.img",
        "suite": "Debian release: trixie or bookworm; default trixie",
        "dns": "addresses of its name servers, separated by commas",
        "include": "further Debian packages, separated by commas: firmware-bnx2x, for NICs that need it",
        "dry": "show what would be made, and make nothing",
    },
)
@report_and_exit()
def image(
    _: Context,
    host: str,
    format: str = "",
    seed_only: bool = False,
    output: str = "",
    suite: str = "",
    dns: str = "",
    include: str = "",
    dry: bool = False,
) -> None:
    """Make a disk that boots as a host of the plan, with its first address, your key, and a host key known beforehand.

    It is made for BIOS and UEFI; contacts no host. The file has the private host key: only its owner may read it.
    Exit code: 0 made; 1 not made. With --dry: 2 it would be made; 1 it could not be.
    """
    from underlay.image import build, make

    plan = load()
    one = parameters.host(plan, host)
    for option, given in (("--include", include), ("--format", format), ("--suite", suite)):
        if seed_only and given:
            raise OperatorError(f"{option} goes with a disk, and --seed-only makes none: leave one of the two out")
    kind = "seed" if seed_only else parameters.one_of("format", format or "raw", ["raw", "qcow2"])
    file = f"{one.name}-seed.img" if seed_only else f"{one.name}.{kind}"
    wanted = make.Wanted(
        one,
        kind,
        Path(output or file),
        parameters.one_of("suite", suite or build.SUITES[0], build.SUITES),
        tuple(make.package(each) for each in parameters.several(include)),
        tuple(str(parameters.address(each)) for each in parameters.several(dns)),
    )
    if dry:
        make.check(plan, wanted)
        print(*make.planned(plan, wanted), sep="\n")
        raise Exit(code=WRONG)
    begin = time.monotonic()

    def say(text: str) -> None:
        print(f"image {time.monotonic() - begin:5.1f}s  {text}", file=sys.stderr, flush=True)

    known = make.make(plan, wanted, say)
    print(
        f"{wanted.output}: made in {time.monotonic() - begin:.0f} s; it has the private host key: only you may read it"
    )
    print(f"{one.name} is {'now ' if known else ''}known by its host key in {make.known_hosts(plan)}")
    raise Exit(code=GOOD)
