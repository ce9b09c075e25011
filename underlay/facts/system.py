"""What kind of system a host runs."""

from dataclasses import dataclass

from pyinfra.api import FactBase


@dataclass(frozen=True)
class SystemInfo:
    """name: what it calls itself; family: `ID` and `ID_LIKE` of os-release; networkd: whether it is active."""

    name: str
    family: tuple[str, ...]
    networkd: bool

    @property
    def supported(self) -> bool:
        """Debian or Ubuntu with systemd-networkd in charge of the network."""
        return self.networkd and bool({"debian", "ubuntu"} & set(self.family))


class System(FactBase[SystemInfo]):
    """The system, as `SystemInfo`."""

    def command(self) -> str:
        return (
            '. /etc/os-release; echo "$PRETTY_NAME"; echo "$ID $ID_LIKE"; '
            "systemctl is-active systemd-networkd 2>/dev/null || true"
        )

    def process(self, output: list[str]) -> SystemInfo:
        name, family, *active = output
        return SystemInfo(name, tuple(family.split()), active == ["active"])
