"""
File systems that can lose their power, and whose device can fail for a while.

::

    disk.img --loop--> ext4 or xfs, mounted in a namespace that nobody copies
    ioctl EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN      what was not synced is gone
    power_on                                        umount, mount: the journal is replayed

    tmpfs of a few MiB / disk.img --loop--> ext4    writes succeed, and fail on their way to disk
    mend                                            the tmpfs grows: later ones do not fail

In a shared namespace another one may hold the file system, and it would stay as it is.

Source: Linux fs/ext4/ioctl.c, fs/xfs/xfs_fsops.c; unshare(1).
"""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypervisor.host import HarnessError, run, tool

__all__ = ["FILE_SYSTEMS", "NO_LOG_FLUSH", "SHUTDOWN", "Volume", "disk_of_its_own"]

FILE_SYSTEMS: Final = ("ext4", "xfs")
SHUTDOWN: Final = 0x8004587D
NO_LOG_FLUSH: Final = 2
_SIZE_BYTES: Final = 320 << 20  # xfs has no less


@dataclass(frozen=True)
class Volume:
    """A loop file, where it is mounted, and the process in whose namespace."""

    image: Path
    mount_point: Path
    holder: int
    options: str = "loop"

    @property
    def _below(self) -> Path:
        return self.image.parent

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
        self._inside("mount", "-o", self.options, str(self.image), str(self.mount_point))

    def cut(self) -> None:
        """Cut the power: what was not synced is gone, until `power_on` nothing can be used."""
        fd = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def power_on(self) -> None:
        """Come back after the power was cut."""
        self._inside("umount", str(self.mount_point))
        self.mount()

    def make(self, kind: str, room_bytes: int | None) -> None:
        """Make the file system; with *room_bytes*, on a device that takes no more than that."""
        if room_bytes is not None:
            room = f"size={room_bytes}"
            self._inside("mount", "-t", "tmpfs", "-o", room, "tmpfs", str(self._below))
        self._inside("truncate", "-s", str(_SIZE_BYTES), str(self.image))
        quiet = ["-q"] if kind == "ext4" else ["-q", "-f"]
        self._inside(f"mkfs.{kind}", *quiet, str(self.image))

    def mend(self) -> None:
        """Let the device take everything from now on."""
        self._inside("mount", "-o", f"remount,size={2 * _SIZE_BYTES}", str(self._below))

    def _inside(self, *words: str) -> None:
        run("nsenter", "-t", str(self.holder), "-m", *words)


@contextmanager
def disk_of_its_own(
    directory: Path, kind: str, *, room_bytes: int | None = None
) -> Iterator[Volume]:
    """
    Give a file system of its own below *directory*, which is gone with the namespace.

    With *room_bytes*, its device fails once it holds as much.
    """
    image, place = directory / "below" / "disk.img", directory / "mnt"
    image.parent.mkdir()
    place.mkdir()
    words = ["-m", "--propagation", "private", "sh", "-c", "echo ready && exec cat"]
    with subprocess.Popen(
        [tool("unshare"), *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        if holder.stdout.readline() != "ready\n":
            raise HarnessError("unshare -m gives no namespace")
        # A journal that is committed while the device fails would make the file system read-only.
        options = "loop" if room_bytes is None else "loop,commit=600"
        volume = Volume(image, place, holder.pid, options)
        try:
            volume.make(kind, room_bytes)
            volume.mount()
            yield volume
        finally:
            holder.communicate()
