"""The targets that this copy of the repo has: the real hosts, and the lab where its folder is there.

The deploy machine's copy has no lab. Who needs the target of this process imports `current` from here.
"""

from underlay.access.target import ENTER, current
from underlay.plan import REPO

if (REPO / "lab").is_dir():
    from lab.target import enter

    ENTER["lab"] = enter

__all__ = ["current"]
