"""
A hypervisor for tests, examples and benchmarks: real QEMU, real libvirt, no traces.

::

    with Embedded() as hypervisor:                 qemu:///embed below a temporary directory
        domain = hypervisor.block_domain()         paused, no OS; write(), reference() is the oracle
        guest = LinuxGuest.start(hypervisor)       boots Linux, writes records, acknowledges them
    with PrivateDaemon() as daemon: ...            a libvirtd of our own

`scripts/setup` installs what it needs.
"""

from __future__ import annotations

import hypervisor.quiet  # noqa: F401 # isort: skip - before the first import of libvirt

from hypervisor.block_domain import BlockDomain
from hypervisor.connected import Connected, Hypervisor, unique_name
from hypervisor.embedded import Embedded
from hypervisor.events import ensure_event_loop
from hypervisor.factories import MakeBlockDomain, MakeLinuxGuest
from hypervisor.guest import TWO_DISKS, AgentMode, GuestOptions, LinuxGuest, make_ext4
from hypervisor.guest_kit import GuestKit, guest_kit
from hypervisor.host import HarnessError, missing_tools
from hypervisor.images import (
    MIB,
    DiskSpec,
    ImageFormat,
    convert,
    copy_sparse,
    create_image,
    differences,
    same_content,
)
from hypervisor.monitor import GuestWriteError, monitor_command, qemu_io
from hypervisor.private_daemon import PrivateDaemon
from hypervisor.processes import processes_of
from hypervisor.records import DamagedRecordsError, fsck_clean, read_records

__all__ = [
    "MIB",
    "TWO_DISKS",
    "AgentMode",
    "BlockDomain",
    "Connected",
    "DamagedRecordsError",
    "DiskSpec",
    "Embedded",
    "GuestKit",
    "GuestOptions",
    "GuestWriteError",
    "HarnessError",
    "Hypervisor",
    "ImageFormat",
    "LinuxGuest",
    "MakeBlockDomain",
    "MakeLinuxGuest",
    "PrivateDaemon",
    "convert",
    "copy_sparse",
    "create_image",
    "differences",
    "ensure_event_loop",
    "fsck_clean",
    "guest_kit",
    "make_ext4",
    "missing_tools",
    "monitor_command",
    "processes_of",
    "qemu_io",
    "read_records",
    "same_content",
    "unique_name",
]
