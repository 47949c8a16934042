"""
A real Linux guest that writes records to ext4 disks and says which of them are durable.

::

    host                                        guest
    wait_ready()      <---- READY ------------- disks mounted, agent started
    acked() == 7      <---- ACK 7 ------------- record 7 is on vda and vdb, after fsync
    snapshot, backup, crash ... restore
    read_records(restored, "vda")  >=  1..7     what was acknowledged before the point is in it

It runs under TCG, boots in seconds, and keeps what it wrote over reboots.
"""

from __future__ import annotations

import re
import shutil
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Self
from xml.sax.saxutils import quoteattr

import libvirt

from hypervisor.connected import Hypervisor, destroy_domain, undefine_domain, unique_name
from hypervisor.domain_xml import disk_xml, domain_xml
from hypervisor.guest_kit import guest_kit
from hypervisor.host import HarnessError, run
from hypervisor.images import MIB, DiskSpec, convert

_MEMORY_MIB: Final = 192
_AGENT: Final = "org.qemu.guest_agent.0"
_ACK: Final = re.compile(r"^ACK (\d+)\r?$", re.MULTILINE)
_COUNT: Final = re.compile(r"^COUNT (\d+)\r?$", re.MULTILINE)
_READY: Final = re.compile(r"^READY\r?$", re.MULTILINE)
_FAILED: Final = re.compile(r"^(FAILED .*?|.*Kernel panic.*?)\r?$", re.MULTILINE)

AgentMode = Literal["on", "off", "hang", "slow", "fail"]
TWO_DISKS: Final = (
    DiskSpec(target="vda", size_bytes=128 * MIB),
    DiskSpec(target="vdb", format="raw", size_bytes=128 * MIB),
)


@dataclass(frozen=True, kw_only=True)
class GuestOptions:
    """How the guest behaves, from its kernel command line."""

    agent: AgentMode = "on"
    """`hang` never answers, `slow` freezes after `freeze_delay_seconds`, `fail` refuses to."""
    writer: bool = True
    counter: bool = False
    """Whether the guest counts in its memory; `counted` says how far it is."""
    record_kib: int = 8
    pause_microseconds: int = 50_000
    freeze_delay_seconds: int = 30

    def command_line(self, disks: Sequence[str]) -> str:
        """Return the kernel's command line."""
        return (
            f"console=ttyS0 quiet panic=-1 fib.disks={','.join(disks)} fib.agent={self.agent}"
            f" fib.writer={'on' if self.writer else 'off'} fib.kib={self.record_kib}"
            f" fib.counter={'on' if self.counter else 'off'}"
            f" fib.pause={self.pause_microseconds} fib.delay={self.freeze_delay_seconds}"
        )


