"""What the next boot of a host will do, as the parts said that will do it, beside what it has to do. Pure."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from underlay.compare.difference import Place
from underlay.compare.systemd import networkd
from underlay.compare.systemd.networkd import Device, NetworkFile, System
from underlay.desired import units
from underlay.desired.routing import HostNetwork
from underlay.desired.units import Unit
from underlay.plan import SSH_PORT, Host
from underlay.text import command

SYSCTL = "systemd-sysctl.service"
GUARD = "underlay-guard-boot.service"
UDEV = "systemd-udevd.service"
TARGETS = ("multi-user.target", "basic.target", "sysinit.target", "local-fs.target", "sockets.target")
LOGINS = "systemd-user-sessions.service"
"""Until it has run, nobody but root logs in."""
STATIC = (SYSCTL, UDEV, LOGINS, *TARGETS)
"""What is started without having been enabled."""
MANAGERS = re.compile(r"(NetworkManager|connman|dhcpcd|wicd|netctl)\.service")
"""Who else configures NICs."""
SERVERS = re.compile(r"(apache2|httpd|lighttpd|haproxy|caddy|traefik|varnish|envoy)\.service")
"""Who else takes the ports of a load balancer."""
ANY = ("0.0.0.0", "::", "*", "")  # noqa: S104 (what sshd says)
RESTORE = "put the keys in /etc/ssh back from a backup (docs/oncall.md)"
CONFIG = re.compile(r"^\s*(Port|ListenAddress)\s*[ =]", re.IGNORECASE)

Kind = Literal["boot-unit", "boot-program", "boot-script", "boot-disk", "boot-network", "packages-broken"]


@dataclass(frozen=True)
class Start:
    """A unit at the next boot, as systemd's own test has it.

    load: as LoadState
    starts: a job of the boot starts it
    mask: the empty file, or the link to /dev/null, that masks it
    files: those of people: the unit's own, and its drop-ins
    wanted: the units of the boot that want it; `against`: those that conflict with it; `needs`: what it needs and is
        not to be had
    unmet: conditions that do not hold; `absent`: programs and files of its start that are not there
    newer: [FILE, SETTINGS] of people's files that it was never started with; harmless settings are left out
    package: the Debian package that its file is from, empty if none
    """

    load: str
    starts: bool
    mask: str = ""
    files: list[str] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)
    against: list[str] = field(default_factory=list)
    needs: list[str] = field(default_factory=list)
    unmet: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    newer: list[tuple[str, list[str]]] = field(default_factory=list)
    package: str = ""


@dataclass(frozen=True)
class Line:
    """A line of people's that a boot runs and that may change the network.

    unit: what runs it; sure: it is in no branch; before: it is run before our rules are put in place; tried: it was
    there at the last boot
    """

    unit: str
    path: str
    number: int
    text: str
    sure: bool
    before: bool
    tried: bool


@dataclass(frozen=True)
class Systemd:
    """default: the default target; cycles: units that wait for each other; files: of those, people's files

    said: what systemd says of units; begins: services that are started and do not run now
    """

    default: str
    units: dict[str, Start]
    cycles: list[list[str]] = field(default_factory=list)
    files: dict[str, list[str]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    begins: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Ssh:
    """What sshd makes of its files: its words against them, or where it listens, and the public keys of the host."""

    error: str
    options: str = ""
    listen: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class NextBoot:
    """See `remote.survey.boot.next_boot`; a part that could not be asked is None, and `unread` says why.

    unreadable: files that networkd can't read; links: path → text of udev's .link files
    names: [FILE, NUMBER, LINE] of udev's rules that name a NIC; fstab: [NUMBER, LINE, WHY]
    modules, ifupdown: [OBJECT, FILE, NUMBER, LINE]; broken: [PATH, WHY]
    """

    systemd: Systemd | None = None
    sshd: Ssh | None = None
    nginx: str | None = None
    unreadable: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    names: list[tuple[str, int, str]] = field(default_factory=list)
    fstab: list[tuple[int, str, str]] = field(default_factory=list)
    dpkg: list[str] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    init: list[str] = field(default_factory=list)
    modules: list[tuple[str, str, int, str]] = field(default_factory=list)
    ifupdown: list[tuple[str, str, int, str]] = field(default_factory=list)
    container: bool = False
    unread: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Problem:
    """One thing that keeps the next boot from being as planned.

    about: what it is about: a unit, a file
    commands: shell command lines as root on the host that take it away; none if no command surely does
    guard: they are to be a confirmed change; it leaves the guard on the host, too
    """

    kind: Kind
    about: str
    what: str
    evidence: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    advice: str = ""
    guard: bool = False


def needed(host: Host, wanted: HostNetwork, managing: Iterable[Unit] = units.MANAGERS) -> tuple[str, ...]:
    """The units that a host needs to come up as planned; of ssh one of two. `managing`: what brings its NICs up."""
    names = [*(unit.name for unit in managing), units.SSH.name, units.SSH_SOCKET.name, GUARD, UDEV, LOGINS]
    names += [unit.name for unit in units.UNITS[host.role] if unit.name not in names]
    return (*TARGETS, *names, *([SYSCTL] if wanted.sysctls else []))


def request(host: Host, wanted: HostNetwork, program: object) -> dict[str, object]:
    """What to ask a host: see `remote.survey`; `program`: where the guard is there."""
    nginx = units.NGINX in units.UNITS[host.role]
    files = [str(program)]
    return {"units": [*needed(host, wanted)], "files": files, "nics": list(wanted.every), "nginx": nginx}


def problems(
    host: Host,
    wanted: HostNetwork,
    found: NextBoot,
    devices: Sequence[Device] = (),
    system: System | None = None,
    known: Sequence[str] = (),
    ssh_files: Mapping[str, str] | None = None,
    managing: Iterable[Unit] = (units.NETWORKD,),
) -> list[Problem]:
    """What keeps the next boot of a host from being as planned, the worst first.

    known: the host keys, as TYPE and KEY, by which it is known here; ssh_files: path → text of sshd's configuration
    managing: the units that bring its NICs up
    """
    names = needed(host, wanted, managing)
    every = [*_machine(found), *_packages(found)]
    if found.systemd:
        every += _systemd(host, names, found)
    every += [*_sshd(host, found.sshd, known, ssh_files or {}), *_nginx(found.nginx)]
    every += [*_network(wanted, found, devices, system or System())]
    if found.systemd:
        every += _lines(host, wanted, names, found.systemd.lines)
    seen = dict[str, Problem]()
    for each in every:
        seen.setdefault(each.about, each)
    return [*seen.values()]


def notes(found: NextBoot, told: Sequence[Problem]) -> Iterator[str]:
    """What is worth to know, and no fault; not what is among these problems."""
    about = {each.about for each in told}
    if found.systemd:
        for name in found.systemd.begins:
            if name not in about and not re.match("rescue|emergency|rc-local", name):
                yield f"{name} does not run, and the next boot starts it"
        for line in found.systemd.lines:
            if line.path not in about and not (line.before or line.tried):
                about.add(line.path)
                where = Place(line.path, line.number, line.text)
                yield f"{line.unit} runs at the next boot, as never before: {where}"
    for number, text, why in found.fstab:
        if "/etc/fstab" not in about:
            yield f"/etc/fstab, line {number}: {text}: {why}, and the next boot waits for it"


def set_aside(path: str) -> str:
    """The command that takes a file out of the way of whoever reads its folder."""
    return command("mv", path, f"{path}.off")


def comment_out(path: str, *numbers: int) -> str:
    """The command that makes lines of a file comments; nothing in it but the path may need quotes."""
    return f"sed -i {' '.join(f'-e {number}s/^/#/' for number in numbers)} {command(path)}"


RELOAD = "systemctl daemon-reload"


# --- systemd --------------------------------------------------------------------------------------------------------


def _systemd(host: Host, needed: Collection[str], boot: NextBoot) -> Iterator[Problem]:
    found = boot.systemd
    assert found is not None
    names = list(needed)
    if boot.container:  # there its condition does not hold
        names.remove(UDEV)
    lost = {name: unit for name in names if (unit := found.units.get(name)) and not unit.starts}
    ssh = [name for name in (units.SSH.name, units.SSH_SOCKET.name) if name in lost]
    if len(ssh) == 1:
        lost.pop(ssh[0])
    elif ssh:
        lost.pop(units.SSH_SOCKET.name)
    main = found.units.get(TARGETS[0])
    cycles = list(_cycles(found, set(names)))
    yield from cycles
    if main and not main.starts and main.load == "loaded" and lost.keys() - set(TARGETS):
        yield Problem(
            "boot-unit",
            "default.target",
            f"the next boot ends in {found.default or 'another target'}: its default target does not lead to "
            f"{TARGETS[0]}",
            (f"systemctl get-default: {found.default}", *found.said[:2]),
            (command("systemctl", "set-default", TARGETS[0]),),
        )
        # All else that is not started may only follow from it.
        lost = {name: unit for name, unit in lost.items() if unit.load != "loaded"}
    for name, unit in lost.items():
        if name in TARGETS and unit.load == "loaded":
            continue
        if not (cycles and any(name in ring for ring in found.cycles)):
            yield _lost(name, unit, found)
    for name in names:
        unit = found.units.get(name)
        if unit and unit.starts:
            yield from _fails(name, unit, {path for path, _ in boot.broken})
    for name in found.begins:
        if MANAGERS.fullmatch(name) or (host.role == "lb_nginx" and SERVERS.fullmatch(name)):
            what = "configures NICs, too" if MANAGERS.fullmatch(name) else "takes the ports of nginx"
            yield Problem(
                "boot-unit",
                name,
                f"the next boot starts {name}, which {what}",
                (f"systemctl status {name}: it is enabled, and does not run",),
                (command("systemctl", "disable", name),),
            )


def _cycles(found: Systemd, names: set[str]) -> Iterator[Problem]:
    """One for all: what closes them is one file, most likely."""
    rings = [ring for ring in found.cycles if any(name in names or name.endswith(".target") for name in ring)]
    if not rings:
        return
    files = dict.fromkeys(
        path for ring in rings for name in ring for path in found.files.get(name, []) if not _is_ours(path, name)
    )
    owners = {path: name for ring in rings for name in ring for path in found.files.get(name, [])}
    fix: tuple[str, ...] = ()
    if len(files) == 1:
        path = next(iter(files))
        drop_in = PurePosixPath(path).parent.name.endswith(".d")
        fix = (set_aside(path), RELOAD) if drop_in else (command("systemctl", "disable", owners[path]),)
    yield Problem(
        "boot-unit",
        next(iter(files), rings[0][0]),
        f"units wait for each other ({' → '.join(rings[0][:5])}): the next boot leaves one of them out"
        + (f"; {next(iter(files))} closes the circle" if len(files) == 1 else ""),
        tuple(" → ".join(ring[:8]) for ring in rings[:3]),
        fix,
        "" if fix else f"one of these closes it: {', '.join(files) or 'look at systemctl cat of each'}",
    )


def _is_ours(path: str, name: str) -> bool:
    """A unit file of ours: a deploy compares it."""
    return name.startswith("underlay-") and path == f"/etc/systemd/system/{name}"


def _lost(name: str, unit: Start, found: Systemd) -> Problem:
    """Why a unit is not started, and what changes that."""
    words = [each for each in found.said if each.startswith((name, *unit.files))][:3]
    said: tuple[str, ...] = tuple(words)
    enable = () if name in STATIC or unit.wanted else (command("systemctl", "enable", name),)
    newer = [path for path, _ in unit.newer if not _is_ours(path, name)]
    advice, fix = f"systemd-analyze verify {name} may say more", tuple[str, ...]()
    if unit.load == "masked" and unit.mask.startswith("/etc/"):
        why, fix = f"it is masked by {unit.mask}", (f"rm {command(unit.mask)}", RELOAD, *enable)
    elif unit.load in ("masked", "not-found"):
        why = f"its file {unit.mask} is empty" if unit.mask else "its file is not there"
        fix = _reinstall(unit)
    elif unit.load != "loaded":
        why = f"systemd can't take its files ({unit.load})"
        fix = (*map(set_aside, newer or unit.files), RELOAD) if newer or unit.files else ()
    elif unit.needs and newer:
        why, fix = f"it needs {', '.join(unit.needs)}, which can't be had", (*map(set_aside, newer), RELOAD)
    elif unit.needs:
        why = f"it needs {', '.join(unit.needs)}, which can't be had"
        fix = (command("systemctl", "unmask", *unit.needs),)
    elif not unit.wanted:
        why, fix = "it is not enabled: nothing that is started wants it", enable
    elif newer:
        why, fix = f"{newer[0]} keeps it out", (*map(set_aside, newer), RELOAD)
    elif unit.against:
        why = f"it is in conflict with {', '.join(unit.against)}"
        fix = (command("systemctl", "disable", *unit.against),)
    else:
        why = "something that it depends on can't be started"
    evidence = said or (f"systemd's own test of the boot starts it by no job; {name} is {unit.load}",)
    return Problem(
        "boot-unit", name, f"the next boot does not start {name}: {why}", evidence, fix, "" if fix else advice
    )


def _reinstall(unit: Start) -> tuple[str, ...]:
    return (command("apt-get", "install", "--reinstall", "-y", unit.package),) if unit.package else ()


def _fails(name: str, unit: Start, told: set[str]) -> Iterator[Problem]:
    """A unit that is started, and will not do what it does now; `told`: files that are told by themselves."""
    absent = [path for path in unit.absent if path not in told]
    newer = {path: keys for path, keys in unit.newer if not _is_ours(path, name)}
    aside = (*map(set_aside, newer), RELOAD) if newer else ()
    if unit.unmet and name != GUARD:
        condition = unit.unmet[0]
        _, _, what = condition.partition("=")
        there = re.fullmatch(r"\|?!(/etc/\S+)", what)
        fix = aside or ((set_aside(there[1]),) if there else ())
        evidence = (f"systemd-analyze condition '{condition}': it does not hold", *newer)
        advice = "" if fix else f"systemctl cat {name} shows where the condition is"
        yield Problem(
            "boot-unit", name, f"the next boot passes over {name}: {condition} does not hold", evidence, fix, advice
        )
    elif absent:
        path = absent[0]
        fix = aside or ((f"chmod 755 {command(path)}",) if unit.package == f"mode {path}" else _reinstall(unit))
        yield Problem(
            "boot-unit",
            name,
            f"{name} fails at the next boot: {path} is not there, or can't be run",
            tuple(f"{each}: not there, or not executable" for each in (*absent, *newer)),
            fix,
            "" if fix else f"systemctl cat {name} shows what runs it",
        )
    elif newer:
        path, keys = next(iter(newer.items()))
        yield Problem(
            "boot-unit",
            name,
            f"the next boot starts {name} otherwise than it runs now: {path} says {', '.join(keys[:4])}",
            tuple(f"{each} is newer than what runs: {', '.join(said)}" for each, said in newer.items()),
            aside,
            "somebody wrote it: find out what for; it was never tried",
        )


# --- programs -------------------------------------------------------------------------------------------------------


def _sshd(host: Host, found: Ssh | None, known: Sequence[str], files: Mapping[str, str]) -> Iterator[Problem]:
    if found is None:
        return
    if found.error:
        if "privilege separation directory" in found.error:
            return  # its unit makes it
        yield _refused("sshd", found.error)
        return
    address, port = str(host.primary.address), host.login.port
    if found.listen and not any(_covers(each, address, port) for each in found.listen):
        lines = [
            (path, number, line.strip())
            for path, text in files.items()
            for number, line in enumerate(text.splitlines(), 1)
            if CONFIG.match(line) and line.split() != ["Port", str(port)]
        ]
        fix = [
            comment_out(path, *(n for p, n, _ in lines if p == path)) for path in dict.fromkeys(p for p, *_ in lines)
        ]
        if found.options:
            fix.append("sed -i s/^SSHD_OPTS/#SSHD_OPTS/ /etc/default/ssh")
        ours = ["Port", str(port)]
        if port != SSH_PORT and not any(line.split() == ours for text in files.values() for line in text.splitlines()):
            fix.append(f"sed -i '1i Port {port}' /etc/ssh/sshd_config")
        yield Problem(
            "boot-program",
            "sshd",
            f"after the next boot sshd does not listen on port {port} of {address}, but on {found.listen[0]}",
            (*(f"{path}, line {number}: {line}" for path, number, line in lines[:4]),)
            or (f"/etc/default/ssh: SSHD_OPTS={found.options}",),
            tuple(fix),
        )
    if known and found.keys and not set(known) & set(found.keys):
        yield Problem(
            "boot-program",
            "host key",
            "after the next boot sshd has another host key than it is known by, and whoever connects is refused",
            tuple(f"on disk: {key[:60]}…" for key in found.keys[:2]),
            advice=f"{RESTORE}, or make the new ones known everywhere",
        )
    elif known and not found.keys:
        what = "sshd has no host key on disk: it does not start at the next boot"
        yield Problem("boot-program", "host key", what, ("sshd -T",), advice=RESTORE)


def _covers(listen: str, address: str, wanted: int) -> bool:
    where, _, port = listen.rpartition(":")
    return port == str(wanted) and where.strip("[]") in (*ANY, address)


def _refused(program: str, error: str) -> Problem:
    """A program that does not take its files: at the line that it names, if it names one."""
    lines = [line for line in error.splitlines() if line.strip()]
    place = re.search(r"(/etc/[\w./@+-]+)(?::? line |:)(\d+)", error)
    folder = re.search(r'open\(\) "(/var/[\w./-]+)/[\w.-]+" failed \(2:', error)
    open_key = re.search(r"Permissions \d+ for '(/etc/ssh/\S+)' are too open", error)
    gone = "no hostkeys available" in error
    fix: tuple[str, ...] = ()
    advice = ""
    if open_key:
        fix = (command("chmod", "600", open_key[1]),)
    elif gone:
        advice = f"{RESTORE}: ssh-keygen -A makes others"
    elif folder:
        fix = (command("mkdir", "-p", folder[1]),)
    elif place:
        fix = (comment_out(place[1], int(place[2])),)
        advice = "this makes the line a comment; somebody wrote it: find out what for"
    else:
        advice = f"look at its files in /etc/{'ssh' if program == 'sshd' else program}"
    worst = [line for line in lines if (place[0] if place else "[emerg]") in line]
    words = next(iter([*worst, *lines[-1:]]), "it says nothing")
    return Problem(
        "boot-program",
        program,
        f"{program} does not take its files, and does not start at the next boot: {words}",
        tuple(lines[:4]),
        fix,
        advice,
    )


def _nginx(error: str | None) -> Iterator[Problem]:
    if error:
        yield _refused("nginx", error)


# --- network --------------------------------------------------------------------------------------------------------


def _network(wanted: HostNetwork, found: NextBoot, devices: Sequence[Device], system: System) -> Iterator[Problem]:
    for path in found.unreadable:
        paths = command(path)
        yield Problem(
            "boot-network",
            path,
            f"networkd can't read {path}: the next boot goes without it",
            (f"ls -ld {paths}",),
            (f"chgrp systemd-network {paths}", f"chmod g+rX {paths}"),
        )
    for nic in wanted.every:
        file = _link_of(found.links, networkd.device_of(nic, devices), system)
        for key in ("Name", "MACAddress"):
            said = file.last("Link", key) if file else None
            device = networkd.device_of(nic, devices)
            now = nic if key == "Name" else device.mac
            if said and said.value.lower() != now.lower():
                yield Problem(
                    "boot-network",
                    nic,
                    f"the next boot gives NIC {nic} another {'name' if key == 'Name' else 'MAC'}: {said.place}",
                    (str(said.place),),
                    (set_aside(said.place.path),),
                    "somebody wrote it: find out what for",
                )
    for path, number, line in found.names:
        mac = re.search(r'ATTRS?\{address\}=="([^"]+)"', line)
        name = re.search(r'\bNAME:?="([^"]+)"', line)
        nic = next((nic for nic in wanted.every if mac and networkd.device_of(nic, devices).mac == mac[1].lower()), "")
        if nic and name and name[1] != nic:
            what = f"the next boot gives NIC {nic} another name: {Place(path, number, line)}"
            yield Problem("boot-network", nic, what, (line,), (comment_out(path, number),))
    for module, path, number, line in found.modules:
        yield Problem(
            "boot-network",
            path,
            f"the next boot does not load the kernel module {module}: {Place(path, number, line)}",
            (f"{path}, line {number}: {line}",),
            (comment_out(path, number),),
        )
    ifupdown = found.systemd and found.systemd.units.get(units.IFUPDOWN.name)
    for nic, path, number, line in found.ifupdown if ifupdown and ifupdown.starts else ():
        what = f"the next boot lets ifupdown configure {nic}, too: {Place(path, number, line)}"
        yield Problem("boot-network", path, what, (line,), (command("systemctl", "disable", units.IFUPDOWN.name),))


def _link_of(files: Mapping[str, str], device: Device, system: System) -> NetworkFile | None:
    """The .link file of a NIC: udev takes the first that matches."""
    for path in networkd.merged(files, "network", ".link"):
        file = networkd.read_file(files, path)
        names = file.match.get("OriginalName")
        matching = {key: words for key, words in file.match.items() if key != "OriginalName"}
        if names and not networkd.any_of(names, device.names):
            continue
        rest = NetworkFile(path, tuple(each for each in file.settings if each.key != "OriginalName"))
        if not matching and names:
            return file
        if matching and networkd.matches(rest, device, system):
            return file
    return None


# --- the machine ----------------------------------------------------------------------------------------------------


def _machine(found: NextBoot) -> Iterator[Problem]:
    for number, line, why in found.fstab:
        if why.startswith(("there is no", "this kernel")):
            yield Problem(
                "boot-disk",
                "/etc/fstab",
                f"the next boot stops in emergency mode: /etc/fstab, line {number}: {why}",
                (f"/etc/fstab, line {number}: {line}",),
                (comment_out("/etc/fstab", number), RELOAD),
                "or put nofail among its options, if it may be missing",
            )
    for what in found.init:
        fix = (command("systemd-machine-id-setup"),) if what.startswith("/etc/machine-id") else ()
        yield Problem("boot-disk", what.split()[0], f"{what}", (f"ls -l {what.split()[0]}",), fix)
    for path, why in found.broken:
        yield Problem(
            "boot-unit",
            path,
            f"{path} {why}: what the next boot runs from it fails",
            (f"ls -l {path}",),
            ("true",),
            "any confirmed change leaves it there anew",
            guard=True,
        )


def _packages(found: NextBoot) -> Iterator[Problem]:
    if found.dpkg:
        yield Problem(
            "packages-broken",
            "dpkg",
            f"an installation was interrupted: {', '.join(found.dpkg[:4])}",
            ("dpkg --audit",),
            (command("dpkg", "--configure", "-a"),),
        )


# --- what people's commands do --------------------------------------------------------------------------------------


def _lines(host: Host, wanted: HostNetwork, needed: Collection[str], lines: Sequence[Line]) -> Iterator[Problem]:
    for line in lines:
        harm = line.sure and not line.tried and _harm(host, wanted, needed, line)
        if not harm:
            continue
        unit_file = line.path.endswith((".service", ".timer")) or not line.path.startswith("/etc/cron")
        own = not line.unit.startswith(("cron.", "rc-local.", "networking.", "networkd-", "NetworkManager", "systemd-"))
        fix = command("systemctl", "disable", line.unit) if own and unit_file else comment_out(line.path, line.number)
        yield Problem(
            "boot-script",
            line.path,
            f"at the next boot {line.unit} {harm}: {line.path}, line {line.number}: {line.text}",
            (f"{line.path}, line {line.number}: {line.text}",),
            (fix,),
            "somebody made it: find out what for, or it comes back",
        )


CHAINS = {"filter": {"FORWARD"}, "nat": {"PREROUTING", "POSTROUTING"}, "raw": {"PREROUTING", "OUTPUT"}}
"""Where the gateway's rules are."""


