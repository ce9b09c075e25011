"""The settings of sshd, in a file of their own."""

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FunctionCommand, operation

from underlay.compare import files
from underlay.desired.files import SSHD
from underlay.facts.files import FileContents
from underlay.guard.change import Change, NewFile
from underlay.operations import guarded, tell

# The first value of a keyword counts: so the new file stands before the configuration in use.
CHECK = f'cat "$STAGE{SSHD}" /etc/ssh/sshd_config > "$STAGE/whole"; sshd -t -f "$STAGE/whole"'


@operation()
def configured(content: str) -> Generator[FunctionCommand, None, None]:
    """
    Put the settings in place and let sshd take them.

    + content: the whole file

    One that sshd's own test refuses, together with the rest of its configuration, leaves the old one untouched.
    """
    present = host.get_fact(FileContents, paths=[SSHD])
    if present is None:
        return
    difference = files.file_difference(SSHD, content, present)
    if difference is None:
        host.noop("the settings of sshd are as planned")
        return
    what = files.lines(difference)
    tell(what)
    yield guarded(
        Change(what=tuple(what), check=CHECK, files={SSHD: NewFile(content)}, activate="systemctl reload ssh")
    )
