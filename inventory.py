"""pyinfra's inventory, derived from the plan: a group for each role."""

import sys

from targets import current
from underlay.access.target import announce
from underlay.errors import report_and_exit
from underlay.operations import connection
from underlay.operations.inventory import certain, groups
from underlay.plan import roles

with report_and_exit():
    _target = current()
    roles.check(_target.plan)
    announce(_target)
    connection.install(_target, certain(_target, sys.argv))
    globals().update(groups(_target, sys.argv))