def _harm(host: Host, wanted: HostNetwork, needed: Collection[str], line: Line) -> str:
    """What a line surely does to what the plan has, in words; empty if it is not sure."""
    for part in re.split(r"[;|&]+", line.text):
        words = part.split()
        while words and (words[0] in ("sudo", "exec", "-") or "=" in words[0]):
            words = words[1:]
        if not words:
            continue
        program, rest = PurePosixPath(words[0].lstrip("-@+!:")).name, words[1:]
        found = _harm_of(host, wanted, needed, program, rest, line.before)
        if found:
            return found
        if match := re.search(r"echo\s+(\S+)\s*>\s*/proc/sys/(\S+)", line.text):
            return _sysctl(wanted, match[2].replace("/", "."), match[1])
        if match := re.match(r"[wfF]\S*\s+/proc/sys/(\S+)\s+(?:\S+\s+){4}(\S+)", line.text):  # of tmpfiles.d
            return _sysctl(wanted, match[1].replace("/", "."), match[2])
    return ""


def _harm_of(
    host: Host, wanted: HostNetwork, needed: Collection[str], program: str, words: list[str], before: bool
) -> str:
    found = ""
    is_gateway = host.role == "gateway" and not before
    if is_gateway and program in ("iptables", "iptables-nft", "iptables-legacy"):
        found = _iptables(words)
    elif is_gateway and program.startswith("iptables") and program.endswith("restore"):
        found = "" if {"-n", "--noflush"} & set(words) else "replaces whole tables of rules"
    elif is_gateway and program == "nft" and words[:2] in (["flush", "ruleset"], ["delete", "table"]):
        found = "takes all rules away" if words[0] == "flush" else ""
    elif program == "sysctl":
        for word in words:
            key, equals, value = word.partition("=")
            found = found or (_sysctl(wanted, key, value) if equals else "")
    elif program == "ip":
        found = _ip(wanted, [word for word in words if word not in ("-4", "-o")])
    elif program == "ifconfig" and words[:1] and words[0] in wanted.every and "down" in words:
        found = f"switches {words[0]} off"
    elif program == "systemctl" and words:
        verb = next((word for word in words if not word.startswith("-")), "")
        ours = {name.removesuffix(".service") for name in needed if name.endswith(".service")}
        names = {word.removesuffix(".service") for word in words} & ours
        found = f"{verb}s {', '.join(sorted(names))}" if verb in ("stop", "disable", "mask", "kill") and names else ""
    return found


