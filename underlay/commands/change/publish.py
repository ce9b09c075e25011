"""`./inv publish`, and its end: `./inv unpublish`."""

from invoke import Context, Exit, task

from underlay.access.target import current
from underlay.commands import parameters
from underlay.errors import report_and_exit
from underlay.guard import change


@task(
    positional=["host"],
    help={
        "host": "a host of the plan",
        "address": "its address in the enterprise network; without it, a free one is proposed",
        "ports": "what of it the enterprise network may ask, like tcp/80,tcp/443 (all; needs planned forwarding)",
        "dry": "show what the deploy would change, and change nothing",
    },
)
@report_and_exit()
def publish(_: Context, host: str, address: str = "", ports: str = "", dry: bool = False) -> None:
    """Publish a host: shows the line of the plan that it takes; with the line there: deploys, announces, verifies.

    The plan is never edited: `./inv publish web | git apply` does that. What fails its verification is rolled back.
    Exit code: 0 published, and verified from outside and inside; 2 the plan has no such line yet, or the verification
    found something wrong; 1 refused, failed, or a host can't be reached. With --dry: as `./inv deploy --dry`.
    """
    from underlay.oncall import publish as publishing

    asked = parameters.address(address) if address else None
    wanted = parameters.ports(ports)
    change.check_variables()
    target = current()
    raise Exit(code=publishing.publish(target, parameters.host(target.plan, host), asked, wanted, dry))


@task(
    positional=["host"],
    help={
        "host": "a host of the plan",
        "address": "an address to look for on the gateway, if a deploy has taken it away already",
        "dry": "show what the deploy would change, and change nothing",
    },
)
@report_and_exit()
def unpublish(_: Context, host: str, address: str = "", dry: bool = False) -> None:
    """End the publication of a host: shows what to delete in the plan; with that deleted: deploys and verifies.

    Exit code: 0 the address is silent and nothing of it is left; 2 the plan still publishes the host, or something of
    it is left; 1 refused, failed, or the gateway can't be reached. With --dry: as `./inv deploy --dry`.
    """
    from underlay.oncall import publish as publishing

    asked = parameters.address(address) if address else None
    change.check_variables()
    target = current()
    raise Exit(code=publishing.unpublish(target, parameters.host(target.plan, host), asked, dry))
