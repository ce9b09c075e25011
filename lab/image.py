"""The image that the lab's hosts boot from: a small Debian, and what roles install, served by the host `images`.

An image is two folders: `root`, the base of every host's disk, and `repo`, with `debian` (an apt repository of the
packages that roles need and the base lacks) and `python` (wheels of requirements.txt). It is built once for each
content of this file and of requirements.txt.
"""

import fcntl
import hashlib
import platform
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from lab import machine, network
from lab.process import LabError, Progress, run
from lab.state import IMAGES, NAME, SUITES

REPO = Path(__file__).resolve().parent.parent
REQUIREMENTS = REPO / "requirements.txt"
PYTHON = dict(zip(SUITES, ("3.13", "3.11"), strict=True))
"""What the releases have."""

BASE = [
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "python3"),
    *("iproute2", "iputils-ping", "procps", "ca-certificates"),
    "dnsmasq-base",  # the DNS of the enterprise, which the host `images` serves
]
FOR_ROLES = [
    *("iptables", "conntrack", "tcpdump"),
    *("nginx", "libnginx-mod-stream", "python3-venv", "git", "rsync"),
]
"""What roles install; kept out of the base, so that a role that forgets to install it fails in the lab too."""
NEIGHBOURS = ["nftables", "iptables-persistent", "ipset", "ufw", "firewalld", "arptables", "ebtables"]
"""Other packet filters, for tests to install beside what roles install."""
MANAGERS = ["ifupdown netplan.io network-manager cloud-init", "ifupdown2"]
"""What else brings NICs up, see `lab.flavour`."""

MASKED = [
    *("getty.target", "console-getty.service", "systemd-pstore.service", "sshd-keygen.service", "e2scrub_reap.service"),
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
]
"""Units that only make a lab host slower to boot; host keys come from the lab."""

UNFINISHED = f".{NAME}.new"

DPKG = [
    "force-unsafe-io",
    *(f"path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")),
]


def image(suite: str) -> Path:
    """Where the image of a suite is, or will be. LabError for a suite that the lab does not know."""
    if suite not in SUITES:
        raise LabError(f"no suite {suite!r}: the lab knows {', '.join(SUITES)}")
    inputs = hashlib.sha256(Path(__file__).read_bytes() + REQUIREMENTS.read_bytes())
    return IMAGES / f"{suite}-{inputs.hexdigest()[:16]}"


def ensure(suite: str, say: Progress) -> Path:
    """The image of a suite, built if there is none; then the suite's older ones are removed."""
    return once(image(suite), suite, lambda new: _build(suite, new, say))


