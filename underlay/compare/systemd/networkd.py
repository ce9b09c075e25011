"""Which file networkd will take for a NIC at the next boot, and what it says, by networkd's own rules. Pure.

systemd.network(5): the file with the first name that matches, whichever folder it is in; of files with the same name
that of the first folder; an empty one, or a link to /dev/null, hides those of the folders behind it.
"""

import fnmatch
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import PurePosixPath

from underlay.compare.difference import Place
from underlay.desired.files import Base, Bases, nic_of
from underlay.desired.routing import DROP_IN, NETWORKD

CONFIGURATION = ("/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd")
"""Folders of the configuration, the strongest first."""
RUN = "/run/"
OFF = ("0", "no", "n", "false", "f", "off")
ON = ("1", "yes", "y", "true", "t", "on")
ARCHITECTURES = {"x86_64": "x86-64", "aarch64": "arm64", "i686": "x86"}
CONTAINERS = {"systemd-nspawn", "lxc", "lxc-libvirt", "docker", "podman", "openvz", "rkt", "wsl", "proot", "pouch"}


@dataclass(frozen=True)
class Device:
    """What a [Match] section can look at. permanent_mac, kind, driver: empty where there is none.

    properties: those of udev, as `ID_PATH`
    in_use: the file that networkd took for it, when it last read its files
    """

    names: tuple[str, ...]
    mac: str
    permanent_mac: str
    type: str
    kind: str = ""
    driver: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)
    in_use: str = ""


@dataclass(frozen=True)
class System:
    """What files can be limited to: host names (the machine id is one), kind of machine, kernel's command line."""

    names: tuple[str, ...] = ()
    virtualization: str = "none"
    command_line: str = ""
    architecture: str = ""


@dataclass(frozen=True)
class Setting:
    """`key=value` in a section; `block` tells sections of the same name apart."""

    place: Place
    block: int
    section: str
    key: str
    value: str


@dataclass(frozen=True)
class NetworkFile:
    """A file with its drop-ins: all its settings in their order."""

    path: str
    settings: tuple[Setting, ...]

    @cached_property
    def match(self) -> dict[str, list[str]]:
        """Key → words of [Match]; an empty value takes back what was said before it."""
        found: dict[str, list[str]] = {}
        for each in self.settings:
            if each.section != "Match":
                continue
            words = each.value.split()
            if words and words[0].startswith("!") and each.key not in CONDITIONS:
                words = [words[0], *(f"!{word}" for word in words[1:])]
            found[each.key] = [*found.get(each.key, []), *words] if words else []
        return {key: words for key, words in found.items() if words}

    def last(self, section: str, key: str) -> Setting | None:
        """The setting that counts of a key that has one value."""
        found = [each for each in self.settings if (each.section, each.key) == (section, key)]
        return found[-1] if found and found[-1].value else None


@lru_cache(4096)
def settings(path: str, text: str) -> tuple[Setting, ...]:
    """Read a file of systemd's kind, as systemd does; what it does not understand is left out."""
    return tuple(_settings(path, text))


def _settings(path: str, text: str) -> Iterator[Setting]:
    section, block, begun, number = "", 0, "", 0
    for count, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        stripped = line.lstrip()
        if stripped.startswith(("#", ";")):
            continue
        number = number if begun else count
        begun += stripped if begun else line
        if begun.endswith("\\"):
            begun = f"{begun[:-1]} "
            continue
        whole, begun = begun.strip(), ""
        if "\ufffd" in whole:  # not UTF-8: systemd leaves the line out
            continue
        if whole.startswith("[") and whole.endswith("]"):
            section, block = whole[1:-1], block + 1
        elif section and "=" in whole:
            key, _, value = whole.partition("=")
            yield Setting(Place(path, number, whole), block, section, key.strip(), value.strip())


