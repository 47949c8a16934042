"""
What every hypervisor of the tests offers, and what can be done with it.

::

    Hypervisor            uri, connection, images, log_directory
      Embedded            qemu:///embed?root=ROOT, the driver inside this process
      PrivateDaemon       a libvirtd of our own, in its own mount and network namespaces
      Connected           any other connection
"""

from __future__ import annotations

import contextlib
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import libvirt

_numbers: Final = itertools.count(1)


class Hypervisor(Protocol):
    """A libvirt connection together with the places where its files are."""

    @property
    def uri(self) -> str:
        """The URI of the connection."""
        ...

    @property
    def connection(self) -> libvirt.virConnect:
        """The open connection."""
        ...

    @property
    def images(self) -> Path:
        """A directory for images, the same for us and for QEMU."""
        ...

    @property
    def log_directory(self) -> Path:
        """Where the driver keeps `NAME.log`, the output of each QEMU."""
        ...


@dataclass(frozen=True)
class Connected:
    """Any connection whose files are local."""

    uri: str
    connection: libvirt.virConnect
    images: Path
    log_directory: Path


def unique_name(prefix: str) -> str:
    """Return a domain name that nobody else uses, short enough for libvirt's socket directories."""
    return f"{prefix}-{os.getpid()}-{next(_numbers)}"


def destroy_domain(domain: libvirt.virDomain) -> None:
    """End a domain if it runs."""
    with contextlib.suppress(libvirt.libvirtError):
        domain.destroy()


def undefine_domain(domain: libvirt.virDomain) -> None:
    """Forget a domain with all that libvirt keeps about it, if it is defined."""
    flags = (
        libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
        | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
        | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
    )
    with contextlib.suppress(libvirt.libvirtError):
        domain.undefineFlags(flags)


def remove_domains(connection: libvirt.virConnect) -> None:
    """Destroy and undefine every domain of a connection that belongs to the tests alone."""
    with contextlib.suppress(libvirt.libvirtError):
        for domain in connection.listAllDomains(0):
            destroy_domain(domain)
            undefine_domain(domain)
