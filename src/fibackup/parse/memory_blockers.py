"""
What in a domain's XML keeps libvirt from saving its memory, found before anything starts.

::

    <hostdev type="pci">              its state is in the hardware
    <interface type="vdpa">           the same
    <filesystem>, <shmem>             its state is in another process
    <disk><transient/>                refused by libvirt
    <feature name="invtsc">           a clock that cannot be set back

The list is cautious: what newer versions may let through is refused too, and what is not in it is
left to libvirt and QEMU, which refuse without a change.
"""

from __future__ import annotations

from xml.etree.ElementTree import Element

__all__ = ["memory_blockers", "memory_bytes"]

_INTERFACES = frozenset({"hostdev", "vdpa", "vhostuser"})
_DISKS = frozenset({"vhostuser", "vhostvdpa", "nvme"})


def memory_blockers(root: Element) -> tuple[str, ...]:
    """
    Return what in a domain keeps its memory from being saved.

    Args:
        root: The ``domain`` element.

    Returns:
        An element and a detail for each, such as ``"hostdev (pci)"``; empty when nothing is known
        to be in the way.

    Source:
        libvirt ``qemuMigrationSrcIsAllowed``; QEMU ``migrate_add_blocker``.
    """
    return (*_devices(root), *_disks(root), *_machine(root))


def _devices(root: Element) -> list[str]:
    found = [
        f"hostdev ({node.get('type', 'unknown')})" for node in root.iterfind("devices/hostdev")
    ]
    for node in root.iterfind("devices/interface"):
        kind = node.get("type", "")
        if kind in _INTERFACES:
            found.append(f"interface ({kind})")
    for node in root.iterfind("devices/filesystem"):
        driver = node.find("driver")
        kind = driver.get("type", "path") if driver is not None else "path"
        found.append(f"filesystem ({kind})")
    found += [f"shmem ({node.get('name', '')})" for node in root.iterfind("devices/shmem")]
    drawn = [node.get("accel3d") for node in root.iterfind("devices/video/model/acceleration")]
    return [*found, *("video (accel3d)" for each in drawn if each == "yes")]


def _disks(root: Element) -> list[str]:
    found: list[str] = []
    for node in root.iterfind("devices/disk"):
        target = node.find("target")
        name = target.get("dev", "") if target is not None else ""
        if node.find("transient") is not None:
            found.append(f"disk {name} (transient)")
        if node.get("type") in _DISKS:
            found.append(f"disk {name} ({node.get('type')})")
    return found


def _machine(root: Element) -> list[str]:
    features = {each.get("name"): each.get("policy") for each in root.iterfind("cpu/feature")}
    clock = ["cpu feature (invtsc)"] if features.get("invtsc", "no") in {None, "require"} else []
    secured = root.iterfind("launchSecurity")
    return [*clock, *(f"launchSecurity ({node.get('type', 'unknown')})" for node in secured)]


def memory_bytes(root: Element) -> int:
    """
    Return the size of a domain's memory, 0 when the XML does not say it as libvirt prints it.

    Args:
        root: The ``domain`` element.

    Source:
        libvirt, "Domain XML format": ``memory``, always in KiB when libvirt prints it.
    """
    node = root.find("memory")
    text = node.text if node is not None and node.get("unit", "KiB") == "KiB" else None
    digits = (text or "").strip()
    return int(digits) * 1024 if digits.isascii() and digits.isdecimal() and len(digits) < 19 else 0