def merged(files: Mapping[str, str], folder: str, suffix: str) -> list[str]:
    """The paths in force of a folder of the configuration: one for each name, in the order of the names."""
    chosen: dict[str, str] = {}
    for root in CONFIGURATION:
        for path in files:
            where = PurePosixPath(path)
            if str(where.parent) == f"{root}/{folder}".rstrip("/") and where.suffix == suffix:
                chosen.setdefault(where.name, path)
    return [path for _, path in sorted(chosen.items()) if files[path].strip()]


def is_ours(path: str) -> bool:
    """Whether it is one of our files for a NIC."""
    return "underlay" in path and nic_of(path, "") is not None


def network_files(files: Mapping[str, str]) -> list[NetworkFile]:
    """The .network files in force, without ours, in the order in which networkd tries them."""
    return in_force({path: text for path, text in files.items() if not is_ours(path)})


def in_force(files: Mapping[str, str]) -> list[NetworkFile]:
    """The .network files in force, ours too, in the order in which networkd tries them."""
    return [read_file(files, path) for path in merged(files, "network", ".network")]


def read_file(files: Mapping[str, str], path: str) -> NetworkFile:
    """A file of a NIC with its drop-ins."""
    return NetworkFile(path, _read(files, [path, *merged(files, f"network/{PurePosixPath(path).name}.d", ".conf")]))


def keeps_down(file: NetworkFile) -> Setting | None:
    """The setting with which networkd leaves a NIC alone, switched off, or to another one."""
    for section, key, bad in KEEPS_DOWN:
        found = file.last(section, key)
        if found and (found.value.lower() in bad or not bad):
            return found
    return None


def networkd_conf(files: Mapping[str, str]) -> NetworkFile:
    """networkd's own configuration."""
    main = [path for root in CONFIGURATION if (path := f"{root}/networkd.conf") in files][:1]
    return NetworkFile(f"{CONFIGURATION[0]}/networkd.conf", _read(files, [*main, *merged(files, CONF_D, ".conf")]))


CONF_D = "networkd.conf.d"


def _read(files: Mapping[str, str], paths: Sequence[str]) -> tuple[Setting, ...]:
    # Sections of different files are different ones.
    return tuple(
        Setting(each.place, each.block + 1000 * number, each.section, each.key, each.value)
        for number, path in enumerate(paths)
        for each in settings(path, files[path])
    )


# --- [Match] --------------------------------------------------------------------------------------------------------


def matches(file: NetworkFile, device: Device, system: System) -> bool | None:
    """Whether a file is for a NIC; None if what it looks at is not known here."""
    if not file.match:
        return False  # networkd passes over a file that does not say what it is for
    return _all(_matches(key, words, device, system) for key, words in file.match.items())


def _matches(key: str, words: list[str], device: Device, system: System) -> bool | None:
    answer: bool | None = None
    match key:
        case "Name":
            answer = any_of(words, device.names)
        case "Type":
            answer = any_of(words, [device.type])
        case "Kind":
            answer = any_of(words, [device.kind] if device.kind else [])
        case "Driver":
            answer = any_of(words, [device.driver] if device.driver else [])
        case "Path":
            answer = any_of(words, [path] if (path := device.properties.get("ID_PATH")) else [])
        case "MACAddress":
            answer = _mac(device.mac) in map(_mac, words)
        case "PermanentMACAddress":
            answer = bool(device.permanent_mac) and _mac(device.permanent_mac) in map(_mac, words)
        case "Property":
            answer = all(_property(word, device) for word in words)
        case "WLANInterfaceType" | "SSID" | "BSSID" if device.type != "wlan":
            answer = False
        case _ if key in CONDITIONS:
            answer = _all(_condition(key, word, system) for word in words)
    return answer


def _all(answers: Iterable[bool | None]) -> bool | None:
    found = list(answers)
    return False if False in found else None if None in found else True


def any_of(patterns: Iterable[str], names: Sequence[str]) -> bool:
    """Whether one of the names matches one of the patterns, and none one with a `!`."""
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")]
    unwanted = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    if any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in unwanted):
        return False
    return not wanted or any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in wanted)


