"""`./inv preflight`."""

from invoke import Context, Exit, task

from underlay.access.target import current
from underlay.commands import parameters
from underlay.errors import report_and_exit


@task(
    positional=["host"],
    optional=["host"],
    help={
        "host": "a master or worker of the plan; without it, all of them",
        "json": "as JSON: a list of host, check, state (good, wrong, note, not read) and what was found",
    },
)
@report_and_exit()
def preflight(_: Context, host: str | None = None, json: bool = False) -> None:
    """Say what is missing before kubeadm runs: on each node, between them, on the way to the API.

    Changes nothing; on masters one file without a name, of a megabyte, is written for two seconds to time the disk of
    etcd. Exit code: 0 nothing is missing; 2 something is; 1 nothing was found, but a node could not be read.
    """
    from underlay.verify import preflight as command

    target = current()
    parameters.nodes(target.plan)  # or there is no cluster
    only = parameters.node(target.plan, host) if host else None
    raise Exit(code=command.run(target, only, json))
