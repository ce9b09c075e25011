"""What `invoke verify` adds to pytest: it selects the roles' checks and keeps each one's result."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass

import pytest

from underlay.desired.traffic import Flow
from underlay.observe.evidence import Evidence
from underlay.plan import ROLES, Host

EVIDENCE: pytest.StashKey[Evidence] = pytest.StashKey()


@dataclass(frozen=True)
class Result:
    """One test's outcome.

    role: whose check it was
    check: what was checked, in plain words, with the host's name
    hosts: the hosts that it needs
    seconds: how long it took, waiting included
    problem: what is wrong, ready for a person; empty if nothing is
    skipped: why nothing was checked; empty if something was
    """

    role: str
    check: str
    hosts: frozenset[str]
    seconds: float
    problem: str
    skipped: str


def parameter(item: pytest.Item, name: str) -> object:
    """What a test was parametrized with, or None."""
    callspec = getattr(item, "callspec", None)
    return callspec.params.get(name) if callspec else None


def subject(item: pytest.Item) -> tuple[str, str, frozenset[str]] | None:
    """The role, the check and the hosts of a test; None for one that no host was found for."""
    if isinstance(flow := parameter(item, "flow"), Flow):
        return flow.role, f"traffic: {flow.row}", frozenset(flow.hosts)
    if isinstance(host := parameter(item, "planned"), Host):
        words = (getattr(item, "function", None).__doc__ or item.name).strip().splitlines()[0].rstrip(".")
        return host.role, f"{host.name}: {words[0].lower()}{words[1:]}", frozenset({host.name})
    return None


class Verification:
    """The pytest plugin of a run.

    results: in the order of the tests
    errors: what went wrong with the run itself, rather than with the site
    """

    def __init__(self, evidence: Evidence, roles: Iterable[str]) -> None:
        self.results: list[Result] = []
        self.errors: list[str] = []
        self._seconds = 0.0
        self._evidence = evidence
        self._roles = frozenset(roles)

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self, config: pytest.Config) -> None:
        """Before the checks' own conftest: it finds its target here."""
        config.stash[EVIDENCE] = self._evidence

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Keep the checks of the roles that were asked for, in the roles' order."""
        by_role = [(found[0], item) for item in items if (found := subject(item)) and found[0] in self._roles]
        items[:] = [item for _, item in sorted(by_role, key=lambda pair: ROLES.index(pair[0]))]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module of checks that can't be loaded is an error of the run."""
        if report.failed:
            self.errors.append(f"{report.nodeid}: {report.longreprtext}")

    def pytest_internalerror(self, excrepr: object) -> None:
        """So is one of pytest itself."""
        self.errors.append(str(excrepr))

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Keep the result of each test: of its call, or of what was needed for it if that failed."""
        report = yield
        self._seconds += report.duration
        found = subject(item)
        if found and (report.when == "call" or report.failed):
            problem = report.longreprtext if report.failed else ""
            skipped = str(report.longrepr[2]).removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
            self.results.append(Result(*found, seconds=self._seconds, problem=problem, skipped=skipped))
        if report.when == "teardown":
            self._seconds = 0.0
        return report
