"""
A domain without an operating system, and an oracle that knows what its disks hold.

::

    write("vda", offset, length, pattern)
      |-- monitor: qemu-io ----> the active image, whichever it is now
      '-- mirror: pwrite ------> NAME.reference/vda.raw        never touched by libvirt
    reference("vda", "point-1")  copies the mirror: what the guest has at this moment
"""

from __future__ import annotations

import itertools
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Self

import libvirt

from hypervisor.connected import Hypervisor, destroy_domain, undefine_domain, unique_name
from hypervisor.domain_xml import disk_xml, domain_xml
from hypervisor.host import HarnessError, run
from hypervisor.images import MIB, DiskSpec, convert, copy_sparse, create_image
from hypervisor.monitor import GuestWriteError, qemu_io

_MEMORY_MIB: Final = 32
_GRAIN_BYTES: Final = 4096


class BlockDomain:
    """A paused, BIOS-only domain with disks that the test writes "as the guest"."""

    def __init__(
        self, hypervisor: Hypervisor, name: str, disks: Mapping[str, DiskSpec], devices_xml: str
    ) -> None:
        """Make the images, the mirrors and the definition; `create` is the usual way in."""
        self.hypervisor = hypervisor
        self.name = name
        self.disks = disks
        self.directory = hypervisor.images / name
        self.reference_directory = hypervisor.images / f"{name}.reference"
        self.directory.mkdir()
        self.reference_directory.mkdir()
        for disk in disks.values():
            self._make(disk)
        self.dom = hypervisor.connection.defineXML(self._xml(devices_xml))
        self.uuid: str = self.dom.UUIDString()

    @classmethod
    def create(
        cls,
        hypervisor: Hypervisor,
        *disks: DiskSpec,
        prefix: str = "block",
        devices_xml: str = "",
        start: bool = True,
    ) -> Self:
        """Create, define and, unless told otherwise, start a paused domain."""
        chosen = disks or (DiskSpec(),)
        domain = cls(
            hypervisor, unique_name(prefix), {disk.target: disk for disk in chosen}, devices_xml
        )
        if start:
            domain.start()
        return domain

    # -- the domain ------------------------------------------------------------------------------

    @property
    def is_active(self) -> bool:
        """Whether a QEMU runs."""
        return bool(self.dom.isActive())

    def start(self, *, paused: bool = True) -> None:
        """Start the domain; a running one has only its firmware to run."""
        self.dom.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED if paused else 0)

    def destroy(self) -> None:
        """End QEMU; all that was written is in the images afterwards."""
        destroy_domain(self.dom)

    def undefine(self) -> None:
        """Make libvirt forget the domain."""
        undefine_domain(self.dom)

    def close(self) -> None:
        """Destroy, undefine, remove the images and the references."""
        self.destroy()
        self.undefine()
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.reference_directory, ignore_errors=True)

    # -- images ----------------------------------------------------------------------------------

    def path(self, target: str) -> Path:
        """Return the image with which the disk began."""
        return self.disks[target].path_in(self.directory)

    def active(self, target: str) -> Path:
        """Return the image that the guest writes now, or will write when it starts."""
        return Path(self._source(target)[0])

    def active_format(self, target: str) -> str:
        """Return the format of the active image."""
        return self._source(target)[1]

    def reference(self, target: str, name: str) -> Path:
        """Return a raw copy of what the guest has on the disk at this moment."""
        return copy_sparse(self._mirror(target), self.reference_directory / f"{name}.{target}.raw")

    # -- the guest's requests --------------------------------------------------------------------

    def write(self, target: str, offset: int, length: int, pattern: int) -> None:
        """Write `length` bytes of one value."""
        self._io(target, f"write -P {pattern} {offset} {length}")
        self._mirror_fill(target, offset, length, pattern)

    def write_zeroes(self, target: str, offset: int, length: int, *, unmap: bool = False) -> None:
        """Write zeros as zeros, the request that needs no data."""
        self._io(target, f"write -z {'-u ' if unmap else ''}{offset} {length}")
        self._mirror_fill(target, offset, length, 0)

    def discard(self, target: str, offset: int, length: int) -> None:
        """Discard a range; what reads as zeros then is zeros in the reference, the rest stays."""
        self._io(target, f"discard {offset} {length}")
        for start, size in self._zero_ranges(target, offset, length):
            self._mirror_fill(target, start, size, 0)

    def reads(self, target: str, offset: int, length: int, pattern: int) -> bool:
        """Tell whether the guest reads nothing but `pattern` there."""
        try:
            self._io(target, f"read -P {pattern} {offset} {length}")
        except GuestWriteError as error:
            if "verification failed" in str(error):
                return False
            raise
        return True

    def resize(self, target: str, size_bytes: int) -> None:
        """Change the size of a disk, running or not."""
        if self.is_active:
            self.dom.blockResize(target, size_bytes, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
        else:
            run(
                "qemu-img",
                "resize",
                "-q",
                "-f",
                self.active_format(target),
                self.active(target),
                str(size_bytes),
            )
        with self._mirror(target).open("r+b") as stream:
            stream.truncate(size_bytes)

    # -- inside ----------------------------------------------------------------------------------

    def _make(self, disk: DiskSpec) -> None:
        path = disk.path_in(self.directory)
        fresh = not path.exists()
        if fresh:
            create_image(disk, path)
        if fresh and disk.backing is None:
            with self._mirror(disk.target).open("wb") as stream:
                stream.truncate(disk.size_bytes)
        else:
            convert(path, disk.format, self._mirror(disk.target))

    def _zero_ranges(self, target: str, offset: int, length: int) -> Iterator[tuple[int, int]]:
        if self.reads(target, offset, length, 0):
            yield offset, length
            return
        end = offset + length
        edges = [
            offset,
            *range(offset // _GRAIN_BYTES * _GRAIN_BYTES + _GRAIN_BYTES, end, _GRAIN_BYTES),
            end,
        ]
        for start, stop in itertools.pairwise(edges):
            size = stop - start
            if self.reads(target, start, size, 0):
                yield start, size

    def _xml(self, devices_xml: str) -> str:
        disks = [disk_xml(disk, disk.path_in(self.directory)) for disk in self.disks.values()]
        return domain_xml(self.name, memory_mib=_MEMORY_MIB, devices=[*disks, devices_xml])

    def _mirror(self, target: str) -> Path:
        return self.reference_directory / f"{target}.raw"

    def _mirror_fill(self, target: str, offset: int, length: int, pattern: int) -> None:
        piece = bytes([pattern]) * min(length, MIB)
        with self._mirror(target).open("r+b") as stream:
            stream.seek(offset)
            for done in range(0, length, MIB):
                stream.write(piece[: min(MIB, length - done)])

    def _io(self, target: str, command: str) -> None:
        if self.is_active:
            qemu_io(self.dom, self.hypervisor.log_directory, target, command)
            return
        image, image_format = self._source(target)
        options = ("-d", "unmap", "-f", image_format)
        answer = run("qemu-io", *options, "-c", command, image, accept=(0, 1))
        if "failed" in answer or not answer:
            raise GuestWriteError(f"{self.name} {target}: {command}: {answer.strip()}")

    def _source(self, target: str) -> tuple[str, str]:
        for disk in ET.fromstring(self.dom.XMLDesc(0)).iterfind("devices/disk"):
            place, source, driver = disk.find("target"), disk.find("source"), disk.find("driver")
            if (
                place is not None
                and place.get("dev") == target
                and source is not None
                and driver is not None
            ):
                return source.get("file", ""), driver.get("type", "")
        raise HarnessError(f"{self.name} has no disk {target!r}")
