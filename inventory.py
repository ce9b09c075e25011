"""pyinfra's inventory, derived from the plan: a group for each role."""

import sys

from targets import current
from underlay.access.target import announce
from underlay.errors import report_and_exit
from underlay.operations import connection
from underlay.operations.inventory import certain, check, check_choice, groups, run_no_data_files
from underlay.plan import roles as _roles

# Here too: pyinfra looks for config.py in the folder where it is started, for data files also beside this one.
run_no_data_files()
with report_and_exit():
    check(sys.argv)
    _target = current()
    _roles.check(_target.plan)
    _groups = groups(_target, sys.argv)
    check_choice(sys.argv, _groups)
    announce(_target)
    connection.install(_target, certain(_target, sys.argv))
    globals().update(_groups)
