"""What the next boot of a host will do, asked of the parts that will do it: `boot`, see the package."""

from __future__ import annotations

import glob
import os
import pwd
import re
import shlex
import subprocess
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from underlay.remote import at_once
from underlay.remote.survey.boot import scripts, transaction
from underlay.remote.survey.boot.transaction import UnreadError

SECONDS = 25
"""A test of a boot takes a third of a second; on a busy machine many times that."""
NETWORKD = "systemd-network"
NETWORK_FILES = ("/etc/systemd/network", "/etc/systemd/networkd.conf.d")
PSEUDO = {"proc", "sysfs", "tmpfs", "devtmpfs", "devpts", "none", "cgroup2", "debugfs", "overlay", "swap"}
OPTIONAL = {"noauto", "nofail", "x-systemd.automount"}
MODULES = ["nf_tables", "nf_conntrack", "nf_nat", "nft_chain_nat", "ip_tables", "iptable_nat", "x_tables", "nft_compat"]
"""What iptables loads."""
KINDS = ("nfs", "nfs4", "fuse", "cifs", "none", "auto", "bind")
"""Of file systems: those that have a program of their own, or no name of the kernel's."""
DPKG_STATES = ("half-installed", "half-configured", "unpacked", "triggers-awaited", "triggers-pending")


def boot(wanted: dict[str, Any]) -> dict[str, Any]:
    """See the package; `wanted`: see there."""
    parts: dict[str, Callable[[], Any]] = {
        "systemd": lambda: _systemd(wanted["units"]) if wanted["units"] else None,
        "sshd": _sshd,
        "nginx": lambda: _nginx() if wanted.get("nginx") else "",
        "unreadable": _unreadable,
        "links": _links,
        "names": _names,
        "fstab": _fstab,
        "dpkg": _dpkg,
        "broken": lambda: _broken(wanted["files"]),
        "init": _init,
        "modules": lambda: _modules(wanted["nics"]),
        "ifupdown": lambda: _ifupdown(wanted["nics"]),
    }

    def ask(name: str) -> Any:
        try:
            return [parts[name](), ""]
        except (UnreadError, OSError, ValueError) as error:
            return [None, str(error)]

    answers = at_once(ask, [[name] for name in parts], [None, f"no answer within {SECONDS} s"], SECONDS)
    found = dict(zip(parts, answers, strict=True))
    unread = [f"{name}: {why}" for name, (_, why) in found.items() if why]
    there = {name: answer for name, (answer, _) in found.items() if answer is not None}
    return {**there, "container": _container(), "unread": unread}


