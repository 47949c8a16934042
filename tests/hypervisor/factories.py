"""The types of the fixtures that make domains."""

from __future__ import annotations

from typing import Protocol

from hypervisor.block_domain import BlockDomain
from hypervisor.connected import Hypervisor
from hypervisor.guest import GuestOptions, LinuxGuest
from hypervisor.images import DiskSpec


class MakeBlockDomain(Protocol):
    """Create and start a paused domain; `on` chooses another hypervisor than the embedded one."""

    def __call__(
        self,
        *disks: DiskSpec,
        devices_xml: str = "",
        start: bool = True,
        on: Hypervisor | None = None,
    ) -> BlockDomain:
        """Return the domain."""
        ...


class MakeLinuxGuest(Protocol):
    """Boot a Linux guest and wait until it is ready."""

    def __call__(
        self,
        *disks: DiskSpec,
        options: GuestOptions = ...,
        devices_xml: str = "",
        wait: bool = True,
        on: Hypervisor | None = None,
    ) -> LinuxGuest:
        """Return the guest."""
        ...