def once(path: Path, family: str, build: Callable[[Path], None]) -> Path:
    """A folder of IMAGES; if it is not there, `build` makes it, and the family's others go that no lab runs on.

    family: what the names of all its folders begin with, before a hash
    build: gets the folder to make; what it starts is in the control group `.build`
    """
    IMAGES.mkdir(parents=True, exist_ok=True)
    # Another lab may be about to build the same one.
    with (IMAGES / f".{family}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            discard_unfinished()
            new = IMAGES / f".{path.name}{UNFINISHED}"  # whole or not at all: one that was cut off is never used
            try:
                build(new)
            finally:
                machine.kill_cgroup(".build")
            new.rename(path)
            for old in IMAGES.glob(f"{family}-*"):
                if old != path and not _used(old):
                    remove(old)
    return path


def layer(path: Path, packages: Sequence[str]) -> Path:
    """Packages of an image's repository on top of its root: the folder for an overlay, made if it is not there."""
    folder = path / "layers" / "-".join(packages)
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            new = folder.parent / f".{folder.name}{UNFINISHED}"
            remove(new)
            _install(path, new, packages)
            (new / "upper").rename(folder)
            remove(new)
    return folder


def _install(path: Path, new: Path, packages: Sequence[str]) -> None:
    for name in ("upper", "work", "root"):
        (new / name).mkdir(parents=True)
        (new / name).chmod(0o755)
    layers = f"lowerdir={path / 'root'},upperdir={new / 'upper'},workdir={new / 'work'}"
    run(["mount", "-t", "overlay", "underlay-lab", "-o", layers, str(new / "root")])
    apt = "apt-get -qq -o Dir::Etc::SourceList=/tmp/lab.list -o Dir::Etc::SourceParts=/dev/null"
    script = f"""\
echo 'deb [trusted=yes] file:/srv/debian ./' >/tmp/lab.list
export DEBIAN_FRONTEND=noninteractive
{apt} update && {apt} --yes --no-install-recommends install {" ".join(packages)}
code=$?; rm -rf /tmp/lab.list /var/lib/apt/lists/*; exit $code"""
    name = "-".join(["layer", *packages]).replace(".", "-")
    try:
        offline(new / "root", name, script, f"--bind-ro={path / 'repo'}:/srv", timeout=600)
    finally:
        machine.unmount_below(new)


def offline(root: Path, name: str, script: str, *options: str, timeout: float) -> str:
    """Run a script as root in a folder that has a Debian, without any network; its output.

    name: of the container, no other of this lab has it meanwhile
    options: of nspawn
    """
    argv = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--private-network", "--pipe", "--as-pid2"]
    # Named as the hosts are: what nspawn leaves when it is killed is found with what these left.
    argv += [f"--machine={network.PREFIX}{name}", f"--directory={root}", *options]
    # Not the lock: who ends this by its control group needs that first.
    return run(machine.in_cgroup(".build", [*argv, "/bin/sh", "-c", script]), timeout=timeout, inherit=False)


def _build(suite: str, new: Path, say: Progress) -> None:
    say(f"building the image of Debian {suite} (once; it is kept in {IMAGES})")
    with ThreadPoolExecutor() as pool:
        try:
            builds = [pool.submit(part, suite, new, say) for part in (_debian, _python)]
            for build in as_completed(builds):
                build.result()
        finally:
            machine.kill_cgroup(".build")  # the other one's, or leaving the pool would wait for it


def discard_unfinished() -> None:
    """Remove what a build of this lab left that was cut off."""
    for path in IMAGES.glob(f".*{UNFINISHED}"):
        remove(path)


def purge() -> None:
    """Remove the images that no lab runs on."""
    for path in IMAGES.glob("*-*"):
        if not _used(path):
            remove(path)
    if not any(IMAGES.glob("*-*")):
        remove(IMAGES)


def _used(image: Path) -> bool:
    return f"lowerdir={image}/" in Path("/proc/mounts").read_text()


def remove(path: Path) -> None:
    """Remove an image, or what is left of one."""
    machine.unmount_below(path)  # first, or the content of what a cut-off build mounted there would be removed
    if path.exists():
        shutil.rmtree(path)


def _debian(suite: str, new: Path, say: Progress) -> None:
    root, debs = new / "root", new / "repo/debian"
    debs.mkdir(parents=True)
    hooks = [
        # The neighbours each by itself: some of them conflict.
        *(download(debs, packages) for packages in (" ".join(FOR_ROLES), *NEIGHBOURS, *MANAGERS)),
        'rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/apt/sources.list "$1"/etc/resolv.conf',
        'chroot "$1" systemctl enable systemd-networkd.service ssh.service',
        f'chroot "$1" systemctl mask {" ".join(MASKED)}',
        'touch "$1"/etc/.updated "$1"/var/.updated',  # else the first boot rebuilds caches (systemd-update-done(8))
    ]
    argv = ["mmdebstrap", "--quiet", "--mode=root", "--variant=minbase", f"--include={','.join(BASE)}"]
    argv += [f"--dpkgopt={option}" for option in DPKG]
    argv += [f"--customize-hook={hook}" for hook in hooks]
    # Not the lock: who ends this by its control group needs that first.
    run(machine.in_cgroup(".build", [*argv, suite, str(root)]), timeout=1200, inherit=False)
    if not (root / f"usr/bin/python{PYTHON[suite]}").exists():
        raise LabError(f"the Python of Debian {suite} is not {PYTHON[suite]}: fix PYTHON in {__file__}")
    index(debs)
    say("the base and its packages are there")


def download(debs: Path, packages: str) -> str:
    """The hook of mmdebstrap that loads packages, and what they need beside those of its root, into a folder."""
    # The machine's own apt settings (a proxy, say) hold for this, as they do for the root.
    apt = 'env APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes --download-only --no-install-recommends'
    return f"{apt} -o Dir::Cache::archives={debs} install {packages}"


def index(debs: Path) -> None:
    """Make an apt repository of a folder with packages that were loaded by `download`."""
    shutil.rmtree(debs / "partial", ignore_errors=True)
    (debs / "lock").unlink(missing_ok=True)
    for kind in ("packages", "release"):
        (debs / kind.capitalize()).write_text(run(["apt-ftparchive", kind, "."], cwd=debs))


def _python(suite: str, new: Path, say: Progress) -> None:
    wheels = new / "repo/python"
    wheels.mkdir(parents=True)
    # pip takes these names as they are: one that is not listed does not fit, however old.
    platforms = [f"manylinux{version}_{platform.machine()}" for version in ("1", "2010", "2014")]
    platforms += [f"manylinux_2_{minor}_{platform.machine()}" for minor in range(5, 37)]
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    argv += ["--only-binary=:all:"]
    argv += ["--python-version", PYTHON[suite], *(f"--platform={name}" for name in platforms)]
    argv += ["--requirement", str(REQUIREMENTS), "--dest", str(wheels)]
    run(machine.in_cgroup(".build", argv), timeout=600, inherit=False)
    say("the Python packages are there")