def _run(*argv: str) -> tuple[int, str]:
    """The exit code of a program, and what it prints on both streams. Raises UnreadError."""
    try:
        done = subprocess.run(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnreadError(f"{argv[0]}: {error}") from None
    return done.returncode, done.stdout.strip()[-30000:]


def _container() -> bool:
    return os.path.exists("/run/systemd/container")


def _systemd(names: list[str]) -> dict[str, Any]:
    text, said = transaction.dump()
    found = transaction.units(text)
    booted, running = transaction.booted(), transaction.running()
    default = re.search(r"default target (\S+?)\.?$", said, re.MULTILINE)
    rings = transaction.cycles(said)
    return {
        "default": default[1] if default else "",
        "units": {name: transaction.state(found, name, running, booted) for name in names},
        "cycles": rings,
        "files": transaction.links(found, {name for ring in rings for name in ring}),
        "said": [*transaction.told(said)][: transaction.MOST],
        "lines": scripts.lines(found, "underlay-firewall.service", booted, _container()),
        "begins": _begins(found, running),
    }


def _begins(found: dict[str, transaction.Unit], running: dict[str, float]) -> list[str]:
    """The services that a boot starts and keeps running, and that do not run now."""
    return sorted(
        name
        for name, unit in found.items()
        if name == unit.name
        and name.endswith(".service")
        and unit.starts
        and unit.all("Type") not in (["oneshot"], [])
        and not running.keys() & {name, *unit.all("Alias", "Name")}
        and not (name.startswith("systemd-") and all(path.startswith(transaction.VENDOR) for path in unit.files))
        and not transaction.unmet(unit)
    )[:20]


# --- programs and their files ---------------------------------------------------------------------------------------


def _sshd() -> dict[str, Any]:
    """What sshd will make of its files: with the options that its unit gives it."""
    options = ""
    with suppress(OSError):
        said = re.findall(r"^\s*SSHD_OPTS=(.*)$", Path("/etc/default/ssh").read_text(), re.MULTILINE)
        options = said[-1].strip().strip("\"'") if said else ""
    code, said_of_it = _run("sshd", "-T", *shlex.split(options))
    if code:
        return {"error": said_of_it.replace("\r", "")[-600:], "options": options}
    pairs = [line.partition(" ")[::2] for line in said_of_it.splitlines()]
    keys = []
    for key, path in pairs:
        if key == "hostkey" and os.path.exists(path):
            code, public = _run("ssh-keygen", "-yf", path)
            if code == 0:
                keys.append(" ".join(public.split()[:2]))
    return {
        "error": "",
        "options": options,
        "listen": [value for key, value in pairs if key == "listenaddress"],
        "keys": keys,
    }


def _nginx() -> str:
    """What nginx says against its files; empty if it takes them."""
    code, said = _run("nginx", "-t", "-q")
    return (said or f"exit code {code}")[-600:] if code else ""


def _unreadable() -> list[str]:
    """What is there for networkd and networkd can't read."""
    user = pwd.getpwnam(NETWORKD)
    closed: list[str] = []
    for top in NETWORK_FILES:
        for folder, _, files in os.walk(top):
            paths = [] if _may(folder, user, 0o5) else [folder]
            paths = paths or [path for name in files if not _may(path := os.path.join(folder, name), user, 0o4)]
            closed += [path for path in paths if not any(path.startswith(f"{each}/") for each in closed)]
    return closed[:20]


def _may(path: str, user: pwd.struct_passwd, bits: int) -> bool:
    """Whether an account may read a file (4), and enter a folder (5), as its mode says. What is not there, nobody may
    not."""
    try:
        found = os.stat(path)
    except OSError:
        return True
    shift = 6 if found.st_uid == user.pw_uid else 3 if found.st_gid == user.pw_gid else 0
    return (found.st_mode >> shift) & bits == bits


def _links() -> dict[str, str]:
    """The .link files of udev, which may rename a NIC; none in a container, where udev is not."""
    if _container():
        return {}
    found = {}
    for folder in ("/etc/systemd/network", "/run/systemd/network", "/usr/local/lib/systemd/network"):
        for path in (*glob.glob(f"{folder}/*.link"), *glob.glob(f"{folder}/*.link.d/*.conf")):
            with suppress(OSError):
                found[path] = "" if os.path.realpath(path) == "/dev/null" else Path(path).read_text(errors="replace")
    return found


def _names() -> list[list[Any]]:
    """Lines of udev's rules that name a NIC: [FILE, NUMBER, LINE]."""
    found: list[list[Any]] = []
    for path in [] if _container() else sorted(glob.glob("/etc/udev/rules.d/*.rules")):
        for number, line in enumerate(_lines(path), 1):
            if "net" in line and re.search(r"\bNAME:?=", line) and not line.lstrip().startswith("#"):
                found.append([path, number, line.strip()[:300]])
    return found[:40]


def _modules(nics: list[str]) -> list[list[Any]]:
    """Modules that the network is made of and that modprobe is told not to load: [MODULE, FILE, NUMBER, LINE]."""
    if _container():
        return []
    wanted = {
        "nf_tables",
        "nf_conntrack",
        "nf_nat",
        "nft_chain_nat",
        "ip_tables",
        "iptable_nat",
        "x_tables",
        "nft_compat",
    }
    for nic in nics:
        with suppress(OSError):
            wanted.add(os.path.basename(os.readlink(f"/sys/class/net/{nic}/device/driver/module")))
    found = []
    for path in (*glob.glob("/etc/modprobe.d/*.conf"), *glob.glob("/run/modprobe.d/*.conf")):
        with suppress(OSError):
            for number, line in enumerate(Path(path).read_text(errors="replace").splitlines(), 1):
                words = line.split()
                name = words[1].replace("-", "_") if len(words) > 1 else ""
                refused = words[:1] == ["blacklist"] or (words[:1] == ["install"] and "false" in line)
                if refused and name in wanted and (words[0] == "install" or not name.startswith(("nf", "x_", "ip"))):
                    found.append([name, path, number, line.strip()[:200]])
    return found


def _ifupdown(nics: list[str]) -> list[list[Any]]:
    """NICs of the plan that ifupdown is told to configure: [NIC, FILE, NUMBER, LINE]."""
    if not os.path.exists("/usr/sbin/ifup") and not os.path.exists("/sbin/ifup"):
        return []
    found: list[list[Any]] = []
    now = ""
    with suppress(OSError):  # what it has configured works with it
        now = Path("/run/network/ifstate").read_text()
    for path in ("/etc/network/interfaces", *sorted(glob.glob("/etc/network/interfaces.d/*"))):
        for number, line in enumerate(_lines(path), 1):
            words = line.split()
            asks = words[:1] == ["iface"] and words[2:4] == ["inet", "dhcp"]
            if asks and words[1] in nics and words[1] not in now:
                found.append([words[1], path, number, line.strip()[:200]])
    return found


# --- disks ----------------------------------------------------------------------------------------------------------


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return []


def _mounts() -> dict[str, str]:
    """Where something is mounted → its options."""
    found = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, _, options, *_ = line.split()
        found[where] = options
    return found


def _fstab() -> list[list[Any]]:
    """Lines that the boot waits for and that can't be mounted: [NUMBER, LINE, WHY]."""
    mounted = _mounts()
    found: list[list[Any]] = []
    for number, line in enumerate(_lines("/etc/fstab"), 1):
        words = line.split()
        if len(words) < 3 or words[0].startswith("#"):
            continue
        source, where, kind = words[:3]
        options = words[3].split(",") if len(words) > 3 else []
        if OPTIONAL & set(options) or where in ("none", "swap") or where in mounted or kind == "swap":
            continue
        real = _device(source)
        # Where there is no udev, systemd passes over what is on a device.
        if _container() and real.startswith("/dev/"):
            continue
        # systemd makes the folder that is to be seen elsewhere, too.
        if kind.startswith(KINDS[:4]) or real.startswith("//") or {"bind", "rbind"} & set(options):
            why = "it is not mounted now"
        elif real.startswith("/") and not os.path.exists(real):
            why = f"there is no {real}"
        elif (
            kind not in _kinds()
            and kind not in ("none", "auto", "bind")
            and not kind.startswith(("nfs", "fuse", "cifs"))
        ):
            why = f"this kernel has no file system {kind}"
        else:
            why = "it is not mounted now"
        found.append([number, line.strip()[:300], why])
    return found


def _device(source: str) -> str:
    key, _, value = source.partition("=")
    folders = {"UUID": "uuid", "LABEL": "label", "PARTUUID": "partuuid", "PARTLABEL": "partlabel", "ID": "id"}
    quoted = value.strip('"')
    return f"/dev/disk/by-{folders[key]}/{quoted}" if key in folders else source


def _kinds() -> set[str]:
    found = {line.split()[-1] for line in Path("/proc/filesystems").read_text().splitlines() if line.split()}
    return found | {
        os.path.basename(path).split(".")[0] for path in glob.glob(f"/lib/modules/{os.uname().release}/kernel/fs/*")
    }


def _dpkg() -> list[str]:
    """Packages that an installation left half-way, while none is at work."""
    if _locked("/var/lib/dpkg/lock-frontend") or _locked("/var/lib/dpkg/lock"):
        return []
    found = []
    name = ""
    with open("/var/lib/dpkg/status", errors="replace") as status:
        for line in status:
            if line.startswith("Package: "):
                name = line.split(maxsplit=1)[1].strip()
            elif line.startswith("Status: ") and (words := line.split()[1:]) and words[-1] in DPKG_STATES:
                found.append(f"{name} ({words[-1]})")
    if not found and any(each.name.isdigit() for each in Path("/var/lib/dpkg/updates").glob("*")):
        found.append("what it was about to write down")
    return found[:20]


def _locked(path: str) -> bool:
    """Whether a process holds the lock of a file: by the kernel's own list, which takes none."""
    try:
        number = os.stat(path).st_ino
    except OSError:
        return False
    return any(
        line.split()[5].endswith(f":{number}")
        for line in Path("/proc/locks").read_text().splitlines()
        if "->" not in line
    )


def _broken(archives: list[str]) -> list[list[str]]:
    """Zip applications of ours that are not whole: [PATH, WHY]."""
    found = []
    for path in archives:
        try:
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() or "__main__.py" not in archive.namelist():
                    found.append([path, "is damaged"])
        except FileNotFoundError:
            found.append([path, "is not there"])
        except (OSError, zipfile.BadZipFile):
            found.append([path, "is damaged"])
    return found


def _init() -> list[str]:
    """What is wrong with what the machine itself needs to come up, in words."""
    found = []
    if not os.access("/sbin/init", os.X_OK) or "systemd" not in os.path.realpath("/sbin/init"):
        found.append(
            f"/sbin/init is {'not there' if not os.path.exists('/sbin/init') else os.path.realpath('/sbin/init')}"
        )
    with suppress(OSError):
        if not re.fullmatch("[0-9a-f]{32}", Path("/etc/machine-id").read_text().strip()):
            found.append("/etc/machine-id has no id: systemd takes the boot for the first one of a new machine")
    if not os.path.exists("/etc/machine-id"):
        found.append("/etc/machine-id is not there: systemd takes the boot for the first one of a new machine")
    if not _container() and os.path.exists("/boot/grub/grub.cfg"):
        text = Path("/boot/grub/grub.cfg").read_text(errors="replace")
        kernels = re.findall(r"^\s*(?:linux|initrd)\s+(\S+)", text, re.MULTILINE)[:2]
        gone = [path for path in kernels if not os.path.exists(path) and not os.path.exists(f"/boot{path}")]
        found += [f"/boot/grub/grub.cfg begins with {path}, which is not there" for path in gone]
    return found
