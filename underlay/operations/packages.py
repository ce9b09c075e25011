"""Packages: those of Debian that are missing are installed, and nothing else is touched; those of Python are pinned."""

from collections.abc import Generator, Mapping

from pyinfra import host, logger
from pyinfra.api import FunctionCommand, Host, State, StringCommand, operation
from pyinfra.facts.pip import PipPackages

from underlay.desired.checkout import normalised
from underlay.facts.packages import ALONE, APT, INSTALL, PATIENCE, UPDATE, AptBusy, Needed
from underlay.operations import tell

SECONDS = 300
"""What an installation may take."""


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


@operation()
def pinned(virtualenv: str, requirements: str, wanted: Mapping[str, str]) -> Generator[StringCommand, None, None]:
    """
    Python packages of exact versions, each with one of its hashes, and nothing that must be built.

    + virtualenv: a folder with an environment
    + requirements: the file there that has versions and hashes
    + wanted: what it has: normalised name → version

    pip installs none of them before it has seen that all are as they must be.
    """
    pip = f"{virtualenv}/bin/pip"
    present = {normalised(name): versions for name, versions in host.get_fact(PipPackages, pip=pip).items()}
    lacking = [f"{name}=={version}" for name, version in wanted.items() if version not in present.get(name, ())]
    if not lacking:
        host.noop("the Python packages are as pinned")
        return
    tell(f"+ Python package {each}" for each in lacking)
    # Without bytecode it takes half of the time; what is used is compiled with its first use.
    yield StringCommand(f"{pip} install --require-hashes --only-binary :all: --no-compile --quiet -r {requirements}")


def _tell_who_is_busy(state: State, host: Host) -> None:  # noqa: ARG001 (pyinfra looks for both names)
    if who := host.get_fact(AptBusy):
        logger.info(f"{host.print_prefix}waiting up to {PATIENCE} s for another apt or dpkg: {who}")
