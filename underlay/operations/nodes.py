"""Make a host a node of the cluster: what kubeadm needs of it, and no cluster yet."""

import shlex
from collections.abc import Generator, Iterable, Iterator

from pyinfra import host
from pyinfra.api import StringCommand, operation

from underlay.compare import files
from underlay.compare.difference import Difference, File
from underlay.nodes import difference
from underlay.nodes.difference import Step
from underlay.nodes.state import Node
from underlay.nodes.wanted import Preparation
from underlay.operations import tell, write_file


@operation()
def prepared(wanted: Preparation) -> Generator[StringCommand, None, None]:
    """
    Modules, sysctls, swap, clock, names, containerd, kubeadm, kubelet and kubectl, now and at boot.

    + wanted: what `nodes.wanted.preparation` made of the plan

    What is of others stays: their lines in /etc/hosts, /etc/fstab (those about swap become comments) and containerd's
    configuration (what is replaced becomes a comment). A step that fails ends it: what is done is done, and the next
    deploy goes on from there. No container is ended.
    """
    state = host.get_fact(Node)
    if state is None:
        return
    steps = list(difference.steps(wanted, state))
    if not steps:
        host.noop("the node is prepared")
        return
    tell(line for step in steps for each in step.differences for line in _lines(each))
    yield StringCommand(script(steps))


def _lines(difference: Difference) -> list[str]:
    return files.lines(difference) if isinstance(difference.thing, File) else [f"{difference.word}: {difference.what}"]


def script(steps: Iterable[Step]) -> str:
    """The shell commands of these steps; the first one that fails ends them."""
    return "set -e\n" + "".join(line for step in steps for line in _commands(step))


def _commands(step: Step) -> Iterator[str]:
    for path, content in step.files.items():
        new = f"{path}.candidate" if step.check else path
        yield write_file(new, content)
        if step.check:
            yield f'NEW={shlex.quote(new)}\n{step.check} || {{ rm -f "$NEW"; exit 1; }}\nmv -f "$NEW" {path}\n'
    if step.commands:
        yield f"{step.commands}\n"
