"""What the end-to-end tests stand on: the site of the repo's own plan, in a lab of their own.

The session's lab has fresh disks at the start and is taken down at the end, however the session ends. UNDERLAY_SUITE
chooses its Debian release, UNDERLAY_HOSTS what brings the NICs of its hosts up.
"""

import os
import re
import shutil
import signal
import zlib
from collections.abc import Callable, Iterator

import pytest

from lab import control, flavour, machine
from lab.process import LabError, run
from lab.state import LabState
from tests.lab.commands import PLANNED, Runner, pyinfra
from underlay import plan as plans
from underlay.plan import REPO, Plan

# What runs in the background may have been told to ignore Ctrl-C; what the tests start must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

SUITE = os.environ.get("UNDERLAY_SUITE")
HOSTS = os.environ.get("UNDERLAY_HOSTS")

Snapshot = dict[str, str]
ASPECTS = [
    *("ip -details link", "ip address", "ip route show table all", "ip rule", "sysctl --all --pattern ^net\\."),
    *("iptables-save", "nft list ruleset"),
]
# Counters and clocks that move by themselves.
VOLATILE = re.compile(
    r"^#.*|\[\d+:\d+\]|valid_lft \S+ preferred_lft \S+|expires \S+|\w+_timer +\S+"
    r"|^net\.netfilter\.nf_conntrack_count.*"
    # A large lab beside this one raises the size of the one table of neighbours.
    r"|^net\.ipv4\.neigh\.default\.gc_thresh.*",
    re.MULTILINE,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--part 1/2`: the first half of the tests, for two labs at the same time."""
    parser.addoption("--part", default="1/1", help="N/M: of the tests, those whose names fall into part N of M")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run first what needs the lab as it was installed, and last what takes it down."""
    part, parts = map(int, config.getoption("part").split("/"))
    items[:] = [item for item in items if zlib.crc32(item.nodeid.encode()) % parts == part - 1]
    if HOSTS and HOSTS != flavour.DEFAULT:
        kept = [item for item in items if not item.get_closest_marker("networkd")]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
    place = {"test_lab.py": -2, "test_adopt.py": -1, "test_lab_lifecycle.py": 1}
    items.sort(key=lambda item: place.get(item.path.name, 0))


@pytest.fixture(scope="session")
def plan() -> Plan:
    return plans.load(REPO / "group_data" / "all.py")


@pytest.fixture(scope="session")
def snapshot() -> Callable[[], Snapshot]:
    """Takes the machine's own network as text: nothing of it may differ while a lab is up, or after it."""
    commands = [aspect.split() for aspect in ASPECTS if shutil.which(aspect.split()[0])]
    return lambda: {" ".join(argv): VOLATILE.sub("", run(argv)) for argv in commands}


@pytest.fixture(scope="session")
def machine_before(snapshot: Callable[[], Snapshot]) -> Snapshot:
    """The machine's network before the session's lab; skips where the lab can't run."""
    try:
        machine.check()
    except LabError as error:
        if os.environ.get("CI"):
            pytest.fail(f"CI must not do without the lab: {error}")
        pytest.skip(str(error))
    control.down()
    return snapshot()


@pytest.fixture(scope="session")
def lab(plan: Plan, machine_before: Snapshot) -> Iterator[LabState]:
    try:
        yield control.up(plan, SUITE, hosts=HOSTS)
    finally:
        control.down()


@pytest.fixture(scope="session")
def deployed(lab: LabState) -> LabState:
    """The lab with every role deployed, in the order in which each opens the way to the next."""
    for role in PLANNED:
        pyinfra(f"deploys/{role}.py", "-y")
    return lab


@pytest.fixture(scope="module")
def runner(deployed: LabState) -> Iterator[Runner]:
    """A runner for the deployed site."""
    process = Runner()
    yield process
    process.close()


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Lines for the results of a module's tests, printed at its end under the heading that it has as TABLE."""
    lines: list[str] = []
    yield lines
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n\n{request.module.TABLE}", *sorted(lines), sep="\n")
