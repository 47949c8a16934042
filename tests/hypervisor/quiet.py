"""libvirt's log lines go to a file; that is decided when libvirt is first imported."""

from __future__ import annotations

import os
from typing import Final

from hypervisor.host import CACHE

LOG: Final = CACHE / "hypervisor" / "libvirt.log"
_NAME: Final = "LIBVIRT_LOG_OUTPUTS"
_LONGEST_LOG_BYTES: Final = 1_000_000


def import_libvirt_quietly() -> None:
    """Import libvirt with its log in the cache, unless the user wants it elsewhere."""
    if _NAME in os.environ:
        return
    LOG.parent.mkdir(parents=True, exist_ok=True)
    if LOG.exists() and LOG.stat().st_size > _LONGEST_LOG_BYTES:
        LOG.unlink()
    os.environ[_NAME] = f"3:file:{LOG}"
    try:
        __import__("libvirt")
    finally:
        del os.environ[_NAME]


import_libvirt_quietly()
