"""What kind of system a host runs."""

from dataclasses import dataclass

from pyinfra.api import FactBase

from underlay.desired.routing import NETWORKD_CONF
from underlay.facts import fact

OURS = NETWORKD_CONF


@dataclass(frozen=True)
class SystemInfo:
    """name: what it calls itself; family: `ID` and `ID_LIKE` of os-release; networkd: it manages the network."""

    name: str
    family: tuple[str, ...]
    networkd: bool

    @property
    def supported(self) -> bool:
        """Debian or Ubuntu with systemd-networkd in charge of the network."""
        return self.networkd and bool({"debian", "ubuntu"} & set(self.family))


class System(FactBase[SystemInfo]):
    """The system, as `SystemInfo`. A networkd that was stopped is in charge still, and is started by the deploy."""

    def command(self) -> str:
        return (
            '. /etc/os-release; echo "$PRETTY_NAME"; echo "$ID $ID_LIKE"; '
            f"if ls {OURS} >/dev/null 2>&1 || systemctl -q is-active systemd-networkd "
            "|| systemctl -q is-enabled systemd-networkd 2>/dev/null; then echo networkd; fi"
        )

    @fact("the system")
    def process(self, output: list[str]) -> SystemInfo:
        name, family, *networkd = output
        return SystemInfo(name, tuple(family.split()), bool(networkd))
