"""Images of domains: how they are made, copied and compared, always with their formats."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from hypervisor.host import run, tool

ImageFormat = Literal["qcow2", "raw"]
_COMPAT: Final = {"v2": "0.10", "v3": "1.1"}
MIB: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class DiskSpec:
    """A disk of a test domain; its image is created unless `path` exists already."""

    target: str = "vda"
    format: ImageFormat = "qcow2"
    size_bytes: int = 64 * MIB
    path: Path | None = None
    backing: Path | None = None
    backing_format: ImageFormat = "qcow2"
    qcow2_version: Literal["v2", "v3"] = "v3"
    options: tuple[str, ...] = ()
    """More `-o` options of qemu-img, for example `cluster_size=4k`."""
    bus: str = "virtio"
    driver_xml: str = ""
    """More attributes of `<driver>`."""
    disk_xml: str = ""
    """More elements in `<disk>`, for example `<serial>X</serial>`."""

    def path_in(self, directory: Path) -> Path:
        """Return where the image is, or will be."""
        return self.path or directory / f"{self.target}.{self.format}"


def create_image(disk: DiskSpec, path: Path) -> None:
    """Make the image of a disk."""
    options = list(disk.options)
    if disk.format == "qcow2":
        options.append(f"compat={_COMPAT[disk.qcow2_version]}")
    words = ["create", "-q", "-f", disk.format]
    if options:
        words += ["-o", ",".join(options)]
    if disk.backing is not None:
        run("qemu-img", *words, "-b", disk.backing, "-F", disk.backing_format, path)
    else:
        run("qemu-img", *words, path, str(disk.size_bytes))


def convert(source: Path, source_format: str, target: Path, target_format: str = "raw") -> Path:
    """Write what a guest would read from `source`, its whole chain, as one image."""
    run("qemu-img", "convert", "-f", source_format, "-O", target_format, source, target)
    return target


def copy_sparse(source: Path, target: Path) -> Path:
    """Copy a file, holes included."""
    run("cp", "--sparse=always", "--reflink=auto", source, target)
    return target


def differences(image: Path, image_format: str, reference: Path) -> str:
    """Compare an image, its chain included, with a raw file; return "" or where they differ."""
    done = subprocess.run(
        [tool("qemu-img"), "compare", "-f", image_format, "-F", "raw", str(image), str(reference)],
        check=False,
        capture_output=True,
        text=True,
    )
    return "" if done.returncode == 0 else (done.stdout + done.stderr).strip()


def same_content(image: Path, image_format: str, reference: Path) -> bool:
    """Tell whether a guest would read the bytes of `reference` from `image`."""
    return not differences(image, image_format, reference)