def _iptables(words: list[str]) -> str:
    table = next((words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-t", "--table")), "filter")
    chains = CHAINS.get(table, set())
    for index, word in enumerate(words):
        if word in ("-F", "--flush"):
            named = words[index + 1] if index + 1 < len(words) and not words[index + 1].startswith("-") else ""
            if chains and (not named or named in chains):
                return f"takes the rules of table {table} away"
        if word in ("-I", "--insert") and words[index + 1 : index + 2] and words[index + 1] in chains:
            rest = [each for each in words[index + 2 :] if not each.isdecimal()]
            if rest in (["-j", "DROP"], ["-j", "REJECT"]):
                return f"drops all packets in {words[index + 1]}"
    return ""


def _sysctl(wanted: HostNetwork, key: str, value: str) -> str:
    key = key.replace("/", ".") if "/" in key and "." not in key else key
    planned = wanted.sysctls.get(key)
    value = value.strip("\"'")
    nic = re.fullmatch(r"net\.ipv4\.conf\.(\S+)\.forwarding", key)
    if nic and value == "0" and wanted.sysctls.get("net.ipv4.ip_forward") == "1" and nic[1] in ("all", *wanted.nics):
        return f"lets {nic[1]} forward nothing"
    return f"sets {key} to {value}, not {planned}" if planned is not None and value != planned else ""


def _ip(wanted: HostNetwork, words: list[str]) -> str:
    kind, verb = (*words[:2], "", "")[:2]
    rest = words[2:]
    if kind.startswith("ru") and verb.startswith("flush"):
        return "takes all policy rules away"
    if kind and "link".startswith(kind) and verb == "set" and "down" in rest and set(rest) & set(wanted.every):
        return f"switches {next(iter(set(rest) & set(wanted.every)))} off"
    if kind and "address".startswith(kind) and verb.startswith(("flush", "del")):
        addresses = {each.cidr for each in wanted.addresses} | {each.ip for each in wanted.addresses}
        if (verb.startswith("flush") and set(rest) & set(wanted.nics)) or set(rest) & addresses:
            return f"takes addresses away ({' '.join(rest)})"
    if kind.startswith("ro") and verb.startswith("flush") and "table" in rest:
        table = rest[rest.index("table") + 1 :][:1]
        if table in ([str(each.table)] for each in wanted.routes):
            return f"takes the routes of table {table[0]} away"
    return ""
