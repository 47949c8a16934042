"""Domain XML of the tests, as small as QEMU takes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import quoteattr

from hypervisor.images import DiskSpec


def disk_xml(disk: DiskSpec, path: Path) -> str:
    """Return the `<disk>` of a file that lets discards through."""
    return (
        f"<disk type='file' device='disk'>"
        f"<driver name='qemu' type='{disk.format}' discard='unmap' {disk.driver_xml}/>"
        f"<source file={quoteattr(str(path))}/>"
        f"<target dev='{disk.target}' bus='{disk.bus}'/>{disk.disk_xml}</disk>"
    )


def domain_xml(name: str, *, memory_mib: int, os_xml: str = "", devices: Sequence[str]) -> str:
    """Return a q35 domain under TCG, without the devices that libvirt would add."""
    return (
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>{memory_mib}</memory>"
        f"<os><type machine='q35'>hvm</type>{os_xml}</os><features><acpi/></features>"
        f"<devices>{''.join(devices)}<controller type='usb' model='none'/>"
        f"<memballoon model='none'/></devices></domain>"
    )