def _mac(text: str) -> str:
    return re.sub(r"[^0-9a-f]", "", text.lower())


def _property(word: str, device: Device) -> bool:
    key, _, value = word.removeprefix("!").partition("=")
    found = device.properties.get(key)
    return (found is not None and fnmatch.fnmatchcase(found, value)) != word.startswith("!")


CONDITIONS = {
    *("Host", "Virtualization", "KernelCommandLine", "KernelVersion", "Version", "Credential", "Architecture"),
    "Firmware",
}
"""What a whole file is limited to."""


def _condition(key: str, word: str, system: System) -> bool | None:
    wanted = word.lstrip("!")
    answer: bool | None = None
    match key:
        case "Host":
            answer = any(fnmatch.fnmatchcase(name.lower(), wanted.lower()) for name in system.names)
        case "Virtualization":
            answer = _virtualization(wanted, system.virtualization)
        case "KernelCommandLine":
            words = system.command_line.split()
            answer = wanted in words or ("=" not in wanted and any(each.startswith(f"{wanted}=") for each in words))
        case "Architecture":
            answer = wanted == ARCHITECTURES.get(system.architecture, system.architecture)
    return answer if answer is None or not word.startswith("!") else not answer


def _virtualization(wanted: str, found: str) -> bool | None:
    container = found in CONTAINERS or found.startswith("container")
    match wanted.lower():
        case word if word in ON:
            return found != "none"
        case word if word in OFF:
            return found == "none"
        case "vm":
            return found != "none" and not container
        case "container":
            return container
        case "private-users":
            return None
    return wanted == found


# --- who is in charge -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Charge:
    """Who is in charge of a NIC at the next boot.

    file: None if nobody is
    unknown: the settings that could put another file in front, and are not known here
    """

    file: NetworkFile | None
    unknown: tuple[Setting, ...] = ()


def charge(files: Sequence[NetworkFile], device: Device, system: System) -> Charge:
    """Who is in charge of a NIC, by these files.

    What can't be known here, networkd knows: the file that it took matches, those in front of it do not.
    """
    names = [PurePosixPath(file.path).name for file in files]
    in_use = PurePosixPath(device.in_use).name
    unknown: list[Setting] = []
    for name, file in zip(names, files, strict=True):
        answer = matches(file, device, system)
        if answer is None and in_use and not is_ours(device.in_use):
            answer = True if name == in_use else False if name < in_use else None
        if answer:
            return Charge(file, tuple(unknown))
        if answer is None:
            unknown += [
                each
                for each in file.settings
                if each.section == "Match" and _matches(each.key, each.value.split(), device, system) is None
            ]
    return Charge(None, tuple(unknown))


def bases(
    nics: Iterable[str],
    files: Sequence[NetworkFile],
    devices: Sequence[Device],
    system: System,
    made: Mapping[str, str],
) -> Bases:
    """For each of these NICs what the host's own files tell networkd of it, whether those below /run come back or not.

    made: NIC → the file that makes it of others (see `made`)

    Nobody is in charge of a NIC that networkd is told to leave alone.
    """
    found = {}
    stay = [file for file in files if not file.path.startswith(RUN)]
    for nic in nics:
        first = _base(nic, files, devices, system)
        found[nic] = [first]
        if first.path.startswith(RUN):
            then = _base(nic, stay, devices, system)
            # One for several NICs can't be repeated behind the file that may come back, and in front of it hides it.
            found[nic] += [then] if then.specific else [] if then.path else [replace(then, last=True)]
        if nic in made:
            away = made[nic].startswith(RUN)
            found[nic] = [replace(base, made=not (away and number)) for number, base in enumerate(found[nic])]
    return found


def made(files: Mapping[str, str]) -> dict[str, str]:
    """The NICs that the host's own files make of others → the file that does."""
    paths = merged({path: text for path, text in files.items() if not is_ours(path)}, "network", ".netdev")
    return {
        each.value: path
        for path in reversed(paths)
        for each in settings(path, files[path])
        if (each.section, each.key) == ("NetDev", "Name")
    }


