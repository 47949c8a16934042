"""Partial stub of libvirt-python's QEMU door; fibackup's own tests are its only user."""

from typing import IO

from libvirt import virDomain

def qemuMonitorCommand(domain: virDomain, cmd: str, flags: int) -> str: ...
def qemuMonitorCommandWithFiles(
    domain: virDomain, cmd: str, files: list[int] = ..., flags: int = 0
) -> tuple[str, list[IO[bytes]]]: ...
def qemuAgentCommand(domain: virDomain, cmd: str, timeout: int, flags: int) -> str: ...

# virDomainQemuMonitorCommandFlags
VIR_DOMAIN_QEMU_MONITOR_COMMAND_DEFAULT: int
VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP: int

# virDomainQemuAgentCommandTimeoutValues
VIR_DOMAIN_QEMU_AGENT_COMMAND_BLOCK: int
VIR_DOMAIN_QEMU_AGENT_COMMAND_DEFAULT: int
VIR_DOMAIN_QEMU_AGENT_COMMAND_NOWAIT: int
VIR_DOMAIN_QEMU_AGENT_COMMAND_SHUTDOWN: int
