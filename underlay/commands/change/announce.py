"""`./inv announce`."""

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.errors import report_and_exit


@task(name="announce")
@report_and_exit()
def announce_addresses(_: Context) -> None:
    """Tell the neighbours that the gateway has its addresses now (gratuitous ARP): after its machine was replaced.

    Exit code: 0 done; 1 the gateway can't be reached.
    """
    from underlay.oncall import publish as publishing

    target = current()
    announce(target)
    raise Exit(code=publishing.announce_all(target))
