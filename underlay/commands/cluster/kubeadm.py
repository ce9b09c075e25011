"""`./inv kubeadm`."""

import sys
from json import dumps
from pathlib import Path

from invoke import Context, task

from underlay.commands import parameters
from underlay.errors import report_and_exit
from underlay.plan import load
from underlay.text import raw


@task(
    positional=["host"],
    help={
        "host": "a master or worker of the plan",
        "secrets": "a file with token, ca_hash and certificate_key, as NAME = VALUE; without it the places for them",
        "json": "as JSON: the documents in a list",
    },
)
@report_and_exit()
def kubeadm(_: Context, host: str, secrets: str = "", json: bool = False) -> None:
    """Print the configuration that kubeadm gets on a node, with what to run; contacts no host.

    Exit code: 0 printed; 1 the plan has no cluster, or no such node.
    """
    from underlay.nodes import kubeadm_file
    from underlay.nodes.kubeadm import Secrets, documents

    plan = load()
    node = parameters.node(plan, host)
    known = kubeadm_file.secrets(Path(secrets)) if secrets else Secrets()
    if json:
        print(dumps(documents(plan, node, known), indent=2))
    else:
        print(kubeadm_file.text(plan, node, known), end="", file=raw(sys.stdout))
