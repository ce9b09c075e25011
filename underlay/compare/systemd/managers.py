"""Who manages each NIC of a host: makes its addresses and routes, now and at a boot, and may take others away. Pure.

Each manager is asked for itself: what it says of a NIC, or what its own files say of the next boot. A NIC that two of
them manage has both: what one makes the other may take away.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Literal

Kind = Literal["networkd", "ifupdown", "ifupdown2", "NetworkManager"]
IN_CHARGE = ("configuring", "configured", "degraded", "failed", "linger", "pending")
"""networkd's AdministrativeState of a NIC for which it has a file; `unmanaged` and `initialized` are the others."""
PASSIVE = frozenset({"manual", "loopback"})
"""Methods of ifupdown with which it gives a NIC no address."""
NETPLAN = "10-netplan-"
CLOUD_INIT = "cloud-init"


@dataclass(frozen=True)
class Manager:
    """Who manages a NIC.

    source: who tells it what to do, where that is not a person: `netplan`, `cloud-init`
    file: where it is told; empty where that is not known
    """

    kind: Kind
    source: str = ""
    file: str = ""

    def __str__(self) -> str:
        return f"{self.kind} ({self.source})" if self.source else self.kind


@dataclass(frozen=True)
class Answers:
    """What the managers of a host say; one that is not there says nothing.

    networkd: whether it runs, or will after a boot
    links: NIC → its AdministrativeState and its NetworkFile
    networking: whether ifupdown's unit runs, or will after a boot
    ifupdown2: whether that takes ifupdown's place
    ifstate: the NICs that ifupdown has brought up
    interfaces: path → text of ifupdown's files
    devices: NIC → STATE and CONNECTION, of `nmcli device`
    netplan: the paths of its files
    """

    networkd: bool = False
    links: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    networking: bool = False
    ifupdown2: bool = False
    ifstate: frozenset[str] = frozenset()
    interfaces: Mapping[str, str] = field(default_factory=dict)
    devices: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    netplan: tuple[str, ...] = ()


def managers(nics: Iterable[str], answers: Answers) -> dict[str, tuple[Manager, ...]]:
    """NIC → who manages it: nobody, one, or several, which is for a person to end."""
    methods = {file: dict(_methods(text)) for file, text in _sourced(answers.interfaces)}
    begun = [pattern for _, text in _sourced(answers.interfaces) for pattern in _begun(text)]
    found = {}
    for nic in nics:
        claims = [*_networkd(nic, answers), *_ifupdown(nic, answers, methods, begun), *_network_manager(nic, answers)]
        # One that only watches a NIC is in charge where nobody else is.
        active = [manager for manager, is_active in claims if is_active]
        found[nic] = tuple(active or [manager for manager, _ in claims][:1])
    return found


_Claims = Iterator[tuple[Manager, bool]]


def _networkd(nic: str, answers: Answers) -> _Claims:
    state, file = answers.links.get(nic, ("", ""))
    if answers.networkd and file and state in IN_CHARGE:
        yield Manager("networkd", _source(PurePosixPath(file).name, answers.netplan), file), True


def _source(name: str, netplan: Sequence[str]) -> str:
    if name.startswith(NETPLAN):
        names = [PurePosixPath(path).name for path in netplan]
        by = f" of {CLOUD_INIT}" if names and all(CLOUD_INIT in each for each in names) else ""
        return f"netplan{by}"
    return CLOUD_INIT if CLOUD_INIT in name else ""


def _ifupdown(nic: str, answers: Answers, methods: Mapping[str, Mapping[str, set[str]]], begun: list[str]) -> _Claims:
    files = [file for file, stanzas in methods.items() if nic in stanzas]
    wanted = answers.networking and bool(files) and any(fnmatchcase(nic, pattern) for pattern in begun)
    if nic in answers.ifstate or wanted:
        file = files[0] if files else ""
        source = CLOUD_INIT if CLOUD_INIT in file else ""
        used = set().union(*(methods[each][nic] for each in files))
        manager = Manager("ifupdown2" if answers.ifupdown2 else "ifupdown", source, file)
        yield manager, not used or not used <= PASSIVE


def _network_manager(nic: str, answers: Answers) -> _Claims:
    state, connection = answers.devices.get(nic, ("", ""))
    word = state.partition(" ")[0]
    # What it calls external was made by somebody else, and is only shown by it.
    if "externally" in state or word in ("", "unmanaged", "unknown"):
        return
    source = "netplan" if connection.startswith("netplan-") else CLOUD_INIT if CLOUD_INIT in connection else ""
    yield Manager("NetworkManager", source), word in ("connected", "connecting")


def _sourced(interfaces: Mapping[str, str]) -> list[tuple[str, str]]:
    """ifupdown's files that count: others than the first one do where that, or one of them, names them."""
    found: dict[str, str] = {}
    todo = [path for path in interfaces if path.endswith("/interfaces")]
    while todo:
        path = todo.pop(0)
        if path in found:
            continue
        found[path] = interfaces[path]
        folder = PurePosixPath(path).parent
        for words in _lines(interfaces[path]):
            for pattern in words[1:] if words[0] in ("source", "source-directory") else ():
                whole = str(folder / pattern) + ("/*" if words[0] == "source-directory" else "")
                todo += [each for each in interfaces if fnmatchcase(each, whole)]
    return [*found.items()]


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.replace("\\\n", " ").splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            yield words


def _begun(text: str) -> Iterator[str]:
    """The NICs, or patterns of them, that are brought up at a boot or when they appear."""
    for words in _lines(text):
        if words[0] == "auto" or words[0].startswith("allow-"):
            yield from (word.removeprefix("/") for word in words[1:])


def _methods(text: str) -> Iterator[tuple[str, set[str]]]:
    """NIC → its methods. ifupdown2 writes none for a NIC that only gets what stands below it."""
    found: dict[str, set[str]] = {}
    current = ""
    for words in _lines(text):
        if words[0] == "iface" and len(words) > 1:
            current = words[1]
            found.setdefault(current, set()).update(words[3:4])
        elif words[0] == "address" and current:
            found[current].add("static")
    yield from found.items()
