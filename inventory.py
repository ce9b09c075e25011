"""pyinfra's inventory, derived from the plan: a group for each role."""

import sys

from underlay.errors import report_and_exit
from underlay.inventory import groups
from underlay.target import announce, current

with report_and_exit():
    _target = current()
    announce(_target)
    globals().update(groups(_target, sys.argv))
