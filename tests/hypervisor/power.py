"""
File systems that can lose their power.

::

    disk.img --loop--> ext4 or xfs, mounted in a namespace that nobody copies
    ioctl EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN      what was not synced is gone
    power_on                                        umount, mount: the journal is replayed

In a shared namespace another one may hold the file system, and it would stay as it is.

Source: Linux fs/ext4/ioctl.c, fs/xfs/xfs_fsops.c; unshare(1).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypervisor.host import HarnessError, run, tool

__all__ = ["FILE_SYSTEMS", "Volume", "disk_of_its_own"]

FILE_SYSTEMS: Final = ("ext4", "xfs")
_SIZE_BYTES: Final = 320 << 20  # xfs has no less


@dataclass(frozen=True)
class Volume:
    """A loop file, where it is mounted, and the process in whose namespace."""

    image: Path
    mount_point: Path
    holder: int

    @property
    def place(self) -> Path:
        """Where it is seen from outside of the namespace."""
        return Path(f"/proc/{self.holder}/root{self.mount_point}")

    def mount(self) -> None:
        """
        Mount it.

        Raises:
            HarnessError: The machine has no loop devices, or does not let us mount.
        """
        self._inside("mount", "-o", "loop", str(self.image), str(self.mount_point))

    def power_on(self) -> None:
        """Come back after the power was cut."""
        self._inside("umount", str(self.mount_point))
        self.mount()

    def _inside(self, *words: str) -> None:
        run("nsenter", "-t", str(self.holder), "-m", *words)


@contextmanager
def disk_of_its_own(directory: Path, kind: str) -> Iterator[Volume]:
    """Give a file system of its own below *directory*, which is gone with the namespace."""
    image, place = directory / "disk.img", directory / "mnt"
    with image.open("wb") as stream:
        stream.truncate(_SIZE_BYTES)
    quiet = ["-q"] if kind == "ext4" else ["-q", "-f"]
    run(f"mkfs.{kind}", *quiet, str(image))
    place.mkdir()
    words = ["-m", "--propagation", "private", "sh", "-c", "echo ready && exec cat"]
    with subprocess.Popen(
        [tool("unshare"), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        if holder.stdout.readline() != "ready\n":
            raise HarnessError("unshare -m gives no namespace")
        volume = Volume(image, place, holder.pid)
        try:
            volume.mount()
            yield volume
        finally:
            holder.communicate()
