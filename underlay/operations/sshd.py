"""The settings of sshd, in a file of their own."""

from collections.abc import Generator, Mapping, Sequence

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, Host, State, operation

from underlay.compare import files, sshd
from underlay.desired import units
from underlay.desired.files import SSHD
from underlay.facts.sshd import SshdConfiguration
from underlay.guard.change import Change, NewFile
from underlay.operations import guarded, tell
from underlay.plan import Login

# The first value of a keyword counts: so the new file stands before the configuration in use.
CHECK = f'cat "$STAGE{SSHD}" /etc/ssh/sshd_config > "$STAGE/whole"; sshd -t -f "$STAGE/whole"'


@operation()
def configured(settings: Mapping[str, str], content: str, login: Login) -> Generator[FunctionCommand, None, None]:
    """
    Put the settings in place, let sshd take them, and fail where other lines of its configuration win over them.

    + settings: keyword → value
    + content: the whole file that has them
    + login: how the operator logs in here

    One that sshd's own test refuses, together with the rest of its configuration, leaves the old one untouched. So does
    a host that asks for a password beside a key: whoever it asks could not log in any more.
    """
    found = host.get_fact(SshdConfiguration, port=login.port)
    if found is None:
        return
    difference = files.file_difference(SSHD, content, found.files)
    if difference is None:
        if lines := sshd.advice(sshd.differences(settings, login.user, found)):
            tell(lines)
            yield FunctionCommand(_refuse, ("sshd is not as planned", lines), {})
        else:
            host.noop("the settings of sshd are as planned")
        return
    what = files.lines(difference)
    tell([*what, *filter(None, [sshd.passwords_end(found)])])
    if lines := sshd.locked_out(found):
        advice = [f"{line}, and only keys are planned: change that there, and deploy again" for line in lines]
        tell(advice)
        yield FunctionCommand(_refuse, ("not changed", advice), {})
        return
    yield guarded(Change(what=tuple(what), check=CHECK, files={SSHD: NewFile(content)}, activate=units.RELOAD_SSH))
    yield FunctionCommand(_in_force, (settings, login), {})


def _in_force(state: State, host: Host, settings: Mapping[str, str], login: Login) -> bool:
    found = host.get_fact(SshdConfiguration, port=login.port)
    lines = sshd.advice(sshd.differences(settings, login.user, found)) if found else ["it can't be asked any more"]
    return not lines or _refuse(state, host, "sshd is not as planned", lines)


def _refuse(state: State, host: Host, title: str, lines: Sequence[str]) -> bool:  # noqa: ARG001 (pyinfra looks for the names)
    for line in lines:
        logger.error(f"{host.print_prefix}{title}: {line}")
    return False
