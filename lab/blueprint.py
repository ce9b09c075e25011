"""What the lab takes from a plan: the machines as somebody installed them, before any deploy. Pure."""

import difflib
import hashlib
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping

from pydantic import BaseModel, ConfigDict, ValidationError

from lab.process import LabError
from lab.state import OUTSIDE_ADDRESS, RUNTIME
from underlay.access import hostkeys
from underlay.image.make import real_nics
from underlay.image.seed import of_nic
from underlay.plan import SSH_PORT, Bond, Host, Plan, Vlan

FILE = RUNTIME / "blueprint.json"
INTERNET = "internet"
SWITCH = "switch"


class Frozen(BaseModel):
    """A part of the blueprint."""

    model_config = ConfigDict(frozen=True)


class Nic(Frozen):
    """A NIC and the network that it is plugged into. Its MAC outlives a reboot, as a real one does."""

    name: str
    network: str
    mac: str


class Trunk(Frozen):
    """NICs of a host that a port of the switch is at the other end of which carries several networks.

    vlans: number → network; 0 for packets without a tag
    """

    legs: tuple[str, ...]
    vlans: dict[int, str]


class Machine(Frozen):
    """One host as it is after its installation: its first address (with its length), its way out, its NICs.

    number: its place at the switch, its own as long as the lab is up
    nic: the one that has the address; links: what that is made of, see `underlay.plan.Host`
    nics: those that it really has; that of a trunk is in no network
    user, port, sudo: how its installer lets the operator in, see `underlay.plan.Login`
    """

    name: str
    number: int
    nics: tuple[Nic, ...]
    nic: str
    links: tuple[Bond | Vlan, ...] = ()
    trunks: tuple[Trunk, ...] = ()
    address: str
    router: str | None
    names: tuple[str, ...]  # all that ssh may ever know it by
    serves_packages: bool = False  # and DNS
    loopback: str | None = None
    flavour: str = "networkd"  # how its network was set up, see `lab.flavour`
    user: str
    port: int = SSH_PORT
    sudo: str | None = "nopasswd"
    vm: bool = False  # a machine of its own, with a kernel of its own


class Blueprint(Frozen):
    """All of the lab, in the plan's order, `internet` last; behind it what was added since."""

    networks: tuple[str, ...]
    machines: tuple[Machine, ...]
    packages_at: str | None  # the address of the host that serves packages, and DNS

    def machine(self, name: str) -> Machine:
        """The machine of that name. LabError if there is none."""
        check_name(name, (machine.name for machine in self.machines))
        return next(machine for machine in self.machines if machine.name == name)

    @property
    def vms(self) -> list[str]:
        """The names of the hosts that are machines of their own."""
        return [machine.name for machine in self.machines if machine.vm]

    @property
    def neighbours(self) -> int:
        """How many the hosts have in all, when each knows all others of its networks."""
        ends = Counter(nic.network for machine in self.machines for nic in machine.nics if nic.network)
        ends += Counter(net for each in self.machines for trunk in each.trunks for net in trunk.vlans.values())
        return sum(count * count for count in ends.values())

    def number(self, machine: Machine) -> int:
        """The place of a machine at the switch."""
        return machine.number

    def with_new(self, drawn: "Blueprint") -> "Blueprint":
        """This one and the machines that only `drawn` has. LabError if what both have differs."""
        there = {each.name for each in self.machines}
        new = [each for each in drawn.machines if each.name not in there]
        if not self.without(*(each.name for each in new)).same(drawn.without(*(each.name for each in new))):
            raise LabError("networks or hosts of the lab differ from the plan: `./inv lab.reset` builds it anew")
        free = 1 + max(each.number for each in self.machines)
        added = (each.model_copy(update={"number": number}) for number, each in enumerate(new, free))
        return self.model_copy(update={"machines": (*self.machines, *added)})

    def with_another(self, name: str) -> "Blueprint":
        """This one with another machine in the place of one: its NICs have other MACs."""
        old = self.machine(name)
        salt = uuid.uuid4().hex
        nics = tuple(nic.model_copy(update={"mac": _mac(f"{name} {salt}", nic.name)}) for nic in old.nics)
        new = old.model_copy(update={"nics": nics})
        return self.model_copy(update={"machines": tuple(new if each == old else each for each in self.machines)})

    def without(self, *names: str) -> "Blueprint":
        """This one without some machines."""
        return self.model_copy(update={"machines": tuple(each for each in self.machines if each.name not in names)})

    def same(self, other: "Blueprint") -> bool:
        """Whether the other has the same machines, wherever at the switch they are."""
        return self._compared() == other._compared()

    def _compared(self) -> object:
        # A host's `names` are for known_hosts: that it is published, now or no longer, makes no other machine of it.
        # Nor does a MAC: that is another one after a machine was replaced.
        nics = {"__all__": {"mac"}}
        machines = {
            each.name: each.model_dump(exclude={"number": True, "names": True, "nics": nics}) for each in self.machines
        }
        return self.model_dump(exclude={"machines"}), machines

    def save(self) -> None:
        """Keep it beside the record of the lab that is built of it."""
        FILE.write_text(self.model_dump_json())


