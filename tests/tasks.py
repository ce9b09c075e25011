"""The task that runs the tests."""

from invoke import Context, Exit, task

from underlay import programs
from underlay.errors import report_and_exit


@task(
    help={
        "quick": "only what needs no lab: lint, types, unit and golden tests",
        "long": "also the long tests: open connections, a thousand published hosts, …",
    }
)
def test(_: Context, quick: bool = False, long: bool = False) -> None:  # noqa: PT028 (a task of invoke)
    """Run everything that CI runs: lint, types, unit and golden tests, the lab on Debian 13 and 12, mutations."""
    from lab import machine
    from tests import ci

    with report_and_exit():
        # qemu is large, and only the long tests start it.
        images = {**programs.VM, **programs.UEFI} if long else programs.IMAGE
        machine.install(programs.COMMANDS | programs.LAB | images | programs.TESTS)
    raise Exit(code=ci.run(quick, long))
