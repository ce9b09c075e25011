"""pyinfra's inventory, derived from the plan: a group for each role."""

import sys

from underlay.errors import report_and_exit
from underlay.inventory import groups
from underlay.plan import load
from underlay.target import announce, enter

with report_and_exit():
    _target = enter(load())
    announce(_target)
    globals().update(groups(_target, sys.argv))
