"""One thing of a host that is not as it must be, as a value; its sentence and its line of the plan follow from it."""

from dataclasses import dataclass
from typing import Literal

from underlay.desired.routing import Address, PolicyRule, Route
from underlay.desired.ruleset import Rule
from underlay.desired.units import Unit
from underlay.plan import Bond, Host, Plan, Vlan

Kind = Literal["missing", "extra", "order", "differs", "down", "stopped", "disabled", "unmanaged"]
Word = Literal["missing", "extra", "out of order", "differs", "stopped", "unmanaged"]
LIVE, AT_BOOT = "live", "at boot"


@dataclass(frozen=True)
class Nic:
    """A NIC, by its name on the host."""

    name: str


@dataclass(frozen=True)
class Leg:
    """A NIC that is to be a leg of a bond."""

    nic: str
    bond: str


@dataclass(frozen=True)
class Mtu:
    """The MTU of a NIC."""

    nic: str
    value: int


@dataclass(frozen=True)
class Sysctl:
    """A sysctl and its value."""

    key: str
    value: str


@dataclass(frozen=True)
class File:
    """A file and its text, None where there must be none; `boot`: what it makes is compared live, too."""

    path: str
    content: str | None
    boot: bool = False


@dataclass(frozen=True)
class SshdSetting:
    """A setting of sshd and its value; `account`: the one that it does not hold for, empty if that is everybody."""

    key: str
    value: str
    account: str = ""


@dataclass(frozen=True)
class NotLoaded:
    """A file of rules that its unit can't load at a boot, and why."""

    unit: str
    path: str
    why: str


@dataclass(frozen=True)
class NodePart:
    """A part of what makes a host a node of Kubernetes, and how it must be, if there is a word for that."""

    name: str
    wanted: str = ""


@dataclass(frozen=True)
class UnitState:
    """A systemd unit: `active` as ActiveState, `enabled` as UnitFileState (empty: there is no such unit)."""

    active: str
    enabled: str


@dataclass(frozen=True)
class Parallel:
    """What an iptables has that is not the host's `iptables`, or arptables-legacy; of the host's own, a policy.

    program: `iptables-legacy`, say
    what: `-A CHAIN RULE`, or `-P CHAIN POLICY`; or why its table can't be read
    """

    program: str
    table: str
    what: str


@dataclass(frozen=True)
class NativeChain:
    """A base chain of nftables that is none of iptables, and may hold packets up.

    family: `ip`, `inet`, `arp`, `bridge` or `netdev`
    policy: `accept` or `drop`
    does: what its rules may do with a packet: `drops`, `rejects`, `translates`, …
    """

    family: str
    table: str
    chain: str
    hook: str
    priority: int
    policy: str
    does: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.family} {self.table} {self.chain}"


@dataclass(frozen=True)
class Place:
    """A line of a file that is not ours, as its program reads it."""

    path: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.number} ({self.text})"


Link = Nic | Bond | Vlan | Leg | Mtu
Setting = Sysctl | SshdSetting
Filter = Rule | NotLoaded | Parallel | NativeChain
Thing = Link | Address | Route | PolicyRule | Setting | Filter | File | Unit | NodePart
Found = str | UnitState | Place | tuple[Route, ...] | None


