"""The task that runs the tests."""

from invoke import Context, Exit, task

from underlay.errors import report_and_exit


@task(help={"long": "also the long tests: open connections, a thousand published hosts, …"})
def test(_: Context, long: bool = False) -> None:  # noqa: PT028 (a task of invoke)
    """Run everything that CI runs: lint, types, unit and golden tests, the lab on Debian 13 and 12, mutations."""
    from lab import machine
    from tests import ci

    with report_and_exit():
        machine.install_requirements(machine.REQUIRED | machine.FOR_TESTS)
    raise Exit(code=ci.run(long))