def check_name(name: str, known: Iterable[str]) -> None:
    """LabError unless the lab has a host of that name."""
    names = list(known)
    if name not in names:
        close = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise LabError(f"no host {name!r} in the lab: {hint}The hosts are: {', '.join(names)}")


def load() -> Blueprint:
    """What the lab that is up was built of. LabError if it can't be read."""
    try:
        return Blueprint.model_validate_json(FILE.read_text())
    except (OSError, ValidationError):
        raise LabError("the lab was built by another version of this repo: `./inv lab.reset` builds it anew") from None


def draw(plan: Plan, flavours: Mapping[str, str] | None = None, vms: Collection[str] = ()) -> Blueprint:
    """The lab of a plan. LabError if a host has a name that the lab needs for itself.

    flavours: host → how its network was set up, where that is not the default
    vms: the hosts that are machines of their own
    """
    for name in vms:
        check_name(name, (host.name for host in plan.hosts))
    for name in (INTERNET, SWITCH):
        if any(host.name == name for host in plan.hosts):
            raise LabError(f"{plan.line('hosts', name)}: the lab has a {name!r} of its own: give the host another name")
    for network in plan.networks:
        if OUTSIDE_ADDRESS in network.cidr:
            where = plan.line("networks", network.name, "cidr")
            raise LabError(f"{where}: {OUTSIDE_ADDRESS} is the lab's internet: choose another range")
    images = next(iter(plan.hosts_of("images")), None)
    upstream = plan.enterprise.upstream
    internet = Machine(
        name=INTERNET,
        number=len(plan.hosts),
        nics=(Nic(name="eth0", network=plan.enterprise.name, mac=_mac(INTERNET, "eth0")),),
        nic="eth0",
        address=f"{upstream}/{plan.enterprise.cidr.prefixlen}",
        router=None,
        names=(INTERNET, str(upstream), OUTSIDE_ADDRESS),
        loopback=f"{OUTSIDE_ADDRESS}/32",
        user=plan.operator.user,
    )
    return Blueprint(
        networks=tuple(network.name for network in plan.networks),
        machines=(
            *(
                _machine(plan, number, host == images, (flavours or {}).get(host.name, "networkd"), host.name in vms)
                for number, host in enumerate(plan.hosts)
            ),
            internet,
        ),
        packages_at=str(images.primary.address) if images else None,
    )


def _machine(plan: Plan, number: int, serves_packages: bool, flavour: str, vm: bool) -> Machine:
    host = plan.hosts[number]
    if host.links and not vm:
        raise LabError(
            f"{plan.line('hosts', host.name, 'nics')}: bonds and VLANs need a kernel of their own: add --vm {host.name}"
        )
    trunks = tuple(_trunks(host))
    # One at a trunk is in several networks, or in none by itself.
    trunked = {leg for trunk in trunks for leg in trunk.legs}
    networks = {nic.nic: nic.network for nic in host.interfaces if nic.nic not in trunked}
    addresses = [nic.address for nic in host.interfaces] + ([host.published] if host.published else [])
    return Machine(
        name=host.name,
        number=number,
        nics=tuple(
            Nic(name=name, network=networks.get(name, ""), mac=_mac(host.name, name)) for name in real_nics(host)
        ),
        nic=host.primary.nic,
        links=tuple(of_nic(host.primary.nic, host.links)),
        trunks=trunks,
        address=host.primary.with_prefix,
        router=str(plan.gateway_address(host.primary.network)),
        names=(host.name, *(hostkeys.name(each, host.login.port) for each in addresses)),
        serves_packages=serves_packages,
        flavour=flavour,
        vm=vm,
        **host.login.model_dump(),
    )


def _trunks(host: Host) -> Iterator[Trunk]:
    """One for each bond, and for each other NIC with VLANs on it."""
    networks = {nic.nic: nic.network for nic in host.interfaces}
    legs = {link.name: link.legs for link in host.links if isinstance(link, Bond)}
    vlans = [link for link in host.links if isinstance(link, Vlan)]
    for name in dict.fromkeys([*legs, *(vlan.parent for vlan in vlans)]):
        untagged = {0: networks[name]} if name in networks else {}
        carried = {vlan.number: networks[vlan.name] for vlan in vlans if vlan.parent == name}
        yield Trunk(legs=legs.get(name, (name,)), vlans=untagged | carried)


def _mac(host: str, nic: str) -> str:
    digits = hashlib.sha256(f"{host} {nic}".encode()).hexdigest()
    return ":".join(["02", *(digits[i : i + 2] for i in range(0, 10, 2))])  # 02: locally administered
