"""What the checks of the site have in common: the hosts of their role, and what was found out about them."""

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from targets import current
from underlay.access.answers import UnreadableError
from underlay.access.sessions import UnreachableError
from underlay.desired.traffic import Flow
from underlay.observe.evidence import Evidence
from underlay.observe.state import HostState
from underlay.plan import Host, Plan
from underlay.verify import plugin
from underlay.verify.checks import WrongError


def pytest_configure(config: pytest.Config) -> None:
    """`invoke verify` has chosen the target already; `pytest tests/site` does it here."""
    if plugin.EVIDENCE not in config.stash:
        config.stash[plugin.EVIDENCE] = Evidence(current())


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each host of the module's role and, with `@each`, for each of its items; one for each flow."""
    evidence = metafunc.config.stash[plugin.EVIDENCE]
    if "flow" in metafunc.fixturenames:
        metafunc.parametrize("flow", evidence.flows, ids=str)
        return
    hosts = evidence.plan.hosts_of(metafunc.cls.role)
    items: Callable[[Plan, Host], Iterator[Any]] | None = getattr(metafunc.function, "items", None)
    if items is None:
        metafunc.parametrize("planned", hosts, ids=[host.name for host in hosts])
    else:
        pairs = [(host, item) for host in hosts for item in items(evidence.plan, host)]
        metafunc.parametrize(("planned", "item"), pairs, ids=[f"{host.name}: {item}" for host, item in pairs])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin to gather, for the checks that were selected, and only from the hosts that they need."""
    hosts: dict[str, Host] = {}
    flows: list[Flow] = []
    for item in session.items:
        match plugin.parameter(item, "planned"), plugin.parameter(item, "flow"):
            case Host() as host, _:
                hosts[host.name] = host
            case _, Flow() as flow:
                flows.append(flow)
    session.config.stash[plugin.EVIDENCE].gather(hosts.values(), flows)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """A check that fails speaks for itself: nobody on call reads a traceback of it."""
    with speaking_for_itself():
        return (yield)


@contextmanager
def speaking_for_itself() -> Iterator[None]:
    """Turn what is wrong with the site into a failure without a traceback."""
    try:
        yield
    except (WrongError, UnreachableError, UnreadableError) as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.fixture(scope="session")
def evidence(request: pytest.FixtureRequest) -> Evidence:
    """All that this run finds out."""
    return request.config.stash[plugin.EVIDENCE]


@pytest.fixture
def plan(evidence: Evidence) -> Plan:
    """The plan in force."""
    return evidence.plan


@pytest.fixture
def state(evidence: Evidence, planned: Host) -> HostState:
    """What the host under test said."""
    with speaking_for_itself():
        return evidence.state(planned.name)
