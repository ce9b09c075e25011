"""Makes the files of an image: what a disk is made of, by mmdebstrap, and the disk or the seed itself.

Nothing is mounted on this machine: as root mmdebstrap works in mounts of its own, which end with it, and anybody else
has it work in a user namespace. No packet goes to the site.
"""

import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from underlay.errors import OperatorError
from underlay.image import disk
from underlay.image.disk import EPOCH, ROOT_MIB, Names, Run
from underlay.image.seed import LABEL, First, files, identity
from underlay.programs import search_path

Say = Callable[[str], None]

SUITES = ("trixie", "bookworm")
"""Debian releases, the default first."""
PACKAGES = (
    *("systemd", "systemd-sysv", "systemd-timesyncd", "dbus", "udev", "kmod", "netbase"),
    *("openssh-server", "sudo", "python3", "iproute2", "iputils-ping", "procps", "ca-certificates"),
    *("linux-image-amd64", "initramfs-tools", "zstd", "grub-cloud-amd64"),
    *("cloud-init", "netplan.io", "cloud-guest-utils", "fdisk", "e2fsprogs", "dosfstools"),
)
WORK = Path("/var/tmp")  # noqa: S108 (what is made there has a name that nobody can guess)
"""Where `work` is by default: /tmp may be memory, and a home closed to the root of the user namespace."""
REPRODUCIBLE = {"SOURCE_DATE_EPOCH": str(EPOCH), "TZ": "UTC", "LC_ALL": "C.UTF-8"}
"""Variables for all that is run."""
CUSTOMIZE = Path(__file__).parent / "customize.sh"
_END_SECONDS = 60


class BuildError(OperatorError):
    """A program that failed: its command, and the end of what it said."""


def kernel_options(nics: Iterable[str]) -> str:
    """The options of a kernel that gives NICs the names of the plan: its own (`eth0`), or those of their places."""
    own = ["net.ifnames=0"] if any(nic.startswith("eth") for nic in nics) else []
    return " ".join([*own, "console=tty0", "console=ttyS0,115200"])


def parts(folder: Path, work: Path, names: Names, options: str, suite: str, further: Iterable[str], run: Run) -> None:
    """Make what a disk is made of, in a folder that is there: the root file system and GRUB's files.

    work: another one, where mmdebstrap has the whole Debian meanwhile
    options: of the kernel
    further: packages that it has beside those that each image has
    """
    values = {
        "ROOT_UUID": str(names.root),
        "ESP_UUID": names.efi,
        "HASH_SEED": str(identity(str(names.root), "hash seed")),
        "OPTIONS": options,
        "EPOCH": str(EPOCH),
        "SIZE_MIB": str(ROOT_MIB),
    }
    settings = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    argv = ["mmdebstrap", "--variant=minbase", "--format=null", "--components=main,non-free-firmware"]
    argv += [f"--include={','.join([*PACKAGES, *further])}"]
    argv += [f"--customize-hook={settings}{CUSTOMIZE.read_text()}", f"--customize-hook=copy-out /media/parts {folder}"]
    if os.geteuid():
        argv += ["--mode=unshare"]
    else:
        argv = ["unshare", "--mount", "--propagation", "private", *argv, "--mode=root"]
    run([*argv, suite, "/dev/null"], env={**REPRODUCIBLE, "TMPDIR": str(work)})
    for made in (folder / "parts").iterdir():
        made.rename(folder / made.name)
    (folder / "parts").rmdir()


def write_seed(path: Path, first: First, run: Run) -> None:
    """Write the seed of a host as a file system, readable to its owner only: the host's private key is in it."""
    content = {name: text.encode() for name, text in files(first).items()}
    volume = identity(*files(first).values()).hex[:8].upper()
    disk.vfat(path, LABEL, f"{volume[:4]}-{volume[4:]}", disk.SEED.size, content, run)


def names(*words: str) -> Names:
    """What the parts of a disk are known by: the same for the same words."""
    return Names(disk=identity(*words, "disk"), root=identity(*words, "root"))


def runner(say: Say) -> Run:
    """What runs the programs of a build, and says what mmdebstrap is at."""

    def run(argv: list[str], stdin: str = "", env: dict[str, str] | None = None) -> None:
        variables = os.environ | {"PATH": search_path()} | REPRODUCIBLE | (env or {})
        said: list[str] = []
        with _ended(argv, variables) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(stdin)
            process.stdin.close()
            process.stdin = None  # so that `communicate` does not want it
            for line in process.stdout:
                said = [*said[-400:], line.rstrip()[:300]]
                if line.startswith("I: ") and "hook" not in line:
                    say(line[3:].strip().removesuffix("..."))
        if process.returncode:
            # mmdebstrap ends with the whole script that failed: what that said is in front of it.
            end = next((number for number, line in enumerate(said) if line.startswith("E: setup failed")), len(said))
            words = [f"  {line}" for line in said[: end + 1] if not line.startswith("I: ")][-12:]
            raise BuildError("\n".join([f"{_shown(argv)} failed with {process.returncode}:", *words]))

    return run


@contextmanager
def _ended(argv: list[str], env: Mapping[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A process that has ended by itself afterwards: mmdebstrap takes away what it made, interrupted or not."""
    pressed: list[object] = []
    # Ctrl-C in the instant in which it starts would leave it: it comes when there is somebody to pass it on.
    handler = signal.signal(signal.SIGINT, lambda *_: pressed.append(True))
    process = subprocess.Popen(
        argv,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # a terminal's Ctrl-C is passed on once, by us
    )
    try:
        signal.signal(signal.SIGINT, handler)
        if pressed:
            raise KeyboardInterrupt
        yield process
        process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.communicate(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
        raise


def _shown(argv: list[str]) -> str:
    return "mmdebstrap" if "mmdebstrap" in argv else shlex.join(argv)


def convert(raw: Path, path: Path, run: Run) -> None:
    """Make a qcow2 of a raw image, in a file that is there."""
    run(["qemu-img", "convert", "-q", "-f", "raw", "-O", "qcow2", str(raw), str(path)])


def room(folder: Path, least: int) -> None:
    """OperatorError unless a folder has room for so many bytes."""
    free = shutil.disk_usage(folder).free
    if free < least:
        raise OperatorError(
            f"{folder} has {free >> 20} MB free, {least >> 20} are needed: name another place (--output)"
        )