def _base(nic: str, files: Sequence[NetworkFile], devices: Sequence[Device], system: System) -> Base:
    file = charge(files, device_of(nic, devices), system).file
    unmanaged = file and file.last("Link", "Unmanaged")
    if file is None or (unmanaged and unmanaged.value.lower() in ON):
        return Base()
    others = (each for each in devices if nic not in each.names)
    only = "Name" in file.match or all(charge(files, each, system).file != file for each in others)
    return _read_base(file, specific=_names_one(file) and only)


def device_of(nic: str, devices: Sequence[Device]) -> Device:
    """A NIC; one that is not there is known by its name only."""
    there = (each for each in devices if nic in each.names)
    return next(there, Device((nic,), "", "", "ether"))


def _names_one(file: NetworkFile) -> bool:
    """Whether a file names one NIC, by its name or its MAC."""
    names = file.match.get("Name", [])
    if names and not any(set(name) & set("*?[!") for name in names):
        return len(names) == 1
    return any(len(file.match.get(key, [])) == 1 for key in ("MACAddress", "PermanentMACAddress"))


def _read_base(file: NetworkFile, *, specific: bool) -> Base:
    addresses: list[str] = []
    for each in file.settings:
        if (each.section, each.key) == ("Network", "Address"):
            addresses = [*addresses, each.value] if each.value else []
        elif (each.section, each.key) == ("Address", "Address"):
            addresses.append(each.value)
    blocks = itertools.groupby((each for each in file.settings if each.section != "Match"), lambda each: each.block)
    lines: list[str] = []
    for _, block in blocks:
        whole = list(block)
        lines += [f"[{whole[0].section}]", *(f"{each.key}={each.value}" for each in whole)]
    keeps = file.last("Network", "KeepConfiguration") is not None
    bond, mtu = file.last("Network", "Bond"), file.last("Link", "MTUBytes")
    return Base(
        file.path,
        specific,
        "\n".join(lines),
        frozenset(addresses),
        keeps,
        mtu=int(mtu.value) if mtu and re.fullmatch("[0-9]{1,6}", mtu.value) else 0,
        bond=bond.value if bond else "",
    )


def undone(path: str, files: Mapping[str, str]) -> Setting | None:
    """The setting of a later drop-in that takes back what our drop-in says: an empty value, if there is one."""
    where = PurePosixPath(path)
    if where.name != DROP_IN:
        return None
    folder = f"network/{where.parent.name}"
    # Ours need not be there yet.
    paths = merged({**files, path: "x"}, folder, ".conf")
    for later in paths[paths.index(path) + 1 :]:
        for each in settings(later, files[later]):
            if (each.section, each.key) in CLEARED and not each.value:
                return each
    return None


KEEPS_DOWN: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Link", "Unmanaged", ON),
    ("Link", "ActivationPolicy", ("manual", "down", "always-down", "bound")),
    ("Link", "ARP", OFF),
    *(("Network", key, ()) for key in ("Bridge", "Bond", "VRF")),
)
"""Section, key and values of what keeps a NIC from having the addresses of its file, or from being heard with them."""
MATCHES = ("Name", "Type", "Kind", "Driver", "Path", "MACAddress", "PermanentMACAddress", "Property", *CONDITIONS)
CLEARED = {("Network", "Address"), ("Network", "Gateway")}
"""Keys of which an empty value takes back all addresses, or all routes."""
PATTERNS = tuple(
    f"{root}/{pattern}"
    for root in CONFIGURATION
    for pattern in (
        "network/*.network",
        "network/*.netdev",
        "network/*.network.d/*.conf",
        "networkd.conf",
        f"{CONF_D}/*.conf",
    )
)
"""All that is read of a host."""

assert str(NETWORKD) == f"{CONFIGURATION[0]}/network"