@dataclass(frozen=True)
class Difference:
    """One difference between a host and what the plan makes of it.

    kind: "extra" is ours from an earlier plan; "down" is a NIC's, "stopped" and "disabled" are a unit's; "unmanaged" is
        in no plan and never was: it is left alone, and is no drift
    thing: as it must be, or where it must not be, as it is
    found: what there is instead: the value of a sysctl or of a setting, the text of a file, the state of a unit, the
        routes in the place of a route; or the line of an unmanaged file that wins over ours (at the next boot; in sshd)
    at_boot: it comes up so at the next boot; else it is so now
    shaken: it is there, but an earlier step of the fix may take it away
    """

    kind: Kind
    thing: Thing
    found: Found = None
    at_boot: bool = False
    shaken: bool = False

    @property
    def where(self) -> str:
        """Live, at boot, or a path."""
        return self.thing.path if isinstance(self.thing, File) else AT_BOOT if self.at_boot else LIVE

    @property
    def word(self) -> Word:
        """The kind, for people: something is missing, whatever is there instead of it."""
        match self.kind:
            case "order":
                return "out of order"
            case "disabled":
                return "stopped"
            case "differs" if isinstance(self.thing, File | SshdSetting | NodePart) or isinstance(self.found, Place):
                return "differs"
            case "differs" | "down":
                return "missing"
            case kind:
                return kind

    @property
    def what(self) -> str:
        """What is wrong, for people; of a rule of the firewall just which it is."""
        return " ".join(filter(None, (self._subject, self._how)))

    @property
    def _subject(self) -> str:
        match self.thing:
            case Address(nic, cidr):
                found = f"address {cidr} on {nic}"
            case Route() as route:
                found = f"route {route.selector if self.kind == 'extra' else route.arguments}"
            case PolicyRule() as rule:
                found = f"policy rule {rule.arguments}"
            case Rule() as rule:
                found = f"rule {rule}"
            case Nic() | Bond() | Vlan() | Leg() | Mtu() as link:
                found = _link(link)
            case Sysctl(name) | Unit(name) | NodePart(name):
                found = name
            case File():
                found = "the file"
            case SshdSetting(key, _, account):
                found = f"sshd's {key}" + (f" for {account}" if account else "")
            case NotLoaded(name, path):
                found = f"{name} can't load {path}:"
            case Parallel(program, table, what):
                found = f"{program} -t {table} {what}"
            case NativeChain() as chain:
                found = f"nftables chain {chain} ({chain.hook}, priority {chain.priority})"
        return found

    @property
    def _how(self) -> str:
        words = {"missing": "is missing", "order": "is out of order"}
        match self.thing, self.found:
            case ((Rule() | Parallel()), _):
                found = ""
            case NativeChain(policy=policy, does=does), _:
                found = ", ".join([f"policy {policy}", *does])
            case ((Nic() | Bond() | Vlan() | Leg()), there):
                found = _state_of_nic(there) if self.kind != "missing" or there else "is missing"
            case ((Mtu(_, wanted) | NodePart(_, wanted)), there) if there:
                found = f"is {there}, not {wanted}"
            case ((Sysctl(_, value) | SshdSetting(_, value)), Place() as place):
                found = f"is set by {place}, not to {value}"
            case File(), Place() as place:
                found = f"is undone by {place}"
            case ((Sysctl(_, value) | SshdSetting(_, value)), there):
                found = f"is {'not set' if there is None else there}, not {value}"
            case NotLoaded(), _:
                found = self.thing.why
            case File(), _:
                found = "is not as planned"
            case Unit(), UnitState(active, enabled):
                found = f"is {active} and {enabled or 'unknown'}"
            case Route(), _ if self.kind == "missing" and self.shaken:
                found = "may go with an address"
            case _:
                found = words.get(self.kind, "" if isinstance(self.thing, NodePart) else "is not in the plan")
        return found

    def origin(self, plan: Plan, host: Host) -> str:
        """The line of the plan that it comes from; empty for what is in no plan."""
        match self.thing:
            case Rule(origin=origin):
                found = origin
            case Address(nic, cidr):
                found = _line(plan, host, cidr, nic)
            case Route(source=source, nic=nic):
                found = _line(plan, host, source, nic)
            case Nic(nic) | Leg(_, nic) | Mtu(nic):
                found = _line(plan, host, "", nic)
            case Bond() | Vlan() as link:
                found = _line(plan, host, "", link.name)
            case PolicyRule(source=source, destination=destination):
                found = _line(plan, host, source or destination)
            case Sysctl() | File(boot=True):
                found = plan.line("hosts", host.name)
            case NodePart():
                found = plan.line("kubernetes")
            case _:
                found = ""
        return found


def _link(link: Link) -> str:
    match link:
        case Nic(name):
            found = f"NIC {name}"
        case Bond():
            found = f"bond {link.name} of {', '.join(link.legs)}"
        case Vlan():
            found = f"NIC {link.name} (VLAN {link.number} on {link.parent})"
        case Leg(nic, bond):
            found = f"leg {nic} of {bond}"
        case Mtu(nic):
            found = f"MTU of {nic}"
    return found


def _state_of_nic(found: Found) -> str:
    if isinstance(found, Place):
        return f"may come up otherwise: whether it matches {found} can't be told"
    return found if isinstance(found, str) else "is down"


def _line(plan: Plan, host: Host, cidr: str, name: str = "") -> str:
    """The line of a published address, else that of the host's NIC with an address or a name, else that of the host."""
    address = cidr.partition("/")[0]
    if address not in map(str, (other.published for other in plan.published)):
        nics = (nic for nic in host.interfaces if str(nic.address) == address or nic.nic == name)
        address = next((str(nic.address) for nic in nics), "")
    return plan.line_of(address, host)
