"""What is where on a disk that boots: a table of partitions (GPT), GRUB for BIOS and for UEFI, the seed, Debian."""

import os
import struct
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Run = Callable[..., object]
"""Runs a program, `run(argv, stdin="")`, to its end; raises where it fails."""

MIB = 1 << 20
SECTOR = 512
ROOT_MIB = 3072
"""The root file system at first; it grows to the end of the disk at the first boot."""
EPOCH = 1767225600
"""The time of all that a build makes: 2026-01-01. A build at another time gives the same bytes."""


@dataclass(frozen=True)
class Partition:
    """A partition: the type that firmware and tools know it by, where it is, in MiB."""

    name: str
    type: str
    start: int
    size: int


BIOS = Partition("bios", "21686148-6449-6E6F-744E-656564454649", 1, 1)
EFI = Partition("efi", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", 2, 64)
SEED = Partition("cidata", "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7", 66, 4)
ROOT = Partition("root", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", 70, ROOT_MIB)  # the last one: it grows
PARTITIONS = (BIOS, EFI, SEED, ROOT)
TOTAL_MIB = ROOT.start + ROOT.size + 1  # the table's copy is at the end


@dataclass(frozen=True)
class Names:
    """What the parts of a disk are known by."""

    disk: uuid.UUID
    root: uuid.UUID

    @property
    def efi(self) -> str:
        """The file system of the EFI partition, as `blkid` shows it."""
        digits = self.disk.hex[:8].upper()
        return f"{digits[:4]}-{digits[4:]}"

    def partition(self, partition: Partition) -> uuid.UUID:
        """Each partition's own."""
        return uuid.uuid5(self.disk, partition.name)


def table(names: Names) -> str:
    """The table of partitions, for sfdisk."""
    per = MIB // SECTOR
    lines = [
        f"start={each.start * per}, size={each.size * per}, type={each.type}, "
        f"uuid={names.partition(each)}, name={each.name}"
        for each in PARTITIONS
    ]
    return "\n".join(["label: gpt", f"label-id: {names.disk}", "unit: sectors", *lines]) + "\n"


def boot_sector(image: bytes) -> bytes:
    """GRUB's boot.img for a disk with core.img in the partition for it: the code of the first sector."""
    code = bytearray(image[:440])
    struct.pack_into("<Q", code, 0x5C, BIOS.start * MIB // SECTOR)
    code[0x66:0x68] = b"\x90\x90"  # the firmware's word for which disk this is, is not doubted, as grub-install has it
    return bytes(code)


def core(image: bytes) -> bytes:
    """GRUB's core.img for the partition that it is in: its first sector knows where the others are."""
    if len(image) > BIOS.size * MIB:
        raise ValueError("GRUB's core does not fit into its partition")
    found = bytearray(image)
    struct.pack_into("<Q", found, SECTOR - 12, BIOS.start * MIB // SECTOR + 1)
    return bytes(found)


def write(path: Path, parts: Path, seed: Path, names: Names, run: Run) -> None:
    """Write a disk of its parts (see `build.parts`) and a seed to a file that is there and empty."""
    efi = path.with_name(f"{path.name}.efi")
    try:
        loaders = {"EFI/BOOT/BOOTX64.EFI": "bootx64.efi", "EFI/BOOT/grubx64.efi": "grubx64.efi"}
        loaders["EFI/debian/grub.cfg"] = "grub.cfg"
        content = {name: (parts / file).read_bytes() for name, file in loaders.items()}
        vfat(efi, "EFI", names.efi, EFI.size, content, run)
        os.truncate(path, TOTAL_MIB * MIB)
        run(["sfdisk", "--quiet", str(path)], stdin=table(names))
        with path.open("r+b") as disk:
            disk.write(boot_sector((parts / "boot.img").read_bytes()))
            disk.seek(BIOS.start * MIB)
            disk.write(core((parts / "core.img").read_bytes()))
            for partition, file in ((EFI, efi), (SEED, seed), (ROOT, parts / "root.img")):
                _copy(file, disk.fileno(), partition.start * MIB)
    finally:
        efi.unlink(missing_ok=True)


def vfat(path: Path, label: str, volume: str, size: int, files: Mapping[str, bytes], run: Run) -> None:
    """Write a file system of some files, of so many MiB, that a firmware and cloud-init can read.

    volume: what it is known by, `ABCD-1234`
    """
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    os.truncate(path, size * MIB)
    run(["mkfs.vfat", "--invariant", "-n", label, "-i", volume.replace("-", ""), str(path)])
    tree = path.with_name(f"{path.name}.tree")
    made: set[str] = set()
    try:
        for name, content in files.items():
            folder = ""
            for part in name.split("/")[:-1]:
                folder = f"{folder}/{part}"
                if folder not in made:
                    made.add(folder)
                    run(["mmd", "-i", str(path), f"::{folder}"])
            tree.touch(mode=0o600)
            tree.write_bytes(content)
            os.utime(tree, (EPOCH, EPOCH))
            run(["mcopy", "-m", "-i", str(path), str(tree), f"::/{name}"])
    finally:
        tree.unlink(missing_ok=True)


def _copy(source: Path, disk: int, at: int) -> None:
    """Copy a file to a place on a disk, but what is zeros, which the disk has already."""
    nothing = bytes(MIB)
    with source.open("rb") as file:
        while piece := file.read(MIB):
            if piece != nothing[: len(piece)]:
                os.pwrite(disk, piece, at)
            at += len(piece)
