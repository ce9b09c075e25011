"""`./inv rotate-key`."""

from collections.abc import Sequence
from pathlib import Path

from invoke import Context, Exit, task

from underlay.access.target import announce, current
from underlay.commands import parameters
from underlay.errors import report_and_exit


@task(
    help={
        "new": "a private key, with its public one beside it (.pub); without it, one is made that has no passphrase",
        "without": "a host to leave out: one that is down stops it otherwise (may be given again)",
    },
    iterable=["without"],
)
@report_and_exit()
def rotate_key(_: Context, new: str = "", without: Sequence[str] = ()) -> None:
    """Change the key with which the operator logs in on all hosts; the old one goes when the new one has logged in.

    The new key takes the old one's place (operator.key of the plan), the old one gets the ending .old.
    Exit code: 0 done; 2 done, but it says which hosts still take the old key; 1 nothing was changed.
    """
    from underlay.oncall import rotate

    target = current()
    for name in without:
        parameters.host(target.plan, name)
    announce(target)
    raise Exit(code=rotate.rotate(target, Path(new).expanduser() if new else None, without))
