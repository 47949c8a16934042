"""
libvirt's errors as ours: by code first, then by a fragment of the (untranslated) message.

Source: libvirt ``virErrorNumber``; the fragments are the ones of libvirt 9 and QEMU 7.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager

import libvirt

from fibackup.errors import (
    AgentError,
    BlockJobError,
    DomainBusyError,
    HostError,
    LibvirtError,
    NoSpaceError,
    NoSuchDomainError,
    PermissionDeniedError,
)

__all__ = ["libvirt_errors", "may_have_frozen", "translate"]

AGENT_UNRESPONSIVE = 86
AGENT_UNSYNCED = 97
AGENT_COMMAND_TIMEOUT = 112
AGENT_COMMAND_FAILED = 113
OPERATION_TIMEOUT = 68
NO_DOMAIN = 42
OPERATION_INVALID = 55
NO_DOMAIN_METADATA = 80
CONNECTION_LOST = frozenset({1, 38, 39})
"""Codes of a call on a connection whose daemon is gone: internal, system and RPC errors."""

_ACCESS = {29, 45, 88, 94}
_QUOTED_PATH = re.compile(r"['\"](/[^'\"]+)['\"]")
_BUSY_BLOCK_JOB = {83}
_DENIALS = ("Permission denied", "Operation not permitted", "Read-only file system")
"""EACCES, EPERM and EROFS, as QEMU and libvirt print them."""

_FRAGMENTS: tuple[tuple[str, type[HostError]], ...] = (
    ('Failed to get "write" lock', DomainBusyError),
    ('Failed to get shared "write" lock', DomainBusyError),
    ("cannot acquire state change lock", DomainBusyError),
    ("active block job", BlockJobError),
    ("has a blockjob assigned", BlockJobError),
    ("No space left on device", NoSpaceError),
    ("QEMU guest agent", AgentError),
    ("unable to execute QEMU agent command", AgentError),
    ("agent is in frozen state", AgentError),
)
_NOT_FROZEN = {AGENT_COMMAND_FAILED, NO_DOMAIN, OPERATION_INVALID}
_NOT_FROZEN_FRAGMENTS = (
    "QEMU guest agent",
    "cannot acquire state change lock",
    "synchronization",
    "unable to execute QEMU agent command",
    "agent is in frozen state",
)


def translate(error: libvirt.libvirtError, *, domain: str | None = None, doing: str) -> HostError:
    """
    Return our error for one of libvirt's.

    Args:
        error: What libvirt raised.
        domain: The domain it was about.
        doing: What was asked of libvirt, an API name.

    Returns:
        The most specific class that fits; `LibvirtError` with the code when none does.

    Source:
        libvirt ``virErrorNumber``.
    """
    code = error.get_error_code() or 0
    words = (error.get_error_message() or str(error)).strip()
    reason = f"{doing}: {words}"
    if code == NO_DOMAIN:
        return NoSuchDomainError(reason=words, domain=domain, code=code)
    if code in {AGENT_UNRESPONSIVE, AGENT_UNSYNCED, AGENT_COMMAND_TIMEOUT, AGENT_COMMAND_FAILED}:
        return AgentError(reason=reason, domain=domain, maybe_frozen=may_have_frozen(error))
    if code == OPERATION_TIMEOUT:
        return DomainBusyError(reason=reason, domain=domain)
    if code in _ACCESS:
        return PermissionDeniedError(
            reason=f"{reason}; is the user in the group libvirt?", domain=domain
        )
    if any(denial in words for denial in _DENIALS):
        return _denied(words, reason, domain)
    for fragment, kind in _FRAGMENTS:
        if fragment in words:
            return kind(reason=reason, domain=domain)
    return LibvirtError(reason=reason, domain=domain, code=code)


def _denied(words: str, reason: str, domain: str | None) -> PermissionDeniedError:
    """Return the error of a process, mostly QEMU, that may not use a file, with what to look at."""
    named = _QUOTED_PATH.search(words)
    path = named[1] if named else None
    return PermissionDeniedError(reason=f"{reason}; {_remedy(path)}", domain=domain, path=path)


def _remedy(path: str | None) -> str:
    """Return where to look, for the security modules that this machine has."""
    if os.path.exists("/sys/fs/selinux/enforce"):
        module = "SELinux: ausearch -m AVC -ts recent; restorecon"
    elif os.path.exists("/sys/kernel/security/apparmor/profiles"):
        module = (
            "AppArmor: journalctl -k -g DENIED; images outside libvirt's own directories need a"
        )
        module += " rule in /etc/apparmor.d/local/abstractions/libvirt-qemu, commits libvirt 12.1"
    else:
        module = "AppArmor or SELinux: the audit log"
    where = path or "the image"
    return (
        f"look at owner and mode of {where} and at the x bits of its directories for QEMU's user, "
        f"at lsattr and at how the file system is mounted; then at {module}"
    )


def may_have_frozen(error: libvirt.libvirtError) -> bool:
    """
    Tell whether a freeze may have reached the guest although no good answer came.

    libvirt takes its lock, looks whether domain and agent are there, and synchronises with the
    agent before it sends the command, so a failure of these means that it was never sent. An agent
    that answers with an error has thawed what it froze. A command that timed out is code 86, "Guest
    agent not available for now", and the guest may freeze after it; so it may when the daemon has
    gone meanwhile.

    Args:
        error: What the freeze failed with.

    Source:
        libvirt ``qemuAgentFSFreeze``, ``qemuDomainObjBeginAgentJob``.
    """
    words = (error.get_error_message() or str(error)).strip()
    unsent = error.get_error_code() in _NOT_FROZEN
    return not (unsent or any(fragment in words for fragment in _NOT_FROZEN_FRAGMENTS))


@contextmanager
def libvirt_errors(doing: str, domain: str | None = None) -> Generator[None]:
    """
    Turn each libvirtError into one of ours.

    Args:
        doing: What is asked of libvirt, an API name.
        domain: The domain it is about.

    Raises:
        HostError: Of the class that fits.

    Source:
        libvirt ``virErrorNumber``.
    """
    try:
        yield
    except libvirt.libvirtError as error:
        raise translate(error, domain=domain, doing=doing) from error
