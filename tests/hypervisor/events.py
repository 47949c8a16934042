"""libvirt's event loop: one thread per process, registered before the first connection."""

from __future__ import annotations

import functools
import threading

import libvirt


@functools.cache
def ensure_event_loop() -> None:
    """Register libvirt's event loop and pump it in a daemon thread, once per process."""
    libvirt.registerErrorHandler(_ignore, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_pump, name="libvirt-events", daemon=True).start()


def _ignore(_context: object, _error: object) -> None:
    """Errors are raised as exceptions; libvirt need not print them as well."""


def _pump() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()
