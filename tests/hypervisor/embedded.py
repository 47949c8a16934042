"""
libvirt's QEMU driver inside this process: no daemon, no traces outside one directory.

::

    ROOT/etc/qemu.conf          written before the driver starts
    ROOT/log/qemu/NAME.log      the output of each QEMU
    ROOT/cache/qemu/...         capabilities, seeded from .cache of the clone
    ROOT/images/                images of the domains

libvirt opens one root per process, for the lifetime of the process, and a root in one process at
a time. Domains outlive the process; `close()` ends them, and the next run ends those of a run
that crashed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import libvirt

from hypervisor import capabilities
from hypervisor.block_domain import BlockDomain
from hypervisor.connected import remove_domains
from hypervisor.events import ensure_event_loop
from hypervisor.host import is_root
from hypervisor.images import DiskSpec
from hypervisor.qemu_conf import qemu_conf
from hypervisor.reaper import ensure_reaper
from hypervisor.roots import OwnedRoot


class Embedded:
    """`qemu:///embed` below a directory that is removed at the end."""

    def __init__(self, root: Path | None = None) -> None:
        """Open the driver at `root`, or in a temporary directory if that is too long or absent."""
        self._owned = OwnedRoot(root)
        self.root = self._owned.path
        self.uri = f"qemu:///embed?root={self.root}"
        self.images = self.root / "images"
        self.log_directory = self.root / "log" / "qemu"
        try:
            self.connection = self._open()
        except BaseException:
            self._owned.remove()
            raise

    def block_domain(
        self, *disks: DiskSpec, prefix: str = "block", devices_xml: str = "", start: bool = True
    ) -> BlockDomain:
        """Create, define and start a paused domain without an operating system."""
        return BlockDomain.create(self, *disks, prefix=prefix, devices_xml=devices_xml, start=start)

    def domains(self) -> Sequence[str]:
        """Return the names of all domains."""
        return [domain.name() for domain in self.connection.listAllDomains(0)]

    def close(self) -> None:
        """Destroy and undefine every domain, end every QEMU, remove the root."""
        remove_domains(self.connection)
        with contextlib.suppress(libvirt.libvirtError):
            self.connection.close()
        capabilities.save("embed", self._capabilities)
        self._owned.remove()

    @property
    def _capabilities(self) -> Path:
        return self.root / "cache" / "qemu" / "capabilities"

    def _open(self) -> libvirt.virConnect:
        for directory in (self.root / "etc", self.images):
            directory.mkdir()
        (self.root / "etc" / "qemu.conf").write_text(qemu_conf(user="root" if is_root() else ""))
        capabilities.seed("embed", self._capabilities)
        ensure_event_loop()
        ensure_reaper()
        with _runtime_directory(self.root / "user"):
            return libvirt.open(self.uri)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@contextlib.contextmanager
def _runtime_directory(directory: Path) -> Iterator[None]:
    """Keep libvirt's host device state out of the user's home; as root it is in /run/libvirt."""
    if is_root():
        yield
        return
    directory.mkdir(mode=0o700)
    before = os.environ.get("XDG_RUNTIME_DIR")
    os.environ["XDG_RUNTIME_DIR"] = str(directory)
    try:
        yield
    finally:
        del os.environ["XDG_RUNTIME_DIR"]
        if before is not None:
            os.environ["XDG_RUNTIME_DIR"] = before
