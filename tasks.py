"""The commands of this repo: `./inv --list` shows them, `./inv --help TASK` explains one."""

import sys

from invoke import Collection
from invoke.main import program

import targets  # noqa: F401 (the commands find the lab by it)
from underlay.commands.change import announce, change, publish, rotate_key
from underlay.commands.cluster import add, kubeadm, preflight
from underlay.commands.keep import backup, bundle, image, report
from underlay.commands.oncall import capture, doctor, flows, ssh, status, trace
from underlay.commands.positionals import strict_arguments
from underlay.commands.site import adopt, deploy, drift, history, plan, rollback, topology, verify
from underlay.errors import ready
from underlay.plan import REPO

ready()
strict_arguments()
namespace = Collection()
for module in (
    *(plan, topology, adopt, deploy, verify, drift, history, rollback),
    *(doctor, status, trace, flows, capture, ssh),
    *(backup, bundle, report, image),
    *(add, kubeadm, preflight),
    *(change, publish, announce, rotate_key),
):
    for each in Collection.from_module(module).tasks.values():
        namespace.add_task(each)
# The deploy machine's copy of the repo has neither.
if (REPO / "lab").is_dir():
    from lab import tasks as lab

    namespace.add_collection(lab.namespace)
    namespace.add_task(lab.demo)
if (REPO / "tests/tasks.py").is_file():
    from tests import tasks as tests

    namespace.add_task(tests.test)

if __name__ == "__main__":
    program.run([sys.argv[0], "--search-root", str(REPO), *sys.argv[1:]])
