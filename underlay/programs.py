"""The programs that are called on this side, and the Debian package of each.

This side is the workstation, the deploy machine, the machine of the lab; what runs on the hosts is not here.
`python3 -m underlay.programs` prints the packages that the commands lack, for `./inv`, before there is any .venv.
"""

import os
import platform
import shutil
from collections.abc import Mapping

from underlay.errors import OperatorError

# What a Debian without anything has.
BASE = {
    "sh": "dash",
    "bash": "bash",
    "apt-get": "apt",
    "dpkg": "dpkg",
    "dpkg-deb": "dpkg",
    "useradd": "passwd",
    "mount": "mount",
    "umount": "mount",
    "nsenter": "util-linux",
    "unshare": "util-linux",
}
COMMANDS = {
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "ping": "iputils-ping",
    "sudo": "sudo",  # also on this machine, where it is a host of the plan
}
"""What the commands need that contact the hosts."""
OPTIONAL = {"git": "git", "ip": "iproute2"}
"""What they go on without: then the commit of a change, or who answers on this machine's own networks, is not known."""
SEED = {"mkfs.vfat": "dosfstools", "mcopy": "mtools", "mmd": "mtools", "ssh-keygen": "openssh-client"}
"""What `image --seed-only` needs."""
IMAGE = {
    **SEED,
    "mmdebstrap": "mmdebstrap",
    "sfdisk": "fdisk",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
UNPRIVILEGED = {"newuidmap": "uidmap"}
"""What `image` needs beside it for anybody but root."""
QCOW2 = {"qemu-img": "qemu-utils"}
VM = {**IMAGE, "qemu-system-x86_64": "qemu-system-x86"}
"""What a lab needs beside LAB for hosts that are machines of their own."""
LAB = {
    "systemd-nspawn": "systemd-container",
    "systemctl": "systemd",
    "mmdebstrap": "mmdebstrap",
    "apt-ftparchive": "apt-utils",
    "ip": "iproute2",
    "ssh-keygen": "openssh-client",
    "sysctl": "procps",
    "iptables": "iptables",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}
UEFI = {"/usr/share/OVMF/OVMF_CODE_4M.secboot.fd": "ovmf", **QCOW2}
"""What the tests of images need beside VM."""
TESTS = {
    "git": "git",
    "chromium": "chromium",  # looks at pages
    "nft": "nftables",  # makes rules that iptables can't show
    # Playwright's driver needs it, and no package of Debian 12 that is there brings it along.
    f"/usr/lib/{platform.machine()}-linux-gnu/libatomic.so.1": "libatomic1",
}


class MissingError(OperatorError):
    """Programs that are not here; `str()` is one line with the command that installs them."""


def search_path() -> str:
    """Where programs are: a root who came by `su` has no sbin in PATH."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


def missing(programs: Mapping[str, str]) -> dict[str, str]:
    """Those of some programs (or files, with their path) that are not here, with their packages."""
    path = search_path()
    return {name: each for name, each in programs.items() if not shutil.which(name, mode=os.F_OK, path=path)}


def packages(programs: Mapping[str, str]) -> list[str]:
    """The packages of some programs, each once."""
    return list(dict.fromkeys(programs.values()))


def require(programs: Mapping[str, str]) -> None:
    """Raises MissingError if one of these programs is not here."""
    if lacking := missing(programs):
        are, sudo = "is" if len(lacking) == 1 else "are", "sudo " if os.geteuid() else ""
        install = f"{sudo}apt-get install {' '.join(packages(lacking))}"
        raise MissingError(f"{', '.join(lacking)} {are} not here: {install}")


if __name__ == "__main__":
    print(*packages(missing(COMMANDS)))