class LinuxGuest:
    """A domain with a kernel, an agent and a writer."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        name: str,
        disks: Mapping[str, DiskSpec],
        options: GuestOptions,
        devices_xml: str,
    ) -> None:
        """Make the disks that do not exist and define the domain; `start` is the usual way in."""
        self.hypervisor = hypervisor
        self.name = name
        self.disks = disks
        self.options = options
        self.directory = hypervisor.images / name
        self.console = hypervisor.images / f"{name}.console"
        self.directory.mkdir(exist_ok=True)
        for disk in disks.values():
            if not disk.path_in(self.directory).exists():
                make_ext4(disk, disk.path_in(self.directory))
        self.dom = hypervisor.connection.defineXML(self._xml(devices_xml))
        self.uuid: str = self.dom.UUIDString()
        self._boot_offset = 0

    @classmethod
    def start(
        cls,
        hypervisor: Hypervisor,
        name: str = "",
        *,
        disks: Sequence[DiskSpec] = TWO_DISKS,
        options: GuestOptions = GuestOptions(),
        devices_xml: str = "",
        wait: bool = True,
    ) -> Self:
        """Define and boot a guest; disks whose `path` exists are used as they are."""
        chosen = {disk.target: disk for disk in disks}
        guest = cls(hypervisor, name or unique_name("guest"), chosen, options, devices_xml)
        guest.boot()
        if wait:
            guest.wait_ready()
        return guest

    # -- the domain ------------------------------------------------------------------------------

    @property
    def is_active(self) -> bool:
        """Whether a QEMU runs."""
        return bool(self.dom.isActive())

    def boot(self) -> None:
        """Start the domain, again after a `destroy` or a `shutdown`."""
        self._boot_offset = len(self._console_text())
        self.dom.create()

    def destroy(self) -> None:
        """Pull the plug."""
        destroy_domain(self.dom)

    def shutdown(self, timeout_seconds: float = 30) -> None:
        """Stop writing, unmount, power off; needs the agent."""
        with suppress(libvirt.libvirtError):  # an agent that is off already does not answer
            self.dom.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
        self._wait(lambda: not self.is_active, timeout_seconds, "power off")

    def close(self) -> None:
        """Destroy, undefine, remove the images."""
        self.destroy()
        undefine_domain(self.dom)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.console.unlink(missing_ok=True)

    def path(self, target: str) -> Path:
        """Return the image with which the disk began."""
        return self.disks[target].path_in(self.directory)

    # -- what the guest says ---------------------------------------------------------------------

    def acked(self) -> int:
        """Return the number of the last record that the guest knows to be durable on all disks."""
        return max(map(int, _ACK.findall(self._console_text())), default=0)

    def counted(self) -> list[int]:
        """Return every value of the counter, in the order in which the guest said them."""
        return [int(number) for number in _COUNT.findall(self._console_text())]

    def boots(self) -> int:
        """Return how often the guest has booted."""
        return len(_READY.findall(self._console_text()))

    def failures(self) -> list[str]:
        """Return what the guest complained about: mounts, writes, panics."""
        return _FAILED.findall(self._console_text())

    def agent_connected(self) -> bool:
        """Tell whether something in the guest holds the agent's port open."""
        channel = ET.fromstring(self.dom.XMLDesc(0)).find(
            f"devices/channel/target[@name='{_AGENT}']"
        )
        return channel is not None and channel.get("state") == "connected"

    def wait_ready(self, timeout_seconds: float = 60) -> None:
        """Wait until this boot has mounted its disks and its agent, if it has one, is connected."""
        self._wait(
            lambda: _READY.search(self._console_text(), self._boot_offset) is not None,
            timeout_seconds,
            "be ready",
        )
        if self.options.agent != "off":
            self._wait(self.agent_connected, timeout_seconds, "connect its agent")

    def wait_acked(self, number: int, timeout_seconds: float = 60) -> int:
        """Wait until record `number` is acknowledged; return the last one that is."""
        self._wait(lambda: self.acked() >= number, timeout_seconds, f"acknowledge {number}")
        return self.acked()

    def wait_more(self, records: int = 5, timeout_seconds: float = 60) -> int:
        """Wait for that many more records; return the last one."""
        return self.wait_acked(self.acked() + records, timeout_seconds)

    # -- inside ----------------------------------------------------------------------------------

    def _console_text(self) -> str:
        try:
            return self.console.read_bytes().decode("latin-1")
        except FileNotFoundError:
            return ""

    def _wait(self, done: Callable[[], bool], timeout_seconds: float, what: str) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not done():
            if self.failures() or time.monotonic() > deadline:
                tail = self._console_text()[-2000:]
                raise HarnessError(f"{self.name} did not {what}: {self.failures()}\n{tail}")
            time.sleep(0.02)

    def _xml(self, devices_xml: str) -> str:
        kit = guest_kit()
        boot = (
            f"<kernel>{kit.kernel}</kernel><initrd>{kit.initramfs}</initrd>"
            f"<cmdline>{self.options.command_line(list(self.disks))}</cmdline>"
        )
        devices = [disk_xml(disk, disk.path_in(self.directory)) for disk in self.disks.values()]
        console = quoteattr(str(self.console))
        devices += [
            f"<serial type='file'><source path={console} append='on'/></serial>",
            f"<channel type='unix'><target type='virtio' name='{_AGENT}'/></channel>",
            devices_xml,
        ]
        return domain_xml(self.name, memory_mib=_MEMORY_MIB, os_xml=boot, devices=devices)


def make_ext4(disk: DiskSpec, path: Path) -> None:
    """Make an image with an empty ext4 file system."""
    raw = path.with_name(f"{path.name}.mkfs")
    with raw.open("wb") as stream:
        stream.truncate(disk.size_bytes)
    run(
        "mkfs.ext4",
        "-q",
        "-F",
        "-L",
        disk.target,
        "-E",
        "lazy_itable_init=0,lazy_journal_init=0",
        raw,
    )
    if disk.format == "raw":
        raw.rename(path)
    else:
        convert(raw, "raw", path, disk.format)
        raw.unlink()
