"""The commands of this repo: `./inv --list` shows them, `./inv --help TASK` explains one."""

import sys

from invoke import Collection

from lab import tasks as lab
from underlay import tasks as site
from underlay.command_line import mend_positionals
from underlay.oncall import tasks as oncall

# Progress of the parts belongs before what follows it, also into a pipe.
sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]

mend_positionals()
namespace = Collection.from_module(site)
for each in Collection.from_module(oncall).tasks.values():
    namespace.add_task(each)
namespace.add_collection(lab.namespace)
