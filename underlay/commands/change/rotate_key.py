"""`./inv rotate-key`."""

import os
from collections.abc import Sequence
from pathlib import Path

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.commands import parameters
from underlay.errors import OperatorError, report_and_exit


@task(
    help={
        "new": "a private key, with its public one beside it (.pub); without it, one is made that has no passphrase",
        "deploy_machine": "the key with which the jump host logs in on the others, in place of the operator's",
        "without": "a host to leave out: one that is down stops it otherwise (may be given again)",
    },
    iterable=["without"],
)
@report_and_exit()
def rotate_key(_: Context, new: str = "", without: Sequence[str] | None = None, deploy_machine: bool = False) -> None:
    """Change the key with which the operator logs in on all hosts; the old one goes when the new one has logged in.

    The new key takes the old one's place (operator.key of the plan), the old one gets the ending .old. With
    --deploy-machine it is the jump host's own key, which is made there; the old one is deleted.
    Exit code: 0 done; 2 done, but it says which hosts still take the old key; 1 nothing was changed.
    """
    from underlay.oncall import machine_key, rotate

    if new and deploy_machine:
        raise OperatorError("the deploy machine makes its key itself: --new does not go with --deploy-machine")
    target = current()
    left_out = without or ()
    for name in left_out:
        parameters.host(target.plan, name)
    announce(target)
    if deploy_machine:
        raise Exit(code=machine_key.rotate(target, left_out))
    raise Exit(code=rotate.rotate(target, Path(os.path.expanduser(new)) if new else None, left_out))
