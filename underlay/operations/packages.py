"""Debian packages: those that are missing are installed, and nothing else is touched."""

from collections.abc import Generator

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, Host, State, StringCommand, operation

from underlay.facts.packages import ALONE, APT, INSTALL, UPDATE, AptBusy, Needed
from underlay.operations import tell

SECONDS = 300
"""What an installation may take."""
PATIENCE = 180
"""Seconds to wait for another apt or dpkg."""


@operation()
def installed(needed: Needed) -> Generator[StringCommand | FunctionCommand, None, None]:
    """
    Install packages that are missing; what is installed stays as it is, but for what they need newer.

    + needed: what was found missing, and can be installed

    No package is removed. Configuration files that somebody changed are kept, and nobody is asked anything. Another
    apt or dpkg that is at work is waited for.
    """
    if not needed.names:
        host.noop("the packages are installed")
        return
    lines = [f"{name} {version}" + ("" if name in needed.names else " (needed)") for name, version in needed.added]
    lines += [f"{name} {new} in place of {old} (needed)" for name, old, new in needed.upgraded]
    tell(f"+ package {each}" for each in lines)
    yield FunctionCommand(_tell_who_is_busy, (), {})
    options = f"-y --no-remove -o DPkg::Lock::Timeout={PATIENCE}"
    options += " -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"
    yield StringCommand(f"{ALONE}{UPDATE} || true\n{APT} {options} {INSTALL} {' '.join(needed.names)}")


def _tell_who_is_busy(state: State, host: Host) -> None:  # noqa: ARG001 (pyinfra looks for both names)
    if who := host.get_fact(AptBusy):
        logger.info(f"{host.print_prefix}waiting up to {PATIENCE} s for another apt or dpkg: {who}")
