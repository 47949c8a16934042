"""
Writes as the guest does them, through the monitor, into whatever image is active at that moment.

`qemu-io` of the human monitor goes through the disk's own device, so a snapshot, a commit or a
pivot in between changes where the bytes go, as it does for a guest::

    libvirt --HMP--> qemu-io -d /machine/peripheral/virtio-disk0/virtio-backend "write ..."
    NAME.log <------ "wrote 512/512 bytes at offset 0"  or  "write failed: No space left on device"

The command's answer is not in the reply: QEMU prints it to its standard output, which is the
domain's log file.
"""

from __future__ import annotations

import importlib
import re
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, Final

import libvirt

from hypervisor.host import HarnessError

_PATIENCE_SECONDS: Final = 60.0
_DONE: Final = re.compile(r"^(wrote|read|discard) (\d+)/(\d+) bytes at offset \d+$", re.MULTILINE)
_FAILED: Final = re.compile(
    r"^(.*(?:failed|not found|[Ii]nvalid|not a|out of range|exceeds|alignment).*)$", re.MULTILINE
)


class GuestWriteError(HarnessError):
    """The disk answered a request of the guest with an error."""


def monitor_command(domain: libvirt.virDomain, command: str) -> str:
    """Send one command to the human monitor."""
    module: Any = importlib.import_module("libvirt_qemu")
    flags: int = module.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
    answer: str = module.qemuMonitorCommand(domain, command, flags)
    return answer


def device_path(domain: libvirt.virDomain, target: str) -> str:
    """Return the path of a disk in QEMU's object tree, made from its alias in the live XML."""
    for disk in ET.fromstring(domain.XMLDesc(0)).iterfind("devices/disk"):
        place, alias = disk.find("target"), disk.find("alias")
        if place is not None and alias is not None and place.get("dev") == target:
            peripheral = f"/machine/peripheral/{alias.get('name')}"
            return f"{peripheral}/virtio-backend" if place.get("bus") == "virtio" else peripheral
    raise HarnessError(f"{domain.name()} has no running disk {target!r}")


def qemu_io(domain: libvirt.virDomain, log_directory: Path, target: str, command: str) -> str:
    """Run one command of qemu-io on a disk of a running domain; an error raises."""
    log = log_directory / f"{domain.name()}.log"
    seen = log.stat().st_size
    refusal = monitor_command(
        domain, f'qemu-io -d {device_path(domain, target)} "{command}"'
    ).strip()
    if refusal:
        raise GuestWriteError(f"{domain.name()} {target}: {command}: {refusal}")
    return _answer(log, seen, f"{domain.name()} {target}: {command}")


def _answer(log: Path, seen: int, what: str) -> str:
    text = ""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with log.open("rb") as stream:
            stream.seek(seen)
            text = stream.read().decode(errors="replace")
        failed, done = _FAILED.search(text), _DONE.search(text)
        if failed:
            raise GuestWriteError(f"{what}: {failed[1]}")
        if done and done[2] != done[3]:
            raise GuestWriteError(f"{what}: {done[0]}")
        if done:
            return text
        time.sleep(0.005)
    raise GuestWriteError(f"{what}: no answer in {log}: {text!r}")
