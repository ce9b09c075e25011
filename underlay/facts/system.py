"""What kind of system a host runs."""

from dataclasses import dataclass

from pyinfra.api import FactBase

from underlay.facts import fact


@dataclass(frozen=True)
class SystemInfo:
    """name: what it calls itself; family: `ID` and `ID_LIKE` of os-release."""

    name: str
    family: tuple[str, ...]

    @property
    def supported(self) -> bool:
        """Debian or Ubuntu."""
        return bool({"debian", "ubuntu"} & set(self.family))


class System(FactBase[SystemInfo]):
    """The system, as `SystemInfo`."""

    def command(self) -> str:
        return '. /etc/os-release; echo "$PRETTY_NAME"; echo "$ID $ID_LIKE"'

    @fact("the system")
    def process(self, output: list[str]) -> SystemInfo:
        name, family = output
        return SystemInfo(name, tuple(family.split()))
