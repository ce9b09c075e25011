"""The settings of sshd, in a file of their own."""

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import FunctionCommand, operation

from underlay.facts.files import FileContents
from underlay.guard.change import Change, File
from underlay.operations import file_diff, guarded, tell

PATH = "/etc/ssh/sshd_config.d/05-underlay.conf"
# The first value of a keyword counts: so the new file stands before the configuration in use.
CHECK = f'cat "$STAGE{PATH}" /etc/ssh/sshd_config > "$STAGE/whole"; sshd -t -f "$STAGE/whole"'


@operation()
def configured(content: str) -> Generator[FunctionCommand, None, None]:
    """
    Put the settings in place and let sshd take them.

    + content: the whole file

    One that sshd's own test refuses, together with the rest of its configuration, leaves the old one untouched.
    """
    present = host.get_fact(FileContents, paths=[PATH])
    if present is None:
        return
    if present.get(PATH) == content:
        host.noop("the settings of sshd are as planned")
        return
    what = file_diff(PATH, present.get(PATH), content)
    tell(what)
    yield guarded(Change(what=tuple(what), check=CHECK, files={PATH: File(content)}, activate="systemctl reload ssh"))
