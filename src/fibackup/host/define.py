"""
Domains that a restore defines: defined, tried, started, and forgotten when the restore fails.

::

    define       only where neither name nor UUID is taken
    smoke start  createWithFlags(START_PAUSED), destroy
    undefine     only what has the disks that we defined it with
"""

from __future__ import annotations

import libvirt

from fibackup.errors import DomainBusyError, DomainExistsError, LibvirtError, NoSuchDomainError
from fibackup.host.libvirt_errors import libvirt_errors
from fibackup.model.host_facts import HostFacts
from fibackup.parse.domain_xml import named_images
from fibackup.parse.xml_tree import parse_xml
from fibackup.plan.steps import DefineDomain

__all__ = ["define_domain", "read_host", "smoke_start", "undefine_domain"]

_UNDEFINE_TPM = 32  # VIR_DOMAIN_UNDEFINE_TPM; older bindings lack the name
_SINCE_TPM = 8_009_000


def read_host(connection: libvirt.virConnect) -> HostFacts:
    """
    Return which domains there are, and which emulators.

    Args:
        connection: Open.

    Raises:
        LibvirtError: libvirt refused.
    """
    with libvirt_errors("virConnectListAllDomains"):
        domains = tuple(
            sorted((each.name(), each.UUIDString()) for each in connection.listAllDomains(0))
        )
    with libvirt_errors("virConnectGetCapabilities"):
        capabilities = parse_xml(connection.getCapabilities(), "capabilities")
    emulators = (node.text for node in capabilities.iterfind("guest/arch//emulator") if node.text)
    return HostFacts(domains, tuple(dict.fromkeys(emulators)))


def define_domain(connection: libvirt.virConnect, step: DefineDomain) -> None:
    """
    Define a domain that is not there yet.

    Args:
        connection: Open.
        step: Its definition.

    Raises:
        DomainExistsError: Its name or its UUID is taken. Nothing was touched.
        LibvirtError: libvirt refused. Nothing is defined.
    """
    facts = read_host(connection)
    if step.name in facts.names or step.uuid in facts.uuids:
        raise DomainExistsError(
            domain=step.name, reason="a domain of this name or UUID is defined already"
        )
    with libvirt_errors("virDomainDefineXML", step.name):
        handle = connection.defineXML(step.xml)
    if step.autostart:
        with libvirt_errors("virDomainSetAutostart", step.name):
            handle.setAutostart(1)


def undefine_domain(connection: libvirt.virConnect, step: DefineDomain) -> None:
    """
    End and forget a domain that we have defined.

    Args:
        connection: Open.
        step: What defined it.

    Raises:
        DomainBusyError: The domain has other disks than we gave it. It stays.
        LibvirtError: libvirt refused.
    """
    try:
        with libvirt_errors("virDomainLookupByUUID", step.uuid):
            handle = connection.lookupByUUIDString(step.uuid)
            xml = handle.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
            name = handle.name()
    except NoSuchDomainError:
        return
    if name != step.name or named_images(xml) != named_images(step.xml):
        raise DomainBusyError(domain=name, reason="the domain is not the one that was defined")
    with libvirt_errors("virDomainUndefine", step.name):
        if handle.isActive():
            handle.destroy()
        flags = (
            libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
            | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
            | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
        )
        if connection.getLibVersion() >= _SINCE_TPM:
            flags |= _UNDEFINE_TPM
        handle.undefineFlags(flags)


def smoke_start(handle: libvirt.virDomain) -> None:
    """
    Start a domain paused, and end it.

    Args:
        handle: The domain.

    Raises:
        LibvirtError: It does not start, is not paused then, or does not end.
    """
    with libvirt_errors("virDomainCreateWithFlags"):
        handle.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
    with libvirt_errors("virDomainDestroy"):
        state = handle.state()[0]
        handle.destroy()
        active = bool(handle.isActive())
    if state != libvirt.VIR_DOMAIN_PAUSED or active:
        raise LibvirtError(reason="the domain was not paused after its start, or did not end")
