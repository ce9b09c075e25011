"""A configuration file that is checked before it replaces the one in use."""

from collections.abc import Generator

from pyinfra import host
from pyinfra.api import StringCommand, operation

from underlay.compare import files
from underlay.facts.files import FileContents
from underlay.operations import tell, write_file


@operation()
def installed(
    path: str, content: str, check: str = "", activate: str = "", mode: str = "644"
) -> Generator[StringCommand, None, None]:
    """
    Put a file in place, if it differs and its check passes, and activate it.

    + path: where it belongs
    + content: what it must be
    + check: a shell command that fails for a bad file; `$NEW` is the new file, in the folder of the old one
    + activate: what makes a running service take it
    + mode: its permissions

    A file that does not pass leaves the old one untouched, and the operation fails with what the check said.
    """
    present = host.get_fact(FileContents, paths=[path])
    if present is None:
        return
    difference = files.file_difference(path, content, present)
    if difference is None:
        host.noop(f"{path} is as planned")
        return
    tell(files.lines(difference))
    candidate = f"{path}.candidate"
    yield StringCommand(
        f"set -e\nNEW={candidate}\ntrap 'rm -f \"$NEW\"' EXIT\n"
        + write_file(candidate, content, mode)
        + f'{check}\nmv -f "$NEW" {path}\n{activate}\n'
    )
