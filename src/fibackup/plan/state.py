"""
What a domain keeps outside of its disks: the firmware's variables, the state of its TPM.

::

    20261124T040407Z.nvram     a copy of the file, read right after the snapshot
    20261124T040407Z.tpm       a tar archive of what swtpm keeps
"""

from __future__ import annotations

from fibackup.model.domain import Domain
from fibackup.model.point import FileRole
from fibackup.plan.steps import SaveState

__all__ = ["save_states"]


def save_states(domain: Domain, name: str) -> tuple[SaveState, ...]:
    """
    Return the steps that store what a domain keeps outside of its disks.

    Args:
        domain: The domain.
        name: What the files are called, before their suffix.

    Source:
        libvirt, "Domain XML format": ``os/nvram``, ``tpm``; docs/store-format.md, ``files``.
    """
    nvram = (SaveState(FileRole.NVRAM, f"{name}.nvram"),) if domain.has_nvram else ()
    tpm = (SaveState(FileRole.TPM_STATE, f"{name}.tpm"),) if domain.has_tpm else ()
    return (*nvram, *tpm)
